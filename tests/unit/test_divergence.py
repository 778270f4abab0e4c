"""Divergence in every trainer: what broke is named with its cause, the last step is no exception."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moa.errors import Diverged
from moa.experiment.keys import Model
from moa.job.process import Job
from moa.lm import sft, training
from moa.lm.models import broken_parameter
from moa.methods import catalogue
from moa.rewards import objectives
from moa.rl.estimation import Scale
from moa.rl.experience import Task, scored
from moa.trainers import trl_grpo
from moa.trainers.grpo_run import GrpoRun
from tests import tiny_policy, trained
from tests.tiny_grpo import of, tiny, train
from tests.tiny_policy import count_words, loop

SCALE = Scale(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 10.0]))


def task(*rows: Sequence[float]) -> Task:
    """A task whose reward gives these scores."""
    return Task([], lambda p, w: p, lambda p, r: np.array(rows, np.float32), SCALE, [], None)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (np.nan, "NaN or infinite for 1 of 2"),
        (-np.inf, "NaN or infinite for 1 of 2"),
        (1e38, r"too large to compute with \(1e\+38 on a scale from 0 to 10\) for 1 of 2"),
        (-2e9, r"too large to compute with \(-2e\+09 on a scale from 0 to 10\) for 1 of 2"),
    ],
)
def test_a_reward_that_cannot_be_computed_with_is_named(second: float, said: str) -> None:
    with pytest.raises(Diverged, match=f"step 3: the reward of objective 'b' is {said} responses; .*section `rewards`"):
        scored(task([0.5, 5.0], [0.5, second]), ["a", "b"], ["p"] * 2, ["r"] * 2, "step 3")


def test_a_large_reward_that_can_be_computed_with_is_not() -> None:
    """9e8 on a scale of width 10 is 9e7 widths, below 1e8."""
    scores = scored(task([0.5, 9e8], [0.5, 0.0]), ["a", "b"], ["p"] * 2, ["r"] * 2, "step 3")
    torch.testing.assert_close(scores.quantile, torch.tensor([[0.75, 9e7], [0.75, 0.0]]))


def test_what_a_reward_draws_changes_nothing_that_training_draws() -> None:
    """A reward that loads its model in its first call draws then only: a resumed run has that call elsewhere."""

    def drawing(prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        torch.manual_seed(1)
        torch.rand(5)
        return np.zeros((len(responses), 2), np.float32)

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    scored(Task([], lambda p, w: p, drawing, SCALE, [], None), ["a", "b"], ["p"], ["r"], "step 0")
    assert torch.equal(torch.rand(3), expected)


def huge(prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
    scores = count_words(prompts, responses)
    scores[:, 0] = 1e38
    return scores


@pytest.mark.parametrize("kind", ["moc", "grpo"])
def test_huge_scores_stop_the_loop_and_trl_with_the_rewards_name(kind: str, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="step 0: the reward of objective 'a' is too large .* for 12 of 12") as caught:
        if kind == "grpo":
            train(tiny(kind, tmp_path, score=huge))
        else:
            list(loop(kind, tmp_path, score=huge).run())
    assert "learning_rate" not in str(caught.value)


@pytest.mark.parametrize("row", ["modpo", "ric"])
def test_huge_scores_stop_the_others_too(
    row: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives.Objectives, "__call__", lambda self, p, r: np.full((len(r), 2), 1e38, np.float32))
    with pytest.raises(Diverged, match=r"(samples|round 1): the reward of objective 'sentiment' is too large .*1e\+38"):
        trained.run(inputs, tmp_path, row, (0.5, 0.5) if row == "modpo" else None)
    assert not list(tmp_path.rglob("samples.safetensors")), "another attempt would take them"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.write_inputs(tmp_path_factory.mktemp("inputs"))


def enlarge(model: torch.nn.Module, part: str) -> None:
    """Fill trained parameters with 1e30: finite, but what the model makes of them is not."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and part in name:
            parameter.data.fill_(1e30)


@pytest.mark.parametrize(("step", "what"), [(1, "the policy's next-token"), (2, "the finished policy's next-token")])
def test_parameters_too_large_to_compute_with_in_grpo(
    step: int, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling, or the look at the finished policy, meets what the model makes of them."""
    run, real = tiny("grpo", tmp_path, steps=3, checkpoint_every=1), trl_grpo.Recorder._close

    def close(self: trl_grpo.Recorder, number: int, trainer: trl_grpo.Trainer) -> None:
        real(self, number, trainer)
        if number == (0 if step == 1 else 2):
            enlarge(run.actor.model, "lora")

    monkeypatch.setattr(trl_grpo.Recorder, "_close", close)
    expected = f"step {step}: {what} distribution is NaN or infinite; .* Lower ppo.learning_rate or raise ppo.kl.coeff"
    with pytest.raises(Diverged, match=expected):
        train(run)
    assert broken_parameter(run.actor.model) is None


def test_grpos_message_names_the_keys_that_are_in_effect(tmp_path: Path) -> None:
    run: GrpoRun = of(tiny("grpo", tmp_path))
    own = catalogue.load("mine", {"kind": "grpo", "learning_rate": 0.1, "beta": 0.2}, ["a", "b"])
    assert run.remedy == "ppo.learning_rate or raise ppo.kl.coefficient"
    assert GrpoRun(**{**vars(run), "method": own}).remedy == "methods.mine.learning_rate or raise methods.mine.beta"


def test_the_last_update_of_modpo(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the only update the parameters are finite, the loss is not."""
    trained.overshoot(monkeypatch)
    ppo = {"steps": 1, "epochs": 1, "mini_batch_size": 8}
    with pytest.raises(Diverged, match="step 0: the finished policy's loss is NaN or infinite; .* ppo.learning_rate"):
        trained.run(inputs, tmp_path, "modpo", (0.5, 0.5), ppo=ppo)
    assert not (tmp_path / "policy").exists()


def test_the_last_update_of_fine_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning, Rewards-in-Context and reward training share it."""
    real = training.Course.on_log

    def on_log(self: training.Course, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        enlarge(options["model"], "_proj")

    monkeypatch.setattr(training.Course, "on_log", on_log)
    spec = Model.model_validate({"source": "x", "sft": {"steps": 1, "batch_size": 2, "learning_rate": 0.5}})
    assert spec.sft is not None
    examples, tuning = [sft.Example([1, 4, 5, 6, 2], [1, 4, 5, 6, 2])] * 2, sft.Tuning(spec, spec.sft, 2)
    expected = r"SFT step 1: the finished model's loss is NaN or infinite; lower model.sft.learning_rate \(now 0.5\)"
    with pytest.raises(Diverged, match=expected):
        sft.fine_tune(tiny_policy.base(), tiny_policy.tokenizer(), examples, tuning, Job(tmp_path))


def test_a_broken_value_head_names_its_own_rate(tmp_path: Path) -> None:
    run = loop("linear", tmp_path, steps=2, epochs=1, value_learning_rate=1e-3)
    run.optimizer.register_step_post_hook(lambda *_: run.actor.heads.linear.weight.data.fill_(float("nan")))
    with pytest.raises(Diverged, match=r"step 0: parameter linear.weight after .* Lower ppo.value_learning_rate"):
        list(run.run())
