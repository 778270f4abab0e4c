"""What jobs inherit from the workflow's process."""

import os

import pytest

from moa.job import process


@pytest.mark.parametrize(
    ("user", "waits"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "1000"}, None)],
)
def test_threads_sleep_at_barriers_unless_the_user_says_how_they_wait(
    user: dict[str, str], waits: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    process.share_processor()
    assert os.environ.get("OMP_WAIT_POLICY") == waits
