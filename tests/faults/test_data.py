"""Bad data gets a message that says what, where and what to do, and leaves nothing behind."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from pydantic import ValidationError

from moa.errors import MoaError
from moa.experiment.keys import Data
from moa.stages.prompts import prepare
from moa.tasks.tabular import read_rows

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    f"{a} {b} {c} {d} ends here."
    for a in ("red", "blue")
    for b in ("cat", "dog")
    for c in ("runs", "sleeps")
    for d in ("now", "later", "today")
]


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def fails(
    source: Path | str,
    *parts: str,
    columns: tuple[str, ...] = ("text",),
    subset: str | None = None,
    split: str = "train",
) -> None:
    """Reading must end in one MoaError that holds all `parts`."""
    with pytest.raises(MoaError) as error:
        read_rows(str(source), None, subset, split, list(columns))
    assert [part for part in parts if part not in str(error.value)] == [], str(error.value)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    parquet(tmp_path / "reviews.parquet", [{"text": "a"}])
    fails(tmp_path / "review.parquet", "review.parquet: no such file", "Did you mean 'reviews.parquet'?")
    fails("./nowhere/at/all", "./nowhere/at/all: no such file", "folder does not exist either")
    fails("missing.csv", "missing.csv: no such file")


def test_a_missing_column(tmp_path: Path) -> None:
    rows = [{"texts": "a", "label": 1}]
    parquet(tmp_path / "a.parquet", rows)
    (tmp_path / "a.csv").write_text("texts,label\na,1\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]), encoding="utf-8")
    for name in ("a.parquet", "a.csv", "a.jsonl"):
        fails(tmp_path / name, name, "no column 'text'", "the columns are texts, label", "Did you mean 'texts'?")


def test_empty_data(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    for name, body in (("a.csv", ""), ("b.csv", "text\n"), ("a.jsonl", "\n\n"), ("a.json", "[]")):
        (tmp_path / name).write_text(body, encoding="utf-8")
    for name in ("a.parquet", "a.csv", "b.csv", "a.jsonl", "a.json"):
        fails(tmp_path / name, name, "no rows", "empty")
    (tmp_path / "nothing").mkdir()
    fails(tmp_path / "nothing", "no data file in this folder", ".parquet")


def test_a_column_without_any_value(tmp_path: Path) -> None:
    fails(
        parquet(tmp_path / "a.parquet", [{"text": None}, {"text": None}]),
        "every one of the 2 rows lacks a value in text",
    )


@pytest.mark.parametrize("keep", [0, 3, 100, -40])
def test_a_truncated_parquet_file(tmp_path: Path, keep: int) -> None:
    path = parquet(tmp_path / "a.parquet", [{"text": t} for t in TEXTS])
    path.write_bytes(path.read_bytes()[:keep])
    fails(path, "a.parquet: not a readable parquet file", "truncated", "fetch or write it again")


def test_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("text\nhello\n", encoding="utf-8")
    fails(tmp_path / "a.parquet", "not a readable parquet file")
    for name in ("a.csv", "a.jsonl"):
        parquet(tmp_path / "b.parquet", [{"text": t} for t in TEXTS]).rename(tmp_path / name)
        fails(tmp_path / name, name, "not a readable")
    (tmp_path / "a.txt").write_text("hello", encoding="utf-8")
    fails(tmp_path / "a.txt", "unknown kind of file '.txt'", ".parquet, .jsonl, .json, .csv")


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b', encoding="utf-8")
    fails(tmp_path / "a.jsonl", "a.jsonl, line 2: not valid JSON", "truncated")
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n["b"]\n', encoding="utf-8")
    fails(tmp_path / "b.jsonl", "b.jsonl, line 2: expected an object", "got list")
    (tmp_path / "c.csv").write_text("text,label\na,1\nb\n", encoding="utf-8")
    fails(tmp_path / "c.csv", "c.csv, line 3: 1 fields, the header has 2")


def test_folders_that_do_not_say_which_file(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", [{"text": "a"}])
    parquet(tmp_path / "test.parquet", [{"text": "a"}])
    fails(tmp_path, "no file valid.* or valid-*.*", "Known: test, train", split="valid")
    fails(tmp_path, "tset", "Did you mean 'test'?", split="tset")
    fails(tmp_path, "no such folder", "subset", subset="small")
    (tmp_path / "train.csv").write_text("text\na\n", encoding="utf-8")
    fails(tmp_path, "several formats", "train.csv", "train.parquet")


def small(path: Path, **keys: Any) -> Data:
    return Data(
        source=str(path), **{"texts": 8, "heldout_texts": 4, "train_prompts": 4, "evaluation_prompts": 2, **keys}
    )


def test_too_few_rows_name_the_filter_that_took_them(tmp_path: Path) -> None:
    rows = [{"text": t} for t in [*TEXTS, TEXTS[0], "short", "x " * 90]]
    path = parquet(tmp_path / "a.parquet", rows)
    prepare(small(path, text="text"))
    with pytest.raises(MoaError) as error:
        prepare(small(path, text="text", texts=21, text_characters=(1, 60)))
    # 27 rows less one too short, one too long, one double, 2 for evaluation and 4 held out leave 18; some of them
    # resemble those 6.
    message = str(error.value)
    assert re.match(r"data.texts: 21 asked for, \d+ left \(.*a.parquet, split train: 27 rows; left out: ", message), (
        message
    )
    for part in (
        "1 too short to be split",
        "1 outside text_characters",
        "1 exact duplicates",
        "2 used for evaluation",
        "4 held out",
        "lower data.texts",
    ):
        assert part in message
    with pytest.raises(MoaError, match="data.evaluation_prompts: 300 asked for"):
        prepare(small(path, text="text", evaluation_prompts=300))
    with pytest.raises(MoaError, match=r"data.evaluation_prompts: 2 asked for, 0 left .* 26 outside prompt_characters"):
        prepare(small(path, text="text", prompt_characters=(500, 600)))


def test_one_file_has_no_evaluation_split(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [{"text": t} for t in TEXTS])
    for source in (path, tmp_path):
        with pytest.raises(MoaError, match="a.parquet serves both 'train' and 'test'; leave evaluation_split out"):
            prepare(small(source, text="text", evaluation_split="test"))


def test_a_column_that_is_no_text(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [{"text": ["a", "b"], "label": 3}] * 20)
    for column, kind in (("text", "list"), ("label", "int")):
        with pytest.raises(MoaError, match=rf"column '{column}' holds {kind} .* expected text"):
            prepare(small(path, text=column))


def test_blank_prompts_and_responses_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"q": t, "a": "yes"} for t in TEXTS] + [{"q": " \n", "a": "yes"}, {"q": "who is there", "a": "\t"}]
    with caplog.at_level("INFO", "moa"):
        sets = prepare(small(parquet(tmp_path / "a.parquet", rows), prompt="q", response="a"))
    assert all(i.prompt.strip() and i.response.strip() for i in sets.texts + sets.heldout)
    assert "1 with a blank prompt, 1 with a blank response" in caplog.text


def test_unpaired_surrogates_do_not_stop_the_writer(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": t + " \ud83d"}) + "\n" for t in TEXTS), encoding="utf-8"
    )
    assert all(i.response.endswith(" ?") for i in prepare(small(tmp_path / "a.jsonl", text="text")).texts)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": "embedded", "text": "text", "sentences": 3}, "does not use text, sentences"),
        ({"source": "a.csv"}, "name one column"),
        ({"source": "a.csv", "text": "t", "prompt": "p"}, "name one column"),
        ({"source": "a.csv", "prompt": "p"}, "needs texts to fine-tune on"),
        ({"source": "a.csv", "text": "t", "response": "r"}, "go with `prompt`"),
        ({"source": "a.csv", "prompt": "p", "response": "r", "prompt_end": ":"}, "goes with `text`"),
        ({"source": "a.csv", "text": "t", "prompt_start": ":"}, "goes with `prompt_end`"),
        ({"source": "a.csv", "text": "t", "split": "test", "evaluation_split": "test"}, "both 'test'"),
        ({"source": "a.csv", "text": "t", "opening_words": [3, 2]}, "least, most"),
    ],
)
def test_columns_that_do_not_fit_together(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Data(**keys)


def command(data: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    section = json.dumps({"task": "test", "data": data})
    outputs = [
        part for name in ("prompts", "texts", "costs") for part in (f"--{name}", str(folder / f"{name}.parquet"))
    ]
    line = [sys.executable, "-m", "moa.stages.prompts", "--section", section, *outputs]
    return subprocess.run(
        line, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, timeout=120
    )


def test_a_hub_that_cannot_be_reached_ends_the_command_cleanly(tmp_path: Path) -> None:
    done = command({"source": "nobody/no-such-data", "revision": "0" * 40, "text": "text"}, tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: dataset nobody/no-such-data, split train, revision 000" in done.stderr
    assert "cannot be had from the hub" in done.stderr and "give a local file" in done.stderr
    assert list(tmp_path.iterdir()) == [], "no output, no temporary file"


def test_a_quote_that_is_not_closed_swallows_nothing(tmp_path: Path) -> None:
    """One bad row of 2 000, at any place: without quotes after it, with one, with a pair."""
    rows = [f"{n},text {n}" for n in range(2000)]
    for at, other in ((3, None), (3, 900), (1999, None), (0, 1)):
        bad = list(rows)
        bad[at] = f'{at},"He said hi'
        if other is not None:
            bad[other] = f'{other},"quoted, as it should be"'
        (tmp_path / "a.csv").write_text("\n".join(["id,text", *bad]) + "\n", encoding="utf-8")
        fails(tmp_path / "a.csv", f"a.csv, line {at + 2}: the row that begins here has a quote that is not closed")
    bad[0] = '0,"He" said'
    (tmp_path / "a.csv").write_text("\n".join(["id,text", *bad]) + "\n", encoding="utf-8")
    fails(tmp_path / "a.csv", "a.csv, line 2", "not doubled inside")


def test_a_csv_row_of_very_many_lines_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two stray quotes that happen to fit each other cannot be told from a long text, but can be told of."""
    rows = ["1,fine", '2,"begins here', *(f"{n},text" for n in range(3, 500)), '500,ends here"', "501,fine"]
    (tmp_path / "a.csv").write_text("\n".join(["id,text", *rows]) + "\n", encoding="utf-8")
    with caplog.at_level("WARNING", "moa"):
        assert len(read_rows(str(tmp_path / "a.csv"), None, None, "train", ["text"])) == 3
    assert (
        "a.csv: the row at line 3 is 499 lines long; if no text is so long, a quote there is not closed" in caplog.text
    )


