"""Damaged files: every file that a stage reads, damaged in every way, then one of its readers is run."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults import damage
from benchmarks.faults.trial import Place, Trial, Verdict, outcome
from benchmarks.faults.world import Command, World, repeat

HOW = "a copy of the finished run, one file damaged; one stage that reads it, in a fork"
HOW_CHECKPOINTS = "a job ended after some checkpoint, its checkpoints damaged; the same job again, in a fork"
POLICY = "policies/moc/policy/s0"
READERS = {  # file of the run -> stages (and rows) that read it
    "prompts.parquet": ("reference", "train", "generate moc", "score moc", "evaluate"),
    "texts.parquet": ("texts", "base", "reference"),
    "text_scores.parquet": ("base",),
    "rewards/taught/model.safetensors": ("texts", "reference", "train", "score moc", "best_of_n"),
    "rewards/taught/reward.json": ("texts", "reference", "train", "score moc", "best_of_n"),
    "base/model.safetensors": ("reference", "train", "generate moc", "best_of_n"),
    "base/config.json": ("reference", "train", "generate moc", "best_of_n"),
    "base/tokenizer.json": ("reference", "train", "generate moc", "best_of_n"),
    "base/tokenizer_config.json": ("reference", "train", "generate moc", "best_of_n"),
    "normaliser.parquet": ("train", "best_of_n", "score moc", "evaluate"),
    "fluency.parquet": ("evaluate",),
    f"{POLICY}/adapter/adapter_model.safetensors": ("generate moc", "moa respond"),
    f"{POLICY}/adapter/adapter_config.json": ("generate moc", "moa respond"),
    f"{POLICY}/policy.json": ("generate moc", "moa respond"),
    "generations/moc/s0.parquet": ("score moc", "evaluate"),
    "scores/moc/s0.parquet": ("evaluate",),
    "reference_scores.parquet": ("warehouse",),
    "curves/moc/policy/s0.parquet": ("warehouse",),
    "costs/train/moc/policy/s0.parquet": ("warehouse",),
    "evaluation/metrics.parquet": ("warehouse",),
    "run.parquet": ("warehouse", "moa respond"),
    "../results.duckdb": ("report", "moa sql"),
}
OWN = {  # of the user: nothing says what its bytes should be
    "labels.csv": ("rewards",),
}
OWN_MODELS = {
    "models/base/model.safetensors": ("base",),
    "models/base/config.json": ("base",),
    "models/base/tokenizer.json": ("base",),
    "models/judge/model.safetensors": ("reference", "rewards"),
    "models/judge/config.json": ("reference", "rewards"),
    "models/judge/tokenizer.json": ("reference", "rewards"),
    "models/adapter/adapter_model.safetensors": ("generate adapter",),
    "models/adapter/adapter_config.json": ("generate adapter",),
    "data.jsonl": ("prompts",),
    "pairs.jsonl": ("rewards",),
    "responses.parquet": ("generate responses",),
}
MODELS = {
    "results/models/rewards/trained/model.safetensors": ("score adapter",),
    "results/models/rewards/trained/reward.json": ("score adapter",),
    "results/models/rewards/trained/tokenizer.json": ("score adapter",),
}

WHOLE = ("evaluate", "warehouse")  # stages that see whether rows are missing
# Model folders, and what else a clear line may call them.
FOLDERS = {
    "base": (),
    "adapter": (),
    "taught": ("reward taught",),
    "trained": ("reward trained",),
    "judge": ("reward classifier", "reward trained"),
}


@dataclass(frozen=True)
class Fault:
    """One damaged file and its reader."""

    world: World
    path: str
    command: Command
    way: damage.Way

    def names(self) -> tuple[str, ...]:
        """Return what a clear line may call the file: its own name, or the folder of a model that it is part of."""
        path = Path(self.path)
        found = [self.path, path.name]
        if path.parent.name in FOLDERS or "policies" in path.parts:
            found += [str(path.parent), *FOLDERS.get(path.parent.name, ())]
        if path.parent.name == "adapter":
            found.append(str(path.parents[1]))
        return tuple(found)

    def __call__(self, place: Place) -> Verdict:
        self.world.right(self.command)  # before anything is damaged
        self.world.copy(place.folder)
        target = place.folder / self.path
        said = self.way(target, place.random)
        end = repeat(self.command, place)
        different = self.world.differences(self.command, place.folder) if end.status == 0 else None
        verdict = outcome(end, self.names(), different)
        return Verdict(
            verdict.survived, verdict.equal, verdict.outcome, f"[{said}] {verdict.said}"[:600], verdict.differed
        )


def find(world: World, reader: str) -> Command | None:
    """Return the command of 'stage', 'stage row' or 'moa command'; None where the run has none."""
    stage, _, row = reader.partition(" ")
    known = [c for c in world.commands if c.stage == stage]
    if stage == "moa":
        return next((c for c in known if c.arguments[0] == row), None)
    return next((c for c in known if row in ("", c.row)), None)


def faults(world: World, readers: Mapping[str, tuple[str, ...]], own: bool) -> Iterator[Fault]:
    """Yield every file damaged in every way; its readers take turns. What the run does not have is left out."""
    turn = 0
    for path, stages in readers.items():
        commands = [found for reader in stages if (found := find(world, reader))]
        if not commands or not (world.folder / path).is_file():
            continue
        whole = [c for c in commands if c.stage in WHOLE]
        for way in damage.ways(path, own):
            readers_now = whole if way is damage.fewer_rows else commands  # others cannot know how many there were
            if readers_now:
                yield Fault(world, path, readers_now[turn % len(readers_now)], way)
            turn += 1


def _trials(kind: str, found: Iterable[Fault]) -> list[Trial]:
    return [
        Trial(kind, i, f"{f.path} {f.way.__name__}, read by {f.command.stage} {f.command.row}", HOW, f)
        for i, f in enumerate(found)
    ]


def trials(main: World) -> list[Trial]:
    """Return the trials with damaged files and checkpoints of a run."""
    run = os.path.relpath(next(main.folder.glob("results/*/run.parquet")).parent, main.folder)
    readers = {os.path.normpath(f"{run}/{path}"): stages for path, stages in READERS.items()}
    made = [*faults(main, readers, True), *faults(main, sections(main), True), *faults(main, OWN, False)]
    stale = [Checkpoint(main, main.command(stage), *spoil) for stage in CHECKPOINTED for spoil in SPOILED]
    checkpoints = [
        Trial("checkpoint", i, f"{c.command.stage}: {c.part} {c.name}", HOW_CHECKPOINTS, c) for i, c in enumerate(stale)
    ]
    return _trials("damaged", made) + checkpoints


def own_trials(models: World) -> list[Trial]:
    """Return the trials with damaged models and data of the user, and with a classifier that was trained here."""
    return _trials("damaged-own", [*faults(models, MODELS, True), *faults(models, OWN_MODELS, False)])


def sections(world: World) -> dict[str, tuple[str, ...]]:
    """Return the files that hold jobs' sections, where they are files."""
    found: dict[str, tuple[str, ...]] = {}
    for command in world.commands:
        path = command.value("--section")
        if command.stage in ("train", "evaluate", "generate") and path and not path.startswith("{"):
            found[path] = (command.stage if command.row == "all" else f"{command.stage} {command.row}",)
    return found


