#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# Half and twice the rate for every row, on development prompts; archive trials_rates.
set -euo pipefail

snakemake --cores all reference_scores --configfile experiments/full.yaml
python -m benchmarks.ablation --experiment experiments/full.yaml --results results/reviews_full \
    --variants benchmarks/rate_variants.yaml --seeds 0 1 --out trials.jsonl \
    --only "linear, half" "linear, twice" "moc, half" "moc, twice" mse_only "mse_only, half" "mse_only, twice"

dev() { snakemake --cores 2 --configfile experiments/full.yaml --config task=trials data='{evaluation_prompts: 200}' \
    generation='{samples: 2}' "$@"; }
dev run='{methods: [reference, grpo_half, grpo, grpo_twice, gdpo_half, gdpo, gdpo_twice, ric_half, ric, ric_twice],
    seeds: [0, 1]}' \
    methods='{grpo_half: {kind: grpo, learning_rate: 7.5e-4}, grpo_twice: {kind: grpo, learning_rate: 3.0e-3},
    gdpo_half: {kind: gdpo, learning_rate: 7.5e-4}, gdpo_twice: {kind: gdpo, learning_rate: 3.0e-3},
    ric_half: {kind: ric, learning_rate: 1.5e-3}, ric_twice: {kind: ric, learning_rate: 6.0e-3}}'
python -m benchmarks.development --database results/results.duckdb --task trials >> trials.jsonl

for rate in half:7.5e-4 once:1.5e-3 twice:3.0e-3; do        # commit 8220656
    of=${rate%%:*}
    dev preferences='{evaluation: {divisions: 2}}' ppo="{learning_rate: ${rate##*:}}" \
        run="{methods: [reference, corners_$of, morlhf_$of, pama_$of, mgda_ub_$of], seeds: [0, 1]}" \
        methods="{corners_$of: {kind: single_objective}, morlhf_$of: {kind: morlhf, corners: corners_$of},
        pama_$of: {kind: pama}, mgda_ub_$of: {kind: mgda_ub}}"
    python -m benchmarks.development --database results/results.duckdb --task trials >> trials.jsonl
done
python -m benchmarks.ablation --table trials.jsonl
