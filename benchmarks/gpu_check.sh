#!/usr/bin/env bash
# What a GPU shows, in one command of at most 8 minutes, the most valuable first; a part that fails loses nothing.
#
#     bash benchmarks/gpu_check.sh [FOLDER] [7b|"7b small"]
#
# FOLDER (gpu_check) gets a log and Parquet rows per part, and table.md for docs/speed.md. "7b small" rehearses it on a
# CPU: the same code on tiny shapes.
set -u
cd "$(dirname "$0")/.."
folder=${1:-gpu_check} shape=${2:-7b}
mkdir -p "$folder"
export PYTHONPATH=$PWD

part() { # name, seconds at most, command
  local name=$1 limit=$2
  shift 2
  if timeout $((limit * slower)) "$@" >"$folder/$name.log" 2>&1; then
    echo "$name: done"
  else
    echo "$name: FAILED with status $?, see $folder/$name.log"
    return 1
  fi
}

step() { # name, seconds at most, arguments of the benchmark
  local name=$1 limit=$2
  shift 2
  part "$name" "$limit" python -m benchmarks.step --out "$folder/$name.parquet" "$@" &&
    { printf '\n%s\n\n' "$name" && grep '^|' "$folder/$name.log"; } >>"$folder/table.md"
}

: >"$folder/table.md"
middle=135m slower=1
[ "$shape" = 7b ] || middle=tiny slower=10
step step_48_gb 150 --shape "$shape" --arms ours --pairs 1 --memory 48
part tiny_run 150 python -m snakemake --snakefile Snakefile --configfile tests/tiny.yaml --cores all --directory "$folder/run"
step step_24_gb 120 --shape "$shape" --arms ours --pairs 1 --memory 24
step step_middle 90 --shape "$middle" --arms ours trl --pairs 3
step step_peers 120 --shape "$shape" --arms ours plain --pairs 1
cat "$folder/table.md"
