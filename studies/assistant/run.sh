#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# The assistant task.
# DATA: a folder with hh_rlhf_prompts/, hh_map_multireward/, humor_200k_subset/ and lm_stories260k/.
set -euo pipefail

ln -sfn "${DATA:?a folder with hh_rlhf_prompts/, hh_map_multireward/, humor_200k_subset/ and lm_stories260k/}" data

# Bars.
snakemake --cores 2 --configfile experiments/assistant_small.yaml        # commit 1f97190; 21 min 3 s in two parts
python -m moa.report.summary --task assistant_small
python -m moa.report.front --task assistant_small --out assistant.svg

# Levels; the row moc: with unclipped means, as a52d21e has them.
snakemake --cores 2 --configfile experiments/assistant_small.yaml \
    --config task=assistant_levels conditioning='{format: levels}'
    # commit d07dccd; 22 min 23 s beside other work
python -m moa.report.summary --task assistant_levels
snakemake --cores 2 --configfile experiments/assistant_small.yaml \
    --config task=assistant_levels conditioning='{format: levels}' \
    run='{methods: [reference, moc_simplex, moc_weak], seeds: [0]}' \
    methods='{moc_simplex: {kind: moc, objective_weights: simplex}, moc_weak: {kind: moc, multiplier: 1.0}}'
    # commit d07dccd; the wider range: with LEAST_RANGE = 0.3 in moa/rl/control.py
