#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# How a preference is told. The embedded task needs nothing; IMDb needs DATA, a folder with imdb/ and lm_stories260k/.
set -euo pipefail

Q='[0.045455, 0.954545], [0.136364, 0.863636], [0.227273, 0.772727], [0.318182, 0.681818], [0.409091, 0.590909],
   [0.5, 0.5], [0.590909, 0.409091], [0.681818, 0.318182], [0.772727, 0.227273], [0.863636, 0.136364],
   [0.954545, 0.045455]'
P='[0, 1], [0.2, 0.8], [0.4, 0.6], [0.6, 0.4], [0.8, 0.2], [1, 0]'
training() { case $1 in a) echo '{divisions: 5}';; b) echo "{divisions: null, points: [$P, $Q]}";; esac; }
unseen() { python -m benchmarks.unseen --row moc --objectives sentiment conciseness --training 5 "$@"; }

# Preferences that it never saw: default task, bars; archives unseen/a and unseen/b.
for of in a b; do
    snakemake --cores 2 --configfile experiments/full.yaml --config conditioning='{format: bars}' \
        run='{methods: [reference, warm_start, moc], seeds: [0, 1, 2, 3, 4]}' \
        preferences="{training: $(training $of), evaluation: {divisions: null, points: [$Q]}}"
        # ab4b796, moc.py of 8bbab4c
    python -m moa.archive --task reviews_full --folder benchmarks/unseen/$of --against moc
done
python -m benchmarks.pooled --folders benchmarks/unseen/a --row moc --against moc --others benchmarks/unseen/b
unseen --folders benchmarks/unseen/a benchmarks/unseen/b --format bars

# The same in words, three seeds; archives unseen/words_a and unseen/words_b.
for of in a b; do
    snakemake --cores 2 --configfile experiments/full.yaml --config task=reviews_words \
        run='{methods: [reference, warm_start, moc], seeds: [0, 1, 2]}' \
        preferences="{training: $(training $of), evaluation: {divisions: null, points: [$Q]}}"
        # 2ed3734, moc.py of 8bbab4c
    python -m moa.archive --task reviews_words --folder benchmarks/unseen/words_$of --against moc
done
unseen --folders benchmarks/unseen/words_a benchmarks/unseen/words_b --format words

# Place, embedding, sampling, smoothing, exact search; archive trials_conditioning. Dirichlet: e4c23f9's ablation.py.
dev() { python -m benchmarks.ablation --experiment experiments/full.yaml \
    --variants benchmarks/conditioning_variants.yaml --seeds 0 1 --out trials.jsonl "$@"; }
snakemake --cores all reference_scores --configfile experiments/full.yaml
dev --results results/reviews_full --only linear "linear, embedding" "moc, embedding" "moc, p / max p" \
    "moc, exact search, phi 0.005" "moc, sample, min-norm, smoothed 0.9" "moc, p / max p, Dirichlet"
    # commit 3cf26e0
snakemake --cores 2 reference_scores --configfile experiments/full.yaml \
    --config task=after conditioning='{template: "{prompt}: {preference}:"}'
dev --results results/after --only "linear, after the prompt" "moc, after the prompt"
# Digits and tags; archive trials_formats.
for format in digits tags; do        # commit 8220656
    snakemake --cores 2 reference_scores --configfile experiments/full.yaml \
        --config task=$format conditioning="{format: $format}"
    dev --results results/$format --only "linear, $format" "moc, $format"
done
python -m benchmarks.ablation --table trials.jsonl

# Does the warm start have to be learnt?
snakemake --cores 2 --config conditioning='{warm_start: null}' \
    run='{methods: [reference, linear, moc], seeds: [0]}'        # commit 238022a; 5 min 3 s
# A base that had not learnt it: commit 81abb6a with --config ppo='{mini_batch_size: 16, learning_rate: 1.0e-3}'

# IMDb; archives unseen/imdb_a and unseen/imdb_b, on the base of archive imdb_control_fresh.
ln -sfn "${DATA:?a folder with imdb/ and lm_stories260k/}" data
for of in a b; do        # commit 2ebcd06
    snakemake --cores 1 --configfile experiments/imdb_control.yaml --config task=imdb_control_fresh data='{seed: 1}' \
        run='{methods: [reference, moc], seeds: [5, 6, 7, 8, 9]}' \
        preferences="{training: $(training $of), evaluation: {divisions: null, points: [$Q]}}"
    python -m moa.archive --task imdb_control_fresh --folder benchmarks/unseen/imdb_$of --against moc
done
python -m benchmarks.pooled --folders benchmarks/unseen/imdb_a --row moc --against moc --others benchmarks/unseen/imdb_b
unseen --folders benchmarks/unseen/imdb_a benchmarks/unseen/imdb_b --format bars
