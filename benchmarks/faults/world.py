"""Two finished runs that the trials copy, and their jobs as commands that a fork can repeat without Snakemake."""

import json
import os
import random
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults import compare
from benchmarks.faults.trial import End, Place, isolated

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
INPUTS = ("experiment.yaml", "guest.py", "labels.csv")
STARTS = r"^Shell command: (.*python -m moa\.stages\..*)$"
OUTPUTS = {  # of each stage's command
    "prompts": ("--prompts", "--texts", "--costs"),
    "rewards": ("--model", "--costs"),
    "texts": ("--scores", "--costs"),
    "base": ("--model", "--costs"),
    "reference": ("--responses", "--scores", "--normaliser", "--fluency", "--costs"),
    "train": ("--out", "--curve", "--costs"),
    "generate": ("--out", "--costs"),
    "best_of_n": ("--out", "--costs"),
    "score": ("--scores", "--costs"),
    "evaluate": ("--points", "--quality", "--metrics", "--payoff"),
    "manifest": ("--out",),
    "warehouse": ("--out",),
    "report": ("--out",),
}
ANSWERS = "y\n" * 1000  # on standard input: whatever is asked is answered with yes
SECONDS = 60.0  # of a run, where nobody has measured it
PATIENCE = 3600.0  # seconds of a whole run


@dataclass(frozen=True)
class Command:
    """One job: `python -m moa.stages.<stage> ...`, or `moa ...` where the stage is 'moa'; paths are relative."""

    stage: str
    arguments: tuple[str, ...]

    def value(self, option: str) -> str:
        return self.arguments[self.arguments.index(option) + 1] if option in self.arguments else ""

    @property
    def outputs(self) -> list[str]:
        """What the job writes; of a command of `moa`, what it printed."""
        if self.stage == "moa":
            return ["said"]
        return [self.value(option) for option in OUTPUTS.get(self.stage, ())]

    @property
    def row(self) -> str:
        """The row or reward that the job is for, out of its outputs' paths; 'all' where it is for all."""
        first = Path(self.outputs[0]).parts if self.outputs else ()
        return first[3] if len(first) > 3 and self.stage != "evaluate" else "all"

    def run(self) -> None:
        """Be the job; in a fork."""
        if self.stage == "moa":
            from moa import cli

            sys.argv = ["moa", *self.arguments]
            cli.main()
            return
        name = f"moa.stages.{self.stage}"
        sys.argv = [name, *self.arguments]
        sys.modules.pop(name, None)  # else runpy warns
        runpy.run_module(name, run_name="__main__", alter_sys=True)


@dataclass
class World:
    """A finished run of one experiment, and what its jobs gave in forks of this process.

    Attributes:
        folder: the run's.
        experiment: the file in it.
        commands: its jobs.
        inputs: what the experiment reads in its folder; a run begins with these files.
        package: the folder that holds `moa`.
    """

    folder: Path
    experiment: str
    commands: list[Command]
    inputs: tuple[str, ...] = INPUTS
    package: str = str(ROOT)

    @property
    def seconds(self) -> float:
        """What the undisturbed run took."""
        return float((self.folder / "finished").read_text() or SECONDS)

    def command(self, stage: str, row: str | None = None) -> Command:
        return next(c for c in self.commands if c.stage == stage and row in (None, c.row))

    def copy(self, to: Path) -> Path:
        """Copy the finished run to a folder that a trial may change; what Snakemake knows of it stays behind."""
        shutil.copytree(
            self.folder, to, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".snakemake", "logs")
        )
        return to

    def right(self, command: Command) -> Path:
        """Return the folder with the command's results on an undamaged copy, made once by a fork as the trials are."""
        place = self.folder.parent / "right" / f"{self.folder.name}-{self.commands.index(command)}"
        if not place.exists():
            made = place.with_name(f"{place.name}.being-made")
            shutil.rmtree(made, ignore_errors=True)
            end = repeat(command, Place(self.copy(made), random.Random(0)))
            assert end.status == 0, f"{command.stage} {command.row} fails on undamaged files:\n{end.output[-3000:]}"
            made.rename(place)
        return place

    def differences(self, command: Command, tried: Path) -> list[str]:
        """Return where the command's results in `tried` are not the right ones."""
        right = self.right(command)
        found = []
        for output in command.outputs:
            if (tried / output).exists():
                found += compare.differences(right / output, tried / output)
            else:
                found.append(f"{output}: missing")
        return found


def remove_outputs(command: Command, folder: Path) -> None:
    """Remove what a job has written; of the folder of reports its pages."""
    for path in [folder / output for output in command.outputs]:
        if command.stage == "report":
            for page in path.glob("*.html"):
                page.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def repeat(command: Command, place: Place, before: Callable[[], object] = lambda: None) -> End:
    """Run a job in a fork, its old outputs removed first, as Snakemake does."""
    remove_outputs(command, place.folder)

    def body() -> None:
        before()
        command.run()

    end = isolated(body, place, ANSWERS)
    if command.stage == "moa":
        (place.folder / "said").write_text(end.output)
    return end


