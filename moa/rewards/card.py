"""reward.json: what a trained reward was made from and how well it does on rows that it never saw."""

import json
from importlib.metadata import version
from pathlib import Path

from moa.errors import MoaError
from moa.experiment.rewards import Linear, Transformer
from moa.rewards.scoring import Trained
from moa.store.files import read_object, verify

NAME = "reward.json"


def write(folder: Path, name: str, spec: Linear | Transformer, trained: Trained, *packages: str) -> None:
    """Write settings, held-out metrics, the number of training rows and the versions of `packages`."""
    card = {
        "reward": name,
        "settings": spec.model_dump(mode="json"),
        "heldout": trained.heldout,
        "rows": trained.rows,
        "micro_batch": trained.micro_batch,
        "versions": {package: version(package) for package in packages},
    }
    (folder / NAME).write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def check(folder: Path, name: str, spec: Linear | Transformer) -> None:
    """Raise a MoaError where the folder's reward was trained with other settings than `spec`."""
    remedy = "delete the folder and run snakemake again: the reward will be trained anew"
    verify(folder)
    settings = read_object(folder / NAME, "a reward's card", remedy).get("settings")
    if not isinstance(settings, dict):
        raise MoaError(f"{folder / NAME}: not a reward's card, it has no settings; {remedy}")
    wanted = spec.model_dump(mode="json")
    changed = [key for key in wanted if settings.get(key) != wanted[key]]
    if changed:
        raise MoaError(
            f"{folder}: reward {name} was trained with another {', '.join(changed)} than the config's; {remedy}"
        )
