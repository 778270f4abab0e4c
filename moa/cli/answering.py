"""What talks to a trained policy."""

from pathlib import Path
from typing import Annotated

import typer

from moa.errors import MoaError
from moa.job.process import importing
from moa.store.terminal import say


def respond(
    prompt: Annotated[str, typer.Argument(help="what the policy continues or answers")],
    policy: Annotated[
        Path, typer.Option(help="folder of a policy, results/<task>/policies/<row>/<policy>/s<seed>, or of a row")
    ],
    preference: Annotated[str | None, typer.Option(help="e.g. sentiment=0.8,conciseness=0.2")] = None,
    experiment: Annotated[
        Path | None, typer.Option(help="experiment file whose settings replace those of the policy's run")
    ] = None,
) -> None:
    """Talk to a trained policy."""
    from moa.respond import respond

    with importing():
        import moa.lm.answering  # noqa: F401

    say(respond(policy, prompt, parse_preference(preference), experiment))


def parse_preference(text: str | None) -> dict[str, float] | None:
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
                f"--preference {text!r}: expected objective=weight pairs with commas between, e.g."
                " sentiment=0.8,conciseness=0.2"
            )
        if name in found:
            raise MoaError(f"--preference {text!r}: objective '{name}' is given twice")
        found[name] = value
    return found
