"""Shared by all tests: no hub, few threads, and the finished run of tests/tiny.yaml."""

import os
import shutil
from pathlib import Path

import pytest

from tests.workflow import snake

snake.DEVICES = os.environ.get("CUDA_VISIBLE_DEVICES")
# Tests in this process compare tensors on the CPU; runs of the workflow see the GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that wants the network is a mistake
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("MOA_PARENT", None)  # these tests belong to no Snakemake


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in this same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests stay together when several processes share the work.

    A module's tests do, and so do all that read the finished tiny run. The workflow's come first: two of them take as
    long as a quarter of the others.
    """
    items.sort(key=lambda item: "tests/workflow/" not in item.nodeid)
    for item in items:
        assert isinstance(item, pytest.Function)
        item.add_marker(
            pytest.mark.xdist_group("tiny_run" if "tiny_run" in item.fixturenames else item.nodeid.split("::")[0])
        )


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> snake.Run:
    """Run tests/tiny.yaml to its end in a copy of the repository, once for all processes of the suite.

    Tests that change something take a copy.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        try:
            (tmp_path_factory.getbasetemp().parent / "tiny_run").touch(exist_ok=False)
        except FileExistsError:
            pytest.fail(
                "another process of this suite has made the tiny run: pytest-xdist did not see the groups; use the"
                " versions in requirements-dev.txt"
            )
    directory = snake.copy_project(tmp_path_factory.mktemp("tiny"))
    return snake.run_to_end(directory)


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
