"""What every stage's command shares: arguments, logging, clean failures, costs."""

import argparse
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from safetensors import SafetensorError

from moa.errors import Ended, MoaError, shown
from moa.job.process import Stopwatch, peak_memory, release_collector
from moa.store import sections, tables
from moa.store.files import disk_full

log = logging.getLogger("moa")
REPORT_SECONDS = 10.0


def parser(description: str | None, *paths: str, **options: type) -> argparse.ArgumentParser:
    """Return a parser with `--section` (the config section), one `--name PATH` per path, and typed options.

    A path name that ends in '*' takes any number of paths, or '@' and a file that lists them; one that ends in '?' may
    be left out.
    """
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0], fromfile_prefix_chars="@")
    made.add_argument(
        "--section",
        type=sections.read,
        required=True,
        help="the section of the experiment that this stage uses: a JSON file, or the JSON itself",
    )
    for name in paths:
        flag = "--" + name.removesuffix("*").removesuffix("?").replace("_", "-")
        if name.endswith("*"):
            made.add_argument(flag, type=Path, nargs="*", default=[])
        else:
            made.add_argument(flag, type=Path, required=not name.endswith("?"))
    for option, kind in options.items():
        made.add_argument("--" + option.replace("_", "-"), type=kind, required=True)
    return made


def run(main: Callable[[argparse.Namespace], None], arguments: argparse.ArgumentParser) -> None:
    """Run a stage; a mistake or a full disk ends in one clear message and status 1.

    Other errors keep their trace.
    """
    release_collector()
    to = logging.StreamHandler(sys.stderr)
    to.setFormatter(Visible("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[to])
    # One job, one GPU: with more in sight the Trainer would spread batches over all of them.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    signal.signal(signal.SIGTERM, _end)  # by itself it would leave half-written folders behind
    try:
        main(arguments.parse_args())
    except MoaError as error:
        sys.exit(shown(f"error: {error}"))
    except (OSError, SafetensorError) as error:
        if not disk_full(error):
            raise
        where = getattr(error, "filename", None) or "an output"
        sys.exit(
            f"error: no space left to write {where} ({error}); free some space and run the same command again, finished"
            " outputs are kept"
        )


class Visible(logging.Formatter):
    """Formats a line of the log; what a terminal would obey is shown as escapes."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted record."""
        return shown(super().format(record))


def _end(*_: object) -> NoReturn:
    raise Ended("error: ended from outside (SIGTERM); run the same command again, finished outputs are kept")


class Cost:
    """Measures a job; `write` stores one row of table costs."""

    def __init__(self, task: str, stage: str, *, method: str = "all", seed: int = 0, job: str = "all") -> None:
        self.row = {"task": task, "stage": stage, "method": method, "seed": seed, "job": job}
        self.started = time.perf_counter()
        self.tokens = 0
        self.models = 0
        self.batch: int | None = None  # responses sampled at a time
        self.earlier_seconds = 0.0  # of the same job before it was interrupted
        self.earlier_cpu_seconds = 0.0

    def resume(self, watch: Stopwatch) -> None:
        """Add what earlier attempts at the job have spent."""
        self.earlier_seconds, self.earlier_cpu_seconds = watch.earlier_seconds, watch.earlier_cpu_seconds

    @property
    def seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.started

    @property
    def cpu_seconds(self) -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return self.earlier_cpu_seconds + usage.ru_utime + usage.ru_stime

    def write(self, path: Path) -> None:
        memory, device = peak_memory()
        spent: dict[str, float | str] = {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "peak_memory": memory,
            "device": device,
        }
        tables.write(
            tables.COSTS,
            [{**self.row, **spent, "tokens": self.tokens, "models": self.models, "batch": self.batch}],
            path,
        )


class Steps:
    """Logs how far a training is and the time left, every ten seconds and after its last step."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0  # done since it began; a resumed run has more behind it
        self.began = self.last = time.perf_counter()

    def tell(self, step: int, describe: Callable[[], str]) -> None:
        """Note that step number `step` is finished; `describe` is asked for its figures where a line is due."""
        now = time.perf_counter()
        self.done += 1
        if now - self.last < REPORT_SECONDS and step + 1 < self.total:
            return
        left = (now - self.began) / self.done * (self.total - step - 1)
        shown = (self.name, step + 1, self.total, describe(), left // 60, left % 60)
        log.info("%s step %d/%d  %s  ETA %d:%02d", *shown)
        self.last = now


class Progress:
    """Logs how much of a job is done and the time left, every ten seconds and at the end."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self.began = self.last = time.perf_counter()

    def add(self, count: int) -> None:
        """Note that `count` more are done."""
        self.done += count
        now = time.perf_counter()
        if now - self.last >= REPORT_SECONDS or self.done == self.total:
            left = (now - self.began) / self.done * (self.total - self.done)
            log.info("%s: %d of %d responses  ETA %d:%02d", self.name, self.done, self.total, left // 60, left % 60)
            self.last = now
