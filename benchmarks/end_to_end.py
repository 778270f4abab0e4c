"""What tests/tiny.yaml takes from config to report, and how much of it is work.

    python -m benchmarks.end_to_end

Prints the clock and the processor seconds of the run with two cores in a fresh copy of the repository, and the share of
the processor time that the stages recorded as their own. The rest starts processes: Snakemake, and in every job the
libraries.
"""

import resource
import tempfile
import time
from pathlib import Path

import duckdb

from tests.workflow import snake


def processor_seconds() -> float:
    """Return the processor seconds of this process's ended children, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = snake.copy_project(Path(folder) / "tiny")
        began, clock = processor_seconds(), time.perf_counter()
        snake.run_to_end(directory)
        spent, clock = processor_seconds() - began, time.perf_counter() - clock
        with duckdb.connect(str(directory / "results" / "results.duckdb"), read_only=True) as results:
            jobs, own = results.execute("SELECT count(*), sum(cpu_seconds) FROM costs").fetchall()[0]
    print(
        f"{clock:.0f} s, {spent:.0f} processor seconds; {jobs} jobs recorded {own:.0f} of them as their own:"
        f" {own / spent:.0%}"
    )


if __name__ == "__main__":
    main()
