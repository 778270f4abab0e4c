"""The user's own rewards, asked once for two short texts as a job would ask them."""

import time

from moa.ahead import named
from moa.ahead.local import collecting
from moa.errors import MoaError
from moa.plan import Plan
from moa.rewards import scoring

PROMPTS = ["The lamp", "A book"]
RESPONSES = [" is fine.", " is not."]


def ask(plan: Plan, mistakes: list[str]) -> list[str]:
    """Load every function of the run and ask it for two scores; return a line on each, with its seconds per text."""
    said = []
    for name, spec in named.functions(plan).items():
        with collecting(mistakes):
            try:
                began = time.perf_counter()
                scorer = scoring.load(name, spec, [])
                loaded = time.perf_counter()
                values = scoring.score(name, scorer, list(PROMPTS), list(RESPONSES), floor=None).values
                took = time.perf_counter() - loaded
            except MoaError as error:
                raise MoaError(f"rewards.{name}.function: {error}") from None
            shown, each = ", ".join(f"{value:g}" for value in values), took / len(RESPONSES)
            said.append(
                f"reward {name}: {spec.function} gave {shown} to two short texts, {each:.3g} s per text"
                f" ({loaded - began:.1f} s to import)"
            )
    return said
