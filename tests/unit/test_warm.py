"""Jobs as forks of a warm process: arguments, streams and status are the command's own, and both end together."""

import json
import os
import select
import signal
import socket
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


def forks(parent: psutil.Process, expected: int) -> bool:
    """Wait until the warm process has so many forks."""
    deadline = time.monotonic() + 60
    while len(parent.children()) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(parent.children()) == expected


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
    process = subprocess.Popen(command("@" + str(tmp_path / "pipe")), env=server)
    assert forks(parent, 1)
    process.send_signal(number)
    ended = process.wait(timeout=60)
    assert ended == status if status is not None else ended != 0
    assert forks(parent, 0)


@pytest.mark.parametrize("said", [0.0, 0.5, 1.0])
def test_a_fork_ends_with_a_command_that_is_gone_before_it_has_read_its_answer(
    server: dict[str, str], said: float, tmp_path: Path
) -> None:
    """The command has said nothing, half of what it asks, or all; a socket with an unread answer is reset."""
    os.mkfifo(tmp_path / "pipe")
    asked = {"module": "moa.stages.train", "arguments": ["@" + str(tmp_path / "pipe")], "folder": "/"}
    text = json.dumps(asked | {"environment": server}).encode()
    parent = psutil.Process(int(server["SERVER"]))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server[warm.SOCKET])
        if said:
            socket.send_fds(connection, [warm.NUMBER.pack(len(text))], [0, 1, 2])
            connection.sendall(text[: int(said * len(text))])
        if said == 1.0:
            assert select.select([connection], [], [], 60)[0], "the answer has come"
        assert forks(parent, 1)
    assert forks(parent, 0)


def test_it_ends_with_the_process_that_started_it_and_holds_no_stream_of_its(tmp_path: Path) -> None:
    """Whoever reads the output to its end, before asking for the status, is not kept waiting."""
    program = (
        "import os, sys, time\nfrom pathlib import Path\nfrom moa.job import process, warm\nprocess.export_parent()\n"
        "warm.start()\nwhile not Path(os.environ['MOA_WARM']).exists():\n    time.sleep(0.05)\n"
        "print(os.environ['MOA_WARM'])"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    path = Path(done.stdout.strip())
    while path.parent.exists() and time.monotonic() - began < 60:
        time.sleep(0.1)
    assert not path.parent.exists(), "it has loaded its libraries, looked for its parent, and cleared up"
