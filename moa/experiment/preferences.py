"""Preference vectors: points of the simplex, exact and in a fixed order.

Notation: K objectives; a preference p has K non-negative components that sum to 1.
"""

from collections.abc import Sequence
from itertools import combinations
from math import comb

from moa.errors import MoaError

Preference = tuple[float, ...]
MOST = 10_000  # preferences of a grid

# The 13 evaluation points of Rewards-in-Context for three objectives (docs/papers.md 3.3); the published .33s sum to
# .99.
RIC13: tuple[Preference, ...] = (
    (0.0, 0.0, 1.0),
    (0.0, 1.0, 0.0),
    (0.1, 0.1, 0.8),
    (0.1, 0.8, 0.1),
    (0.2, 0.2, 0.6),
    (0.2, 0.4, 0.4),
    (0.2, 0.6, 0.2),
    (1 / 3, 1 / 3, 1 / 3),
    (0.4, 0.4, 0.2),
    (0.4, 0.2, 0.4),
    (0.6, 0.2, 0.2),
    (0.8, 0.1, 0.1),
    (1.0, 0.0, 0.0),
)


def lattice(objectives: int, divisions: int, where: str = "a lattice", most: int = 1_000_000) -> list[Preference]:
    """Return the simplex lattice (Das and Dennis 1998): every preference whose components are multiples of 1/divisions.

    Args:
        objectives: K, at least 2.
        divisions: number of steps from 0 to 1 along an edge, at least 1; two objectives give divisions + 1 points.
        where: what to name in error messages.
        most: number of points above which that is a MoaError.

    Returns:
        comb(divisions + K - 1, K - 1) preferences in ascending order of the first component, then of the second, ...
    """
    if objectives < 2 or divisions < 1:
        raise MoaError(f"a lattice needs at least 2 objectives and 1 division, got {objectives} and {divisions}")
    count = comb(divisions + objectives - 1, objectives - 1)
    if count > most:
        raise MoaError(
            f"{where}: {divisions} divisions of {objectives} objectives are {count} preferences; {most} are the most,"
            " take fewer divisions"
        )
    points = []
    for bars in combinations(range(divisions + objectives - 1), objectives - 1):
        edges = (-1, *bars, divisions + objectives - 1)
        points.append(tuple((edges[i + 1] - edges[i] - 1) / divisions for i in range(objectives)))
    assert len(points) == count
    return points


def corners(objectives: int) -> list[Preference]:
    """Return the K unit vectors, the first objective's first."""
    return [tuple(float(i == k) for i in range(objectives)) for k in range(objectives)]


def check(preference: tuple[float, ...] | list[float], objectives: int, where: str) -> Preference:
    """Return `preference` as a tuple, or raise a MoaError that names `where` and what is off the simplex."""
    if len(preference) != objectives:
        raise MoaError(f"{where}: {len(preference)} weights for {objectives} objectives; give one weight per objective")
    if any(not 0.0 <= w <= 1.0 for w in preference) or abs(sum(preference) - 1.0) > 1e-6:
        raise MoaError(
            f"{where}: {list(preference)} is off the simplex (weights must lie in [0, 1] and sum to 1; "
            f"these sum to {sum(preference):g}); divide by the sum, or correct the entry"
        )
    return tuple(float(w) for w in preference)


def refuse_twice(points: Sequence[Preference], told: Sequence[object], where: str, how: str = "") -> None:
    """Refuse two points that are told alike.

    Args:
        points: in their order.
        told: what each looks like, rounded as its reader sees it.
        where: the key in error messages.
        how: how it is told, where that is not the point itself.

    Raises:
        MoaError: names both positions.
    """
    first: dict[object, int] = {}
    for i, shown in enumerate(told):
        before = first.setdefault(shown, i)
        if before != i:
            raise MoaError(
                f"{where}: [{before}] and [{i}] are the same point, {list(points[before])} and {list(points[i])}{how};"
                " keep one of them"
            )


def label(preference: tuple[float, ...] | list[float] | None) -> str:
    """Return the name of a preference in paths and tables, e.g. 'w0.25-0.75'; 'free' where there is none."""
    return "free" if preference is None else "w" + "-".join(f"{w:.4g}" for w in preference)
