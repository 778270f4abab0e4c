"""Hostile experiment files: what YAML, names, numbers and templates can carry, given to `moa check` in a fork."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.trial import End, Place, Trial, Verdict, isolated
from benchmarks.faults.world import ANSWERS, HERE, Command, environment, run_command, write_inputs

HOW = "moa check in a fork (some: moa run -n); a canary that the file's code would touch"
CANARY = "canary"
SECONDS, MEMORY = 60.0, 2048.0
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a library's own report
MISTAKES = 40  # lines that a file with many mistakes may get
TEXT = (HERE / "experiment.yaml").read_text(encoding="utf-8")
TOUCH = f"touch {CANARY}"
Make = Callable[[Path], object]


def text(content: str | bytes) -> Make:
    """Return a maker of a file with this content."""
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def changed(pattern: str, value: str) -> Make:
    """Return a maker of a good file in which the pattern's first match is something else."""
    made, count = re.subn(pattern, lambda _: value, TEXT, count=1, flags=re.MULTILINE)
    assert count, pattern
    return text(made)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link(target: str) -> Make:
    return lambda path: path.symlink_to(target)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    path.mkdir()


def unreadable(path: Path) -> None:
    path.write_text(TEXT)
    path.chmod(0)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGES = "b0: &b0 {k0: 1}\n" + "".join(f"b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}'] * 9)}]}}\n" for i in range(1, 9))
