"""What the benchmark scripts return, at tiny sizes: the numbers' meaning, never their speed."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import mutation, pama_cost
from benchmarks.step.world import LENGTHS
from moa.experiment.keys import Lora, Scratch
from moa.experiment.schema import load
from moa.store import tables
from tests import tiny_models

SCRATCH = Scratch(vocabulary=64, hidden=16, layers=1, heads=2, feed_forward=16, context=32)


@pytest.fixture(scope="module")
def work() -> pama_cost.Work:
    return pama_cost.work(
        SCRATCH, Lora(rank=2, alpha=4, dropout=0.0, targets="all-linear"), batch=3, prompt=4, response=5
    )


def test_slope_is_the_exponent() -> None:
    assert pama_cost.slope([1, 10, 100], [3, 300, 30_000]) == pytest.approx(2)


@pytest.mark.parametrize("way", pama_cost.WAYS)
def test_every_way_returns_the_gradient_of_its_weights(way: str, work: pama_cost.Work) -> None:
    """At ratio 1 the loss is linear in the advantages.

    So its gradient is the weighted sum of the objectives' gradients.
    """
    advantages = torch.randn(3, 3, 5)
    gradient, c = pama_cost.WAYS[way](work, advantages)
    assert c.min() >= 0 and float(c.sum()) == pytest.approx(1)
    alone = torch.stack([pama_cost.flat_gradient(work, pama_cost.logprobs(work), a, keep=False) for a in advantages])
    torch.testing.assert_close(gradient, c @ alone, atol=1e-6, rtol=1e-4)
    assert float(gradient.norm()) > 0


def test_mgda_has_the_shortest_gradient(work: pama_cost.Work) -> None:
    advantages = torch.randn(4, 3, 5)
    shortest = float(pama_cost.by_gradients(work, advantages)[0].norm())
    assert all(
        shortest <= float(other(work, advantages)[0].norm()) + 1e-6
        for other in (pama_cost.by_advantages, pama_cost.by_closed_form)
    )


def test_a_runs_own_responses_have_group_relative_advantages_of_letters(tmp_path: Path) -> None:
    """u = 1 at the policy that drew them; within a group and a response's tokens advantages are centred and equal."""
    tiny_models.save_base(tmp_path / "base")
    prompts = [
        {"task": "t", "prompt_id": str(k), "split": "train", "prompt": p}
        for k, p in enumerate(["The lamp is", "My", "This", "A chair", "More"])
    ]
    tables.write(tables.PROMPTS, prompts, tmp_path / "prompts.parquet")
    found, advantages_of = pama_cost.rollouts(tmp_path, load(Path("config.yaml")))
    with torch.no_grad():
        torch.testing.assert_close(pama_cost.logprobs(found) * found.response_mask, found.old * found.response_mask)
    advantages = advantages_of(3)
    assert advantages.shape == (3, *found.response_mask.shape)
    first = advantages[:, :, 0].view(3, 4, 4)  # every response has a first token; four to a prompt
    assert float(first.abs().max()) > 0.5 and float(first.sum(2).abs().max()) < 1e-4
    torch.testing.assert_close(advantages, first.flatten(1)[:, :, None] * found.response_mask)
    gradient, c = pama_cost.by_gradients(found, advantages)
    assert float(c.sum()) == pytest.approx(1) and torch.isfinite(gradient).all()


def test_rows_and_page(work: pama_cost.Work) -> None:
    rows = (
        pama_cost.closed_form_rows([4, 8], 2)
        + pama_cost.min_norm_rows([3, 5], 2)
        + pama_cost.step_rows(work, [2, 4], 2, partial(pama_cost.random_advantages, work))
    )
    assert len(rows) == 2 + 2 * 2 + 2 * 3
    assert all(0 < r["fastest"] <= r["median"] <= r["slowest"] and r["repeats"] == 2 for r in rows)
    d = sum(p.numel() for p in pama_cost.trainable(work))
    stored = {(r["way"][:4], r["n"]): r["floats"] for r in rows if r["part"] == "step"}
    assert stored["MGDA", 4] == 4 * d and stored["PAMA", 4] == d
    assert all(np.isfinite(r["median"]) for r in rows)
    page = pama_cost.page(rows, "python x.py", "a machine")
    assert page.count("MGDA: n backward passes") == 3  # two sizes and a slope


