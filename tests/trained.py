"""The inputs of the stages that train a policy, on disk, and their command as the workflow gives it."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moa.experiment.schema import TrainSection
from moa.stages import train
from moa.store import tables
from moa.store.provenance import text_hash
from tests import tiny_models

OBJECTIVES = {"sentiment": {"reward": "vader"}, "conciseness": {"reward": "short"}}
REWARDS = {"vader": {"kind": "vader"}, "short": {"kind": "conciseness", "full": 1, "zero": 40}}


def write_inputs(folder: Path) -> Path:
    """Write a base, prompts, texts with scores and a normaliser, as the stages before training do."""
    reviews = tiny_models.texts()
    tiny_models.save_base(folder / "base")
    prompts = list(dict.fromkeys(r.prompt for r in reviews))[:12]
    tables.write(
        tables.PROMPTS,
        [{"task": "t", "prompt_id": text_hash(p), "split": "train", "prompt": p} for p in prompts],
        folder / "prompts.parquet",
    )
    texts = [
        {
            "task": "t",
            "text_id": f"t{i}",
            "split": "heldout" if i < 4 else "train",
            "prompt": r.prompt,
            "response": r.response[:20],
        }
        for i, r in enumerate(reviews)
    ]
    tables.write(tables.TEXTS, texts, folder / "texts.parquet")
    rng = np.random.default_rng(0)
    scores = [
        {
            "task": "t",
            "text_id": t["text_id"],
            "objective": o,
            "role": "reward",
            "score": float(rng.normal()),
            "truncated": False,
        }
        for t in texts
        for o in OBJECTIVES
    ]
    tables.write(tables.TEXT_SCORES, scores, folder / "text_scores.parquet")
    scale = {"mean": 0.0, "std": 1.0, "reference_point": 0.0, "n": 10, "hash": "x"}
    rows = [
        {"task": "t", "objective": o, "low": low, "high": 1.0, "floor": low, **scale}
        for o, low in (("sentiment", -1.0), ("conciseness", 0.0))
    ]
    tables.write(tables.NORMALISER, rows, folder / "normaliser.parquet")
    return folder


def command(
    inputs: Path,
    out: Path,
    row: str,
    weights: tuple[float, ...] | None = None,
    ppo: dict[str, Any] | None = None,
    **settings: Any,
) -> Namespace:
    """The command line of stage train for a tiny policy; `settings` are the row's own."""
    section = TrainSection.model_validate(
        {
            **{
                "task": "t",
                "objectives": OBJECTIVES,
                "rewards": REWARDS,
                "conditioning": {"template": "{preference}: {prompt}"},
            },
            "model": {
                "source": "x",
                "sft": {"batch_size": 8, "learning_rate": 1e-2, "max_length": 96},
                "lora": tiny_models.LORA.model_dump(),
            },
            "generation": {"max_new_tokens": 6, "temperature": 1.0},
            "ppo": {
                "steps": 4,
                "batch_size": 8,
                "mini_batch_size": 4,
                "epochs": 2,
                "learning_rate": 1e-2,
                "checkpoint_every": 1,
                **(ppo or {}),
            },
            **{"training": [(0.5, 0.5)], "dirichlet": None, "settings": settings},
        }
    )
    return Namespace(
        section=section.model_dump_json(),
        row=row,
        policy="policy",
        seed=0,
        weights=json.dumps(weights),
        depends="",
        prompts=inputs / "prompts.parquet",
        base=inputs / "base",
        normaliser=inputs / "normaliser.parquet",
        models=[],
        texts=[inputs / "texts.parquet", inputs / "text_scores.parquet"] if row == "ric" else [],
        checkpoints=out / "checkpoints",
        out=out / "policy",
        curve=out / "curve.parquet",
        costs=out / "costs.parquet",
    )


def run(inputs: Path, out: Path, row: str, weights: tuple[float, ...] | None = None, **changes: Any) -> Path:
    """Run stage train; return the folder that holds policy, curve.parquet and costs.parquet."""
    train.main(command(inputs, out, row, weights, **changes))
    return out


def curve(out: Path) -> list[tuple[int, str, str, float]]:
    """Return the curve without what depends on the clock."""
    rows = tables.read(tables.CURVES, out / "curve.parquet").to_pylist()
    return [
        (r["step"], r["quantity"], r["objective"], r["value"])
        for r in rows
        if r["quantity"] not in ("seconds", "memory")
    ]


def overshoot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step of Adam leave parameters of 1e30: finite, but what the model makes of them is not."""
    real = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *arguments: Any) -> None:
        real(self, *arguments)
        for parameter in self.param_groups[0]["params"]:
            parameter.data.fill_(1e30)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
