"""What a step of MOC costs as objectives are added: everything but scoring and the value heads should cost the same.

    python -m benchmarks.objectives --out benchmarks/objectives.parquet > benchmarks/objectives.md

The default experiment's architecture with random weights, 2, 4 and 8 rewards (shares of letters), the same batch
and the same prompt for all (the preference's text, which grows with N, stays out of it). Every step of one is followed
by a step of the others, so that slow minutes hit all alike. Times are CPU seconds of one thread, medians over the
steps.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.pama_cost import share_of
from moa.experiment.preferences import corners
from moa.experiment.schema import load
from moa.lm.generation import Decoding
from moa.lm.models import ValueHeads, add_adapter, hidden_size
from moa.lm.scratch import new_model
from moa.methods import catalogue
from moa.report.summary import table
from moa.rl import estimation, experience, loop

COUNTS, STEPS = (2, 4, 8), 12
REWARDS = [share_of(letter) for letter in "etaoinsr"]


class Timed:
    """Scores a batch with the first `count` rewards, and adds up the time that this takes."""

    def __init__(self, count: int) -> None:
        self.rewards, self.seconds = REWARDS[:count], 0.0

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        began = time.process_time()
        scores = np.array([reward(prompts, responses) for reward in self.rewards], np.float32).T
        self.seconds += time.process_time() - began
        return scores


def training(count: int, folder: Path) -> tuple[Iterator[int], Timed, int]:
    """Return a run of MOC on `count` objectives, its scoring, and the number of trained parameters."""
    experiment = load(Path("config.yaml"))
    scratch = experiment.model.scratch
    assert scratch is not None, "the default experiment trains its model from scratch"
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"{chr(97 + i % 26)}{i}" for i in range(4, scratch.vocabulary))]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
    )
    policy = add_adapter(new_model(scratch, tokenizer, 0).eval(), experiment.model.lora, 0)
    method = catalogue.load("moc", {}, [f"o{k}" for k in range(count)])
    heads = ValueHeads(hidden_size(policy), count + len(method.extra_heads))
    decoding = Decoding(experiment.generation.max_new_tokens, 1.0, 1.0)
    actor = experience.Actor(policy, heads, tokenizer, decoding, scratch.context)
    zero, one = torch.zeros(count), torch.ones(count)
    score = Timed(count)
    prompts = words[4:504]
    task = loop.Task(prompts, lambda prompt, _: prompt, score, estimation.Scale(zero, one), corners(count), None)
    ppo = experiment.ppo.model_copy(update={"steps": STEPS + 1, "checkpoint_every": STEPS + 2})
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    if ppo.advantages == "gae":  # groups train no value head
        trained += sum(p.numel() for p in heads.parameters())
    return loop.Loop(actor, method, ppo, task, 0, folder).run(), score, trained


def measure() -> list[dict[str, float]]:
    """Return a row per number of objectives and step; the first step, which warms up, is left out."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runs = {count: training(count, Path(folder) / str(count)) for count in COUNTS}
        for step in range(STEPS + 1):
            for count, (run, score, trained) in runs.items():
                score.seconds, began = 0.0, time.process_time()
                next(run)
                rows.append(
                    {
                        "objectives": count,
                        "step": step,
                        "seconds": time.process_time() - began,
                        "scoring": score.seconds,
                        "parameters": trained,
                    }
                )
    return [row for row in rows if row["step"] > 0]


def page(rows: list[dict[str, float]]) -> str:
    """Return the benchmark's page."""
    lines = []
    paired = {(r["objectives"], r["step"]): r["seconds"] - r["scoring"] for r in rows}
    for count in COUNTS:
        mine = [r for r in rows if r["objectives"] == count]
        ratios = sorted(paired[count, r["step"]] / paired[COUNTS[0], r["step"]] for r in mine)
        scoring = statistics.median(r["scoring"] for r in mine)
        seconds = statistics.median(r["seconds"] for r in mine)
        spread = f"{statistics.median(ratios):.3f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append([str(count), f"{seconds:.2f}", f"{1000 * scoring:.1f}", spread, f"{mine[0]['parameters']:,}"])
    head = [
        "objectives",
        "step, s",
        "scoring, ms",
        f"step without scoring, relative to {COUNTS[0]} (least to largest)",
        "trained parameters",
    ]
    text = " ".join(line for line in (__doc__ or "").split("\n\n")[2].splitlines())
    return (
        f"# What objectives cost\n\n```\n{(__doc__ or '').split(chr(10) * 2)[1].strip()}\n```\n\n{text.strip()} {STEPS}"
        f" steps each.\n\n{table(head, lines)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure()
    pq.write_table(pa.Table.from_pylist(rows), given.out)
    print(page(rows))


if __name__ == "__main__":
    main()