DEEP = 50_000
PYTHON = [
    f"!!python/object/apply:os.system ['{TOUCH}']",
    f"!!python/object/new:os.system ['{TOUCH}']",
    f"!!python/object/apply:subprocess.check_output [['touch', '{CANARY}']]",
    "!!python/name:os.system",
    f"!!python/module:{CANARY}",
    f'!!python/object/apply:builtins.exec [\'open("{CANARY}", "w")\']',
    "!!python/object/new:type {args: ['x', !!python/tuple [], {'extend': !!python/name:exec}],"
    f" listitems: '{TOUCH}'}}",
    f"!ruby/object:Gem::Installer {{i: {CANARY}}}",
    "!include secret.txt",
    "!ENV ${HOME}",
    "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch canary']",
]
SHELL = (
    f"$({TOUCH})",
    f"`{TOUCH}`",
    f"x; {TOUCH};",
    f"x' ; {TOUCH} ; '",
    f'x" ; {TOUCH} ; "',
    f"{{{TOUCH}}}",
    "{input}",
)
FILES: dict[str, Make] = {
    "aliases that grow to a billion": text(TEXT + LAUGHS),
    "aliases that grow, as data": text(TEXT.replace("seeds: [0]", "seeds: *a11") + LAUGHS),
    "aliases before their use": text(LAUGHS + TEXT.replace("[best_of_n, moc]", "*a11")),
    "merge keys that grow": text(MERGES + TEXT.replace("data:\n", "data:\n  <<: *b8\n")),
    "a list that holds itself": text(TEXT.replace("seeds: [0]", "seeds: &s [*s]")),
    "a mapping that holds itself": text(TEXT.replace("data:\n", "data: &d\n  responses: *d\n")),
    "flow lists too deep": text("task: " + "[" * DEEP),
    "flow mappings too deep": text("task: " + "{a: " * DEEP),
    "closed lists too deep": text("task: " + "[" * 3000 + "]" * 3000),
    "block lists too deep": text("task:\n" + "- " * DEEP),
    "deep indentation": text("".join(" " * i + f"k{i}:\n" for i in range(3000))),
    "a long key": text(TEXT + f"? {'k' * 1_000_000}\n: 1\n"),
    "a long name": text(TEXT.replace("task: faults", f"task: {'t' * 1_000_000}")),
    "a long task name": text(TEXT.replace("task: faults", f"task: {'t' * 300}")),
    "many keys": text(TEXT + "".join(f"k{i}: 1\n" for i in range(50_000))),
    "a key twice": text(TEXT + "ppo: {learning_rate: 1.0}\n"),
    "a nested key twice": text(TEXT.replace("  steps: 4\n", "  steps: 4\n  steps: 100\n")),
    "two documents": text(TEXT + "---\n" + TEXT),
    "no document": text("%YAML 9.9\n---\n"),
    "a directive": text("%TAG ! tag:yaml.org,2002:python/\n---\n" + TEXT),
    "NUL bytes": text(TEXT.encode() + b"\0\0"),
    "random bytes": text(bytes(range(256)) * 50),
    "UTF-16": text(TEXT.encode("utf-16")),
    "UTF-32": text(TEXT.encode("utf-32")),
    "a byte order mark": text(b"\xef\xbb\xbf" + TEXT.encode()),
    "half a character": text(TEXT.encode() + b"# \xc3"),
    "terminal codes in a key": text(TEXT + '"\\e[2J\\e]0;x\\a": 1\n'),
    "terminal codes in a value": text(TEXT.replace("task: faults", 'task: "\\e[2Jx"')),
    "right-to-left marks": text(TEXT.replace("task: faults", 'task: "x\\u202egpj"')),
    "other digits in a name": text(TEXT.replace("task: faults", "task: t\u0663")),
    "a letter that looks like another": text(TEXT.replace("task: faults", "task: f\u0430ults")),
    "a surrogate": text(TEXT.replace("task: faults", 'task: "\\ud800"')),
    "the Norway problem": text(TEXT.replace("task: faults", "task: no")),
    "a sexagesimal number": changed(r"^  steps: 4", "  steps: 1:30"),
    "an octal number": changed(r"^  steps: 4", "  steps: 0o17"),
    "a number with underscores": changed(r"^  steps: 4", "  steps: 1_000_000_000_000"),
    "a number of a million digits": changed(r"^  steps: 4", "  steps: " + "9" * 1_000_000),
    "a seed too large": changed(r"seeds: \[0\]", "seeds: [99999999999999999999999]"),
    "a seed below zero": changed(r"seeds: \[0\]", "seeds: [-1]"),
    "a rate without bound": changed(r"learning_rate: 1.0e-3", "learning_rate: .inf"),
    "a rate that is no number": changed(r"learning_rate: 1.0e-3", "learning_rate: .nan"),
    "a billion divisions": changed(r"evaluation: {divisions: 2}", "evaluation: {divisions: 1000000000}"),
    "a billion training divisions": changed(r"training: {divisions: 2}", "training: {divisions: 1000000000}"),
    "a model of a billion layers": changed(r"layers: 1", "layers: 1000000000000"),
    "a billion texts": changed(r"texts: 120", "texts: 100000000000000000000"),
    "a bootstrap without end": changed(r"bootstrap: 20", "bootstrap: 1000000000000000"),
    "a date as a name": text(TEXT.replace("task: faults", "task: 2020-01-01")),
    "numbers as keys": text(TEXT.replace("  sentiment: {reward", "  1: {reward")),
    "a list as a key": text(TEXT + "? [a, b]\n: 1\n"),
    "a mapping as a key": text(TEXT + "? {a: b}\n: 1\n"),
    "null as a key": text(TEXT + "~: 1\n"),
    "an objective named all": text(TEXT.replace("  conciseness: {reward", "  all: {reward")),
    "an objective named control": text(TEXT.replace("  conciseness: {reward", "  control: {reward")),
    "a task above the folder": changed(r"^task: faults", "task: ../../canary"),
    "a task at the root": changed(r"^task: faults", "task: /canary"),
    "a row above the folder": text(TEXT.replace("[best_of_n, moc]", "[../canary]") + "  ../canary: {kind: moc}\n"),
    "a row named like a module": text(TEXT.replace("[best_of_n, moc]", "[__init__, os.path]")),
    "a kind that is a path": text(
        TEXT.replace("methods:\n  best_of_n:", "methods:\n  x: {kind: ../../canary}\n  best_of_n:")
    ),
    "a kind that is a module": text(
        TEXT.replace("methods:\n  best_of_n:", "methods:\n  x: {kind: catalogue}\n  best_of_n:")
    ),
    "a reward kind that is a module": text(TEXT.replace("vader: {kind: vader}", "vader: {kind: scoring}")),
    "a reward name above the folder": text(TEXT.replace("vader", "../vader")),
    "a function of another kind": text(TEXT.replace("guest:score", "os:system")),
    "a function in a path": text(TEXT.replace("guest:score", "../guest:score")),
    "a function with a call": text(TEXT.replace('"guest:score"', "\"os:system('touch canary')\"")),
    "a template with attributes": changed(
        r"^conditioning:", "conditioning:\n  template: '{preference.__class__} {prompt}'"
    ),
    "a template with jinja": changed(r"^conditioning:", "conditioning:\n  plain: '{{ self.__init__ }} {prompt}'"),
    "a reward template with attributes": text(
        TEXT.replace("label: label}", "label: label}, template: '{response.__class__.__mro__}'")
    ),
    "a source with a scheme": changed(r"source: labels.csv", "source: 'file:///etc/passwd'"),
    "a source of the system": changed(r"source: labels.csv", "source: /etc/passwd"),
    "a source that never ends": changed(r"source: labels.csv", "source: /dev/zero"),
    "a model at an address": changed(r"source: scratch", "source: 'https://127.0.0.1:9/model'"),
    "a model with dots": text(
        TEXT.replace("source: scratch", "source: ../../../etc").replace("  scratch: {voc", "  #")
    ),
    "an empty file": text(""),
    "words": text("just words"),
    "a pickle": text(b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."),
    "JSON": text('{"task": "faults"}'),
    "JSON without end": text('{"task": ' * 10_000),
    "a pipe that nobody writes": fifo,
    "a link to nothing": link("nowhere.yaml"),
    "a link to itself": loop,
    "a link to endless zeros": link("/dev/zero"),
    "a link to the terminal": link("/dev/stdin"),
    "a link to a secret": link("/etc/passwd"),
    "a folder": folder,
    "a file without rights": unreadable,
    **{f"YAML tag {i}: {tag[:40]}": text(TEXT.replace("task: faults", f"task: {tag}")) for i, tag in enumerate(PYTHON)},
    **{f"a source for the shell: {s}": changed(r"source: labels.csv", f"source: {s!r}") for s in SHELL},
    **{f"a task for the shell: {s}": changed(r"^task: faults", f"task: {s!r}") for s in SHELL[:3]},
}
# What must not be taken: a key that is lost, a name that another thing has, a number that no machine can serve.
REFUSED = (
    *("a key twice", "a nested key twice", "an objective named all", "an objective named control"),
    *("a seed too large", "a seed below zero", "a billion divisions", "a billion training divisions"),
    *("a model of a billion layers", "a bootstrap without end", "a long task name", "a task above the folder"),
    *("two documents", "a link to endless zeros", "a row above the folder", "a function with a call"),
)
# Tried through Snakemake as well, which reads experiment files by itself.
PLANNED = (
    "aliases that grow to a billion",
    "a key twice",
    "flow lists too deep",
    "a list that holds itself",
    "a billion training divisions",
    "terminal codes in a key",
    "a long name",
    f"YAML tag 0: {PYTHON[0][:40]}",
    *(f"a source for the shell: {s}" for s in SHELL[:4]),
)


@dataclass(frozen=True)
class Experiment:
    """One hostile file."""

    make: Make
    planned: bool
    refused: bool = False  # it must be

    def __call__(self, place: Place) -> Verdict:
        write_inputs(place.folder)
        path = place.folder / "hostile.yaml"
        self.make(path)
        if self.planned:
            end = _plan(place)
        else:
            command = Command("moa", ("check", "hostile.yaml"))
            end = isolated(command.run, Place(place.folder, place.random, SECONDS), ANSWERS)
        if self.refused and end.status == 0:
            return Verdict(False, None, "taken", end.last)
        return judge(end, place.folder, "hostile.yaml")


def _plan(place: Place) -> End:
    """Let Snakemake plan the file; the prompts' shell command is asked for too, up to its first job."""
    import time

    began = time.perf_counter()
    try:
        done = subprocess.run(
            run_command("hostile.yaml", "-n", "-q"),
            cwd=place.folder,
            env=environment(),
            input=ANSWERS,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS * 2,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return End(-9, "", 0.0, SECONDS * 2, True)
    output = "\n".join(line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("snakemake "))
    return End(done.returncode, output, 0.0, time.perf_counter() - began, False)


def judge(end: End, folder: Path, *names: str) -> Verdict:
    """Judge what a hostile file did: no canary, no trace, an end within the bounds, and a clear line or success."""
    why = end.unclear(*names, lines=MISTAKES) if end.status or end.hung else ""
    if end.status == 0 and end.trace:
        why = f"a trace: {end.last}"
    if end.memory > MEMORY:
        why = f"took {end.memory:.0f} MiB"
    if "\x1b" in COLOURS.sub("", end.output):
        why = "control characters reached the terminal"
    places = (folder, folder.parent, folder.parent.parent, Path("/"), Path("/tmp"))
    if found := [p / CANARY for p in places if (p / CANARY).exists()]:
        why = f"ESCAPE: {found[0]} was made"
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = (end.complaint or end.last)[:300]
    return Verdict(not why, None, ("refused" if end.status else "harmless") if not why else "unclear", why or said)


def trial(name: str, planned: bool) -> Experiment:
    return Experiment(FILES[name], planned, name in REFUSED)


def trials() -> list[Trial]:
    """Return a trial per file, and those that Snakemake reads as well."""
    found = [(name, False) for name in FILES] + [(name, True) for name in PLANNED]
    return [
        Trial(
            "hostile-experiment",
            i,
            name + (", planned" if planned else ""),
            HOW,
            Experiment(FILES[name], planned, name in REFUSED),
        )
        for i, (name, planned) in enumerate(found)
    ]
