"""The Python API: its page's example runs, its policy is the pipeline's own, its front is what the metrics say."""

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import moa.api as moa
from moa.errors import MoaError
from moa.experiment.preferences import lattice
from moa.metrics import fronts, steering
from moa.respond import respond
from moa.stages import reference, train
from moa.store import tables
from moa.store.provenance import text_hash
from tests import tiny_models

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
PROMPTS = list(dict.fromkeys(r.prompt for r in tiny_models.texts()))[:12]
PPO = {"steps": 2, "batch_size": 8, "mini_batch_size": 4, "epochs": 2, "learning_rate": 1e-2}
SETTINGS: dict[str, Any] = {
    "ppo": PPO,
    "generation": {"max_new_tokens": 6, "temperature": 1.0, "batch_size": 8},
    "preferences": {"training": {"divisions": 2}},
    "evaluation": {"reference_responses": 20, "bootstrap": 50},
}


def spread(prompts: list[str], responses: list[str]) -> list[float]:
    """Distinct characters, at most 8."""
    return [float(min(8, len(set(r)))) for r in responses]


OBJECTIVES = {"long": tiny_models.length, "varied": moa.Reward(spread, low=0, high=8)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_base(tmp_path_factory.mktemp("task") / "base")


@pytest.fixture(scope="module")
def policy(base: Path) -> moa.Policy:
    """A larger rank than the default's is of no use here: LoRA 4."""
    spec = moa.Model(source=str(base), lora=tiny_models.LORA)
    return moa.train("linear", spec, PROMPTS, OBJECTIVES, SETTINGS)


def test_the_pages_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The code block on the tiny model, as it stands but for smaller settings; at most 15 lines."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 15
    tiny_models.save_base(tmp_path / "results" / "reviews" / "base")
    monkeypatch.chdir(tmp_path)
    whole = '{"ppo": {"steps": 20}}'
    assert code.count(whole) == 1
    exec(code.replace(whole, "small"), {"prompts": PROMPTS, "held_out": ["The lamp", "My sister"], "small": SETTINGS})
    shown = capsys.readouterr().out
    assert "hypervolume" in shown and "positive 0.75: " in shown and "short 0.25: -" in shown
    assert (tmp_path / "my_policy" / "policy.json").is_file()


def write_inputs(folder: Path, base: Path) -> dict[str, Path]:
    """The pipeline's tables of the same prompts, with two held-out texts."""
    prompts = [{"task": "t", "prompt_id": text_hash(p), "split": "train", "prompt": p} for p in PROMPTS]
    texts = [
        {"task": "t", "text_id": str(i), "split": "heldout", "prompt": "The lamp", "response": f" is good {i}"}
        for i in range(2)
    ]
    tables.write(tables.PROMPTS, prompts, folder / "prompts.parquet")
    tables.write(tables.TEXTS, texts, folder / "texts.parquet")
    return {"prompts": folder / "prompts.parquet", "texts": folder / "texts.parquet", "base": base}


def test_scale_and_policy_are_those_of_the_pipeline(policy: moa.Policy, base: Path, tmp_path: Path) -> None:
    """Stages reference and train on the same prompts: the same normaliser, the same adapter to the last bit."""
    shared = {
        "task": "t",
        "objectives": {"long": {"reward": "length"}, "varied": {"reward": "spread"}},
        "rewards": {
            "length": {"kind": "python", "function": "tests.tiny_models:length"},
            "spread": {"kind": "python", "function": "tests.unit.test_api:spread", "low": 0, "high": 8},
        },
        "model": {"source": "x", "lora": tiny_models.LORA.model_dump()},
        "conditioning": {},
        "generation": SETTINGS["generation"],
    }
    inputs = write_inputs(tmp_path, base)
    outputs = ("responses", "scores", "normaliser", "fluency", "costs", "checkpoints", "out", "curve")
    paths = {**inputs, **{name: tmp_path / f"{name}.parquet" for name in outputs}, "models": []}
    section = {**shared, "evaluation": SETTINGS["evaluation"]}
    reference.main(Namespace(section=json.dumps(section), **paths))
    rows = {r["objective"]: r for r in tables.read(tables.NORMALISER, paths["normaliser"]).to_pylist()}
    for name, columns in policy.normaliser.rows().items():
        assert columns == {column: rows[name][column] for column in columns}
    section = {**shared, "ppo": PPO, "training": lattice(2, 2), "dirichlet": None, "settings": {}}
    given = {"row": "linear", "policy": "policy", "seed": 0, "weights": "null", "depends": ""}
    train.main(Namespace(section=json.dumps(section), **{**paths, "texts": []}, **given))
    theirs = load_file(paths["out"] / "adapter" / "adapter_model.safetensors")
    ours = load_file(policy.save(tmp_path / "saved") / "adapter" / "adapter_model.safetensors")
    assert set(ours) == set(theirs) and all(ours[name].equal(theirs[name]) for name in theirs)
    curve = tables.read(tables.CURVES, paths["curve"]).to_pylist()
    rewards = [(r["step"], r["value"]) for r in curve if (r["quantity"], r["objective"]) == ("reward", "long")]
    assert [(s, v) for s, q, o, v in policy.curve if (q, o) == ("reward", "long")] == rewards


def test_the_front_is_what_the_metrics_say(policy: moa.Policy) -> None:
    front = policy.evaluate(PROMPTS[:5], divisions=2)
    assert front.preferences.tolist() == [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    by_hand = [[np.mean([len(r) for r in said]), np.mean(spread([], said))] for said in front.responses]
    assert front.means == pytest.approx(np.array(by_hand))
    scale = policy.normaliser
    assert front.points == pytest.approx((front.means - scale.low) / (scale.high - scale.low))
    assert front.hypervolume == fronts.hypervolume(front.points, front.reference_point) > 0
    assert front.interval[0] <= front.hypervolume <= front.interval[1]
    for k, name in enumerate(("long", "varied")):
        assert front.tau[name] == steering.kendall_tau(front.preferences[:, k], front.points[:, k])
    assert front.control_error == steering.control_error(front.preferences, front.points)
    assert str(front).splitlines()[0].startswith(f"hypervolume {front.hypervolume:.3f}")
    assert len(str(front).splitlines()) == 2 + 3


def test_a_saved_policy_answers_as_before(policy: moa.Policy, tmp_path: Path) -> None:
    folder, half = policy.save(tmp_path / "saved"), {"long": 0.5, "varied": 0.5}
    again = moa.load(folder, OBJECTIVES)
    said = policy.respond("The lamp", half)
    assert (
        said == policy.respond("The lamp", half) == again.respond("The lamp", half) == respond(folder, "The lamp", half)
    )
    assert again.evaluate(["My"], 2).responses == policy.evaluate(["My"], 2).responses
    saved = load_file(again.save(tmp_path / "twice") / "adapter" / "adapter_model.safetensors")
    assert all(saved[n].equal(t) for n, t in load_file(folder / "adapter" / "adapter_model.safetensors").items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "pama"}, "method 'pama': moa.api trains one policy that reads the preference .* as moc and linear"),
        ({"method": "morlhf"}, "method 'morlhf': moa.api trains one policy"),
        ({"method": "warm_start"}, "method 'warm_start': moa.api trains one policy"),
        ({"method": "grpo"}, "method 'grpo': moa.api trains one policy"),
        ({"method": "linea"}, "there is no method 'linea'. Did you mean 'linear'"),
        ({"base": "nowhere"}, "model nowhere: no usable tokenizer"),
        ({"prompts": "The lamp"}, "prompts: give a list"),
        ({"prompts": []}, "prompts: give a list"),
        ({"objectives": {"long": tiny_models.length}}, "objectives: 1 given"),
        ({"settings": {"ppo": {"stepz": 3}}}, "settings: unknown key 'ppo.stepz'. Did you mean 'steps'"),
        ({"settings": {"ppo": {"steps": 0}}}, "settings: ppo.steps: .*greater than or equal to 1"),
        ({"settings": {"method": {"speed": 1}}}, "methods.linear: unknown key 'speed'"),
        (
            {"settings": {**SETTINGS, "evaluation": {"reference_point": {"lung": 0}}}},
            "evaluation.reference_point: no objective 'lung'. Did you mean 'long'",
        ),
    ],
)
def test_refused(base: Path, change: dict[str, Any], message: str) -> None:
    given = {"method": "linear", "base": base, "prompts": PROMPTS, "objectives": OBJECTIVES, "settings": SETTINGS}
    with pytest.raises(MoaError, match=message):
        moa.train(**{**given, **change})


