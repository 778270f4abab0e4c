"""What a policy's folder says about it (policy.json), and which policy is nearest to a preference."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moa.errors import MoaError
from moa.experiment.preferences import Preference
from moa.lm.targets import Targets
from moa.store.files import read_object
from moa.store.provenance import file_hash


@dataclass(frozen=True)
class Card:
    """What a policy's folder says about it.

    Attributes:
        base_hash: identifies the base that it was trained on.
        targets: where given, its prompts show target rewards instead of the preference.
    """

    name: str
    weights: Preference | None = None
    base_hash: str | None = None
    targets: Targets | None = None


def read_card(folder: Path) -> Card:
    """Return what policy.json says; a plain PEFT adapter has none and is called after its folder."""
    path = folder / "policy.json"
    if not path.exists():
        return Card(folder.name)
    try:
        found = read_object(path, "a policy's card", "train the policy again")
        targets = Targets.model_validate(found["targets"]) if found.get("targets") else None
        return Card(
            found["policy"],
            None if found["weights"] is None else tuple(found["weights"]),
            found.get("base_hash"),
            targets,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise MoaError(
            f"{path}: not a policy's card ({type(error).__name__}: {error}); train the policy again"
        ) from error


def check_base(base: Path, folders: Sequence[Path], cards: Sequence[Card]) -> None:
    """Refuse a policy that was trained on another base than the folder `base`.

    Its adapter would load there, and say anything.
    """
    recorded = {folder: card.base_hash for folder, card in zip(folders, cards, strict=True) if card.base_hash}
    if not recorded or not base.is_dir():
        return
    found = file_hash(base)
    for folder, expected in recorded.items():
        if expected != found:
            raise MoaError(
                f"{folder}: this policy was trained on another base (hash {expected[:12]}) than {base} (hash"
                f" {found[:12]}); give the base that it was trained on, or train the policy again"
            )


def nearest(preference: Preference, cards: Sequence[Card]) -> int:
    """Return which policy's training weights are nearest (Euclidean); the first one on a tie."""
    missing = [c.name for c in cards if c.weights is None]
    if missing:
        raise MoaError(f"policy {missing[0]}: its card names no weights, so no preference is nearest to it")
    distances = [sum((a - b) ** 2 for a, b in zip(preference, c.weights or (), strict=True)) for c in cards]
    return distances.index(min(distances))
