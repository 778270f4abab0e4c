"""Hostile data files: the stage that reads prompts and texts, and the one that trains a reward, in a fork."""

import gzip
import io
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.faults.hostile_experiments import CANARY, TOUCH, judge
from benchmarks.faults.trial import Place, Trial, Verdict
from benchmarks.faults.world import Command, World, repeat, with_section

HOW = "the stage that reads the file, in a fork; a canary, and every prompt that comes out is one that went in"
NAMES = ("hostile", "prompts", "data.")
Write = Callable[[Path], object]


class Payload:
    """Whoever unpickles this touches the canary."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (TOUCH,)


def rows(number: int = 100) -> list[dict[str, Any]]:
    """Return good rows, no two of them near-duplicates."""
    draw = __import__("random").Random(1)
    words = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrt"]
    return [
        {"question": f"{' '.join(draw.sample(words, 9))}?", "answer": f" {' '.join(draw.sample(words, 7))}."}
        for _ in range(number)
    ]


HOSTILE = {
    "terminal codes": "\x1b[2J\x1b]0;title\x07",
    "right-to-left marks": "\u202egpj.exe\u202c \u200b\u2066x",
    "a script": "</script><script>alert(1)</script><img src=x onerror=alert(1)>",
    "a formula": "=cmd|' /C calc'!A0",
    "special tokens": "</s><|im_end|><|endoftext|>[SEP]<pad>",
    "fields of templates": "{preference} {prompt} {response} {0} {__class__} %s %(x)s",
    "jinja": "{{ cycler.__init__.__globals__.os.system('touch canary') }}",
    "a shell": f"$({TOUCH}) `{TOUCH}` ; {TOUCH}",
    "NUL": "a\0b",
    "line separators": "a\u2028b\u2029c\x85d\x0be",
    "combining marks": "Z" + "\u0301" * 3000,
    "one long word": "x" * 200_000,
    "a path": "../../../../canary",
    "SQL": "'; DROP TABLE prompts; --",
}


def table(given: list[dict[str, Any]]) -> Write:
    return lambda path: pq.write_table(pa.Table.from_pylist(given), path)


def lines(given: list[dict[str, Any]]) -> Write:
    return lambda path: path.write_text("".join(json.dumps(r) + "\n" for r in given))


def raw(content: str | bytes) -> Write:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def csv(given: list[dict[str, Any]]) -> str:
    body = "".join('"{}","{}"\n'.format(r["question"], r["answer"]) for r in given)
    return "question,answer\n" + body


def extension(path: Path) -> None:
    """A column of the extension type whose metadata old pyarrow unpickled (CVE-2023-47248)."""
    good = pa.Table.from_pylist(rows())
    marks = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Payload()),
    }
    fields = [good.schema.field(0).with_metadata(marks), good.schema.field(1)]
    pq.write_table(good.cast(pa.schema(fields)), path)


def bomb(path: Path) -> None:
    """A gigabyte of one line in a megabyte."""
    with gzip.open(path, "wb", compresslevel=9) as stream:
        stream.write(b'{"question": "')
        for _ in range(1024):
            stream.write(b"x" * 2**20)


def bombs(path: Path) -> None:
    """The same in many lines, by another way of compressing."""
    with pa.output_stream(str(path), compression="zstd") as stream:
        for _ in range(512):
            stream.write((b"x" * 1023 + b"\n") * 2**10)


def repeated(path: Path) -> None:
    """Four gigabytes in one kilobyte: one text in a dictionary, in every row."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 65_536, pa.int32()), ["x" * 65_536])
    pq.write_table(pa.table({"question": texts, "answer": texts}), path, compression="zstd")


def batches(path: Path) -> None:
    """A gigabyte in Arrow's own format, in compressed parts."""
    part = pa.record_batch({"question": ["x" * 2**20] * 16, "answer": ["y"] * 16})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(str(path), part.schema, options=options) as stream:
        for _ in range(64):
            stream.write_batch(part)


def compressed(path: Path) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows()).encode()))


def script(path: Path) -> None:
    """A folder with code beside its data, as old data sets of the hub have it."""
    path.mkdir()
    lines(rows())(path / "train.jsonl")
    (path / f"{path.name}.py").write_text(f"open({CANARY!r}, 'w')\nimport os\nos.system({TOUCH!r})\n")


def saved(path: Path) -> None:
    """A folder as save_to_disk leaves it, whose list of files leads elsewhere."""
    path.mkdir()
    (path / "dataset_info.json").write_text("{}")
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../../etc/passwd"}]}))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def pipe_in_folder(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)


def link(target: str) -> Write:
    return lambda path: path.symlink_to(target)


def pickled() -> bytes:
    stream = io.BytesIO()
    pickle.dump(Payload(), stream)
    return stream.getvalue()