def test_a_mutants_change_is_named_and_only_failing_tests_kill(tmp_path: Path) -> None:
    """Of three mutants of one function a test noticed the first, and none the second.

    Nothing reached the third, which is code 33.
    """
    source = "def x_half__mutmut_orig(x=1):\n    y = x\n    return y / 2\n"
    for number, last in ((1, "y * 2"), (2, "y / 3"), (3, "None")):
        source += f"def x_half__mutmut_{number}(x=1):\n    y = x\n    return {last}\n"
    (tmp_path / "mutants").mkdir()
    (tmp_path / "mutants" / "m.py").write_text(source)
    codes = {f"moa.m.x_half__mutmut_{number}": code for number, code in ((1, 1), (2, 0), (3, 33))}
    (tmp_path / "mutants" / "m.py.meta").write_text(json.dumps({"exit_code_by_key": codes}))
    page = mutation.page(mutation.read(tmp_path, ["m.py"])).splitlines()
    assert page[2:4] == ["| m.py | 3 | 1 | 2 | 33.3 % |", "| all | 3 | 1 | 2 | 33.3 % |"]
    assert page[-2:] == [
        "- m.x_half__mutmut_2: `return y / 2 -> return y / 3`",
        "- m.x_half__mutmut_3: `return y / 2 -> return None` (exit code 33)",
    ]


def test_the_configured_files_and_tests_exist() -> None:
    text = mutation.configuration(mutation.FILES)
    named = [line.strip() for line in text.splitlines() if line.startswith(("    moa/", "    tests/"))]
    assert len(named) == len(mutation.FILES) + len(mutation.TESTS)
    assert all((mutation.ROOT / name).is_file() for name in named)
    for slow in mutation.SLOW:
        file, _, test = slow.partition("::")
        assert f"def {test.partition('[')[0]}(" in (mutation.ROOT / "tests" / "unit" / file).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_arms_of_a_step_do_the_same_work(tmp_path: Path) -> None:
    """In a process of its own: the script times by wrapping functions. 64 forced lengths have 1 900 tokens in all."""
    command = [sys.executable, "-m", "benchmarks.step", "--shape", "tiny", "--pairs", "1"]
    found = subprocess.run(
        [*command, "--arms", "ours", "gae", "trl", "plain", "--out", str(tmp_path / "step.parquet")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    rows = pq.read_table(tmp_path / "step.parquet").to_pylist()
    assert {r["response_tokens"] for r in rows} == {4 * sum(LENGTHS)} == {1900}
    for arm in ("ours", "gae", "trl", "plain"):
        phases = {r["phase"] for r in rows if r["arm"] == arm}
        assert phases >= {"rollout", "scoring", "reading", "update"}
    assert all(r["seconds"] > 0 for r in rows if r["phase"] != "other")
    assert "| least work |" in found.stdout


@pytest.mark.slow
def test_what_a_gpu_is_asked_is_rehearsed_in_small(tmp_path: Path) -> None:
    """Every part does the same on tiny shapes, and the table has a row per arm of each."""
    root = Path(__file__).parents[2]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "benchmarks/gpu_check.sh", str(tmp_path / "found"), "7b small"],
        cwd=root,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "FAILED" not in done.stdout and done.returncode == 0, done.stdout + done.stderr
    parts = ["step_48_gb", "tiny_run", "step_24_gb", "step_middle", "step_peers"]
    assert [line.removesuffix(": done") for line in done.stdout.splitlines() if line.endswith(": done")] == parts
    table = (tmp_path / "found" / "table.md").read_text()
    assert table.count("| ours |") == 4 and table.count("| trl |") == 1 and table.count("| plain |") == 1
    assert (tmp_path / "found" / "run" / "reports" / "tiny.html").is_file()
