#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# Fishwood: 29 rows, five seeds, two CPU seconds each (MORLHF 15).
set -euo pipefail

python benchmarks/fishwood.py --out fishwood.parquet --figure fishwood.svg --seeds 5
python benchmarks/fishwood.py --out xeon.parquet --figure xeon.svg --seeds 5 \
    --rows "moc, default (arc, weights of at least 0)" "moc, default, shrunk" "moc, ray" "moc, ray, shrunk" \
    "moc, ray, shrunk, on the simplex"        # commit b5a459e, an Intel Xeon