GOOD = rows()
FILES: dict[str, tuple[str, Write]] = {
    **{
        f"{name}, in {ending}": (
            f"hostile.{ending}",
            write([*GOOD, {"question": f"About {text}", "answer": f" {text}"}, {"question": text, "answer": text}]),
        )
        for ending, write in (("jsonl", lines), ("parquet", table))
        for name, text in HOSTILE.items()
    },
    "an unclosed quote": ("hostile.csv", raw(csv(GOOD).replace('"\n', "\n", 1))),
    "an unclosed quote at the end": ("hostile.csv", raw(csv(GOOD) + '"unclosed,x\n')),
    "a column twice": ("hostile.csv", raw(csv(GOOD).replace("question,answer", "question,question"))),
    "rows of other lengths": ("hostile.csv", raw(csv(GOOD) + "a,b,c,d\n")),
    "no header": ("hostile.csv", raw(csv(GOOD).partition("\n")[2])),
    "100 000 columns": ("hostile.csv", raw(",".join(f"c{i}" for i in range(100_000)) + "\n" + "," * 99_999)),
    "semicolons": ("hostile.csv", raw(csv(GOOD).replace('","', '";"').replace("n,a", "n;a"))),
    "carriage returns": ("hostile.csv", raw(csv(GOOD).replace("\n", "\r"))),
    "NUL bytes in CSV": ("hostile.csv", raw(csv(GOOD).encode() + b'"\0","\0"\n')),
    "UTF-16 CSV": ("hostile.csv", raw(csv(GOOD).encode("utf-16"))),
    "Latin-1 CSV": ("hostile.csv", raw(csv(GOOD).encode() + '"caf\u00e9","\u00fc"\n'.encode("latin-1"))),
    "deep JSON": ("hostile.jsonl", raw("[" * 100_000)),
    "deep JSON in a value": ("hostile.jsonl", raw('{"question": ' + "[" * 5_000 + "]" * 5_000 + "}")),
    "a surrogate": ("hostile.jsonl", raw('{"question": "a \\ud800 b", "answer": "c"}\n' * 3)),
    "a number of 5 000 digits": ("hostile.jsonl", raw('{"question": ' + "9" * 5_000 + ', "answer": "x"}\n')),
    "numbers for texts": ("hostile.jsonl", lines([{"question": i, "answer": float(i)} for i in range(100)])),
    "lists for texts": ("hostile.jsonl", lines([{"question": [r], "answer": {}} for r in GOOD])),
    "keys of Python": ("hostile.jsonl", lines([{**r, "__class__": "os.system", "__reduce__": 1} for r in GOOD])),
    "NaN and infinity": ("hostile.jsonl", raw('{"question": NaN, "answer": Infinity}\n' * 100)),
    "a key twice": ("hostile.jsonl", raw('{"question": "a", "question": "b", "answer": "c"}\n' * 100)),
    "a byte order mark": ("hostile.jsonl", raw(b"\xff\xfe" + b'{"question": "a"}\n')),
    "an array with a rest": ("hostile.json", raw(json.dumps(GOOD) + "]")),
    "a pickle named Parquet": ("hostile.parquet", raw(pickled())),
    "a pickle named CSV": ("hostile.csv", raw(pickled())),
    "a pickle named JSON": ("hostile.jsonl", raw(pickled())),
    "a pickle by name": ("hostile.pkl", raw(pickled())),
    "an extension type that is a pickle": ("hostile.parquet", extension),
    "structs for texts": ("hostile.parquet", table([{"question": {"a": 1}, "answer": [1]} for _ in range(100)])),
    "bytes for texts": ("hostile.parquet", table([{"question": b"\xff", "answer": b"\x80"} for _ in range(100)])),
    "no columns": ("hostile.parquet", lambda path: pq.write_table(pa.table({}), path)),
    "a compressed file": ("hostile.jsonl.gz", compressed),
    "a compressed bomb": ("hostile.jsonl.gz", bomb),
    "a compressed bomb of many rows": ("hostile.csv.zst", bombs),
    "a text in a dictionary, repeated": ("hostile.parquet", repeated),
    "compressed parts": ("hostile.arrow", batches),
    "a folder with code": ("hostile", script),
    "a saved data set that leads elsewhere": ("hostile", saved),
    "a pipe that nobody writes": ("hostile.jsonl", pipe),
    "a pipe in a folder": ("hostile/train.jsonl", pipe_in_folder),
    "a link to endless zeros": ("hostile.csv", link("/dev/zero")),
    "a link to itself": ("hostile.csv", link("hostile.csv")),
    "a name for the shell": (f"hostile $({TOUCH}).jsonl", lines(GOOD)),
    "a name with a line": ("hostile\nx.jsonl", lines(GOOD)),
    "a name like an option": ("--hostile.jsonl", lines(GOOD)),
}


@dataclass(frozen=True)
class Data:
    """One hostile data file."""

    world: World
    name: str
    write: Write

    def __call__(self, place: Place) -> Verdict:
        self.write(place.folder / self.name)
        source = self.name.partition("/")[0]
        command = with_section(self.world.command("prompts"), self.world, place.folder, {"data.jsonl": source})
        end = repeat(command, Place(place.folder, place.random, 90.0))
        verdict = judge(end, place.folder, *NAMES, source)
        if verdict.survived and end.status == 0:
            return self._unchanged(place.folder, command) or verdict
        return verdict

    def _unchanged(self, folder: Path, command: Command) -> Verdict | None:
        """Return a failure where a prompt came out that did not go in."""
        if not self.name.endswith((".jsonl", ".parquet")):
            return None
        given = folder / self.name
        if given.suffix == ".parquet":
            went_in = {r["question"] for r in pq.read_table(given, use_threads=False).to_pylist()}
        else:
            went_in = {json.loads(line)["question"] for line in given.read_text().split("\n") if line.strip()}
        path = folder / command.value("--prompts")
        came_out = pq.read_table(path, use_threads=False, partitioning=None)["prompt"].to_pylist()
        strange = [p for p in came_out if p not in went_in and p.strip() not in {str(q).strip() for q in went_in}]
        return Verdict(False, None, "changed text", repr(strange[0])[:200]) if strange else None


def trials(models: World) -> list[Trial]:
    """Return a trial per file."""
    return [Trial("hostile-data", i, name, HOW, Data(models, *FILES[name])) for i, name in enumerate(FILES)]
