"""Jobs as forks of a warm process: arguments, streams and status are the command's own, and both end together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from moa.job import warm
from moa.job.process import PARENT


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A warm process of this one; the environment of its commands."""
    path = tmp_path_factory.mktemp("warm") / "socket"
    parent = f"{os.getpid()}:{psutil.Process().create_time():.2f}"
    environment = {**os.environ, warm.SOCKET: str(path), PARENT: parent}
    process = subprocess.Popen([sys.executable, "-m", "moa.job.warm"], env=environment, start_new_session=True)
    while not path.exists():
        time.sleep(0.05)
    yield {**environment, "SERVER": str(process.pid)}
    process.kill()
    process.wait()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "moa.stages.train", *arguments]


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=environment, capture_output=True, text=True, check=False)


def test_a_command_has_its_own_output_and_status(server: dict[str, str]) -> None:
    found = run(server, "--section")
    assert (found.returncode, found.stdout) == (2, "")
    assert "expected one argument" in found.stderr
    found = run(server, "--help")
    assert found.returncode == 0 and "--section" in found.stdout and not found.stderr


def test_a_command_spends_next_to_nothing_itself(server: dict[str, str]) -> None:
    """The command itself imports nothing heavy."""
    before = os.times()
    run(server, "--help")
    after = os.times()
    assert after.children_user - before.children_user < 2.0, "by itself it takes more than five seconds"


def test_where_the_warm_process_is_gone_a_command_works_by_itself(tmp_path: Path) -> None:
    found = run({**os.environ, warm.SOCKET: str(tmp_path / "nothing")}, "--help")
    assert found.returncode == 0 and "--section" in found.stdout


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, None)])
def test_a_fork_ends_with_its_command(server: dict[str, str], number: int, status: int | None, tmp_path: Path) -> None:
    """It reads its section from a pipe that nobody writes."""
    os.mkfifo(tmp_path / "pipe")
    parent = psutil.Process(int(server["SERVER"]))

    def forks(expected: int) -> bool:
        deadline = time.monotonic() + 10
        while len(parent.children()) != expected and time.monotonic() < deadline:
            time.sleep(0.02)
        return len(parent.children()) == expected

    process = subprocess.Popen(command("@" + str(tmp_path / "pipe")), env=server)
    assert forks(1)
    process.send_signal(number)
    ended = process.wait(timeout=10)
    assert ended == status if status is not None else ended != 0
    assert forks(0)


def test_it_ends_with_the_process_that_started_it_and_holds_no_stream_of_its(tmp_path: Path) -> None:
    """Whoever reads the output to its end, before asking for the status, is not kept waiting."""
    program = (
        "import os, sys, time\nfrom pathlib import Path\nfrom moa.job import process, warm\nprocess.export_parent()\n"
        "warm.start()\nwhile not Path(os.environ['MOA_WARM']).exists():\n    time.sleep(0.05)\n"
        "print(os.environ['MOA_WARM'])"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    socket = Path(done.stdout.strip())
    while socket.parent.exists() and time.monotonic() - began < 60:
        time.sleep(0.1)
    assert not socket.parent.exists(), "it has loaded its libraries, looked for its parent, and cleared up"
