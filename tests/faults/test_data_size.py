"""Data whose size is not what it seems: small files that hold gigabytes, endless lists of names, endless numbers."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.errors import HEAD, TAIL, MoaError
from moa.tasks import formats
from moa.tasks.formats import GROWTH, read
from moa.tasks.tabular import read_rows

MEGABYTE = 2**20


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may always be read are 64 MiB; here one, so that nothing large must be made."""
    assert formats.SMALL == 64 * MEGABYTE
    monkeypatch.setattr(formats, "SMALL", MEGABYTE)


def fails(path: Path, *parts: str) -> str:
    """Reading must end in one short line that holds all `parts`."""
    with pytest.raises(MoaError) as caught:
        read_rows(str(path), None, None, "train", ["text"])
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    assert "\n" not in message and len(message) <= HEAD + TAIL + len(" ... ")
    return message


@pytest.mark.parametrize("compression", ["gzip", "bz2", "zstd"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_a_compressed_file_of_very_much_more_content(tmp_path: Path, name: str, compression: str) -> None:
    """3 MiB of one letter are under 10 kB in every form; what is read of them ends after one MiB."""
    path = tmp_path / f"{name}.{ {'gzip': 'gz', 'bz2': 'bz2', 'zstd': 'zst'}[compression] }"
    with pa.output_stream(str(path), compression=compression) as stream:
        for _ in range(3):
            stream.write(b"x" * MEGABYTE)
    assert path.stat().st_size < 10_000
    fails(
        path,
        f"{path.name}: holds more than {GROWTH} times its own size",
        "write it as a plain .jsonl file, uncompressed",
    )


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("form", ["file", "stream"])
def test_one_batch_of_an_arrow_file_that_shrinks_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, compression: str
) -> None:
    """A thousand rows of 4 kB in one batch: its size is known before it is unpacked."""
    path = tmp_path / "a.arrow"
    table = pa.table({"text": ["x" * 4_000] * 1_000})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_file if form == "file" else pa.ipc.new_stream)(str(path), table.schema, options=options) as writer:
        writer.write_table(table)
    assert path.stat().st_size < 50_000
    unpacked = formats._unpacked(pa.py_buffer(path.read_bytes()))
    assert 4_000_000 <= unpacked <= 4_000_000 + 2 * 8 * 1_001  # texts, and their offsets
    monkeypatch.setattr(formats, "_rows", lambda *_: pytest.fail("unpacked"))
    fails(path, "a.arrow: holds more than 50 times its own size")


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_parquet_file_of_very_much_more_content(tmp_path: Path, dictionary: bool) -> None:
    """A thousand rows of 16 kB are 16 MB: of one text in a dictionary, or of pages that shrink to nothing."""
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["x" * 16_000] * 1_000, "n": range(1_000)})
    pq.write_table(table, path, use_dictionary=dictionary, compression="zstd")
    assert path.stat().st_size < 100_000
    fails(path, "a.parquet: holds more than 50 times its own size")
    assert read_rows(str(path), None, None, "train", ["n"])[999] == {"n": 999}  # what is not read does not count


def repeated(kind: str) -> pa.Array:
    """Return 8 192 times the same 4 kB, 32 MiB, in a form of Arrow that holds them once; or as many of nothing."""
    number, text = 8_192, "x" * 4_096
    match kind:
        case "dictionary":
            return pa.DictionaryArray.from_arrays(pa.array([0] * number, pa.int32()), [text])
        case "runs":
            return pa.RunEndEncodedArray.from_arrays([number], [text])
    return pa.nulls(10 * number)


@pytest.mark.parametrize("form", ["stream", "file"])
@pytest.mark.parametrize("kind", ["dictionary", "runs", "nulls"])
def test_a_value_that_stands_once_for_many_rows(tmp_path: Path, kind: str, form: str) -> None:
    """81 920 rows of nothing are as many of 64 bytes, 5 MB."""
    batch = pa.record_batch({"text": repeated(kind)})
    new = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
    with new(str(tmp_path / "a.arrow"), batch.schema) as writer:
        writer.write_batch(batch)
    fails(tmp_path / "a.arrow", "a.arrow: holds more than 50 times its own size")
    if kind != "runs":  # Parquet has none
        pq.write_table(pa.table(batch), tmp_path / "a.parquet")
        fails(tmp_path / "a.parquet", "a.parquet: holds more than 50 times its own size")


def test_a_saved_column_of_classes_is_read(tmp_path: Path) -> None:
    """What stands once for many rows is plain text where it is not too much."""
    texts = pa.array(["good", "bad", None, "good"]).dictionary_encode()
    runs = pa.RunEndEncodedArray.from_arrays([3, 4], ["a", "b"])
    batch = pa.record_batch({"text": texts, "label": runs})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), batch.schema) as writer:
        writer.write_batch(batch)
    found = [(row["text"], row["label"]) for row in read(tmp_path / "a.arrow")]
    assert found == [("good", "a"), ("bad", "a"), (None, "a"), ("good", "b")]


def test_texts_that_repeat_themselves_are_no_attack(tmp_path: Path) -> None:
    """Below a bound everything is read, above it what shrinks less than to a fiftieth."""
    path = tmp_path / "a.jsonl.gz"
    with pa.output_stream(str(path), compression="gzip") as stream:
        stream.write(b'{"text": "the same text again and again"}\n' * 20_000)  # 840 kB in 3 kB
    assert GROWTH * path.stat().st_size < 42 * 20_000 < MEGABYTE
    assert len(read_rows(str(path), None, None, "train", ["text"])) == 20_000


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_thousands_of_columns(tmp_path: Path, name: str) -> None:
    names = [f"c{i}" for i in range(10_000 if name != "a.parquet" else 1_000)]
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({n: [1] for n in names}), path)
    elif name == "a.csv":
        path.write_text(",".join(names) + "\n" + "," * (len(names) - 1) + "\n", encoding="utf-8")
    else:
        path.write_text("{" + ", ".join(f'"{n}": 1' for n in names) + "}\n", encoding="utf-8")
    message = fails(path, f"{name}: no column 'text'; the columns are c0, c1, ", f"c19 and {len(names) - 20} more")
    assert len(message) < 600


def test_a_column_with_an_endless_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x" * 100_000 + ",b\n1,2\n", encoding="utf-8")
    assert len(fails(tmp_path / "a.csv", "the columns are xxx", "b. Known: ")) < 600


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("number", ["9" * 5_000, "-" + "1" * 100_000])
def test_a_number_with_more_digits_than_python_reads(tmp_path: Path, name: str, number: str) -> None:
    row = f'{{"text": {number}}}'
    (tmp_path / name).write_text(f"[{row}]" if name == "a.json" else f'{{"text": "a"}}\n{row}\n', encoding="utf-8")
    fails(tmp_path / name, name, "" if name == "a.json" else "line 2", "a number of thousands of digits")
