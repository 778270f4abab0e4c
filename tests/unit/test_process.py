"""What jobs inherit from the workflow's process."""

import os

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
