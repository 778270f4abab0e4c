#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# Three and eight objectives. A comment beside a command names the commit that its figures came from.
set -euo pipefail

# Three: archive three_objectives.
three() { snakemake --cores 2 --configfile experiments/three_objectives.yaml "$@"; }
three        # commit eef67b8, whose moc has objective_weights: signed; 27 min 11 s beside other work
three --config run='{methods: [reference, moc_signed], seeds: [0]}' \
    methods='{moc_signed: {kind: moc, objective_weights: signed}}'        # the row that eef67b8 calls moc
three --config run='{methods: [reference, warm_start, linear, moc], seeds: [0, 1, 2]}'        # moc of commit 8bbab4c
three --config run='{methods: [reference, moc_simplex], seeds: [0, 1, 2]}' \
    methods='{moc_simplex: {kind: moc, objective_weights: simplex}}'
    # moc.py and moa/rl/{weights,control}.py of 724e582
python -m moa.archive --task three_objectives --folder benchmarks/three_objectives --against linear
python -m moa.report.front --task three_objectives --out three_objectives.svg

# Weights of objectives on development prompts.
snakemake --cores all reference_scores --configfile experiments/three_objectives.yaml
python -m benchmarks.ablation --experiment experiments/three_objectives.yaml --results results/three_objectives \
    --variants benchmarks/moc_variants.yaml --seeds 0 1 --out three.jsonl \
    --only linear "feedback, multiplier 4, arc, not below 0" "feedback, multiplier 4, arc, on the simplex"
python -m benchmarks.ablation --table three.jsonl

# Eight: archive eight_objectives.
snakemake --cores 1 --configfile experiments/eight_objectives.yaml \
    --config run='{methods: [reference, warm_start, linear, pama, moc], seeds: [0, 1]}'
python -m moa.archive --task eight_objectives --folder benchmarks/eight_objectives --against linear
