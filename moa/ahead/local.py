"""Mistakes in what is local that a plan names in well under a second: sources, columns, labels, functions, models.

Rows are read where they are few or their columns narrow; `moa check` (moa/ahead/check.py) reads all of them. Nothing
here loads torch, and no code of the user's is run.
"""

import importlib.util
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moa.ahead import named
from moa.ahead.named import Table, Weights, expanded
from moa.errors import MoaError, listed, nearest, one_line
from moa.experiment.rewards import Classifier, Labelled, Linear, Transformer
from moa.lm.inspect import UNBOUNDED, Stored, check_quantisation, check_writes, inspect_model, read_json, unfit
from moa.lm.inspect_adapter import adapter_folder, inspect_adapter
from moa.methods import external
from moa.plan import Plan
from moa.tasks.formats import check_columns
from moa.tasks.tabular import read_rows

FULL = "name the unquantised model"
SMALL = 2 * 2**20  # bytes; smaller files are read at once
NARROW = 100_000  # values of a column of labels or numbers that are read of a larger Parquet file


@contextmanager
def collecting(mistakes: list[str]) -> Iterator[None]:
    """Add the lines of a MoaError of the block to `mistakes`, and go on after it."""
    try:
        yield
    except MoaError as error:
        mistakes += str(error).splitlines()


def under(key: str, error: MoaError) -> MoaError:
    """Return the error with the key that it is about, unless it names it already."""
    text = str(error)
    return error if text.startswith(key.split(".")[0]) else MoaError(f"{key}: {text}")


def refuse(plan: Plan, where: str) -> None:
    """Raise one MoaError with a line for every mistake; `where` names the experiment file."""
    found = mistakes(plan)
    if found:
        raise MoaError("\n".join(f"{where}: {line}" for line in dict.fromkeys(found)))


def mistakes(plan: Plan) -> list[str]:
    """Return what is wrong with what is local, a line each."""
    found: list[str] = []
    for table in named.tables(plan):
        with collecting(found):
            check_table(table)
    for name, spec in plan.scoring(judges=True).rewards.items():
        if isinstance(spec, Linear | Transformer):
            with collecting(found):
                check_values(f"rewards.{name}.data", spec.data)
    for name, function in named.functions(plan).items():
        with collecting(found):
            check_module(name, function.function)
    for name, asked in plan.endpoints().items():
        from moa.rewards import endpoint  # loads a client

        with collecting(found):
            endpoint.check(name, asked)
    for weights in named.models(plan):
        with collecting(found):
            check_model(plan, weights)
    for row, settings in named.externals(plan).items():
        with collecting(found):
            check_external(f"methods.{row}", settings)
    return found


def check_table(table: Table) -> None:
    """Refuse a source that is not there, without its columns, or with fewer rows than the run needs.

    Raises:
        MoaError: what is wrong, with the key of the table.
    """
    files = table.files
    if files is None:
        return
    try:
        if size(files) <= SMALL:
            count = len(read_rows(table.source, None, table.subset, table.split, list(table.columns)))
        elif all(path.suffix.lower() == ".parquet" for path in files):
            count = sum(_schema(path, table.columns) for path in files)
        else:
            return
    except MoaError as error:
        raise under(table.key, error) from None
    if count < table.least:
        raise MoaError(
            f"{table.key}: {table.source}, split {table.split}, has {count} rows with {' and '.join(table.columns)},"
            f" the run needs {table.least} at least; give more data, or lower {_counts(table)}"
        )


def _counts(table: Table) -> str:
    """Return the keys that say how many rows a table must have."""
    return (
        "the rows that data asks for (texts, heldout_texts, train_prompts, evaluation_prompts)"
        if (table.key.startswith("data"))
        else "what reads it"
    )


def size(files: list[Path]) -> int:
    """Return how many bytes files have together."""
    return sum(path.stat().st_size for path in files)


