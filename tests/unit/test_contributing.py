"""The worked examples of CONTRIBUTING.md, run exactly as they stand."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from moa import method, methods, trainers
from moa.experiment import keys, schema
from moa.experiment.rewards import Python
from moa.methods import catalogue
from moa.rewards import scoring
from moa.stages import prompts as stage
from moa.store import tables
from tests import trained

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def block(after: str, language: str) -> str:
    """The first fenced block of `language` after the words `after`."""
    found = re.search(rf"{re.escape(after)}.*?```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found, f"CONTRIBUTING.md has no {language} block after {after!r}"
    return found[1]


def test_add_a_method(tmp_path: Path) -> None:
    path = tmp_path / "uniform.py"
    path.write_text(block("## Add a method", "python"))
    spec = importlib.util.spec_from_file_location("uniform", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    uniform = module.Method("uniform", method.Settings(), ["a", "b"])
    advantages = torch.tensor([[[2.0]], [[4.0]]])
    got = uniform.combine(
        method.Batch(advantages, torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), method.Scores(*torch.zeros(2, 1, 2)))
    )
    assert got.advantages.tolist() == [[3.0]]  # (2 + 4) / 2, although the preference is (1, 0)


def test_an_experiment_plans_the_added_method(tmp_path: Path) -> None:
    """In a copy of the package, where the catalogue finds the file as it finds every other."""
    shutil.copytree(ROOT / "moa", tmp_path / "moa", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "moa" / "methods" / "uniform.py").write_text(block("## Add a method", "python"))
    experiment = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text(encoding="utf-8"))
    experiment["run"]["methods"] = ["linear", "uniform"]
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    code = (
        "import json\nfrom pathlib import Path\nfrom moa import plan\nfrom moa.experiment import schema\nplan ="
        " plan.Plan(schema.load(Path('experiment.yaml')), 'experiment.yaml')\ncodes = [plan.code('train', row=row) for"
        " row in ('linear', 'uniform')]\nprint(json.dumps([sorted(plan.policies), plan.train('uniform').settings,"
        " len(plan.train('uniform').training), codes[0] != codes[1]]))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    policies, settings, training, own_code = json.loads(ran.stdout)
    assert policies == [["linear", "policy"], ["uniform", "policy"]]
    assert settings == {"kind": "uniform"}
    assert training > 1, "a conditioned policy sees the training preferences"
    assert own_code, "the method's file is part of its jobs' code hash"


def test_add_a_method_with_a_trainer_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage trains it: a policy's folder and a curve come out, and the adapter has moved.

    The two files lie beside the packages' own; the test above shows that the catalogue finds a file in its folder.
    """
    for package in (methods, trainers):
        name = package.__name__.removeprefix("moa.")
        (tmp_path / name).mkdir()
        code = block(f"`moa/{name}/distilled.py`:", "python")
        (tmp_path / name / "distilled.py").write_text(code, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / name)])
        monkeypatch.setitem(sys.modules, f"{package.__name__}.distilled", None)  # is forgotten after the test
        del sys.modules[f"{package.__name__}.distilled"]
        monkeypatch.setattr(package, "distilled", None, raising=False)
    found = [*catalogue.names(), "distilled"]
    monkeypatch.setattr(catalogue, "names", lambda: found)
    (tmp_path / "in").mkdir()
    out = trained.run(trained.write_inputs(tmp_path / "in"), tmp_path / "out", "distilled", n=2)
    card = json.loads((out / "policy" / "policy.json").read_text(encoding="utf-8"))
    assert (card["method"], card["conditioned"]) == ("distilled", True)
    assert [row[:3] for row in trained.curve(out)] == [
        (step, "normalised_reward", objective) for step in range(4) for objective in ("sentiment", "conciseness")
    ]
    weights = load_file(out / "policy" / "adapter" / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name), "untrained it is 0"


def test_add_a_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(block("## Add a reward", "python"))
    monkeypatch.chdir(tmp_path)
    rewards = yaml.safe_load(block("## Add a reward", "yaml"))["rewards"]
    spec = Python.model_validate(rewards["exclaims"])
    got = scoring.score("exclaims", scoring.load("exclaims", spec, []), ["p"] * 3, ["Wow! Yes!", "no", "!!!!!"], None)
    assert got.values.tolist() == [2.0, 0.0, 3.0]


def test_add_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.loads(block("## Add a data set", "json"))
    lines = [
        {**line, "question": f"{line['question']} Case {word}."}
        for word in (f"{a}{b}" for a in "abcdefgh" for b in "klmnopqr")
    ]
    (tmp_path / "tickets.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.chdir(tmp_path)
    section = schema.PromptsSection(
        task="tickets", data=keys.Data.model_validate(yaml.safe_load(block("## Add a data set", "yaml"))["data"])
    )
    out = SimpleNamespace(
        section=section.model_dump_json(), prompts=Path("p.parquet"), texts=Path("t.parquet"), costs=Path("c.parquet")
    )
    stage.main(out)  # type: ignore[arg-type]
    splits = tables.read(tables.PROMPTS, out.prompts)["split"].to_pylist()
    assert (splits.count("train"), splits.count("evaluation")) == (30, 8)
    assert set(tables.read(tables.TEXTS, out.texts)["response"].to_pylist()) == {line["answer"]}
