#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# Humor against helpful.
# DATA: a folder with hh_rlhf_prompts/, hh_map_multireward/, humor_200k_subset/ and lm_stories260k/.
set -euo pipefail

ln -sfn "${DATA:?a folder with hh_rlhf_prompts/, hh_map_multireward/, humor_200k_subset/ and lm_stories260k/}" data
hh() { snakemake --cores 2 --configfile experiments/humor_helpful.yaml "$@"; }

# Test prompts, three seeds; archive humor_helpful.
hh --config run='{methods: [reference, warm_start, linear, grpo, ric, moc, moc_centred], seeds: [0, 1, 2]}' \
    methods='{moc_centred: {kind: moc, shortfall: centred, objective_weights: simplex}, ric: {format: bars}}'
    # the row moc_centred: commit 5515ff7
hh --config run='{methods: [reference, moc_ray], seeds: [0, 1, 2]}' \
    methods='{moc_ray: {kind: moc, target: ray, shrink: true, objective_weights: simplex}}'
    # commit 98cedab, where these are the defaults of moc; the same base to the byte
python -m moa.archive --task humor_helpful --folder benchmarks/humor_helpful --against linear
python -m benchmarks.pooled --folders benchmarks/humor_helpful --row moc --against ric
for row in linear moc grpo ric; do
    python -m benchmarks.pooled --folders benchmarks/humor_helpful --row moc_ray --against $row
done
moa sql "SELECT method, quantity, objective, avg(value) FILTER (step < 10), avg(value) FILTER (step BETWEEN 10 AND 29),
         avg(value) FILTER (step >= 45) FROM curves WHERE quantity IN ('weight', 'kl', 'kl_coefficient')
         GROUP BY ALL ORDER BY ALL"

# Trials on development prompts; archive trials_humor_helpful. Rows with `prototype` had no switch.
snakemake --cores 1 results/hh_dev/prompts.parquet --configfile experiments/humor_helpful.yaml \
    --config task=hh_dev data='{seed: 1}'
python -m benchmarks.ablation --experiment experiments/humor_helpful.yaml --results results/humor_helpful \
    --variants benchmarks/moc_variants.yaml --prompts results/hh_dev/prompts.parquet --seeds 0 1 2 --out trials.jsonl \
    --only linear "feedback, multiplier 4, arc, not below 0" "feedback, multiplier 4, arc, on the simplex" \
    "feedback, multiplier 4, arc, shortfall centred, on the simplex" ray "ray, on the simplex" \
    "ray, absolute, on the simplex" "ray, shrunk" "ray, shrunk, on the simplex"
python -m benchmarks.ablation --table trials.jsonl
