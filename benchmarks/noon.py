"""What Noon lets through: signs and sizes of advantages on a response's last token and on the others, step by step.

Trains one policy of a row on a finished task's base and reads the advantages before Noon cuts them.
docs/methods/pama.md has the table.

    snakemake --cores all reference_scores --configfile experiments/imdb_pama.yaml
    python -m benchmarks.noon --experiment experiments/imdb_pama.yaml --results results/imdb_pama --out noon.jsonl
    python -m benchmarks.noon --table noon.jsonl
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ablation import experiment_of, loop_on, set_up
from moa.experiment import schema
from moa.method import Method
from moa.report.summary import table
from moa.trainers import ppo

LAST = 10  # steps that the table averages


def last_tokens(mask: Tensor) -> Tensor:
    """Mark (B, T) the last token of every response shorter than the longest, that is its end token."""
    lengths = mask.sum(1).long()
    last = torch.zeros_like(mask)
    last[torch.arange(len(mask)), lengths - 1] = (lengths < mask.shape[1]).float()
    return last


def describe(advantages: Tensor, mask: Tensor, objectives: list[str]) -> dict[str, float]:
    """Return shares and means of whitened advantages (K, B, T) before Noon, for end tokens (`last`) and for all others."""
    last = last_tokens(mask)
    parts = {"last": last, "others": mask - last}
    found = {
        "all positive": float((((advantages > 0).all(0)) * mask).sum() / mask.sum()),
        "tokens": float(mask.sum(1).mean()),
    }
    for name, where in parts.items():
        for k, objective in enumerate(objectives):
            values = advantages[k][where > 0]
            found |= {
                f"{objective}, mean, {name}": float(values.mean()),
                f"{objective}, deviation, {name}": float(values.std()),
            }
            found |= {
                f"{objective}, mean after Noon, {name}": float(values.clamp(min=0).mean()),
                f"{objective}, positive, {name}": float((values > 0).float().mean()),
            }
    return found


def watch(method: Method, seen: list[dict[str, float]], signed_last: bool) -> None:
    """Make `method.scale` note what it is given, and with `signed_last` leave end tokens as they are."""
    scale = method.scale

    def noting(advantages: Tensor, mask: Tensor) -> Tensor:
        seen.append(describe(advantages, mask, method.objectives))
        scaled = scale(advantages, mask)
        return torch.where(last_tokens(mask) > 0, advantages, scaled) if signed_last else scaled

    method.scale = noting  # type: ignore[method-assign]


def run(experiment: schema.Experiment, row: str, results: Path, seed: int, signed_last: bool) -> list[dict[str, Any]]:
    """Train one policy; return one dictionary per step."""
    seen: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as checkpoints:
        loop = loop_on(experiment, row, results, seed, Path(checkpoints))
        watch(loop.method, seen, signed_last)
        ppo.run(loop, f"{row} s{seed}")
    raw = [{f"{o}, reward": v for s, q, o, v in loop.curve if q == "reward" and s == step} for step in range(len(seen))]
    return [{"seed": seed, "step": step, **raw[step], **values} for step, values in enumerate(seen)]


def show(path: Path) -> str:
    """Return the means over the last steps, one line per objective and run, as a Markdown table."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    objectives = [key.removesuffix(", reward") for key in rows[0] if key.endswith(", reward")]
    columns = [
        "mean, last",
        "deviation, last",
        "mean after Noon, last",
        "mean, others",
        "deviation, others",
        "mean after Noon, others",
    ]
    lines = []
    for name in dict.fromkeys(r["row"] for r in rows):
        mine = [r for r in rows if r["row"] == name]
        late = [r for r in mine if r["step"] > max(m["step"] for m in mine) - LAST]
        for objective in objectives:
            keys = [f"{objective}, reward", "all positive", *(f"{objective}, {c}" for c in columns)]
            lines.append([name, objective, *(f"{sum(r[key] for r in late) / len(late):.2f}" for key in keys)])
    return table(["run", "objective", "reward", "tokens good for all", *columns], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiment", type=Path)
    parser.add_argument("--results", type=Path, help="results/<task> of a run that has made its reference scores")
    parser.add_argument("--row", default="pama")
    parser.add_argument("--name", help="of the run in the table; the row's without it")
    parser.add_argument(
        "--set", type=json.loads, default={}, help='keys on top of the experiment, e.g. {"ppo": {"whiten": "none"}}'
    )
    parser.add_argument("--signed-last", action="store_true", help="spare end tokens from Noon")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print a file of steps and do nothing else")
    given = parser.parse_args()
    if given.table is not None:
        print(show(given.table))
        return
    set_up()
    experiment = experiment_of(given.experiment, given.row, given.set)
    for seed in given.seeds:
        with given.out.open("a", encoding="utf-8") as file:
            name = given.name or given.row
            file.writelines(
                json.dumps({"row": name, **line}) + "\n"
                for line in run(experiment, given.row, given.results, seed, given.signed_last)
            )


if __name__ == "__main__":
    main()
