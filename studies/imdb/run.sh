#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# IMDb, sentiment against conciseness. DATA: a folder with imdb/ and lm_stories260k/.
set -euo pipefail

ln -sfn "${DATA:?a folder with imdb/ and lm_stories260k/}" data
imdb() { snakemake --cores 2 --configfile experiments/imdb_control.yaml \
    --config preferences='{evaluation: {divisions: 10}}' "$@"; }
pooled() { python -m benchmarks.pooled --folders "$@"; }

# Bars; archive imdb_control_bars.
imdb task=imdb_control_bars run='{methods: [reference, warm_start, linear, moc, grpo], seeds: [0, 1, 2, 3, 4]}'
    # a52d21e
python -m moa.archive --task imdb_control_bars --folder benchmarks/imdb_control_bars --against linear
pooled benchmarks/imdb_control_bars --row moc --against grpo        # one slope on KL
# At KL target 0.48; archive imdb_control_bars_kl.
imdb task=imdb_control_bars ppo='{kl: {target: 0.48}}' run='{methods: [reference, moc], seeds: [0, 1, 2, 3, 4]}'
    # a52d21e
python -m moa.archive --task imdb_control_bars --folder benchmarks/imdb_control_bars_kl --against moc
pooled benchmarks/imdb_control_bars_kl --row moc --against grpo --others benchmarks/imdb_control_bars

# Confirmed on another base; archive imdb_control_fresh.
fresh() { imdb task=imdb_control_fresh data='{seed: 1}' "$@"; }
fresh run='{methods: [reference, warm_start, linear, moc, grpo], seeds: [5, 6, 7, 8, 9]}'        # commit 50f10c3
fresh run='{methods: [reference, single_objective, morlhf, rewarded_soups, mod], seeds: [5]}'        # commit 50f10c3
fresh run='{methods: [reference, ric_bars], seeds: [6, 7, 8]}' methods='{ric_bars: {kind: ric, format: bars}}'
    # 48c0a21
python -m moa.archive --task imdb_control_fresh --folder benchmarks/imdb_control_fresh --against linear
for row in linear grpo; do
    pooled benchmarks/imdb_control_bars benchmarks/imdb_control_fresh --across --row moc --against $row
done
for row in linear grpo ric_bars; do pooled benchmarks/imdb_control_fresh --row moc --against $row; done
python -m benchmarks.distance --run results/imdb_control_fresh --rows grpo moc --out distance.jsonl
python -m benchmarks.distance --table distance.jsonl

# Groups of eight; archive imdb_control_fresh_eight.
fresh ppo='{group_size: 8}' run='{methods: [reference, linear, moc], seeds: [5, 6, 7, 8, 9]}'        # commit 50f10c3
python -m moa.archive --task imdb_control_fresh --folder benchmarks/imdb_control_fresh_eight --against linear
EIGHT=benchmarks/imdb_control_fresh_eight
for row in grpo moc; do pooled $EIGHT --row moc --against $row --others benchmarks/imdb_control_fresh; done
pooled $EIGHT --row linear --against linear --others benchmarks/imdb_control_fresh
pooled $EIGHT --row moc --against linear

# MSE-only on a third base, another kind of processor; archive imdb_control_third.
fresh run='{methods: [reference, warm_start, mse_only, moc], seeds: [5, 6, 7, 8, 9]}'        # commit 5ae0491
python -m moa.archive --task imdb_control_fresh --folder benchmarks/imdb_control_third --against moc
pooled benchmarks/imdb_control_third --row moc --against mse_only

# Levels, every method; archive imdb_control_four.
levels() { imdb conditioning='{format: levels}' model='{sft: {max_length: 160}}' "$@"; }
levels methods='{ric: {format: names}}' run='{methods: [reference, warm_start, single_objective, rewarded_soups, mod,
    linear, moc, grpo, mse_only, ric], seeds: [0, 1, 2, 3, 4]}'        # commit 65e2098 with moc.py of 8bbab4c
levels run='{methods: [reference, moc_signed, moc_range, moc_min_norm, moc_literal], seeds: [0, 1, 2]}' \
    methods='{moc_signed: {kind: moc, objective_weights: signed},
    moc_range: {kind: moc, target: range, multiplier: 2.0, objective_weights: signed},
    moc_min_norm: {kind: moc, control: sample, weights: min_norm, target: range},
    moc_literal: {kind: moc, streams: literal, control: sample, target: scaled, weights: min_norm, solver: plain}}'
python -m moa.archive --task imdb_control --folder benchmarks/imdb_control_four --against linear
python -m benchmarks.responses --database results/results.duckdb --task imdb_control
python -m moa.report.front --task imdb_control --out imdb_control.svg
# Groups of eight with levels; archive imdb_control_eight.
levels ppo='{group_size: 8}' run='{methods: [reference, linear, moc, grpo], seeds: [0, 1]}'
python -m moa.archive --task imdb_control --folder benchmarks/imdb_control_eight --against linear
# Single responses; archive imdb_control.
levels generation='{samples: 1}' run='{methods: [reference, linear, moc, moc_signed, grpo], seeds: [0, 1, 2, 3, 4]}' \
    methods='{moc_signed: {kind: moc, objective_weights: signed}}'
python -m moa.archive --task imdb_control --folder benchmarks/imdb_control --against linear
