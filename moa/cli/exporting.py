"""What takes a trained policy along: a folder for plain Transformers and PEFT, or for any server."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moa.cli.answering import ExperimentFile, parse_preference
from moa.errors import MoaError
from moa.experiment.preferences import Preference
from moa.job.process import importing
from moa.store import files, tables
from moa.store.terminal import say

if TYPE_CHECKING:
    from moa.lm.cards import Card
    from moa.lm.conversation import Reading
    from moa.report.model_card import Described
    from moa.respond import Source


def export(
    policy: Annotated[Path, typer.Argument(help="folder of a policy, or of a row")],
    folder: Annotated[Path, typer.Argument(help="folder to write; one that exists is kept")],
    merged: Annotated[bool, typer.Option("--merged", help="a whole model in place of an adapter")] = False,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="of a whole model's weights; float32 by default")
    ] = None,
    preference: Annotated[
        str | None,
        typer.Option(help="which of a row's policies, or which soup of them; a policy that reads it is told later"),
    ] = None,
    experiment: ExperimentFile = None,
) -> None:
    """Write a policy for others: an adapter, or a whole model."""
    from moa.respond import find

    source = find(policy, experiment)
    if folder.exists():
        raise MoaError(f"{folder}: exists already and is kept; give another name")
    if dtype is not None and not merged:
        raise MoaError("--dtype is of a whole model: give --merged, too; an adapter stays in float32")
    weights = _chosen(source, parse_preference(preference), policy)
    refuse(source, merged)
    with importing():
        import moa.lm.export  # noqa: F401
    write(source, weights, folder, (dtype or "float32") if merged else None)
    say(f"{folder}: {'a whole model' if merged else 'an adapter'}; README.md there says how to use it")


def refuse(source: "Source", merged: bool) -> None:
    """Refuse what no folder of weights can hold.

    Raises:
        MoaError: a mixture of distributions, or an adapter of a row without one.
    """
    if source.way == "mixture":
        raise MoaError(
            f"row '{source.row}' mixes its policies' next-token distributions, which no one model holds; export its"
            " policies one by one, or a row of kind rewarded_soups"
        )
    if not source.folders and not merged:
        raise MoaError(f"row '{source.row}' trains nothing, so it has no adapter; --merged writes its base")


def _chosen(source: "Source", given: Mapping[str, float] | None, policy: Path) -> Preference | None:
    """Return the preference that chooses among a row's policies, checked; None where nothing is to be chosen."""
    from moa.respond import weigh

    if source.way != "policy":
        return weigh(source, given, policy)
    if given is not None and source.conditioned:
        raise MoaError(f"{policy}: this policy is told the preference in its prompt; leave --preference out")
    if given is not None:
        weigh(source, given, policy)
    return None


def write(source: "Source", weights: Preference | None, folder: Path, dtype: str | None) -> None:
    """Write the folder, whole or not at all: a whole model in `dtype`, or with None an adapter.

    Raises:
        MoaError: base or adapter are unfit, or no chat template can tell this model the preference.
    """
    from moa.lm import cards, export, models, telling
    from moa.lm.answering import Base, Prompting
    from moa.lm.conversation import Reading
    from moa.lm.generation import Decoding
    from moa.report.model_card import card

    base = Base(source.base, source.model, source.revision)
    found = [cards.read_card(policy) for policy in source.folders]
    cards.check_base(Path(source.base), source.folders, found)
    stored = export.stored_base(base)
    if dtype is not None and stored.quantisation != "none":
        raise MoaError(
            f"{source.base}: its weights are stored quantised ({stored.quantisation}), and nothing is merged into such"
            " ones exactly; leave --merged out"
        )
    prompting = Prompting(source.objectives, source.conditioning, source.conditioned)
    own = models.load_tokenizer(source.base, source.revision)
    reading = Reading(prompting, found[0].targets if found else None, own)
    decoding = Decoding.evaluation(source.generation)
    generation = export.generation(stored, reading, decoding)
    described = replace(_described(source, weights, dtype), read=_example(reading), decoding=decoding)
    shares = _shares(source, found, weights)
    tokenizer = telling.tokenizer(reading)
    with files.folder(folder, summed=False) as place:
        if dtype is None:
            export.write_adapter(place, shares, described.base, described.revision)
        else:
            export.write_merged(place, base, shares, dtype)
        tokenizer.save_pretrained(place)
        generation.save_pretrained(place)
        (place / "README.md").write_text(card(described), encoding="utf-8")