def _schema(path: Path, columns: tuple[str, ...]) -> int:
    """Return the number of rows of a Parquet file that has `columns`; its values are not read."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise MoaError(
            f"{path}: not a readable parquet file ({one_line(error)}); it may be truncated or of another"
            " format: fetch or write it again"
        ) from None
    check_columns(str(path), file.schema_arrow.names, columns)
    return int(file.metadata.num_rows)


def check_values(key: str, data: Labelled) -> None:
    """Refuse labels of one class and targets that are no numbers, where the column is narrow enough to be read.

    Raises:
        MoaError: what is wrong, with `key`; what is wrong with the table itself is `check_table`'s to say.
    """
    column = data.label or data.target
    table = Table(key, data.source, data.subset, data.split, (column,) if column else ())
    if column is None or not _narrow(table):
        return
    try:
        values = [row[column] for row in read_rows(data.source, None, data.subset, data.split, [column])]
    except MoaError:
        return
    if data.label is not None:
        _check_labels(key, data, values)
        return
    wrong = next(((i, v) for i, v in enumerate(values) if not _is_number(v)), None)
    if wrong is not None:
        raise MoaError(
            f"{key}, row {wrong[0]} of {data.source}: target '{column}' is {wrong[1]!r}, expected a finite number; drop"
            " such rows, or name another column"
        )
    if len(set(values)) < 2:
        raise MoaError(
            f"{key}: every row of {data.source} has the target {values[0]:g}; there is nothing to learn: give more"
            " rows, or name another column"
        )


def _narrow(table: Table) -> bool:
    try:
        files = table.files
        if files is None or size(files) <= SMALL:
            return files is not None
        parquet = all(path.suffix.lower() == ".parquet" for path in files)
        return parquet and sum(_schema(path, table.columns) for path in files) <= NARROW
    except MoaError:
        return False


def _check_labels(key: str, data: Labelled, values: list[Any]) -> None:
    if len({value in data.positive for value in values}) == 2:
        return
    seen = ", ".join(sorted({repr(value) for value in values})[:8])
    which = "every row's" if values[0] in data.positive else "no row's"
    raise MoaError(
        f"{key}.positive: {which} label is one of {data.positive}; column '{data.label}' of {data.source} has the"
        f" values {seen}: correct `positive`, or name another column"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, str) and math.isfinite(value)


def check_module(name: str, function: str) -> None:
    """Refuse a reward whose module is neither in the working folder nor installed; it is not imported."""
    module = function.partition(":")[0]
    path = Path.cwd().joinpath(*module.split("."))
    if path.with_suffix(".py").is_file() or path.is_dir():
        return
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise MoaError(
            f"rewards.{name}.function: no module '{module}' in {Path.cwd()} or among the installed packages; run from"
            " the folder that holds it, or install it"
        )


def check_model(plan: Plan, weights: Weights) -> Stored | None:
    """Return what a local folder with a model holds, and refuse what does not fit the experiment; None for a hub id.

    Raises:
        MoaError: what is wrong, with the model's key.
    """
    folder = weights.folder
    if folder is None:
        return None
    try:
        stored = inspect_model(folder, f"{weights.key}: {weights.source} cannot be loaded")
        experiment = plan.experiment
        if weights.what == "base":
            check_base(plan, stored)
        for name, spec in plan.scoring(judges=True).rewards.items():
            if weights.key == f"rewards.{name}.source" and isinstance(spec, Classifier | Transformer):
                if stored.quantisation != "none":
                    raise unfit(stored.name, f"its weights are stored quantised ({stored.quantisation})", FULL)
                check_window(f"rewards.{name}", spec.max_length, stored)
                if isinstance(spec, Classifier):
                    check_classifier(f"rewards.{name}", spec, stored)
        if weights.what.startswith("row "):
            check_quantisation(stored, experiment.model.quantisation)
    except MoaError as error:
        raise under(weights.key, error) from None
    return stored


def check_external(key: str, settings: external.Settings) -> None:
    """Refuse an adapter or a file of responses that is not whole.

    Raises:
        MoaError: what is wrong, with `key`.
    """
    try:
        if settings.adapter is not None and expanded(settings.adapter).is_dir():
            inspect_adapter(adapter_folder(expanded(settings.adapter)))
        if settings.responses is not None:
            names = pq.read_schema(settings.responses).names
            if "response" not in names or not {"prompt", "prompt_id"} & set(names):
                raise MoaError(
                    f"{settings.responses}: the columns are {listed(names)}; needs `response` and `prompt` or"
                    " `prompt_id`"
                )
    except MoaError as error:
        raise MoaError(f"{key}: {error}") from None
    except (pa.ArrowException, OSError) as error:
        raise MoaError(
            f"{key}.responses: {settings.responses}: not a readable Parquet file ({one_line(error)}); write it again"
        ) from None


def check_base(plan: Plan, stored: Stored) -> None:
    """Refuse a base that cannot answer or train as the experiment says."""
    experiment = plan.experiment
    model, new = experiment.model, experiment.generation.max_new_tokens
    check_writes(stored)
    check_quantisation(stored, model.quantisation, training=model.sft is not None)
    context = stored.context or UNBOUNDED
    if new >= context:
        raise MoaError(
            f"generation.max_new_tokens is {new}, but {stored.folder} reads {context} tokens, prompt and response"
            f" together; set it well below {context}"
        )
    if experiment.conditioning.chat and not has_template(stored.folder):
        raise MoaError(
            f"conditioning.chat is true, but {stored.folder} has no chat template (in tokenizer_config.json, or"
            " chat_template.jinja); set chat: false, or use a chat model"
        )
    targets = model.lora.targets
    layers = {key.removesuffix(".weight").rpartition(".")[2] for key in stored.shapes if key.endswith(".weight")}
    if isinstance(targets, list) and not any(target.rpartition(".")[2] in layers for target in targets):
        raise MoaError(
            f"model.lora.targets: no layer of {stored.folder} is called {' or '.join(targets)}."
            f"{nearest(targets[0], sorted(layers))}"
        )


def has_template(folder: Path) -> bool:
    """Return whether a model's folder holds a chat template."""
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(read_json(path).get("chat_template"))


