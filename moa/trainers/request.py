"""What a trainer is asked for, what it gives back, and how that is stored: the same for every trainer."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moa.experiment.preferences import Preference
from moa.experiment.schema import TrainSection
from moa.job.process import Job, keeping
from moa.lm import models
from moa.lm.adapters import PeftModel
from moa.method import Method
from moa.rl.loop import CurveRow
from moa.store import files, tables
from moa.store.provenance import file_hash


@dataclass(frozen=True)
class Request:
    """One policy to train.

    Attributes:
        weights: the policy's own; None where the preference varies per sample.
        policy: its name within the method's row.
        prompts: table PROMPTS.
        base: folder of the base model.
        normaliser: table NORMALISER.
        models: folders of the rewards that were trained for this task.
        texts: tables TEXTS and TEXT_SCORES for a trainer that reads them; else none.
        checkpoints: where the jobs of the task keep theirs.
        out: folder that the policy becomes.
        curve: table CURVES, to be written.
        costs: table COSTS, to be written.
        depends: what the workflow knows of code and local files that the policy depends on.
    """

    section: TrainSection
    method: Method
    weights: Preference | None
    policy: str
    seed: int
    prompts: Path
    base: Path
    normaliser: Path
    models: Sequence[Path]
    texts: Sequence[Path]
    checkpoints: Path
    out: Path
    curve: Path
    costs: Path
    depends: str = ""

    @property
    def name(self) -> str:
        """The policy's name in the log."""
        return f"{self.method.row}/{self.policy} s{self.seed}"

    @property
    def key(self) -> dict[str, Any]:
        """The columns that identify the policy in tables."""
        return {"task": self.section.task, "method": self.method.row, "policy": self.policy, "seed": self.seed}


@dataclass(frozen=True)
class Trained:
    """What a trainer gives back.

    Attributes:
        heads: value heads; None for a trainer without.
        tokens: generated or read.
        facts: what the policy's card says beyond what every policy's does.
    """

    model: PeftModel
    heads: models.ValueHeads | None
    curve: Sequence[CurveRow]
    tokens: int
    facts: dict[str, Any] = field(default_factory=dict)


def keep(request: Request) -> AbstractContextManager[Job]:
    """Return the job's checkpoints, which go with everything that the policy depends on."""
    paths = (request.prompts, request.base, request.normaliser, *request.models, *request.texts)
    return keeping(
        request.checkpoints,
        f"{request.method.row}-{request.policy}-s{request.seed}",
        request.section.model_dump_json(),
        request.method.row,
        request.policy,
        str(request.seed),
        json.dumps(request.weights),
        request.depends,
        *map(file_hash, paths),
    )


def write(request: Request, trained: Trained) -> None:
    """Write the policy folder and table CURVES."""
    section, method = request.section, request.method
    streams = method.streams if trained.heads else []
    card = {
        **request.key,
        "weights": request.weights,
        "base_hash": file_hash(request.base),
        "objectives": method.objectives,
        "conditioned": method.conditioned,
        "conditioning": section.conditioning.model_dump(),
        "generation": section.generation.model_dump(),
        "model": section.model.model_dump(),
        **({"streams": streams} if streams else {}),
        **trained.facts,
    }
    with files.folder(request.out) as folder:
        models.save_policy(folder, trained.model, trained.heads, streams, card)
    rows = [{**request.key, "step": s, "quantity": q, "objective": o, "value": v} for s, q, o, v in trained.curve]
    tables.write(tables.CURVES, rows, request.curve)
