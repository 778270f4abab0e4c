"""The scale of every objective: 0 and 1 are what the reference policy's responses to train prompts span.

Fitted once, before training, and the same for every method. Notation: n responses; K objectives.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moa.errors import MoaError
from moa.metrics.bootstrap import Array
from moa.store import tables
from moa.store.tables import Row

log = logging.getLogger("moa")
LOW, HIGH = 0.01, 0.99  # quantiles: the central 98 %
COLUMNS = ("low", "high", "mean", "std", "floor", "reference_point")


@dataclass(frozen=True)
class Normaliser:
    """The columns of table NORMALISER in the objectives' order, each (K,), raw scale; high is above low."""

    objectives: list[str]
    low: Array
    high: Array
    mean: Array
    std: Array
    floor: Array
    reference_point: Array

    def rows(self) -> dict[str, Row]:
        """Return what `from_rows` reads: objective -> its columns."""
        columns = {name: getattr(self, name).tolist() for name in COLUMNS}
        return {o: {name: column[k] for name, column in columns.items()} for k, o in enumerate(self.objectives)}

    def apply(self, raw: Array) -> Array:
        """Put raw scores (..., K) on the scale; they are not clipped."""
        return (raw - self.low) / (self.high - self.low)

    @property
    def reference(self) -> Array:
        """The hypervolume's reference point (K,) on the scale."""
        return self.apply(self.reference_point)

    @property
    def floors(self) -> dict[str, float | None]:
        """Each objective's score of a blank response."""
        return dict(zip(self.objectives, self.floor.tolist(), strict=True))


def fit(
    what: str, scores: NDArray[np.float32], bounds: tuple[float | None, float | None], reference_point: float | None
) -> Row:
    """Return one objective's columns of table NORMALISER, without task, objective and hash.

    Low and high are the formula's bounds where it has them, else the 1 % and 99 % quantiles.

    Args:
        what: names reward and objective in messages.
        scores: (n,) raw rewards of the reference policy's responses.
        bounds: least and largest score that the reward allows; None where there is no such bound.
        reference_point: the hypervolume's, raw scale; None takes the least bound, or the 1 % quantile.

    Raises:
        MoaError: low is not below high, so that the scale is no scale.
    """
    values, (least, most) = scores.astype(np.float64), bounds
    low = float(np.quantile(values, LOW)) if least is None else least
    high = float(np.quantile(values, HIGH)) if most is None else most
    if high <= low:
        raise MoaError(
            f"{what} is constant: its scale is [{low:g}, {high:g}] on {len(values)} responses of the reference policy;"
            " give another reward, or correct this one"
        )
    spread = float(values.std())
    if spread == 0:
        log.warning("%s gave all %d responses of the reference policy the same score, %g", what, len(values), values[0])
    return {
        "low": low,
        "high": high,
        "mean": float(values.mean()),
        "std": spread,
        "floor": float(values.min()) if least is None else least,
        "reference_point": low if reference_point is None else reference_point,
        "n": len(values),
    }


def from_rows(rows: Mapping[str, Row], objectives: Sequence[str], where: str) -> Normaliser:
    """Return the scale of `objectives` from rows of table NORMALISER by objective; `where` names them in messages.

    Raises:
        MoaError: an objective has no row, or its low is not below its high.
    """
    for name in objectives:
        if name not in rows:
            raise MoaError(
                f"{where}: no row for objective '{name}' (it has {', '.join(rows)}); delete it and run snakemake again:"
                " the stage reference_scores will rerun"
            )
        if not rows[name]["high"] > rows[name]["low"]:
            raise MoaError(
                f"{where}: objective '{name}' has the scale [{rows[name]['low']:g}, {rows[name]['high']:g}], which is"
                " no scale; choose another reward, or correct it"
            )
    return Normaliser(list(objectives), *(np.array([rows[o][c] for o in objectives], np.float64) for c in COLUMNS))


def read(path: Path, objectives: Sequence[str]) -> Normaliser:
    """Return the scale of `objectives` from a file of table NORMALISER."""
    rows = {row["objective"]: row for row in tables.read(tables.NORMALISER, path).to_pylist()}
    return from_rows(rows, objectives, str(path))
