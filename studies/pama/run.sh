#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# PAMA on its paper's two rewards. DATA: a folder with imdb/ and lm_stories260k/.
set -euo pipefail

ln -sfn "${DATA:?a folder with imdb/ and lm_stories260k/}" data
pama() { snakemake --cores 2 --configfile experiments/imdb_pama.yaml --config "$@"; }
means() { python benchmarks/means.py --folder benchmarks/$1 --row $2; }

# Lambda 1; archive imdb_pama.
pama ppo='{lam: 1.0}' run='{methods: [reference, morlhf, mgda_ub, pama], seeds: [0, 1, 2, 3, 4]}'
    # commit a521647
pama ppo='{lam: 1.0}' run='{methods: [reference, pama_sequence, pama_token, pama_signed, pama_sequence_signed,
    pama_token_signed], seeds: [0, 1, 2, 3, 4]}'
python -m moa.archive --task imdb_pama --folder benchmarks/imdb_pama --against pama
means imdb_pama pama
# Lambda 0.95; archive imdb_pama_lam95.
pama task=imdb_pama_lam95 ppo='{lam: 0.95}' run='{methods: [reference, morlhf, mgda_ub, pama], seeds: [0, 1, 2]}'
python -m moa.archive --task imdb_pama_lam95 --folder benchmarks/imdb_pama_lam95 --against pama
means imdb_pama_lam95 pama
# Not whitened; archives imdb_pama_raw and, on another training of the base (commit 27b2f9f), imdb_pama_raw_rest.
raw() { pama task=imdb_pama_raw ppo='{lam: 1.0, whiten: none}' "$@"; }
raw run='{methods: [reference, pama, pama_token], seeds: [0, 1, 2, 3, 4]}'
python -m moa.archive --task imdb_pama_raw --folder benchmarks/imdb_pama_raw --against pama
means imdb_pama_raw pama
python benchmarks/convergence.py --task imdb_pama_raw --figure pama_convergence.svg \
    --title "Norm of PAMA's combined surrogate, not whitened"
raw run='{methods: [reference, pama_sequence, pama_signed, pama_sequence_signed, pama_token_signed],
    seeds: [0, 1, 2, 3, 4]}'
python -m moa.archive --task imdb_pama_raw --folder benchmarks/imdb_pama_raw_rest --against pama_sequence
means imdb_pama_raw_rest pama_signed
moa sql "SELECT task, method, avg(value) FILTER (quantity = 'kl' AND step >= 25) AS kl,
         avg(value) FILTER (quantity = 'advantage_share' AND objective <> 'all') AS share
         FROM curves GROUP BY task, method"

# Advantages of end tokens and others, before and after Noon.
noon() { python -m benchmarks.noon --experiment experiments/imdb_pama.yaml --results results/imdb_pama \
    --out noon.jsonl "$@"; }
noon --set '{"ppo": {"lam": 0.95}}' --name "GAE, lam 0.95"        # commit f427902
noon --set '{"ppo": {"lam": 0.95}}' --signed-last --name "the same, end tokens spared from Noon"
noon --set '{"ppo": {"lam": 1.0}}' --name "GAE, lam 1"
noon --set '{"ppo": {"advantages": "group", "group_size": 4}}' --name "groups of 4"
python -m benchmarks.noon --table noon.jsonl

# The AND filter, five seeds.
snakemake --cores 2 train --configfile experiments/imdb_pama.yaml --config ppo='{lam: 1.0}' \
    run='{methods: [reference, pama_token], seeds: [0, 1, 2, 3, 4]}'        # commit e03c342
python -c "import duckdb; duckdb.sql(\"SELECT objective = 'all' AS both, seed, avg(value)
    FROM 'results/imdb_pama/curves/pama_token/*/*.parquet'
    WHERE quantity = 'advantage_share' AND step >= 20 GROUP BY ALL ORDER BY ALL\").show()"

# Raw advantages at the same distance; archive imdb_pama_combined.
pama task=imdb_pama_combined ppo='{lam: 1.0, whiten: combined}' \
    run='{methods: [reference, morlhf, mgda_ub, pama, pama_token], seeds: [0, 1, 2, 3, 4]}'
python -m moa.archive --task imdb_pama_combined --folder benchmarks/imdb_pama_combined --against morlhf
means imdb_pama_combined pama
means imdb_pama_combined pama_token

# Eight rows, one seed.
snakemake --cores 2 --configfile experiments/imdb_small.yaml
    # commit c846d60, where the task is called imdb; the row moc: with unclipped means, as a52d21e has them
python -m moa.report.front --task imdb_small --out imdb.svg
