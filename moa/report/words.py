"""Numbers and sentences of the report: plain words that a reader can check against the tables."""

from collections.abc import Sequence

from moa.metrics.paired import paired
from moa.report.data import Row, Task

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 3) -> str:
    """Return `value` with `digits` decimals and a true minus sign; a dash for None."""
    if value is None:
        return MISSING
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", MINUS)


def figure(value: float | None) -> str:
    """Return `value` with three decimals, or two digits below 0.01.

    The hypervolume of many objectives can be that small, as a product of many shares.
    """
    if value is None or value == 0 or abs(value) >= 0.01:
        return number(value)
    return f"{value:.2g}".replace("-", MINUS)


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """Return 'low to high', or nothing where there is no interval."""
    return "" if low is None or high is None else f"{number(low, digits)} to {number(high, digits)}"


def percent(value: float | None) -> str:
    """Return a share as a percentage with at most one decimal."""
    return MISSING if value is None else f"{value * 100:.1f}".removesuffix(".0") + "\N{NARROW NO-BREAK SPACE}%"


def amount(value: float | None) -> str:
    """Return a count with thousands apart, e.g. '1 234 567'; averages over seeds keep one decimal."""
    if value is None:
        return MISSING
    text = f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:,.1f}"
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", MINUS)


def seconds(value: float | None) -> str:
    """Return a duration: '0.4 s', '42 s', '3 min 05 s', '2 h 07 min'."""
    if value is None:
        return MISSING
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def preference(weights: Sequence[float] | None, objectives: Sequence[str] | None = None) -> str:
    """Return '0.25, 0.75', or with names 'sentiment 0.25, conciseness 0.75'; 'none' for a preference-free policy."""
    if weights is None:
        return "none"
    parts = [f"{w:.2f}".rstrip("0").rstrip(".") for w in weights]
    return ", ".join(
        parts if objectives is None else [f"{name} {part}" for name, part in zip(objectives, parts, strict=True)]
    )


def listed(names: Sequence[str]) -> str:
    """Return 'a', 'a and b' or 'a, b and c'."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _apart(best: Row, other: Row) -> bool:
    """Return whether `other` lies below `best` for certain.

    Intervals over prompts must be apart, and with several seeds their paired difference certainly above 0.
    """
    if best["readable_low"] is None or other["readable_high"] is None:
        return False
    if other["readable_high"] >= best["readable_low"]:
        return False
    ours, theirs = ({r["seed"]: r["value"] for r in row["by_seed"]} for row in (best, other))
    return best["seeds"] == 1 or paired(ours, theirs).low > 0


def rivals(task: Task) -> list[str]:
    """Return the methods that cannot be told from the best one by readable hypervolume."""
    rows = {r["method"]: r for r in task.rows("leaderboard") if r["readable"] is not None}
    return [m for m, row in rows.items() if m != task.best and not _apart(rows[task.best], row)] if task.best else []


def steered(task: Task, method: str) -> list[str]:
    """Return the objectives that the preference steers: tau is positive, and so is its interval where it has one."""
    found = []
    for objective in task.objectives:
        tau = task.tau(method, objective)
        if tau is not None and (tau["low"] if tau["low"] is not None else tau["value"]) > 0:
            found.append(objective)
    return found


def headline(task: Task) -> str:
    """Return the result of a task in plain sentences: the best method, its rivals, and which methods can be steered."""
    return " ".join(filter(None, (_winner(task), _steering(task), _warning(task))))


def _winner(task: Task) -> str:
    if task.best is None:
        return "No method has a hypervolume of readable points."
    row = next(r for r in task.rows("leaderboard") if r["method"] == task.best)
    bounds = "" if row["readable_low"] is None else f"{figure(row['readable_low'])} to {figure(row['readable_high'])}"
    points = f"{row['readable_points']} readable {plural('point', row['readable_points'])}"
    where = f"(bias-corrected 95 % interval {bounds}; {points})" if bounds else f"({points})"
    opening = f"{task.best} has the largest hypervolume of readable text, {figure(row['readable'])} {where}"
    others, close = len(task.methods) - 1, rivals(task)
    if others == 0:
        return f"{opening}; no other method was run."
    if not close and row["seeds"] == 1:
        return (
            f"{opening}, above the intervals of every other method ({others}). One seed: another training run may rank"
            " them otherwise."
        )
    if not close:
        return f"{opening}, and can be told apart from every other method ({others})."
    named = f" ({listed(close)})" if len(close) <= 4 else ""
    return (
        f"{opening}; {len(close)} of the {others} other {plural('method', others)} cannot be told apart from it{named}."
    )


def unsteered(task: Task, method: str) -> str:
    """Return why a method has no tau: 'not steerable' without a preference, else that its points are too few."""
    count = sum(p.preference is not None for p in task.points if p.method == method)
    return f"undefined: {count} {plural('point', count)}" if count else "not steerable"


def _steering(task: Task) -> str:
    groups: dict[str, list[str]] = {"whole": [], "part": [], "fails": [], "few": [], "free": []}
    for method in task.methods:
        objectives = steered(task, method)
        if all(task.tau(method, o) is None for o in task.objectives):
            groups["free" if unsteered(task, method) == "not steerable" else "few"].append(method)
        elif 0 < len(objectives) < len(task.objectives):
            groups["part"].append(f"{method} ({listed(objectives)} only)")
        else:
            groups["whole" if objectives else "fails"].append(method)
    openings = {
        "whole": "Steerable on every objective",
        "part": "Steerable in part",
        "fails": "Not shown to follow the preference",
        "few": "Too few points to tell",
        "free": "Not steerable, because they take no preference",
    }
    sentences = [f"{openings[key]}: {listed(names)}." for key, names in groups.items() if names]
    return " ".join(sentences if groups["whole"] else ["No method is steerable on every objective.", *sentences])


def _warning(task: Task) -> str:
    marked = [p for p in task.points if p.degenerate]
    if not marked:
        return ""
    methods = sorted({p.method for p in marked}, key=task.methods.index)
    is_, does = ("is", "does") if len(marked) == 1 else ("are", "do")
    return f"{len(marked)} of {len(task.points)} points {is_} degenerate text ({listed(methods)}) and {does} not count."


def plural(word: str, count: float) -> str:
    return word if count == 1 else word + "s"
