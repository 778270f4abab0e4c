"""Responses that something else made: a data file as a row of the benchmark (methods/external.py)."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from moa.errors import MoaError
from moa.experiment.preferences import Preference
from moa.store.tables import Row
from moa.tasks import formats


def read(
    path: Path, row: str, prompts: Sequence[Row], grid: Sequence[Preference | None], tokenizer: PreTrainedTokenizerBase
) -> list[Row]:
    """Return the file's answers to the evaluation prompts, each prompt and preference equally often.

    Columns: `response`; `prompt_id` or `prompt`; `preference` (list of weights) where the row is conditioned; and
    optionally `finished`. Answers to other prompts are left out.

    Raises:
        MoaError: unreadable file, missing column, unknown preference, or prompts without an answer.
    """
    where = f"methods.{row}.responses {path}"
    data = _open(path, where)
    known = (
        {p["prompt_id"]: p["prompt_id"] for p in prompts}
        if "prompt_id" in data[0]
        else {p["prompt"]: p["prompt_id"] for p in prompts}
    )
    column = "prompt_id" if "prompt_id" in data[0] else "prompt"
    texts = [str(d["response"]) for d in data]
    lengths = [
        len(ids)
        for ids in tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    ]
    counts = {(point, p["prompt_id"]): 0 for point in range(len(grid)) for p in prompts}
    rows = []
    for index, (found, tokens) in enumerate(zip(data, lengths, strict=True)):
        prompt_id = known.get(found[column])
        if prompt_id is None:
            continue
        if not isinstance(found["response"], str):
            raise MoaError(
                f"{where}: row {index} holds no text as response; write an empty string for an empty response"
            )
        point = _point(found.get("preference"), grid, f"{where}, row {index}")
        key = {"point": point, "preference": grid[point], "prompt_id": prompt_id, "sample": counts[point, prompt_id]}
        counts[point, prompt_id] += 1
        rows.append(
            {
                **key,
                "policy": "external",
                "response": found["response"],
                "tokens": tokens,
                "finished": bool(found.get("finished", True)),
            }
        )
    _check_complete(counts, where)
    return rows


def _open(path: Path, where: str) -> list[Row]:
    try:
        rows = formats.read(path)
    except MoaError as error:
        raise MoaError(f"{where.removesuffix(str(path))}{error}") from error
    if not rows:
        raise MoaError(f"{where}: no rows")
    names = list(rows[0])
    if "response" not in names or not {"prompt", "prompt_id"} & {*names}:
        raise MoaError(f"{where}: columns {names}; needs `response` and `prompt` or `prompt_id`")
    return rows


def _point(preference: Sequence[float] | None, grid: Sequence[Preference | None], where: str) -> int:
    for point, expected in enumerate(grid):
        if expected is None:
            return point
        if (
            preference is not None
            and len(preference) == len(expected)
            and max(abs(a - b) for a, b in zip(preference, expected, strict=True)) < 1e-6
        ):
            return point
    raise MoaError(
        f"{where}: preference {preference} is not among the evaluation preferences {[list(p) for p in grid if p]}"
    )


def _check_complete(counts: dict[tuple[int, str], int], where: str) -> None:
    samples = max(counts.values())
    short = [key for key, count in counts.items() if count < samples or not count]
    if short:
        point, prompt_id = short[0]
        raise MoaError(
            f"{where}: {len(short)} of {len(counts)} pairs of preference and evaluation prompt have fewer than"
            f" {max(samples, 1)} responses, first prompt {prompt_id} at point {point}; give every evaluation prompt of"
            " prompts.parquet equally often"
        )
