"""A finished tiny task on disk, results/t: a base, a conditioned policy, two corners, and the run's record."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from moa.experiment.keys import Conditioning, Generation, Model
from moa.experiment.schema import parse
from moa.store import tables
from tests import tiny_models

EXPERIMENT = {
    "task": "t",
    "run": {"methods": ["linear", "rewarded_soups", "mod", "pama", "reference", "morlhf", "best_of_n"], "seeds": [0]},
    "data": {"source": "embedded"},
    "model": {"source": "x"},
    "objectives": {"a": {"reward": "vader"}, "b": {"reward": "short"}},
    "rewards": {"vader": {"kind": "vader"}, "short": {"kind": "conciseness"}},
    "generation": {"max_new_tokens": 6},
}


def save(folder: Path, chat_template: str | None = None, **conditioning: Any) -> Path:
    """Save it, with a chat template where one is given; `conditioning` is the section of that name."""
    base = tiny_models.save_base(folder / "base")
    if chat_template is not None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
        tokenizer.chat_template = chat_template
        tokenizer.save_pretrained(base)
    settings = {
        "conditioning": Conditioning.model_validate(conditioning),
        "generation": Generation(max_new_tokens=6),
        "model": Model(source="x"),
    }
    for seed, (row, name, weights) in enumerate(
        [("linear", "policy", None), ("single_objective", "a", (1.0, 0.0)), ("single_objective", "b", (0.0, 1.0))]
    ):
        path = tiny_models.save_adapter(
            folder / "policies" / row / name / "s3", seed=seed, name=name, weights=weights, conditioned=row == "linear"
        )
        card = json.loads((path / "policy.json").read_text()) | {k: v.model_dump() for k, v in settings.items()}
        (path / "policy.json").write_text(json.dumps({**card, "method": row, "seed": 3}))
    columns = {"code": "", "git": "", "versions": "{}", "hardware": "", "files": "{}", "policies": "{}"}
    config = parse({**EXPERIMENT, "conditioning": conditioning}).model_dump_json()
    record = {"task": "t", "config": config, "objectives": ["a", "b"], **columns}
    tables.write(tables.RUNS, [{k: record[k] for k in tables.RUNS.columns}], folder / "run.parquet")
    return folder