# Checkpoints.

CHECKPOINTED = ("train", "base")
Spoil = Callable[[Path, Path], None]  # (the newest checkpoint, the file in it)


@dataclass(frozen=True)
class Checkpoint:
    """A job that ended after its third checkpoint, and what happened to the newest one, or to all."""

    world: World
    command: Command
    part: str  # a glob in the checkpoint's folder
    way: damage.Way
    every: bool = False

    @property
    def name(self) -> str:
        return self.way.__name__ + (", in every checkpoint" if self.every else "")

    def __call__(self, place: Place) -> Verdict:
        self.world.right(self.command)
        self.world.copy(place.folder)
        ended = repeat(self.command, place, _end_after_checkpoint)
        kept = sorted((place.folder / ".moa").rglob("step-*"))
        if ended.status != 9 or not kept:
            return Verdict(False, None, "no checkpoint", ended.last)
        said = ""
        for checkpoint in kept if self.every else kept[-1:]:
            files = sorted(checkpoint.glob(self.part))
            if not files:
                return Verdict(True, None, "no such part", f"{checkpoint.name} has no {self.part}", tried=0)
            said = self.way(files[0], place.random)
        end = repeat(self.command, place)
        different = self.world.differences(self.command, place.folder) if end.status == 0 else None
        verdict = outcome(end, ("step-", "checkpoint"), different)
        return Verdict(
            verdict.survived, verdict.equal, verdict.outcome, f"[{said}] {verdict.said}"[:600], verdict.differed
        )


def _end_after_checkpoint() -> None:
    """Let this process end at once, as if killed, after the job's second checkpoint; fine-tuning keeps every step."""
    from typing import Any

    from moa.lm import checkpoint, training

    training.CHECKPOINT_SECONDS = 0.0
    save, saved = checkpoint.Checkpoints.save, list[int]()

    def counting(self: Any, state: Any, optimizer: Any = None) -> None:
        save(self, state, optimizer)
        saved.append(state.step)
        if len(saved) == 2:
            os._exit(9)

    checkpoint.Checkpoints.save = counting  # type: ignore[method-assign]


def another(path: Path, draw: object) -> str:
    """Put the older checkpoint's part into its place."""
    older = sorted(path.parent.parent.glob("step-*"))[0] / path.name
    shutil.copy2(older, path)
    return "the older checkpoint's part in its place"


SPOILED: tuple[tuple[str, damage.Way] | tuple[str, damage.Way, bool], ...] = (
    *(("state.json", way) for way in (damage.truncated, damage.emptied, damage.removed, damage.other_json)),
    *(("state.json", way) for way in (damage.key_missing, damage.other_type, damage.flipped, damage.deep_json)),
    *(("[aw]*.safetensors", way) for way in (*damage.RAW, *damage.SOME, *damage.TENSORS)),
    *(("optimizer.safetensors", way) for way in (damage.truncated, damage.flipped, damage.removed, damage.no_tensor)),
    *(("optimizer.safetensors", way) for way in (damage.not_finite, damage.other_names, damage.other_shape)),
    *((part, another) for part in ("state.json", "[aw]*.safetensors", "optimizer.safetensors")),
    *((part, damage.truncated, True) for part in ("state.json", "[aw]*.safetensors")),
    ("[aw]*.safetensors", damage.no_tensor, True),
    ("[aw]*.safetensors", damage.other_shape, True),
    ("state.json", damage.other_json, True),
)
