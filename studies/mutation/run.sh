#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# Mutants of the equations; mutmut has an environment of its own.
set -euo pipefail

make mutation
