#!/usr/bin/env bash
[[ $(git rev-parse HEAD) = 6641591* ]] || { echo "needs commit 6641591: see studies/README.md" >&2; exit 1; }
# Offline and mixed methods. The rows of five seeds: run.sh of default_task, imdb and humor_helpful.
set -euo pipefail

FULL="--configfile experiments/full.yaml --config task=reviews"
snakemake --cores 2 $FULL \
    run='{methods: [reference, best_of_n, single_objective, rewarded_soups, mod, ric], seeds: [0, 1, 2, 3, 4]}'
    # 35a4604
snakemake --cores 2 $FULL run='{methods: [reference, modpo], seeds: [0, 1, 2, 3, 4]}' \
    methods='{modpo: {labels: expected, beta: 0.03}}'        # commit 35a4604 with the falling rate of 7dced16

# MODPO's labels, beta and epochs: a constant rate at 35a4604.
snakemake --cores 2 $FULL run='{methods: [reference, modpo, drawn, sharp, longer], seeds: [5, 6]}' \
    preferences='{evaluation: {divisions: null, points: [[0.2, 0.8], [0.5, 0.5], [0.8, 0.2]]}}' \
    methods='{modpo: {beta: 0.1, labels: expected}, drawn: {kind: modpo, labels: drawn},
    sharp: {kind: modpo, labels: expected, beta: 0.03}, longer: {kind: modpo, labels: expected, epochs: 6}}'
    # 35a4604
moa sql "SELECT method, avg(value) FILTER (quantity = 'forward_kl' AND step >= 55) AS kl,
         avg(value) FILTER (quantity = 'pair_accuracy' AND step >= 50) AS in_order
         FROM curves WHERE task = 'reviews' GROUP BY method"