def environment(package: str = str(ROOT)) -> dict[str, str]:
    """Jobs see no hub, no GPU, and no parent but their own Snakemake."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MOA_PARENT", "MOA_GUEST")}
    return {**kept, "PYTHONPATH": package, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}


def run_command(experiment: str, *arguments: str) -> list[str]:
    """Return the command that a user types."""
    return [sys.executable, "-m", "moa.cli", "run", experiment, "--cores", "2", *arguments]


def commands_of(printed: str) -> list[Command]:
    """Read the jobs out of what `moa run -p` printed."""
    found = []
    for line in re.findall(STARTS, printed, re.MULTILINE):
        words = shlex.split(line)
        words = words[words.index("-m") + 1 :]
        end = next((i for i, word in enumerate(words) if re.fullmatch(r"\d?>.*|\|", word)), len(words))
        found.append(Command(words[0].removeprefix("moa.stages."), tuple(words[1:end])))
    return found


def write_inputs(folder: Path) -> None:
    """Write experiment.yaml and what it reads."""
    shutil.copy2(HERE / "experiment.yaml", folder)
    shutil.copy2(HERE / "guest.py", folder)
    draw = random.Random(0)
    lines = ["text,label"]
    for i in range(60):
        word = draw.choice(("lovely", "great", "bright") if i % 2 else ("dull", "awful", "broken"))
        thing, when = draw.choice(("This lamp", "My chair", "The clock")), draw.choice(("today", "at night", "in May"))
        lines.append(f"{thing} is {word} {when},{i % 2}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def finish(folder: Path, experiment: str, *targets: str) -> World:
    """Run an experiment in its folder, or take it as it is where that was done before."""
    log = folder / "printed"
    if not (folder / "finished").exists():
        began = time.perf_counter()
        done = subprocess.run(
            run_command(experiment, "-p", *targets),
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        log.write_text(done.stdout + done.stderr)
        assert done.returncode == 0, f"the undisturbed run failed:\n{log.read_text()[-4000:]}"
        (folder / "finished").write_text(f"{time.perf_counter() - began:.0f}")
    return World(folder, experiment, commands_of(log.read_text()))


def main_world(work: Path) -> World:
    """Return the run of experiment.yaml."""
    folder = work / "main"
    folder.mkdir(parents=True, exist_ok=True)
    write_inputs(folder)
    world = finish(folder, "experiment.yaml")
    query = "SELECT * EXCLUDE (seconds, generation_seconds) FROM leaderboard"
    world.commands.append(Command("moa", ("sql", query, "--format", "csv")))
    policy, preference = "results/faults/policies/moc/policy/s0", "sentiment=0.5,conciseness=0.25,politeness=0.25"
    if (folder / policy).is_dir():
        asked = ("respond", "--policy", policy, "--preference", preference, "The lamp")
        world.commands.append(Command("moa", asked))
    return world


def models_world(work: Path) -> World:
    """Return the run of models.yaml, up to its scores; models and data are made in a fork first."""
    folder = work / "models"
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        end = isolated(_make_models, Place(folder, random.Random(0), 300.0))
        assert end.status == 0, end.output
        (folder / "made").touch()
    shutil.copy2(HERE / "models.yaml", folder)
    return finish(folder, "models.yaml", "score")


def _make_models() -> None:
    """Write models and data into the working folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests import tiny_models, tiny_rewards

    tiny_models.save_base(Path("models/base"))
    tiny_models.save_adapter(Path("adapter"), seed=1)
    Path("adapter/adapter").rename("models/adapter")
    tiny_rewards.bert(Path("models/judge"), labels=1)
    texts = tiny_rewards.texts(240, 12)
    questions = [{"question": f"Number {i}: {texts[i]}?", "answer": f" {texts[i + 100]}."} for i in range(100)]
    Path("data.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    pairs = [{"chosen": f"good {texts[i]}", "rejected": f"bad {texts[i + 1]}"} for i in range(40)]
    Path("pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    answers = [{"prompt": q["question"], "response": f"It is {texts[i]}"} for i, q in enumerate(questions)]
    pq.write_table(pa.Table.from_pylist(answers), "responses.parquet")


def with_section(command: Command, world: World, folder: Path, changes: dict[str, str]) -> Command:
    """Return the command with parts of its section replaced, whether that is an argument or a file."""
    given = command.value("--section")
    inline = given.startswith("{")
    text = given if inline else (world.folder / given).read_text(encoding="utf-8")
    for old, new in changes.items():
        quoted = old if old.startswith('"') else json.dumps(old)
        assert quoted in text, f"{old} is not in the section of {command.stage}"
        text = text.replace(quoted, new if old.startswith('"') else json.dumps(new))
    if not inline:
        (folder / "changed-section.json").write_text(text, encoding="utf-8")
    section = text if inline else "changed-section.json"
    return Command(command.stage, tuple(section if a == given else a for a in command.arguments))
