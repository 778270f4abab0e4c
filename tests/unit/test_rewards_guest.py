"""A user's reward is a guest: whatever it changes, the run's surroundings are as they were, and its seeds, too."""

import io
import locale
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from moa.errors import Ended, MoaError
from moa.job import command
from moa.rewards import python
from moa.rewards.guest import PRINTED, Room
from moa.rewards.python import PART, PythonScorer


def surroundings() -> dict[str, object]:
    """Return everything that a run's results, or its next step, could depend on."""
    mask = os.umask(0o022)
    os.umask(mask)
    return {
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "path": (id(sys.path), list(sys.path)),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "random": random.getstate(),
        "numpy": str(np.random.get_state()),
        "errors": np.geterr(),
        "torch": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "threads": (torch.get_num_threads(), [(lib["filepath"], lib["num_threads"]) for lib in threadpool_info()]),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1)],
        "alarm": signal.getitimer(signal.ITIMER_REAL),
        "recursion": sys.getrecursionlimit(),
        "locale": locale.setlocale(locale.LC_ALL),
        "umask": mask,
        "log": (logging.root.level, logging.root.manager.disable, list(logging.root.handlers)),
    }


def change_everything(folder: Path) -> None:
    os.chdir(folder)
    os.environ["MOA_GUEST"] = "was here"
    os.environ.pop("PATH")
    sys.path = [str(folder)]
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), io.StringIO(), io.StringIO()
    random.seed(1)
    np.random.seed(1)
    np.seterr(all="raise")
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
    torch.set_num_threads(torch.get_num_threads() + 1)
    warnings.simplefilter("error")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 3600)
    sys.setrecursionlimit(5_000)
    locale.setlocale(locale.LC_ALL, "C" if locale.setlocale(locale.LC_ALL) != "C" else "C.UTF-8")
    os.umask(0o000)
    logging.disable(logging.CRITICAL)
    logging.root.setLevel(logging.ERROR)
    logging.root.handlers.clear()


def leave(how: str) -> None:
    if how == "raises":
        raise ValueError("no")
    if how == "exits":
        sys.exit(2)
    if how == "interrupted":
        raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["returns", "raises", "exits", "interrupted"])
def test_nothing_that_a_guest_changes_stays(how: str, tmp_path: Path) -> None:
    seen = []

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        before = surroundings()
        change_everything(tmp_path)
        after = surroundings()
        seen.append([name for name in before if before[name] == after[name]])
        leave(how)
        return [0.0 for _ in responses]

    before = surroundings()
    if how == "returns":
        PythonScorer("own", reward).score(["p"], ["r"])
    else:
        with pytest.raises(MoaError, match="^reward own: "):
            PythonScorer("own", reward).score(["p"], ["r"])
    after = surroundings()
    assert seen == [[]]  # the function did change each of them
    assert [name for name in before if before[name] != after[name]] == []


def test_importing_the_users_module_changes_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guest_module.py").write_text(
        "import os, sys, torch\nos.environ['MOA_GUEST'] = '1'\ntorch.set_default_dtype(torch.float64)\n"
        "torch.manual_seed(3)\nsys.path.insert(0, 'mine')\n"
        "def score(p, r): return [float(os.environ['MOA_GUEST'] == '1' and sys.path[0] == 'mine') for _ in r]\n"
        "def leaves(p, r):\n    sys.exit('enough')\n"
    )
    (tmp_path / "guest_exits.py").write_text("raise SystemExit(4)")
    monkeypatch.chdir(tmp_path)
    before = surroundings()
    scorer = python.load("own", python.Python(kind="python", function="guest_module:score"), [], None)
    assert [name for name, value in surroundings().items() if value != before[name]] == []
    # What the module set for itself it finds again at every call.
    assert [scorer.score(["p"], ["r"]).values.tolist() for _ in range(2)] == [[1.0], [1.0]]
    with pytest.raises(
        MoaError, match=r"reward own: importing 'guest_exits' ended the program, exit\(4\); correct the"
    ):
        python.load("own", python.Python(kind="python", function="guest_exits:score"), [], None)
    assert [name for name, value in surroundings().items() if value != before[name]] == []


def test_a_signal_from_outside_is_nobodys_exit() -> None:
    """The handler of a job raises `Ended` in the middle of the user's function."""

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        signal.raise_signal(signal.SIGTERM)
        return [0.0]

    before = signal.signal(signal.SIGTERM, command._end)
    try:
        with pytest.raises(Ended, match=r"ended from outside \(SIGTERM\).*\(reward own was at work\)"):
            PythonScorer("own", reward).score(["p"], ["r"])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_guest_may_remove_the_folder_that_it_is_in(tmp_path: Path) -> None:
    room, here = Room(), os.getcwd()
    with room.visit():
        (tmp_path / "gone").mkdir()
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
    assert os.getcwd() == here and room.folder is None


def test_what_a_guest_prints_goes_to_the_log_as_escapes_and_ends_somewhere(capsys: pytest.CaptureFixture[str]) -> None:
    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        print("\x1b[2Jhello")
        for _ in range(1_000):
            print("x" * 1_000, file=sys.stderr)
        return [0.0]

    PythonScorer("own", reward).score(["p"], ["r"])
    shown = capsys.readouterr()
    assert shown.out == "" and "\x1b" not in shown.err and r"\u001b[2Jhello" in shown.err
    assert shown.err.count(f"(a reward printed more than {PRINTED} characters; the rest is left out)") == 1
    assert PRINTED < len(shown.err) < PRINTED + 200  # of a million


def test_the_parts_are_the_same_for_a_slow_and_a_fast_function(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 70 responses 32, 32 and 6 are asked for; by the test's clock each part takes eleven seconds."""
    now, asked = [0.0], []
    monkeypatch.setattr(command.time, "perf_counter", lambda: now[0])

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        now[0] += 11
        asked.append(len(responses))
        return [float(r) for r in responses]

    texts = [str(n) for n in range(70)]
    with caplog.at_level(logging.INFO, "moa"):
        found = PythonScorer("own", reward).score(["p"] * 70, texts).values
    assert found.tolist() == [float(n) for n in range(70)] and asked == [PART, PART, 70 - 2 * PART]
    # 11 s for 32: 11 / 32 * 38 = 13 s left; 22 s for 64: 22 / 64 * 6 = 2 s left.
    assert caplog.messages == ["reward own: 32 of 70 responses  ETA 0:13", "reward own: 64 of 70 responses  ETA 0:02"]


def test_a_fast_function_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    function: Callable[[list[str], list[str]], list[float]] = lambda p, r: [0.0] * len(r)  # noqa: E731
    with caplog.at_level(logging.INFO, "moa"):
        PythonScorer("own", function).score(["p"] * 70, ["r"] * 70)
    assert caplog.messages == []