def _shares(source: "Source", found: Sequence["Card"], weights: Preference | None) -> dict[Path, float]:
    """Return the policies that are exported, and the share of each: a soup's are as its corners' weights say."""
    from moa.lm.cards import nearest

    if source.way == "soup" and weights is not None:
        corners = [card.weights or () for card in found]
        parts = [sum(a * b for a, b in zip(corner, weights, strict=True)) for corner in corners]
        return dict(zip(source.folders, parts, strict=True))
    chosen = nearest(weights, found) if source.way == "nearest" and weights is not None else 0
    return {policy: 1.0 for i, policy in enumerate(source.folders) if i == chosen}


def _example(reading: "Reading") -> str:
    """Return a prompt as the policy reads it, with most of the weight on the first objective."""
    count = len(reading.prompting.objectives)
    return reading.text([], "The lamp", (0.8, 0.2, *[0.0] * (count - 2)))


def _described(source: "Source", weights: Preference | None, dtype: str | None) -> "Described":
    from moa.report.model_card import Described, measured

    model, origin = source.model, source.model.source
    hub = _hub_file(origin, "config.json", model.revision) is not None
    whole = hub and model.sft is None  # the run's base is the hub's, unchanged
    metrics, points = measured(source.task, source.row, source.seed) if source.task else ([], [])
    return Described(
        row=source.row,
        about=_about(source),
        seed=source.seed,
        base=origin if whole else str(Path(source.base).resolve()),
        revision=model.revision if whole else None,
        source=origin,
        hub=hub,
        tuned=model.sft is not None,
        licence=_licence(origin, model.revision),
        quantised=model.quantisation,
        objectives=source.objectives,
        preference=weights,
        conditioned=source.conditioned,
        dtype=dtype or model.dtype,
        merged=dtype is not None,
        metrics=metrics,
        points=points,
    )


def _about(source: "Source") -> str:
    """Return the first line of what the row's method says about itself, without references to the project's pages."""
    from moa.methods import catalogue

    record = source.task / "run.parquet" if source.task else None
    kind = source.row
    if record is not None and record.exists():
        rows = json.loads(tables.read(tables.RUNS, record)["config"][0].as_py())["methods"]
        kind = rows.get(source.row, {}).get("kind") or kind
    if kind not in catalogue.names():
        return kind
    said = import_module(f"moa.methods.{kind}").__doc__ or kind
    return re.sub(r" \([^()]*docs/[^()]*\)", "", said.partition("\n")[0])


def _hub_file(source: str, name: str, revision: str | None) -> Path | None:
    """Return a file of a hub's model that was fetched before; nothing is fetched here."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(source, name, revision=revision)
    except HFValidationError:  # a path
        return None
    return Path(found) if isinstance(found, str) else None


def _licence(source: str, revision: str | None) -> str | None:
    """Return the licence that a model's own card names; None where there is no card."""
    own = Path(source).expanduser() / "README.md"
    path = own if own.is_file() else _hub_file(source, "README.md", revision)
    if path is None:
        return None
    head = path.read_text(encoding="utf-8", errors="replace")[:100_000].removeprefix("---\n").partition("\n---")[0]
    named = re.search(r"^license: *['\"]?([a-z0-9.-]{1,60})['\"]? *$", head, re.MULTILINE)
    return named[1] if named else None
