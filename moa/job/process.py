"""Ties a job's life to Snakemake's, and lets no two jobs write the same checkpoint.

A job exits when Snakemake dies, and keeps what it has finished. Snakemake exports its process id as MOA_PARENT; a job
started by hand has none and is left alone.
"""

import fcntl
import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from moa.errors import MoaError
from moa.store.provenance import text_hash

PARENT = "MOA_PARENT"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # how many a job has
POLL_SECONDS = 0.5


def export_parent() -> None:
    """Tell jobs started from here which process they belong to: 'pid:start time' (a pid alone may be reused)."""
    os.environ[PARENT] = f"{os.getpid()}:{psutil.Process().create_time():.2f}"


def share_processor() -> None:
    """Let the threads of jobs started from here spin briefly at barriers, unless the user has said how they wait.

    By default they spin long, and a job whose other thread was descheduled burns its share of the processor: beside
    another job of two threads it keeps a tenth of its speed. A thousand turns keep three quarters, and cost nothing
    where the machine is quiet; sleeping at once (OMP_WAIT_POLICY=PASSIVE) keeps all of it and costs 11 % where it is
    quiet (benchmarks/README.md has the table). OpenMP reads the variable when it starts, hence before any job does.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def parent_alive() -> bool:
    """Return whether the exported process still runs; True where none was exported.

    One that has ended and that nobody has asked about yet, a zombie, runs no more.
    """
    value = os.environ.get(PARENT)
    if not value:
        return True
    pid, started = value.split(":")
    try:
        parent = psutil.Process(int(pid))
        return abs(parent.create_time() - float(started)) < 1.0 and parent.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def exit_with_parent() -> None:
    """Start a thread that ends this process within a second of Snakemake's death, so that no orphan writes on."""

    def watch() -> None:
        while parent_alive():
            time.sleep(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    if os.environ.get(PARENT):
        threading.Thread(target=watch, daemon=True).start()


def hold_collector() -> None:
    """Stop the garbage collector while modules are imported.

    Imports make a million objects that stay; looking at them again and again is a fifth of a job's start.
    """
    gc.disable()


def release_collector() -> None:
    """Let it go on; where torch is loaded without the objects that imports have made, also at the job's end.

    Other jobs start in a second, and DuckDB counts its own objects when Python ends.
    """
    if "torch" in sys.modules:
        gc.freeze()
    gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """Hold the collector while the block imports what is heavy."""
    hold_collector()
    try:
        yield
    finally:
        release_collector()


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; a MoaError names the process that already holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise MoaError(
                f"{path}: process {stream.read().strip() or 'unknown'} works on this already; wait for it, or end it"
            ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


@dataclass
class Stopwatch:
    """Wall-clock and processor seconds of a training that checkpoints may interrupt.

    Attributes:
        seconds: of work, earlier attempts included.
        cpu_seconds: of this process, user and system, in that time.
        earlier_seconds: of earlier attempts, as far as their newest checkpoint.
        earlier_cpu_seconds: the same, of the processor.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    earlier_seconds: float = 0.0
    earlier_cpu_seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what the block takes."""
        began, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.process_time() - cpu

    def state(self) -> dict[str, float]:
        """Return what a checkpoint keeps."""
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what `state` returned, unless more was counted already.

        Going back to a checkpoint within a process gives no time back.
        """
        if self.seconds >= state["seconds"]:
            return
        self.seconds, self.cpu_seconds = self.earlier_seconds, self.earlier_cpu_seconds = (
            state["seconds"],
            state["cpu_seconds"],
        )


@dataclass(frozen=True)
class Job:
    """Where a training job keeps its checkpoints, and what it has spent, earlier attempts included."""

    folder: Path
    watch: Stopwatch = field(default_factory=Stopwatch)

    def part(self, name: str) -> "Job":
        """Return a part of the job, which has checkpoints of its own."""
        return Job(self.folder / name, self.watch)


@contextmanager
def keeping(root: Path, name: str, *key: str) -> Iterator[Job]:
    """Keep other processes off a job's checkpoints, and remove them when the block ends well.

    The block's last act is to complete the job's outputs: a job that dies before that starts again from its
    checkpoints.

    Args:
        root: where all jobs keep theirs.
        name: of the job.
        key: everything that the result depends on, so that no stale checkpoint is ever resumed.
    """
    folder = root / f"{name}-{text_hash(*key)}"
    with exclusive(folder.with_name(f"{folder.name}.lock")):  # not with_suffix: the name may hold dots
        yield Job(folder)
        shutil.rmtree(folder, ignore_errors=True)


def gpu_visible() -> bool:
    """Return whether an NVIDIA GPU can be used; asks the driver's tool, so that planning loads no torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and listed.stdout.startswith("GPU")


def peak_memory() -> tuple[float, str]:
    """Return peak memory in MiB and the device's name; asks torch only where the stage has loaded it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20, torch.cuda.get_device_name()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "cpu"
