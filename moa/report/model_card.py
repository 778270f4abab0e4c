"""The README.md of an exported policy: what it is, how it is asked, what it reaches, and what it is not for.

The head is what model hubs read. Numbers are those of the run's own tables.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc
from huggingface_hub import ModelCardData

from moa.report.markdown import cell, table
from moa.store import tables
from moa.store.tables import Row

if TYPE_CHECKING:
    from moa.lm.generation import Decoding

CONVERTER = "https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py"


@dataclass(frozen=True)
class Described:
    """What a card tells of a policy.

    Attributes:
        row: of the benchmark, and `about`, the first line of its method's description.
        base: hub id, or folder, of what lies under the policy, and `source` what that was made from.
        revision: commit of a hub id.
        hub: whether `source` is a hub id.
        tuned: whether fine-tuning changed the base before.
        licence: of the source; None where nothing on the disk says it.
        quantised: how the base's weights were kept in training; 'none' where they were whole.
        preference: what the weights stand for, where an export holds one preference only.
        conditioned: the preference stands in the prompt.
        read: a prompt as the policy reads it.
        decoding: how its answers were drawn in the evaluation.
        dtype: number format of a whole model, or of the base under an adapter.
        merged: whether it is a whole model.
        metrics: rows of table METRICS, and `points` those of POINTS with the column `degenerate`.
    """

    row: str
    about: str
    seed: int
    base: str
    revision: str | None
    source: str
    hub: bool
    tuned: bool
    licence: str | None
    quantised: str
    objectives: Sequence[str]
    preference: Sequence[float] | None
    conditioned: bool
    dtype: str
    merged: bool
    metrics: Sequence[Row]
    points: Sequence[Row]
    read: str = ""
    decoding: "Decoding | None" = None


def measured(task: Path, row: str, seed: int) -> tuple[list[Row], list[Row]]:
    """Return a row's metrics and points from a run's tables; none where the run has not come so far."""
    folder = task / "evaluation"
    found = []
    for kind in (tables.METRICS, tables.POINTS, tables.QUALITY):
        path = folder / f"{kind.name}.parquet"
        if not path.is_file():
            return [], []
        read = tables.read(kind, path)
        found.append(read.filter((pc.field("method") == row) & (pc.field("seed") == seed)).to_pylist())
    metrics, points, quality = found
    degenerate = {line["point"]: line["degenerate"] for line in quality}
    return metrics, [{**point, "degenerate": degenerate[point["point"]]} for point in points]


def card(told: Described) -> str:
    """Return the document."""
    parts = [
        f"---\n{_head(told).to_yaml()}\n---",
        f"# {cell(told.row)}: {cell(' and '.join(told.objectives))}",
        _what(told),
        "## Ask it",
        _asking(told),
        "## Decoding",
        _decoding(told),
        "## What it reaches",
        _reaches(told),
        "## Limits",
        _limits(told),
        "## On a laptop",
        _laptop(told),
    ]
    return "\n\n".join(parts) + "\n"


def _head(told: Described) -> ModelCardData:
    adapter = [] if told.merged else ["lora", "peft"]
    return ModelCardData(
        license=told.licence,
        library_name="transformers" if told.merged else "peft",
        pipeline_tag="text-generation",
        base_model=told.source if told.hub else None,
        base_model_relation=("finetune" if told.merged else "adapter") if told.hub else None,
        tags=["multi-objective-alignment", "moa", *adapter],
    )


def _what(told: Described) -> str:
    kind = f"A whole model in {told.dtype}" if told.merged else "A LoRA adapter"
    lines = [
        f"{kind}, trained with `moa` to serve several objectives.",
        "",
        f"- base model: {_origin(told)}",
        f"- licence of the base: {told.licence or 'not known here; its own page says it'}; it binds this model, too",
        f"- method: {cell(told.about)} (row `{told.row}`, seed {told.seed})",
        f"- objectives: {', '.join(map(cell, told.objectives))}",
    ]
    if told.preference is not None:
        weights = ", ".join(f"{cell(n)} {w:.4g}" for n, w in zip(told.objectives, told.preference, strict=True))
        lines.append(f"- preference: {weights}; it is in the weights")
    elif not told.conditioned:
        lines.append("- preference: none is taken")
    return "\n".join(lines)


def _origin(told: Described) -> str:
    if told.source == "scratch":
        return "a language model trained from nothing on the task's texts"
    name = told.source if told.hub else f"{Path(told.source).name} (a folder of whoever trained it)"
    return cell(name) + (", fine-tuned on the task's texts before the policy was trained" if told.tuned else "")


def _asking(told: Described) -> str:
    names = list(told.objectives)
    shares = dict(zip(names, [0.8, 0.2, *[0.0] * len(names)], strict=False))
    asked = f"preference={json.dumps(shares, ensure_ascii=False)}, " if told.conditioned else ""
    load = [f'model = AutoModelForCausalLM.from_pretrained(folder, dtype="{told.dtype}")']
    if not told.merged:
        load = [
            *([] if told.hub and not told.tuned else ["# the base is a folder of the machine that trained the policy"]),
            f'base = AutoModelForCausalLM.from_pretrained({json.dumps(told.base)}, dtype="{told.dtype}")',
            "model = PeftModel.from_pretrained(base, folder)",
        ]
    code = [
        *([] if told.merged else ["from peft import PeftModel"]),
        "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig",
        "",
        'folder = "."  # this folder, or its id',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        *load,
        'messages = [{"role": "user", "content": "The lamp"}]',
        "inputs = tokenizer.apply_chat_template(",
        f'    messages, {asked}add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        "decoding = GenerationConfig.from_pretrained(folder)",
        "output = model.generate(**inputs, generation_config=decoding)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    text = "\n".join(["```python", *code, "```"])
    if told.conditioned:
        text += (
            "\n\nThe weights lie between 0 and 1 and sum to 1. An objective that is not named weighs 0; without"
            " `preference` all weigh the same. The chat template writes them into the text that the model reads:"
            f"\n\n```\n{told.read}\n```\n\nA server that passes no variables to the template can be sent this text"
            " as it is."
        )
    return text + (
        "\n\nWhat looks like a special token in a message is read as one, unless `apply_chat_template` is given"
        " `sanitize_control_tokens=True`."
    )


def _decoding(told: Described) -> str:
    assert told.decoding is not None, "what is exported has a decoding"
    keys = ("temperature", "top_p", "max_new_tokens")
    drawn = ", ".join(f"{key} {getattr(told.decoding, key):g}" for key in keys)
    return f"As it was evaluated: {drawn}; see `generation_config.json`."


def _reaches(told: Described) -> str:
    if not told.metrics:
        return "This policy's run has not evaluated it."
    rows = [
        [f"{line['metric']}{'' if line['objective'] == 'all' else ', ' + line['objective']}", _interval(line, "value")]
        for line in told.metrics
        if line["value"] is not None
    ]
    parts = [
        "Measured by the rewards that it was trained on, with 95 % intervals over"
        f" {max(line['n'] for line in told.metrics)} prompts that it never saw; hypervolume, tau and the like are of"
        f" row `{told.row}` as a whole. Compare them within one run only.",
        table(["metric", "value"], rows),
    ]
    columns = list(dict.fromkeys((line["objective"], line["role"]) for line in told.points))
    head = ["preference", *(name if role == "reward" else f"{name} (judge)" for name, role in columns)]
    by_point: dict[int, dict[tuple[str, str], Row]] = {}
    for line in told.points:
        by_point.setdefault(line["point"], {})[line["objective"], line["role"]] = line
    rows = []
    for found in by_point.values():
        first = next(iter(found.values()))
        weights = "none" if first["preference"] is None else " / ".join(f"{w:.4g}" for w in first["preference"])
        bad = ", unreadable text" if first["degenerate"] else ""
        rows.append([weights + bad, *(_interval(found[column], "mean") for column in columns)])
    parts += [f"Mean rewards at each preference ({' / '.join(told.objectives)}):", table(head, rows)]
    return "\n\n".join(parts)


def _interval(line: Row, value: str) -> str:
    if line["low"] is None:
        return f"{line[value]:.3g}"
    return f"{line[value]:.3g} ({line['low']:.3g} to {line['high']:.3g})"


def _limits(told: Described) -> str:
    lines = [
        "- It can be wrong, biased or offensive. What its rewards overlook, it may exploit.",
        "- The numbers hold for prompts like those of its evaluation, with this decoding.",
    ]
    if told.preference is None and told.conditioned:
        lines.append("- A preference is a request, not a guarantee; training has shown single questions only.")
    if told.quantised != "none":
        lines.append(f"- It was trained on a base in {told.quantised}; on whole weights its answers differ a little.")
    if told.tuned and not told.merged:
        lines.append("- The adapter fits its run's fine-tuned base alone, a folder; on another it may say anything.")
    return "\n".join(lines)


def _laptop(told: Described) -> str:
    if not told.merged:
        return "Export the policy with `--merged` first: llama.cpp and most servers take whole models."
    even = {"preference": {name: round(1 / len(told.objectives), 4) for name in told.objectives}}
    asked = f' A request carries the preference: `"chat_template_kwargs": {json.dumps(even, ensure_ascii=False)}`.'
    return (
        f"[llama.cpp]({CONVERTER}) makes a GGUF file of this folder, with its chat template, and serves it:\n\n```\n"
        "python convert_hf_to_gguf.py THIS_FOLDER --outfile model.gguf\nllama-server --jinja -m model.gguf\n```\n\n"
        f"This way was not tried.{asked if told.conditioned else ''}"
    )
