#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# Advantage estimators on development prompts of the default task, in words.
set -euo pipefail

snakemake --cores all reference_scores --configfile experiments/full.yaml
python -m benchmarks.ablation --experiment experiments/full.yaml --results results/reviews_full \
    --variants benchmarks/advantage_variants.yaml --seeds 0 1 --out advantages.jsonl
python -m benchmarks.ablation --table advantages.jsonl