def check_window(key: str, length: int, stored: Stored) -> None:
    """Refuse a max_length above what a reward model or its tokenizer reads."""
    path = stored.folder / "tokenizer_config.json"
    own = read_json(path).get("model_max_length") if path.is_file() else None
    limit = min(x for x in (stored.context, own, math.inf) if isinstance(x, int | float))
    if length > limit:
        raise MoaError(
            f"{key}.max_length is {length}, but {stored.folder} reads at most {limit} tokens; set it to {limit} or less"
        )


def check_classifier(key: str, spec: Classifier, stored: Stored) -> None:
    """Refuse a model without a classification head, and a logit that it has not."""
    declared = [str(name) for name in stored.config.get("architectures") or []]
    heads = [name for name in stored.shapes if name.split(".")[0] in ("score", "classifier", "classification_head")]
    if declared and not heads and not any("SequenceClassification" in name for name in declared):
        raise MoaError(
            f"{key}: {stored.folder} is a {declared[0]} without weights of a classification head: its scores would be"
            " random; name a sequence classifier, or train one with kind transformer"
        )
    labels = stored.config.get("id2label") or {str(i): i for i in range(stored.config.get("num_labels", 2))}
    for name, logit in (("logit", spec.logit), ("minus_logit", spec.minus_logit)):
        if logit is not None and logit >= len(labels):
            raise MoaError(
                f"{key}.{name} is {logit}, but {stored.folder} has {len(labels)} logit(s), counted from 0:"
                f" {json.dumps(labels)}; correct {name}"
            )
