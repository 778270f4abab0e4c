"""What talks to a trained policy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from moa.errors import MoaError
from moa.job.process import importing
from moa.store.terminal import beside, say

PolicyFolder = Annotated[
    Path, typer.Option(help="folder of a policy, results/<task>/policies/<row>/<policy>/s<seed>, or of a row")
]
ExperimentFile = Annotated[
    Path | None, typer.Option(help="experiment file whose settings replace those of the policy's run")
]


def respond(
    prompt: Annotated[str, typer.Argument(help="what the policy continues or answers")],
    policy: PolicyFolder,
    preference: Annotated[
        list[str] | None,
        typer.Option(
            help="e.g. sentiment=0.8,conciseness=0.2; the weights sum to 1, an objective that is not named weighs 0;"
            " several give answers side by side"
        ),
    ] = None,
    experiment: ExperimentFile = None,
) -> None:
    """Talk to a trained policy."""
    from moa.respond import answers, find, weigh

    source = find(policy, experiment)
    given = [parse_preference(text) for text in preference] if preference else [None]
    weights = [weigh(source, one, policy) for one in given]
    with importing():
        import moa.lm.answering  # noqa: F401
    found = answers(source, prompt, weights)
    if len(found) == 1:
        say(found[0])
    else:
        beside([told(source.objectives, one) for one in weights if one is not None], found)


def told(objectives: Sequence[str], weights: Sequence[float]) -> str:
    """Return a preference as people read it, 'sentiment 0.8, conciseness 0.2'."""
    return ", ".join(f"{name} {weight:.4g}" for name, weight in zip(objectives, weights, strict=True))


def parse_preference(text: str | None, where: str = "--preference") -> dict[str, float] | None:
    """Return {'sentiment': 0.8, ...} of 'sentiment=0.8,...'; malformed text is a MoaError."""
    if text is None:
        return None
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, weight = (piece.strip() for piece in part.partition("="))
        try:
            value = float(weight)
        except ValueError:
            value = None
        if not name or not equals or value is None:
            raise MoaError(
                f"{where} {text!r}: expected objective=weight pairs with commas between, e.g."
                " sentiment=0.8,conciseness=0.2"
            )
        if name in found:
            raise MoaError(f"{where} {text!r}: objective '{name}' is given twice")
        found[name] = value
    return found
