"""Reading rows: the same rows from every format, splits of a folder, missing values."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from moa.errors import MoaError
from moa.tasks.tabular import locate, read_rows, text_of

ROWS: list[dict[str, Any]] = [
    {"text": 'He said "no", twice.\nThen he left.', "label": 1, "score": 0.5},
    {"text": "Grüße, 東京 \u2028 and a separator", "label": 0, "score": -2.0},
    {"text": "", "label": 1, "score": 3.25},
]


def store(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """Write `rows` in the format of the suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        pacsv.write_csv(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(source: Path, columns: list[str], split: str = "train", subset: str | None = None) -> list[dict[str, Any]]:
    return read_rows(str(source), None, subset, split, columns)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl", "a.json", "A.PARQUET"])
def test_every_format_gives_the_same_rows_with_exactly_the_columns(tmp_path: Path, name: str) -> None:
    path = store(tmp_path / name.lower()).rename(tmp_path / name)
    assert read(path, ["score", "text", "score"]) == [{"score": row["score"], "text": row["text"]} for row in ROWS]


def test_a_json_file_may_hold_lines(tmp_path: Path) -> None:
    path = store(tmp_path / "a.jsonl").rename(tmp_path / "a.json")
    assert read(path, ["label"]) == [{"label": 1}, {"label": 0}, {"label": 1}]


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path) -> None:
    for name, body in (
        ("a.csv", "text\nhello\n"),
        ("a.jsonl", '{"text": "hello"}\n'),
        ("a.json", '[{"text": "hello"}]'),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + body.encode())
        assert read(tmp_path / name, ["text"]) == [{"text": "hello"}]


def test_the_type_of_a_csv_column_follows_from_all_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("code,text\n" + "1,x\n" * 400_000 + "n/a,x\n", encoding="utf-8")
    rows = read(path, ["code"])
    assert rows[0] == {"code": "1"} and rows[-1] == {"code": "n/a"}


def test_a_csv_field_may_be_longer_than_a_block(tmp_path: Path) -> None:
    # PyArrow reads blocks of one MiB unless told otherwise.
    long = "one line\n" * 300_000
    path = store(tmp_path / "a.csv", [{"text": "before"}, {"text": long}, {"text": "after"}])
    assert [row["text"] for row in read(path, ["text"])] == ["before", long, "after"]


def test_rows_with_a_missing_value_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"text": "a", "score": 1.0},
        {"text": None, "score": 1.0},
        {"text": "c", "score": float("nan")},
        {"text": "d", "score": 2.0},
    ]
    path = store(tmp_path / "a.parquet", rows)
    with caplog.at_level(logging.INFO, "moa"):
        assert [row["text"] for row in read(path, ["text", "score"])] == ["a", "d"]
    assert "dropped 2 of 4 rows with a missing value in text, score" in caplog.text
    assert [row["text"] for row in read(path, ["text"])] == ["a", "c", "d"], "a column that is not read takes no rows"


def test_a_key_that_some_objects_lack_is_a_missing_value(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 1}\n\n{"text": "b"}\n', encoding="utf-8")
    assert read(tmp_path / "a.jsonl", ["text", "label"]) == [{"text": "a", "label": 1}]
    assert len(read(tmp_path / "a.jsonl", ["text"])) == 2


def test_an_empty_csv_field_is_missing_and_a_quoted_one_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,n\nNA,1\n,2\n"",3\n', encoding="utf-8")
    assert read(tmp_path / "a.csv", ["text", "n"]) == [{"text": "NA", "n": 1}, {"text": "", "n": 3}]


def test_splits_of_a_folder(tmp_path: Path) -> None:
    for name, value in (
        ("train-00001-of-00002.parquet", "b"),
        ("train-00000-of-00002.parquet", "a"),
        ("test.jsonl", "t"),
        ("trainers.csv", "no"),
    ):
        store(tmp_path / name, [{"text": value}])
    (tmp_path / "NOTICE.txt").write_text("not data", encoding="utf-8")
    assert [row["text"] for row in read(tmp_path, ["text"])] == ["a", "b"], "shards in order, not the file trainers.csv"
    assert [row["text"] for row in read(tmp_path, ["text"], "test")] == ["t"]


def test_a_folder_with_a_single_file_is_that_file(tmp_path: Path) -> None:
    path = store(tmp_path / "labeled.csv", [{"text": "a"}])
    assert locate(str(tmp_path), None, "train") == locate(str(tmp_path), None, "test") == [path]