def test_a_column_that_stands_twice(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,text\na,1,b\n", encoding="utf-8")
    table = pa.table([["a"], [1], ["b"]], names=["text", "label", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "text": "c"}\n', encoding="utf-8")
    for name in ("a.csv", "a.parquet"):
        fails(tmp_path / name, f"{name}: 2 columns are called 'text'; rename all but one")
        assert read_rows(str(tmp_path / name), None, None, "train", ["label"]) == [{"label": 1}]
    fails(tmp_path / "a.jsonl", "a.jsonl, line 2: the key 'text' stands twice")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
def test_another_encoding_is_named_with_its_line(tmp_path: Path, suffix: str) -> None:
    good = {"csv": "text\nfine\n", "jsonl": '{"text": "fine"}\n', "json": '[{"text": "fine"},\n'}[suffix]
    bad = {"csv": "caf\xe9\n", "jsonl": '{"text": "caf\xe9"}\n', "json": '{"text": "caf\xe9"}]'}[suffix]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(good.encode() + bad.encode("latin-1"))
    line = 3 if suffix == "csv" else 2
    fails(path, f"a.{suffix}, line {line}: not a readable {suffix} file: byte 0xe9 is not UTF-8", "iconv")
    path.write_bytes((good + bad).encode("utf-16"))
    fails(path, f"a.{suffix}, line 1", "byte 0xff is not UTF-8")


def test_a_nul_byte_and_too_many_fields(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,n\nfine,1\nhalf a \0 row,2\n")
    fails(tmp_path / "a.csv", "a.csv, line 3: not a readable csv file: a NUL byte")
    (tmp_path / "b.csv").write_text("text,n\nfine,1\none, two,2\n", encoding="utf-8")
    fails(tmp_path / "b.csv", "b.csv, line 3: 3 fields, the header has 2; put fields that hold commas in quotes")


@pytest.mark.parametrize("compression", ["gzip", "bz2", "zstd"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_truncated_compressed_file(tmp_path: Path, name: str, compression: str) -> None:
    lines = [f'{{"text": "{t}"}}' for t in TEXTS * 50] if name == "a.jsonl" else ["text", *TEXTS * 50]
    path = tmp_path / f"{name}.{ {'gzip': 'gz', 'bz2': 'bz2', 'zstd': 'zst'}[compression] }"
    with pa.output_stream(str(path), compression=compression) as stream:
        stream.write("\n".join(lines).encode())
    assert len(read_rows(str(path), None, None, "train", ["text"])) == 50 * len(TEXTS)
    path.write_bytes(path.read_bytes()[:-20])
    fails(path, f"{path.name}: not a readable", "truncated")
    path.write_text("hello", encoding="utf-8")
    fails(path, f"{path.name}: not a readable")


def test_a_saved_dataset_that_is_not_whole(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(str(tmp_path / "saved"), num_shards=2)
    (tmp_path / "saved" / "data-00001-of-00002.arrow").unlink()
    fails(tmp_path / "saved", "1 of 2 files are missing, the first data-00001-of-00002.arrow; copy it whole")
    (tmp_path / "saved" / "state.json").write_text("{", encoding="utf-8")
    fails(tmp_path / "saved", "state.json: not readable as what save_to_disk writes")


def test_messages_without_text_name_their_row(tmp_path: Path) -> None:
    image = [{"role": "user", "content": [{"type": "image", "text": None}]}]
    path = parquet(tmp_path / "a.parquet", [{"q": image, "a": "yes"}] * 20)
    with pytest.raises(MoaError, match=r"a.parquet.*column 'q': a message of role 'user' holds .*expected text"):
        prepare(small(path, prompt="q", response="a"))
