"""How far policies ended from the reference, measured alike for every row.

Exact KL per token on the test prompts, in nats.

The KL in the curves is what each trainer saw while it trained: the shared loop the exact one, TRL an estimate from one
mini-batch. Here every policy answers the run's evaluation prompts as it did in training (its temperature and top_p), at
every preference of the grid, and both distributions are compared at every token of its own responses.

    python -m benchmarks.distance --run results/imdb_control --rows linear moc grpo --out distance.jsonl
    python -m benchmarks.distance --table distance.jsonl
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel

from moa.errors import MoaError
from moa.experiment.schema import parse
from moa.lm import answering
from moa.lm.generation import Decoding
from moa.lm.models import forward
from moa.methods import catalogue
from moa.metrics.paired import paired
from moa.plan import Plan
from moa.report.summary import table
from moa.rl.losses import distribution_kl, forbid_empty
from moa.store import inputs, tables
from moa.store.tables import Row


@torch.no_grad()
def measure(answerer: answering.Answerer, texts: Sequence[str], decoding: Decoding) -> tuple[float, int]:
    """Return the summed KL(policy || reference) of one response to every built prompt, and its tokens; `switch` first.

    Raises:
        MoaError: the row answers with a mixture, or with the base alone.
    """
    model = answerer.model
    if answerer.mixed or not isinstance(model, PeftModel):
        raise MoaError(f"{answerer.name}: only a policy or a soup has one adapter whose distance can be measured")
    rollout = answerer.draw(texts, decoding)
    end = int(answerer.tokenizer.eos_token_id)
    logits, _ = forward(model, rollout.ids, rollout.mask, rollout.response)
    with model.disable_adapter():
        reference, _ = forward(model, rollout.ids, rollout.mask, rollout.response)
    found = (
        distribution_kl(forbid_empty(logits, end), forbid_empty(reference, end), decoding.temperature)
        * rollout.response_mask
    )
    return float(found.sum()), int(rollout.response_mask.sum())


def distances(run: Path, row: str, seeds: Sequence[int] | None = None) -> list[Row]:
    """Return a row's KL per seed (default: the run's): over all tokens, and at every preference of the grid."""
    about = tables.read(tables.RUNS, run / "run.parquet").to_pylist()[0]
    experiment = parse(json.loads(about["config"]), str(run))
    section = Plan(experiment, "distance").generate(row)
    method = catalogue.load(row, section.settings, section.objectives)
    if method.answers == "external":
        raise MoaError(f"{row}: an external row's distance from the reference is not measured; name another row")
    prompting = answering.Prompting(section.objectives, section.conditioning, method.conditioned)
    prompts = [r["prompt"] for r in inputs.prompts(run / "prompts.parquet", "evaluation")]
    # Not the section's, which has only what evaluation reads.
    decoding = Decoding.training(experiment.generation)
    rows = []
    for seed in seeds or experiment.run.seeds:
        folders = [run / "policies" / p["owner"] / p["policy"] / f"s{seed}" for p in json.loads(about["policies"])[row]]
        answerer = answering.load(answering.Base(run / "base", section.model), folders, method.answers, prompting)
        torch.manual_seed(seed)
        found = []
        for preference in method.evaluation_preferences(section.evaluation):
            answerer.switch(preference)
            found.append(measure(answerer, answerer.texts(prompts, preference), decoding))
        total, tokens = (sum(column) for column in zip(*found, strict=True))
        rows.append({"row": row, "seed": seed, "kl": total / tokens, "points": [kl / n for kl, n in found]})
    return rows


def show(path: Path) -> str:
    """Return rows' means and 95 % t-intervals over seeds, and their least and largest mean at a preference, as a Markdown table."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = []
    for name in dict.fromkeys(r["row"] for r in rows):
        mine = [r for r in rows if r["row"] == name]
        mean = paired({r["seed"]: r["kl"] for r in mine}, {r["seed"]: 0.0 for r in mine})
        points = np.mean([r["points"] for r in mine], 0)
        lines.append(
            [
                name,
                f"{mean.mean:.3f}",
                f"{mean.low:.3f} to {mean.high:.3f}",
                f"{points.min():.2f} to {points.max():.2f}",
                str(mean.seeds),
            ]
        )
    return table(["row", "KL", "95 %", "by preference", "seeds"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="results/<task> of a finished run")
    parser.add_argument("--rows", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the run's")
    parser.add_argument("--out", type=Path, help="JSON lines, one per row and seed, are added to it")
    parser.add_argument("--table", type=Path, help="print a file of distances and do nothing else")
    given = parser.parse_args()
    if given.table:
        print(show(given.table))
        return
    if not (given.run and given.rows and given.out):
        parser.error("--run, --rows and --out are needed, or --table")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for row in given.rows:
        with given.out.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(found) + "\n" for found in distances(given.run, row, given.seeds))


if __name__ == "__main__":
    main()
