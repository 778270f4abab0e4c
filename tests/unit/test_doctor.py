"""`moa doctor`: what a machine can do, in about ten lines and bounded time, and what an experiment lacks on it."""

import json
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from moa.ahead import doctor, pins
from moa.experiment.schema import load
from moa.lm import models
from moa.plan import Plan
from moa.store.lock import LOCK
from tests import hub_server, tiny_models
from tests.hub_server import Hub

CPU = {"version": "2.13.0", "threads": 2, "mps": False, "gpus": [], "memory": [0, 0]}
NAMES = ["python", "torch", "memory", "disk", "cores", "bitsandbytes", "hub", "browser", "experiment"]
EXPERIMENT: dict[str, Any] = {
    "task": "mine",
    "run": {"methods": ["linear"], "seeds": [0]},
    "data": {"source": "embedded"},
    "model": {"source": "who/tiny"},
    "objectives": {"sentiment": {"reward": "vader"}, "short": {"reward": "short"}},
    "rewards": {"vader": {"kind": "vader"}, "short": {"kind": "conciseness"}},
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub; the working folder and the cache are empty; torch is not asked, but said to see no GPU."""
    monkeypatch.chdir(tmp_path)
    sees(monkeypatch, CPU)
    with hub_server.serving() as found:
        hub_server.use(found, tmp_path / "cache", monkeypatch)
        yield found


def sees(monkeypatch: pytest.MonkeyPatch, torch: dict[str, Any] | None) -> None:
    monkeypatch.setattr(doctor, "PROBE", "raise ImportError" if torch is None else f"print({json.dumps(torch)!r})")


def write(**sections: Any) -> Path:
    path = Path("mine.yaml")
    path.write_text(yaml.safe_dump(EXPERIMENT | sections))
    return path


def of(lines: list[str], name: str) -> str:
    return next(line.removeprefix(name).strip() for line in lines if line.startswith(name))


def test_about_ten_lines_without_an_experiment(server: Hub) -> None:
    lines, whole = doctor.examine()
    assert whole and [line.split()[0] for line in lines] == NAMES
    assert of(lines, "torch") == "2.13.0, CPU, no GPU"
    assert of(lines, "hub").startswith(f"{server.address} answers in 0.")
    assert "on a CPU nf4 and int8 save memory" in of(lines, "bitsandbytes") and "GiB free in" in of(lines, "disk")


def test_devices(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 GiB of memory, 8 of them in use; MPS is named as untested; a torch that does not import is said."""
    gib = 2**30
    sees(monkeypatch, CPU | {"gpus": ["A100"], "memory": [72 * gib, 80 * gib]})
    lines, _ = doctor.examine()
    assert of(lines, "torch") == "2.13.0, CUDA: A100, 72.0 of 80.0 GiB free on the first, which jobs use"
    assert "GPU" not in of(lines, "bitsandbytes")
    sees(monkeypatch, CPU | {"mps": True})
    assert "MPS is there, and untested" in of(doctor.examine()[0], "torch")
    sees(monkeypatch, None)
    lines, whole = doctor.examine(write(model={"source": "scratch", "scratch": {}, "sft": {}}))
    assert "does not import" in of(lines, "torch") and not whole
    assert "  missing: torch: does not import; install the packages again (make setup, or pip install .)" in lines


def test_torch_as_it_is(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe itself, on this machine."""
    monkeypatch.undo()
    probe = subprocess.run([sys.executable, "-c", doctor.PROBE], capture_output=True, text=True, check=True)
    assert json.loads(probe.stdout).keys() == CPU.keys()


def test_what_the_hub_has_is_fetched_by_the_run_and_what_it_has_not_is_missing(server: Hub) -> None:
    server.model("who/tiny").commit({"config.json": b"{}"})
    lines, whole = doctor.examine(write())
    assert whole and of(lines, "experiment") == "mine.yaml has all that it needs"
    assert lines[-1] == "  to be fetched by the run: model: model who/tiny, revision main"
    assert not LOCK.exists(), "nothing is written"
    server.model("who/tiny").gated = True
    lines, whole = doctor.examine(write())
    assert not whole and of(lines, "experiment") == "mine.yaml lacks 1 thing(s) here:"
    assert lines[-1].startswith("  missing: model: model who/tiny, revision main: it is gated; accept its terms at")


def test_a_branch_that_moved_is_said(server: Hub, tmp_path: Path) -> None:
    first = server.folder("who/tiny", tiny_models.save_base(tmp_path / "base"))
    path = write()
    pins.commits(Plan(load(path), str(path)), str(path))
    models.load_base("who/tiny", Plan(load(path), str(path)).experiment.model)
    second = server.model("who/tiny").commit({"config.json": b"{}"})
    lines, whole = doctor.examine(path)
    assert whole and lines[-1] == (
        f"  moved: model who/tiny, revision main is {second} now; runs read {first} until who/tiny@main is deleted from"
        " models.lock.yaml"
    )


def test_offline(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the cache has is there; what it has not is missing; nothing is asked."""
    commit = server.folder("who/tiny", tiny_models.save_base(tmp_path / "base"))
    path = write(model={"source": "who/tiny", "revision": commit})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    lines, whole = doctor.examine(path)
    assert not whole and "HF_HUB_OFFLINE forbids to ask the hub; or name a local folder" in lines[-1]
    assert of(lines, "hub").startswith("offline, by HF_HUB_OFFLINE") and not server.asked
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    models.load_base("who/tiny", Plan(load(path), str(path)).experiment.model, revision=commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    server.asked.clear()
    lines, whole = doctor.examine(path)
    assert whole and not server.asked


def test_nothing_that_hangs_holds_it_up(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub, a browser's search and a driver that never answer: each has its bound, and a line."""
    monkeypatch.setattr(doctor, "SECONDS", 1.0)
    monkeypatch.setattr(doctor, "TORCH_SECONDS", 0.5)
    monkeypatch.setattr(doctor, "PROBE", "import time; time.sleep(60)")
    server.silent = silent = threading.Event()

    def never(*_: object) -> None:
        silent.wait()
        raise webbrowser.Error

    monkeypatch.setattr(webbrowser, "get", never)
    monkeypatch.setattr(doctor, "_look_up", lambda _: silent.wait())
    path, began = write(), time.monotonic()
    lines, whole = doctor.examine(path)
    assert time.monotonic() - began < 20 and not whole
    assert "does not answer within" in of(lines, "hub") or "cannot be reached" in of(lines, "hub")
    assert "does not import within" in of(lines, "torch") and of(lines, "browser").startswith("unknown")
    assert lines[-1] == (
        "  missing: model: model who/tiny, revision main: the hub did not answer within 1 s; or name a local folder as"
        " its source"
    )


def test_what_the_processor_lacks_and_local_mistakes_are_missing_with_their_remedy(server: Hub) -> None:
    path = write(
        model={"source": "./nowhere", "quantisation": "nf4", "dtype": "float16"},
        rewards={"vader": {"kind": "python", "function": "no_such_module:f"}, "short": {"kind": "conciseness"}},
    )
    lines, whole = doctor.examine(path)
    missing = [line for line in lines if line.startswith("  missing: ")]
    assert not whole and len(missing) == 3 and of(lines, "experiment") == "mine.yaml lacks 3 thing(s) here:"
    assert any("no module 'no_such_module'" in line for line in missing)
    assert any("model.source: ./nowhere is no folder, and no hub id" in line for line in missing)
    assert not any("quantisation" in line for line in missing)  # bitsandbytes computes on CPUs, too
    assert "  missing: model.dtype: float16 needs a GPU; set bfloat16 or float32" in missing


def test_the_command(server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0 and 1, and an experiment that is wrong."""
    from moa import cli

    server.model("who/tiny").commit({"config.json": b"{}"})
    for sections, status in (({}, None), ({"model": {"source": "who/else"}}, 1)):
        monkeypatch.setattr("sys.argv", ["moa", "doctor", str(write(**sections))])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code or None) == status
    assert "missing: model: model who/else" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["moa", "doctor", "nowhere.yaml"])
    with pytest.raises(SystemExit, match="error: nowhere.yaml: no such experiment file"):
        cli.main()
