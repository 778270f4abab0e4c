#!/usr/bin/env bash
# Rewards of MiniLM beside linear ones.
# DATA: a folder with humor_200k_subset/, hh_map_multireward/ and hh_rlhf/; MODEL: a folder with all-MiniLM-L6-v2.
git ls-files --error-unmatch studies/neural_rewards/measure.py > /dev/null 2>&1 \
    || { echo "needs a checkout with studies/neural_rewards: see studies/README.md" >&2; exit 1; }
set -euo pipefail

# A task whose rows are in archive/ is not measured again: remove the archive first. About 25 CPU minutes, one thread.
OMP_NUM_THREADS=1 python studies/neural_rewards/measure.py --data "${DATA:?}" --model "${MODEL:?}"
python studies/neural_rewards/measure.py --table
