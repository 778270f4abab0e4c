"""A disk fills up, or a job is killed, while a folder is written.

Nothing is left half-written, and what was there before stays.
"""

import os
import resource
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moa.errors import MoaError
from moa.experiment.schema import BaseSection
from moa.lm import models
from moa.stages import base
from moa.store import files
from moa.store.provenance import file_hash
from tests import tiny_models
from tests.tiny_policy import loop

ROOT = Path(__file__).parents[2]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: writing more fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_checkpoint(tmp_path: Path) -> None:
    steps = loop("moc", tmp_path).run()
    next(steps)
    with (
        room_for(4_000),
        pytest.raises(
            MoaError, match="no space left to write .*step-000002.*free some space and run the same command again"
        ),
    ):
        next(steps)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    resumed = loop("moc", tmp_path)
    list(resumed.run())
    assert resumed.resumed == 1


def test_base(tmp_path: Path) -> None:
    tiny_models.save_base(tmp_path / "source")
    section = BaseSection.model_validate(
        {"task": "t", "model": {"source": str(tmp_path / "source")}, "conditioning": {}, "objectives": ["a", "b"]}
    )
    out = tmp_path / "out"
    texts = tmp_path / "texts.parquet"
    texts.touch()  # `sft: null` reads none
    arguments = Namespace(
        section=section.model_dump_json(),
        texts=texts,
        scores=None,
        checkpoints=tmp_path / "checkpoints",
        model=out / "base",
        costs=out / "costs.parquet",
        depends="",
    )
    with room_for(20_000), pytest.raises(MoaError, match="no space left to write .*base .*free some space"):
        base.main(arguments)
    assert list(out.iterdir()) == []
    base.main(arguments)
    assert models.load_tokenizer(out / "base").eos_token_id == 1


def test_tokenizer(tmp_path: Path) -> None:
    """It is written by another library than the weights, which says so in other words."""
    with (
        room_for(1_000),
        pytest.raises(MoaError, match="no space left to write .*base"),
        files.folder(tmp_path / "base") as folder,
    ):
        tiny_models.tokenizer().save_pretrained(folder)
    assert list(tmp_path.iterdir()) == []


def test_policy(tmp_path: Path) -> None:
    """The folder that was there before stays as it was."""
    run = loop("moc", tmp_path / "checkpoints", steps=1)
    list(run.run())
    place = tmp_path / "policies" / "s0"
    place.mkdir(parents=True)
    (place / "policy.json").write_text("before")
    with (
        room_for(4_000),
        pytest.raises(MoaError, match="no space left to write .*policies/s0"),
        files.folder(place) as folder,
    ):
        models.save_policy(folder, run.actor.model, run.actor.heads, run.method.streams, {})
    assert [p.name for p in place.parent.iterdir()] == ["s0"]
    assert (place / "policy.json").read_text() == "before"


def test_what_dead_jobs_left_is_removed_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    dead, alive = 2**22 + 1, os.getppid()  # the first is above the greatest process id
    for name in (f".base.{dead}.tmp", f".base.{alive}.tmp", f".other.{dead}.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("half")
    with files.folder(tmp_path / "base") as folder:
        (folder / "config.json").write_text("{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".base.{alive}.tmp", f".other.{dead}.tmp", "base"]


def job(folder: Path) -> subprocess.Popen[str]:
    """Start a stage's job that has written half a folder; return once it has."""
    code = (
        "import time\n"
        "from moa.job import command\n"
        "from moa.store import files\n"
        "def main(arguments):\n"
        "    with files.folder(arguments.out) as folder:\n"
        "        (folder / 'half').write_text('x')\n"
        "        print('half', flush=True)\n"
        "        time.sleep(100)\n"
        "command.run(main, command.parser('a stage', 'out'))\n"
    )
    command = [sys.executable, "-c", code, "--section", "{}", "--out", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "half\n"
    return process


def test_sigterm_unwinds_and_the_next_job_cleans_up_after_kill_9(tmp_path: Path) -> None:
    with job(tmp_path / "base") as process:
        process.terminate()
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ended from outside (SIGTERM); run the same command again" in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
    with job(tmp_path / "base") as process:
        process.kill()
    assert [p.name for p in tmp_path.iterdir()] == [f".base.{process.pid}.tmp"]
    with files.folder(tmp_path / "base"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["base"]


def test_other_mistakes_keep_their_own_message(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.folder(tmp_path / "x") as folder:
        (folder / "no" / "such").write_text("x")
    with pytest.raises(RuntimeError, match="in the middle"), files.folder(tmp_path / "x") as folder:
        (folder / "half").write_text("x")
        raise RuntimeError("in the middle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["nothing.parquet", "dangling.parquet"])
def test_a_file_that_is_gone_when_its_hash_is_asked_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "dangling.parquet").symlink_to("/nowhere/at/all")
    with pytest.raises(MoaError, match=f"{name}: cannot be read .No such file or directory.; run the same command"):
        file_hash(tmp_path / name)


def written(path: Path) -> Path:
    """Write a folder as a job does: two files, one of them in a folder of its own."""
    with files.folder(path) as temporary:
        (temporary / "adapter").mkdir()
        (temporary / "adapter" / "weights.safetensors").write_bytes(bytes(100))
        (temporary / "card.json").write_text("{}")
    return path


@pytest.mark.parametrize("name", ["adapter/weights.safetensors", "card.json"])
@pytest.mark.parametrize("change", ["flipped", "longer", "empty", "gone"])
def test_a_folder_whose_files_have_changed(tmp_path: Path, name: str, change: str) -> None:
    folder = written(tmp_path / "policy")
    files.verify(folder)
    (folder / ".snakemake_timestamp").touch()  # what others add does not count
    files.verify(folder)
    path, content = folder / name, (folder / name).read_bytes()
    path.write_bytes({"flipped": b"\1" + content[1:], "longer": content + b"x"}.get(change, b""))
    if change == "gone":
        path.unlink()
    what = "is missing" if change == "gone" else "is not what was written: damaged, or changed since"
    with pytest.raises(MoaError, match=f"{name}: {what}; delete {folder} and run the same command again, or"):
        files.verify(folder)
    if name.endswith(".safetensors"):
        files.verify(folder, ".safetensors")
    (folder / files.SUMS).unlink()
    files.verify(folder)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_files_have_the_users_permissions_whoever_wrote_them(tmp_path: Path, umask: int, mode: int) -> None:
    """What safetensors writes is the writer's alone, whatever the umask: a colleague could read the tables only."""
    before = os.umask(umask)
    try:
        with files.folder(tmp_path / "base") as folder:
            save_file({"a": torch.zeros(2)}, folder / "a.safetensors")
            (folder / "config.json").write_text("{}")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "base").iterdir()}
    assert modes == dict.fromkeys(["a.safetensors", "config.json", files.SUMS], mode)


def test_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    folder = written(tmp_path / "policy")
    done = subprocess.run(["sha256sum", "--check", files.SUMS], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["adapter/weights.safetensors: OK", "card.json: OK"]
