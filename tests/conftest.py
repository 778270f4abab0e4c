"""Shared by all tests: no hub, few threads, and the finished run of tests/tiny.yaml."""

import os
import shutil
from pathlib import Path

import pytest

from tests.workflow import snake

snake.DEVICES = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests in this process compare tensors on the CPU; runs of the workflow see the GPU
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that wants the network is a mistake
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("MOA_PARENT", None)  # these tests belong to no Snakemake


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests stay together when several processes share the work: a module's, and all that read the finished tiny run.

    Those come first, so that the first process has them, then the rest of the workflow's: two of them take as long as a quarter of the others.
    """
    items.sort(key=lambda item: (not reads_tiny_run(item), "tests/workflow/" not in item.nodeid))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("tiny_run" if reads_tiny_run(item) else item.nodeid.split("::")[0]))


def reads_tiny_run(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    return "tiny_run" in item.fixturenames


@pytest.fixture(scope="session", autouse=True)
def alone(request: pytest.FixtureRequest, worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wait in every process but the first, which has the tiny run, until that has ended: it uses two cores, and its processor time is judged."""
    if worker_id not in ("master", "gw0") and any(reads_tiny_run(item) for item in request.session.items):
        snake.wait_for(_ended(tmp_path_factory))


def _ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that says the tiny run has ended, where all processes see it."""
    return tmp_path_factory.getbasetemp().parent / "tiny_run_ended"


@pytest.fixture(scope="session")
def tiny_run(worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> snake.Run:
    """Run tests/tiny.yaml to its end in a copy of the repository, once; tests that change something take a copy."""
    directory = snake.copy_project(tmp_path_factory.mktemp("tiny"))
    try:
        return snake.run_to_end(directory)
    finally:
        if worker_id != "master":
            _ended(tmp_path_factory).touch()


@pytest.fixture
def finished(tiny_run: snake.Run, tmp_path: Path) -> Path:
    """Return a copy of the finished run that a test may change."""
    return Path(shutil.copytree(tiny_run.directory, tmp_path / "finished", symlinks=True))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the repository without results."""
    return snake.copy_project(tmp_path)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data beside the repository; skip where there is none."""
    folder = snake.ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which is not there")
    return folder
