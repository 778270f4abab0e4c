"""Fishwood, MOC's toy problem, for every kind of method: where its preferences end on a front that is known.

All points are exact expectations of the trained policies (dynamic programming), so what differs between seeds is the
training alone. The front is straight: linear weights end at its ends, whatever the preference says. Measured in
studies/fishwood.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.experiment.preferences import Preference, lattice
from moa.methods import catalogue
from moa.metrics.fronts import hypervolume
from moa.metrics.steering import kendall_tau
from moa.testbed.fishwood import Fishwood
from moa.testbed.train import PPO, Learner

Array = NDArray[np.float64]
GRID = lattice(2, 10)
TRIANGLE = 0.5  # hypervolume of the true front on the normalised scale, where its ends are (1, 0) and (0, 1)


class Setup(NamedTuple):
    """A method's section, and whether it sees raw rewards."""

    section: dict[str, Any]
    raw: bool = False


COMBINED = {"kind": "moc", "whiten": "combined"}
ROWS = {
    "linear, raw rewards": Setup({"kind": "linear"}, raw=True),
    "linear": Setup({"kind": "linear"}),
    "mse_only": Setup({"kind": "mse_only"}),
    "moc": Setup({"kind": "moc"}),
    "moc, combined": Setup(COMBINED),
    "moc, literal, combined": Setup({**COMBINED, "streams": "literal", "target": "scaled"}),
    "moc_feedback": Setup({"kind": "moc_feedback"}),
}


def train(setup: Setup, seed: int, steps: int = PPO.steps) -> Array:
    """Train one seed; return expected (fish, wood) at every preference of GRID, (M, 2).

    A method with fixed weights trains a policy per preference, one without preferences repeats its point.
    """
    environment = Fishwood()
    ppo = PPO.model_copy(update={"steps": steps})

    def learnt(training: list[Preference], shown: list[Preference]) -> Array:
        method = catalogue.load("row", setup.section, environment.objectives)
        learner = Learner(environment, method, method.loop(ppo), training, seed, setup.raw)
        return environment.expected(learner.train().probabilities(shown)).numpy()

    method = catalogue.load("row", setup.section, environment.objectives)
    if method.conditioned:
        return learnt(list(GRID), GRID)
    if method.steerable:
        return np.concatenate([learnt([p], [(0.0, 0.0)]) for p in GRID])
    return learnt([(0.5, 0.5)], [(0.0, 0.0)]).repeat(len(GRID), 0)


def metrics(points: Array) -> dict[str, float]:
    """Return what one seed's points (M, 2) are worth.

    Position is the share of the way from all wood (0) to all fish (1).
    """
    scale = Fishwood().scale
    normalised = (points - scale.low.numpy()) / (scale.high - scale.low).numpy()
    position = normalised[:, 0]
    steps = np.diff(np.sort(np.concatenate([[0.0], position, [1.0]])))
    return {
        "hypervolume": hypervolume(normalised, np.zeros(2)) / TRIANGLE,
        "gap": float(steps.max()),
        "tau": float(kendall_tau(np.array(GRID)[:, 0], np.round(position, 3))),
        "error": float(np.abs(position - np.array(GRID)[:, 0]).mean()),
    }
