"""How threads should wait at barriers on a machine that is shared.

The measure is steps per second of one small training loop, three ways.

    python -m benchmarks.waiting

A loop of two threads trains a Llama of the embedded default's shape: alone (quiet), beside one busy process of one
thread, and beside another such loop of two threads. For every setting of the OpenMP runtime the table has steps/s as a
share of the best setting in the same condition, and their geometric mean. The project takes the setting with the best
geometric mean among those that keep at least 90 % of the best when quiet (moa/job/process.py says which). Settings take
turns, so drift meets all alike.
"""

import argparse
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SETTINGS = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1 000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10 000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100 000": {"GOMP_SPINCOUNT": "100000"},
}
CONDITIONS = ("quiet", "one busy thread", "another job")
THREADS, WARM_UP = 2, 2.0  # seconds of steps that are not counted


def work(seconds: float) -> None:
    """Train for so many seconds after the warm-up; print steps per second."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    shape = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 160,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1024, tie_word_embeddings=True, **shape))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    ids = torch.randint(0, 1024, (16, 64))
    began, steps = time.perf_counter(), 0
    counted = began + WARM_UP
    while (now := time.perf_counter()) < counted + seconds:
        if now < counted:
            steps = 0
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    print(steps / seconds)


def busy() -> None:
    """Keep one core busy for ever."""
    while True:
        sum(range(10_000))


def start(role: str, seconds: float, setting: dict[str, str]) -> subprocess.Popen[str]:
    """Start this file as a process of its own."""
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
    }
    command = [sys.executable, "-m", "benchmarks.waiting", "--role", role, "--seconds", str(seconds)]
    return subprocess.Popen(command, env=inherited | setting, stdout=subprocess.PIPE, text=True)


def measure(condition: str, setting: dict[str, str], seconds: float) -> float:
    """Return the loop's steps per second in one condition."""
    with ExitStack() as ending:
        beside = {"quiet": None, "one busy thread": ("busy", seconds), "another job": ("work", seconds + 60)}[condition]
        if beside is not None:
            other = start(*beside, setting)
            ending.callback(other.wait)
            ending.callback(other.kill)
            time.sleep(4.0)  # past its imports
        loop = start("work", seconds, setting)
        printed, _ = loop.communicate()
    return float(printed)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--role", choices=("work", "busy"), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=8.0, help="of every measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/waiting.parquet"))
    given = parser.parse_args()
    if given.role is not None:
        {"work": lambda: work(given.seconds), "busy": busy}[given.role]()
        return
    rows = [
        {
            "repeat": repeat,
            "condition": condition,
            "setting": name,
            "steps_per_second": measure(condition, setting, given.seconds),
        }
        for repeat in range(given.repeats)
        for condition in CONDITIONS
        for name, setting in SETTINGS.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), given.out)
    show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    """Print medians over the repeats: steps/s, and the share of the best setting's in the same condition."""
    found: dict[tuple[str, str], list[float]] = {(r["condition"], r["setting"]): [] for r in rows}
    for r in rows:
        found[r["condition"], r["setting"]].append(r["steps_per_second"])
    medians = {key: median(values) for key, values in found.items()}
    best = {c: max(medians[c, s] for s in SETTINGS) for c in CONDITIONS}
    print("| setting | " + " | ".join(CONDITIONS) + " | geometric mean |\n|---|" + "---:|" * (len(CONDITIONS) + 1))
    for setting in SETTINGS:
        shares = [medians[c, setting] / best[c] for c in CONDITIONS]
        cells = [f"{medians[c, setting]:.2f} ({share:.0%})" for c, share in zip(CONDITIONS, shares, strict=True)]
        print(f"| {setting} | " + " | ".join(cells) + f" | {geometric_mean(shares):.2f} |")


if __name__ == "__main__":
    main()
