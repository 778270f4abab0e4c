#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# Readings of MOC's constraint. A comment beside a command names the commit that its figures came from.
set -euo pipefail

# Every reading, five seeds, the fresh base with bars; archive bars_fresh of default_task, which has the other rows.
fresh() { snakemake --cores 1 --configfile experiments/full.yaml --config task=reviews_fresh data='{seed: 1}' \
    conditioning='{format: bars}' generation='{samples: 4}' "$@"; }
fresh run='{methods: [reference, moc_literal, moc_min_norm, moc_signed, moc_range], seeds: [5, 6, 7, 8, 9]}'
    # afb7476
fresh run='{methods: [reference, moc_ray], seeds: [5, 6, 7, 8, 9]}'
    # commit 98cedab, where these are moc's defaults
python -m moa.archive --task reviews_fresh --folder benchmarks/bars_fresh --against linear
for row in moc_literal moc_min_norm; do        # the last line is the difference at equal KL
    python -m benchmarks.pooled --folders benchmarks/bars_fresh --row moc --against $row
done
for row in moc linear grpo mse_only ric; do
    python -m benchmarks.pooled --folders benchmarks/bars_fresh --row moc_ray --against $row
done

# Ablation on development prompts, words.
snakemake --cores all reference_scores --configfile experiments/full.yaml
python -m benchmarks.ablation --experiment experiments/full.yaml --results results/reviews_full \
    --variants benchmarks/moc_variants.yaml --seeds 0 1 --out moc.jsonl
python -m benchmarks.ablation --table moc.jsonl

# With GAE: benchmarks/advantage_variants.yaml has these settings.
python -m benchmarks.ablation --experiment experiments/full.yaml --results results/reviews_full \
    --variants benchmarks/advantage_variants.yaml --seeds 0 1 --out gae.jsonl

# The ray and shrunk or centred shortfalls with bars; archives trials_reviews_bars and trials_reviews_centred.
sed 's/format: words/format: bars/' experiments/full.yaml > bars.yaml
snakemake --cores 2 reference_scores --configfile bars.yaml --config task=reviews_bars        # the base of archive bars
python -m benchmarks.ablation --experiment bars.yaml --results results/reviews_bars \
    --variants benchmarks/moc_variants.yaml --seeds 0 1 --out bars.jsonl \
    --only linear "ray, shrunk" "ray, shrunk, on the simplex"
    # the default with even means, and all rows of trials_reviews_centred, were prototypes

# The ray on humor against helpful, development prompts: run.sh of humor_helpful. IMDb's rows: run.sh of imdb.
