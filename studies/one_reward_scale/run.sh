#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# One reward scale. The embedded task needs nothing; IMDb needs DATA, a folder with imdb/ and lm_stories260k/.
set -euo pipefail

ROWS='{linear_combined: {kind: linear}, moc_combined: {kind: moc}}'

# The fresh base of the default task with bars; archive bars_fresh of default_task.
snakemake --cores 1 --configfile experiments/full.yaml --config task=reviews_fresh data='{seed: 1}' \
    conditioning='{format: bars}' generation='{samples: 4}' ppo='{whiten: combined}' \
    run='{methods: [reference, linear_combined, moc_combined], seeds: [5, 6, 7, 8, 9]}' methods="$ROWS"
    # commit afb7476
python -m moa.archive --task reviews_fresh --folder benchmarks/bars_fresh --against linear
moa sql "SELECT objective, point, avg(spread) FROM (SELECT objective, point, seed, prompt_id,
         stddev_samp((score - low) / (high - low)) AS spread FROM scores JOIN normaliser USING (task, objective)
         WHERE role = 'reward' AND method = 'linear_combined' GROUP BY ALL) GROUP BY ALL ORDER BY ALL"

# The first base with bars; archive bars of default_task.
snakemake --cores 2 --configfile experiments/full.yaml --config conditioning='{format: bars}' ppo='{whiten: combined}' \
    run='{methods: [reference, linear_combined, moc_combined], seeds: [0, 1, 2, 3, 4]}' methods="$ROWS"
    # commit e1f6ed4
python -m moa.archive --task reviews_full --folder benchmarks/bars --against linear

# IMDb, the fresh base; archive imdb_control_fresh of imdb.
ln -sfn "${DATA:?a folder with imdb/ and lm_stories260k/}" data
snakemake --cores 2 --configfile experiments/imdb_control.yaml --config task=imdb_control_fresh data='{seed: 1}' \
    preferences='{evaluation: {divisions: 10}}' ppo='{whiten: combined}' \
    run='{methods: [reference, linear_combined], seeds: [5, 6, 7, 8, 9]}' \
    methods='{linear_combined: {kind: linear}}'        # commit e1f6ed4
python -m moa.archive --task imdb_control_fresh --folder benchmarks/imdb_control_fresh --against linear

# Pairs of both bases; then one base each, whose last line is the difference at equal KL.
across() { python -m benchmarks.pooled --across --folders benchmarks/bars benchmarks/bars_fresh \
    --row "$1" --against "$2"; }
across linear_combined linear
across moc linear_combined
across moc_combined linear_combined
across moc_combined moc
for folder in bars bars_fresh imdb_control_fresh; do
    python -m benchmarks.pooled --folders benchmarks/$folder --row moc --against linear_combined
done
for folder in bars bars_fresh; do
    python -m benchmarks.pooled --folders benchmarks/$folder --row moc_combined --against linear_combined
done
python -m benchmarks.pooled --folders benchmarks/imdb_control_fresh --row grpo --against linear_combined

# IMDb with levels, on the base of archive imdb_control_four; archive imdb_control_combined.
snakemake --cores 2 --configfile experiments/imdb_control.yaml --config conditioning='{format: levels}' \
    model='{sft: {max_length: 160}}' preferences='{evaluation: {divisions: 10}}' ppo='{whiten: combined}' \
    run='{methods: [reference, linear, moc], seeds: [0, 1, 2, 3, 4]}'
    # commit 65e2098, moc.py of 8bbab4c, moa/rl/{advantages,experience}.py of 2ed3734; combined was called none there
python -m moa.archive --task imdb_control --folder benchmarks/imdb_control_combined --against linear
for row in moc linear; do
    python -m benchmarks.pooled --folders benchmarks/imdb_control_combined --row $row --against $row \
        --others benchmarks/imdb_control_four
done