def test_a_subset_is_a_sub_folder(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    store(tmp_path / "train.csv", [{"text": "outer"}])
    store(tmp_path / "small" / "train.csv", [{"text": "inner"}])
    assert read(tmp_path, ["text"], subset="small") == [{"text": "inner"}]


def test_a_name_that_is_no_path_is_a_hub_id() -> None:
    assert locate("stanfordnlp/imdb", None, "train") is None
    assert locate("gpt2", None, "train") is None


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl", "a.json"])
@pytest.mark.parametrize(
    ("suffix", "compression"), [(".gz", "gzip"), (".bz2", "bz2"), (".zst", "zstd"), (".GZ", "gzip")]
)
def test_a_compressed_file_is_its_content(tmp_path: Path, name: str, suffix: str, compression: str) -> None:
    plain = store(tmp_path / name)
    path = tmp_path / (name + suffix)
    with pa.output_stream(str(path), compression=compression) as stream:
        stream.write(plain.read_bytes())
    plain.unlink()
    assert read(path, ["text", "label"]) == [{"text": row["text"], "label": row["label"]} for row in ROWS]
    assert locate(str(tmp_path), None, "train") == [path]


def test_a_folder_as_hh_rlhf_is_distributed(tmp_path: Path) -> None:
    """Sub-folders of train.jsonl.gz and test.jsonl.gz, the former of several gzip members."""
    for subset in ("harmless-base", "helpful-base"):
        (tmp_path / subset).mkdir()
        for split in ("train", "test"):
            lines = [json.dumps({"chosen": f"{subset} {split} {n}"}).encode() + b"\n" for n in range(3)]
            (tmp_path / subset / f"{split}.jsonl.gz").write_bytes(b"".join(map(gzip.compress, lines)))
    rows = read(tmp_path, ["chosen"], "test", "helpful-base")
    assert [row["chosen"] for row in rows] == [f"helpful-base test {n}" for n in range(3)]
    with pytest.raises(MoaError, match="name a sub-folder as `subset`: harmless-base, helpful-base"):
        read(tmp_path, ["chosen"])


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    one, two = (
        Dataset.from_list([{"text": f"{name} {n}", "label": n} for n in range(5)]) for name in ("train", "test")
    )
    one.save_to_disk(str(tmp_path / "one"), num_shards=2)
    assert [row["text"] for row in read(tmp_path / "one", ["text"])] == [f"train {n}" for n in range(5)]
    DatasetDict({"train": one, "test": two.select([3, 1])}).save_to_disk(str(tmp_path / "both"))
    assert read(tmp_path / "both", ["label", "text"], "test") == [
        {"label": 3, "text": "test 3"},
        {"label": 1, "text": "test 1"},
    ]
    with pytest.raises(MoaError, match="no split 'valid' was saved there.*Known: test, train"):
        read(tmp_path / "both", ["text"], "valid")


def test_files_about_a_dataset_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "dataset_infos.json").write_text("{}", encoding="utf-8")
    path = store(tmp_path / "reviews.jsonl")
    assert locate(str(tmp_path), None, "train") == [path]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_messages_are_text(tmp_path: Path, suffix: str) -> None:
    """TRL's conversational format: the content of one message, or every message after its role."""
    parts = [{"type": "text", "text": "In "}, {"type": "text", "text": "parts."}]
    asked = [
        ([{"role": "user", "content": "Why?"}], "Why?"),
        (
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": "Because."},
                {"role": "user", "content": "So?"},
            ],
            "System: Be brief.\n\nUser: Why?\n\nAssistant: Because.\n\nUser: So?",
        ),
    ]
    path = store(tmp_path / f"a.{suffix}", [{"prompt": messages} for messages, _ in asked])
    assert [text_of("here", row, "prompt") for row in read(path, ["prompt"])] == [text for _, text in asked]
    assert text_of("here", {"prompt": [{"role": "user", "content": parts}]}, "prompt") == "In parts."
    for wrong in ([], ["Why?"], [{"role": "user"}], {"role": "user", "content": "Why?"}, 3):
        with pytest.raises(MoaError, match="here: column 'prompt' holds .*expected text, or messages with role and"):
            text_of("here", {"prompt": wrong}, "prompt")
