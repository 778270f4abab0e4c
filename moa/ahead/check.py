"""What `moa check` knows before a run: everything local is read, nothing is trained, and all mistakes are named."""

from moa.ahead import functions, lengths, local, named, rows
from moa.ahead.local import collecting
from moa.ahead.named import expanded
from moa.errors import MoaError
from moa.experiment.rewards import Classifier, Transformer
from moa.lm.inspect import Stored, inspect_tokenizer
from moa.plan import Plan


def check(plan: Plan, where: str) -> list[str]:
    """Return what there is to say of what the run will read and load.

    Raises:
        MoaError: a line for every mistake, with the file (`where`), the key or row, and the remedy.
    """
    seen = rows.Seen(mistakes=local.mistakes(plan))
    sets = rows.read(plan, seen)
    rows.answers(plan, sets, seen)
    seen.said += functions.ask(plan, seen.mistakes)
    stored = models(plan, seen)
    if sets is not None:
        seen.said += lengths.count(lengths.Counting(plan, sets, stored), seen.mistakes)
    if seen.mistakes:
        raise MoaError("\n".join(f"{where}: {line}" for line in dict.fromkeys(seen.mistakes)))
    unseen = [f"not looked at: {what}" for what in dict.fromkeys(seen.unseen)]
    return [*dict.fromkeys(seen.said), *loads(plan, stored), *unseen]


def models(plan: Plan, seen: rows.Seen) -> dict[str, Stored]:
    """Return every local model by its key, its tokenizer looked at; those of the hub go to `seen.unseen`."""
    found = {}
    for weights in named.models(plan):
        try:
            stored = local.check_model(plan, weights)
        except MoaError:
            continue  # among the mistakes already
        if stored is None:
            seen.unseen.append(f"{weights.key}: hub model {weights.source}")
            continue
        with collecting(seen.mistakes):
            inspect_tokenizer(stored, weights.classifier)
            found[weights.key] = stored
    for row, settings in named.externals(plan).items():
        if settings.adapter is not None and not expanded(settings.adapter).is_dir():
            seen.unseen.append(f"methods.{row}.adapter: hub adapter {settings.adapter}")
    return found


def loads(plan: Plan, stored: dict[str, Stored]) -> list[str]:
    """Return a line per stage with the local weights that one job of it loads, as they are stored."""
    base = stored.get("model.source")
    scorers = plan.scoring(judges=False).rewards, plan.scoring(judges=True).rewards
    rewards, judged = (
        [
            (f"reward {name}", stored[f"rewards.{name}.source"])
            for name, spec in chosen.items()
            if isinstance(spec, Classifier | Transformer) and f"rewards.{name}.source" in stored
        ]
        for chosen in scorers
    )
    model = [] if base is None else [("the model", base)]
    stages = {"base": model, "reference, train": model + rewards, "generate": model, "score": judged}
    for row in named.externals(plan):
        if f"methods.{row}.model" in stored:
            stages[f"generate {row}"] = [*model, (f"row {row}", stored[f"methods.{row}.model"])]
    return [
        f"weights that a job of {stage} loads: " + ", ".join(f"{what} {megabytes(m)}" for what, m in loaded)
        for stage, loaded in stages.items()
        if loaded
    ]


def megabytes(stored: Stored) -> str:
    """Return the size of a model's weights on disk, and how they are stored where that is not in full."""
    kind = "" if stored.quantisation == "none" else f" ({stored.quantisation})"
    return f"{stored.bytes / 1e6:,.1f} MB{kind}"
