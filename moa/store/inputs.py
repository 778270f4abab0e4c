"""What several stages read from tables: the prompts of a split, and the texts for fine-tuning with their rewards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moa.errors import MoaError
from moa.store import tables
from moa.store.tables import Row


def prompts(path: Path, split: Literal["train", "evaluation"]) -> list[Row]:
    """Return the rows of table PROMPTS of one split; none at all is a MoaError."""
    rows = [r for r in tables.read(tables.PROMPTS, path).to_pylist() if r["split"] == split]
    if not rows:
        raise MoaError(f"{path}: no {split} prompts")
    return rows


def texts(path: Path) -> list[Row]:
    """Return the train rows of table TEXTS; none at all is a MoaError."""
    rows = [r for r in tables.read(tables.TEXTS, path).to_pylist() if r["split"] == "train"]
    if not rows:
        raise MoaError(f"{path}: no texts to train on; set model.sft to null, or name data.text or data.response")
    return rows


def text_rewards(path: Path, ids: Sequence[str], objectives: Sequence[str]) -> NDArray[np.float64]:
    """Return (n, K) rewards of the texts `ids` from table TEXT_SCORES; a missing one is a MoaError."""
    found = {
        (r["text_id"], r["objective"]): r["score"]
        for r in tables.read(tables.TEXT_SCORES, path).to_pylist()
        if r["role"] == "reward"
    }
    try:
        return np.array([[found[i, o] for o in objectives] for i in ids], np.float64)
    except KeyError as error:
        text, objective = error.args[0]
        raise MoaError(
            f"{path}: no reward of objective '{objective}' for text {text}; run the rule score_texts again"
        ) from None
