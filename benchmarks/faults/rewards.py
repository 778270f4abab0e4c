"""Slow, failing and untidy rewards: a user's function that raises, exits, returns nonsense or changes its surroundings.

What fails must be said with the reward's name; what is merely untidy must change nothing. Afterwards the same job with
the function as it should be must give the right results.
"""

import os
from dataclasses import dataclass, replace

from benchmarks.faults import guest
from benchmarks.faults.trial import TRACE, End, Place, Trial, Verdict, outcome
from benchmarks.faults.world import Command, World, repeat

HOW = "guest.py misbehaves in its first or third call; one stage that asks it, in a fork; then again, as it should be"
NAMES = ("reward polite", "'polite'", "guest:score", "guest.py")
STAGES = (("texts", None), ("reference", None), ("train", None), ("best_of_n", None), ("score", "moc"))
MANY = ("train",)  # stages that ask more than once


@dataclass(frozen=True)
class Guest:
    """One way to misbehave, in one stage."""

    world: World
    command: Command
    way: str
    call: int

    def __call__(self, place: Place) -> Verdict:
        self.world.right(self.command)
        self.world.copy(place.folder)

        def misbehave() -> None:
            os.environ["MOA_GUEST"] = f"{self.way}:{self.call}"

        end = repeat(self.command, place, misbehave)
        different = self.world.differences(self.command, place.folder) if end.status == 0 else None
        if self.way in guest.HARMLESS:
            wrong = end.unclear() if end.status else "; ".join(different or [])
            verdict = Verdict(not wrong, not different, "harmless" if not wrong else "changed the run", wrong)
        elif self.way in guest.ENDING:
            # Nothing in the process is left that could say a word; Snakemake sees what is missing.
            missing = [o for o in self.command.outputs if not (place.folder / o).exists()]
            verdict = Verdict(end.status != 0 or bool(missing), None, "ended", f"status {end.status}")
        else:
            verdict = outcome(_judged(end), NAMES, different)
        again = repeat(self.command, place)
        after = self.world.differences(self.command, place.folder) if again.status == 0 else [again.last]
        if after:
            return Verdict(False, False, "not mended", verdict.said, "; ".join(after[:6]))
        return Verdict(verdict.survived, True, verdict.outcome, verdict.said, verdict.differed)


def _judged(end: End) -> End:
    """Return the end without the guest's own trace: the user mends guest.py by it, and the clear line follows it."""
    before, _, after = end.output.partition(f"raised\n{TRACE}")
    own = 'guest.py", line ' in after.partition("\nerror: ")[0]
    return replace(end, output=before + after) if own else end


def trials(world: World) -> list[Trial]:
    """Return every way in some stages, early and late."""
    found = []
    for turn, way in enumerate((*guest.RETURNS, *guest.ACTS)):
        for shift in range(2):
            stage, row = STAGES[(2 * turn + shift) % len(STAGES)]
            found.append(Guest(world, world.command(stage, row), way, 3 if stage in MANY else 1))
    return [Trial("reward", i, f"{g.way} in call {g.call} of {g.command.stage}", HOW, g) for i, g in enumerate(found)]