def test_a_constant_reward_has_no_scale(base: Path) -> None:
    flat = {**OBJECTIVES, "flat": lambda prompts, responses: [1.0] * len(responses)}
    with pytest.raises(MoaError, match=r"reward of objective 'flat' is constant: its scale is \[1, 1\] on 20"):
        moa.train("linear", base, PROMPTS, flat, SETTINGS)


def test_what_is_asked_of_a_policy_is_checked(policy: moa.Policy, tmp_path: Path) -> None:
    for preference, message in (
        ({"long": 1.0}, "preference: no weight for varied"),
        ({"long": 0.9, "varied": 0.3}, "off the simplex"),
        ({"lung": 0.5, "varied": 0.5}, "no objective 'lung'. Did you mean 'long'"),
    ):
        with pytest.raises(MoaError, match=message):
            policy.respond("The lamp", preference)
    with pytest.raises(MoaError, match="prompts: give a list"):
        policy.evaluate([])
    folder = policy.save(tmp_path / "saved")
    with pytest.raises(MoaError, match="policy.json: trained on long, varied; give the reward of each"):
        moa.load(folder, {"long": tiny_models.length, "other": tiny_models.length})
    with pytest.raises(MoaError, match="(no|not readable as a) policy that moa.api saved"):
        moa.load(tmp_path / "none", OBJECTIVES)
