#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# The default task: every method on generated reviews.
# A comment beside a command names the commit that its figures came from.
set -euo pipefail

# One seed, five preferences as bars: 17 min 18 s on two cores.
make run        # commit 2664d4a; on an Intel Xeon b5a459e
python -m moa.report.front --task reviews --out reviews.svg

# Every method in words, five seeds; archive full.
FULL="--configfile experiments/full.yaml --config task=reviews"
snakemake --cores 2 $FULL run='{methods: [reference, warm_start, best_of_n, single_objective, morlhf, rewarded_soups,
    mod, ric, linear, mse_only, grpo, gdpo, pama, mgda_ub, moc_signed, moc_range, moc_min_norm, moc_literal],
    seeds: [0, 1, 2, 3, 4]}'        # commit 35a4604, whose defaults for moc are moc_signed's
snakemake --cores 2 $FULL run='{methods: [reference, warm_start, moc], seeds: [0, 1, 2, 3, 4]}'        # commit 8bbab4c
snakemake --cores 2 $FULL run='{methods: [reference, modpo], seeds: [0, 1, 2, 3, 4]}' \
    methods='{modpo: {labels: expected, beta: 0.03}}'        # commit 35a4604 with the falling rate of 7dced16
python -m moa.archive --task reviews --folder benchmarks/full --against linear        # and --against moc

# Five fresh seeds on the same base; archive fresh.
snakemake --cores 2 $FULL run='{methods: [reference, linear, moc], seeds: [5, 6, 7, 8, 9]}'
    # 2ed3734, moc.py of 8bbab4c
python -m moa.archive --task reviews --folder benchmarks/fresh --against linear
python -m benchmarks.pooled --folders benchmarks/full benchmarks/fresh --row moc --against linear

# Four responses to every prompt, the policies of the two runs above; archive four_responses.
snakemake --cores 2 $FULL generation='{samples: 4}' \
    run='{methods: [reference, linear, moc], seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}'
python -m benchmarks.responses --database results/results.duckdb --task reviews
python -m moa.archive --task reviews --folder benchmarks/four_responses --against linear

# Preferences as bars; archive bars.
snakemake --cores 2 --configfile experiments/full.yaml --config conditioning='{format: bars}' \
    run='{methods: [reference, warm_start, linear, moc, moc_signed], seeds: [0, 1, 2, 3, 4]}'
    # commit ab4b796, whose moc had moc_signed's settings; the row moc: with moc.py of 8bbab4c
python -m moa.archive --task reviews_full --folder benchmarks/bars --against linear        # and --against moc_signed

# Confirmed: another base, prompts and seeds; archive bars_fresh; 85 min beside other work.
python -c "from moa.tasks.reviews import generate as g
old, new = (g(20_000, 400, 4_000, n, seed).evaluation_prompts for n, seed in ((200, 0), (100, 1)))
print(len({*old[:100]} & {*new}), len({*old[100:]} & {*new}))"
fresh() { snakemake --cores 2 --configfile experiments/full.yaml --config task=reviews_fresh data='{seed: 1}' \
    conditioning='{format: bars}' generation='{samples: 4}' "$@"; }
fresh run='{methods: [reference, warm_start, linear, moc, grpo, mse_only, ric], seeds: [5, 6, 7, 8, 9]}' \
    methods='{ric: {format: bars}}'        # commit 3cf26e0
fresh run='{methods: [reference, morlhf_told], seeds: [5]}' \
    methods='{morlhf_told: {kind: morlhf, prompts: preference}}'        # commit 3cf26e0
python -m moa.archive --task reviews_fresh --folder benchmarks/bars_fresh --against linear
for row in linear grpo mse_only ric morlhf_told; do
    python -m benchmarks.pooled --folders benchmarks/bars_fresh --row moc --against $row
done

# Pooled pairs and spread over seeds.
pairs() { python -m benchmarks.pooled --across --folders "$@" --row moc --against linear; }
pairs benchmarks/bars benchmarks/bars_fresh
pairs benchmarks/imdb_control_bars benchmarks/imdb_control_fresh
pairs benchmarks/bars benchmarks/bars_fresh benchmarks/imdb_control_bars benchmarks/imdb_control_fresh
pairs benchmarks/full benchmarks/fresh
pairs benchmarks/full benchmarks/fresh benchmarks/bars benchmarks/bars_fresh \
    benchmarks/imdb_control_bars benchmarks/imdb_control_fresh

# GAE instead of groups ran with the settings of commit 5dcae65 itself: git checkout 5dcae65
