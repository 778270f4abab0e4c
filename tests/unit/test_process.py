"""What jobs inherit from the workflow's process."""

import os
import subprocess
import sys

import psutil
import pytest

from moa.job import process


@pytest.mark.parametrize(
    ("user", "inherited"),
    [
        ({}, (None, "1000")),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
        ({"GOMP_SPINCOUNT": "7"}, (None, "7")),
    ],
)
def test_threads_spin_briefly_unless_the_user_says_how_they_wait(
    user: dict[str, str], inherited: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for name in names:
        monkeypatch.setenv(name, "")  # so that what is set below is taken off again
        monkeypatch.delenv(name)
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    process.share_processor()
    assert tuple(os.environ.get(name) for name in names) == inherited


def test_a_parent_that_has_ended_and_that_nobody_has_asked_about_runs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zombie keeps its id and its time, and would keep its jobs alive."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setenv(process.PARENT, f"{child.pid}:{psutil.Process(child.pid).create_time():.2f}")
    assert process.parent_alive()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    assert not process.parent_alive()
    child.wait()
