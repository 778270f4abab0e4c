"""GRPO and GDPO through TRL: the scalar reward by hand, TRL's own aggregation, the loop's order, resuming, learning."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import PrinterCallback

from moa.experiment.preferences import lattice
from moa.job.command import Steps
from moa.job.process import Stopwatch
from moa.lm.generation import decode
from moa.rl.loop import Loop, prompt_indices
from moa.testbed.bandit import Arms
from moa.trainers import trl_grpo
from moa.trainers.grpo_run import arguments, data
from tests.tiny_grpo import adapter, make, of, tiny, train
from tests.tiny_policy import arms_loop, count_words, loop


def test_grpo_sums_by_the_preference() -> None:
    rewards = torch.tensor([[1.0, 0.0], [0.2, 0.6], [1.0, 0.0], [0.2, 0.6]])
    preferences = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]])
    # 0.75 * 0.2 + 0.25 * 0.6 = 0.3;  0.25 * 0.2 + 0.75 * 0.6 = 0.5: the other preference turns the order round
    torch.testing.assert_close(make("grpo", 2).scalarise(rewards, preferences), torch.tensor([0.75, 0.3, 0.25, 0.5]))


def test_gdpo_weighs_what_it_has_normalised() -> None:
    rewards = torch.tensor([[0.0, 10.0], [2.0, 4.0], [0.0, 10.0], [2.0, 4.0]])
    preferences = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]])
    # group 1: (0 - 1) / sqrt(2) = -0.7071 and (10 - 7) / sqrt(18) = 0.7071, so S_1 = (-0.75 + 0.25) 0.7071 = -0.3536
    # group 2: the same rewards with the weights exchanged, S_1 = (-0.25 + 0.75) 0.7071 = 0.3536; the second response
    # mirrors the first
    s = 0.5 / 2**0.5
    torch.testing.assert_close(
        make("gdpo", 2).scalarise(rewards, preferences), torch.tensor([-s, s, s, -s]), atol=1e-4, rtol=0
    )
    # GRPO in group 2 as well follows the reward with the larger spread
    assert make("grpo", 2).scalarise(rewards, preferences).tolist() == [2.5, 2.5, 7.5, 3.5]


def test_a_reward_without_spread_in_its_group_says_nothing() -> None:
    rewards = torch.tensor([[0.0, 0.3], [1.0, 0.3]])
    got = make("gdpo", 2).scalarise(rewards, torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    torch.testing.assert_close(got, torch.tensor([-0.5, 0.5]) / 2**0.5, atol=1e-4, rtol=0)


def test_gdpo_with_one_preference_is_trls_normalise_then_sum(tmp_path: Path) -> None:
    """TRL's own aggregation, a reward function per objective and the preference as weights, trains the same adapter."""
    ours, theirs = (tiny("gdpo", tmp_path / name, weights=(0.25, 0.75), steps=1) for name in ("ours", "theirs"))
    untrained = adapter(ours)
    train(ours)

    def one(k: int) -> object:
        def reward(completion_ids: list[list[int]], plain: list[str], **_: object) -> list[float]:
            texts = decode(completion_ids, theirs.actor.tokenizer)
            return theirs.task.scale.apply(torch.from_numpy(theirs.task.score(plain, texts))).quantile[:, k].tolist()

        return reward

    given = arguments(of(theirs), str(tmp_path))
    aggregation = {
        "multi_objective_aggregation": "normalize_then_sum",
        "reward_weights": [0.25, 0.75],
        "scale_rewards": "group",
    }
    given = replace(given, steps_per_generation=None, **aggregation)
    trainer = trl_grpo.Trainer(
        theirs.actor.model,
        reward_funcs=[one(0), one(1)],
        args=given,
        train_dataset=data(of(theirs)),
        processing_class=theirs.actor.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    theirs.actor.model.delete_adapter("ref")
    torch.testing.assert_close(adapter(ours), adapter(theirs), atol=1e-5, rtol=1e-4)
    assert (adapter(ours) - untrained).abs().max() > 1e-3


def test_steps_take_the_loops_prompts_and_every_preference(tmp_path: Path) -> None:
    run = tiny("grpo", tmp_path, batch_size=12, mini_batch_size=6)  # 12 / 4 = 3 groups per step, 3 preferences
    rows = data(replace(of(run), seed=5))
    assert len(rows) == 3 * 3
    for step in range(3):
        mine = [rows[3 * step + i] for i in range(3)]
        assert [r["plain"] for r in mine] == [run.task.prompts[i] for i in prompt_indices(9, 3, 5, step)]
        assert sorted(tuple(r["preference"]) for r in mine) == lattice(2, 2)
        assert [r["prompt"] for r in mine] == [run.task.text_of(r["plain"], tuple(r["preference"])) for r in mine]


@pytest.mark.parametrize("kind", ["grpo", "gdpo"])
def test_as_many_responses_as_the_shared_loop_samples_in_whole_groups(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen, first = tiny(kind, tmp_path), [], []
    scored = trl_grpo.Rewards.__call__

    def noting(self: trl_grpo.Rewards, completion_ids: Sequence[list[int]], **columns: object) -> list[float]:
        first.extend(row[0] for row in completion_ids)
        return scored(self, completion_ids=completion_ids, **columns)  # type: ignore[arg-type]

    monkeypatch.setattr(trl_grpo.Rewards, "__call__", noting)

    def score(prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        seen.append((list(prompts), list(responses)))
        return count_words(prompts, responses)

    run.task.score = score
    curve, tokens = train(run)
    assert [len(r) for _, r in seen] == [12, 12, 12]  # ppo.steps batches of ppo.batch_size
    assert all(len(set(p[i : i + 4])) == 1 for p, _ in seen for i in (0, 4, 8))
    assert len(first) == 36 and run.actor.tokenizer.eos_token_id not in first, "no response is its end token alone"
    per_step = {s: v for s, q, _, v in curve if q == "response_tokens"}
    assert tokens == sum(12 * v for v in per_step.values())
    kl = {s: v for s, q, _, v in curve if q == "kl"}
    assert kl[0] == 0.0 and kl[2] > 0.0
    assert {(q, o) for _, q, o, _ in curve} >= {
        ("reward", "a"),
        ("normalised_reward", "b"),
        ("weight", "a"),
        ("entropy", "all"),
        ("clip_fraction", "all"),
    }


def test_the_same_seed_trains_the_same_policy(tmp_path: Path) -> None:
    first, second = tiny("grpo", tmp_path / "1", steps=2), tiny("grpo", tmp_path / "2", steps=2)
    train(first)
    train(second)
    assert torch.equal(adapter(first), adapter(second))
    assert list(first.actor.model.peft_config) == ["default"]  # TRL's reference adapter is gone


@pytest.mark.parametrize("stop", [1, 3])
def test_resuming_gives_the_policy_of_never_stopping(stop: int, tmp_path: Path) -> None:
    """Rates fall linearly, Adam has its moments, the KL's weight adapts and dropout draws.

    All go on where the checkpoint has them.
    """

    def make(folder: str) -> Loop:
        return tiny("grpo", tmp_path / folder, steps=5, checkpoint_every=1, schedule="linear", epochs=2)

    whole = make("whole")
    curve, tokens = train(whole, micro=6)

    class Pulled(Steps):
        def tell(self, step: int, describe: Callable[[], str]) -> None:
            if step + 1 == stop:
                raise RuntimeError("pulled the plug")

    stopped, resumed = make("parts"), make("parts")
    with pytest.raises(RuntimeError, match="pulled the plug"):
        trl_grpo.train(of(stopped, 6), Pulled("", 5))
    watch = Stopwatch()
    again, count = train(resumed, 6, watch=watch)
    assert adapter(resumed).equal(adapter(whole)) and count == tokens
    clock = ("seconds", "tokens_per_second", "memory")
    assert [row for row in again if row[1] not in clock] == [row for row in curve if row[1] not in clock]
    assert 0 < watch.earlier_seconds < watch.seconds and 0 < watch.earlier_cpu_seconds < watch.cpu_seconds
    assert sorted({row[0] for row in again}) == [0, 1, 2, 3, 4]


def test_the_kl_weight_follows_the_shared_loops_rule_or_stays(tmp_path: Path) -> None:
    run = tiny("grpo", tmp_path / "1", kl={"coefficient": 0.05, "target": 1e-6, "horizon": 60.0})
    weights = [v for _, q, _, v in train(run)[0] if q == "kl_coefficient"]
    # KL 0 at step 0 is 100 % below the target, which counts as 20 %: 0.05 (1 - 0.2 * 12 / 60); at step 1 it is far
    # above: (1 + 0.2 * 12 / 60)
    assert weights == pytest.approx([0.05, 0.05 * 0.96, 0.05 * 0.96 * 1.04])
    fixed = loop("grpo", tmp_path / "2", settings={"group_size": 4, "beta": 0.3}, steps=2)
    assert [v for _, q, _, v in train(fixed)[0] if q == "kl_coefficient"] == [0.3, 0.3]


def test_neither_checkpointing_nor_micro_batches_change_the_policy(tmp_path: Path) -> None:
    first, second = tiny("gdpo", tmp_path / "1", steps=2), tiny("gdpo", tmp_path / "2", steps=2)
    train(first, micro=6)
    train(second, micro=2, checkpointing=True)
    torch.testing.assert_close(adapter(first), adapter(second), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["grpo", "gdpo"])
def test_it_learns_an_arm_per_preference(kind: str, seed: int, tmp_path: Path) -> None:
    """Arm x = p_1 is best for p. A neighbour costs (1/4)^2 = 0.0625.

    In five seeds each the worst preference loses 0.003 to 0.065, in one of ten 0.25.
    """
    arms, neighbour = Arms(divisions=4), 0.0625
    run = arms_loop(
        kind,
        tmp_path,
        arms,
        seed,
        steps=50,
        batch_size=160,
        mini_batch_size=80,
        learning_rate=3e-3,
        schedule="linear",
        checkpoint_every=50,
    )
    train(run, micro=80)
    texts = [run.task.text_of("", p) for p in run.task.training]
    rows = run.actor.tokenizer(texts, return_tensors="pt").input_ids
    with torch.no_grad():
        # the first four tokens are special
        chosen = run.actor.model(input_ids=rows).logits[:, -1].softmax(1)[:, 4 : 4 + arms.actions]
    preferences = torch.tensor(run.task.training)
    loss = (preferences @ arms.table.T).amax(1) - (preferences * (chosen @ arms.table)).sum(1)
    assert float(chosen[:, arms.optimal].sum(1).min()) > 0.95
    assert float(loss.max()) < 2 * neighbour
    position = chosen @ arms.position
    assert float(position[-1] - position[0]) > 0.7


def test_responses_end_with_every_end_token(tmp_path: Path) -> None:
    """'good' ends a response, too: nothing follows it, it is trained on, and it is no text."""
    run = tiny("grpo", tmp_path, steps=2)
    end = run.actor.tokenizer.convert_tokens_to_ids("good")
    run.actor.decoding = replace(run.actor.decoding, stop=("good",))
    seen: list[tuple[list[str], list[list[int]]]] = []
    called = trl_grpo.Rewards.__call__

    def watch(self: trl_grpo.Rewards, *args: object, **columns: object) -> list[float]:
        seen.append(columns["completion_ids"])
        return called(self, *args, **columns)

    texts: list[str] = []
    score = run.task.score
    run.task.score = lambda prompts, responses: (texts.extend(responses), score(prompts, responses))[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trl_grpo.Rewards, "__call__", watch)
        curve, _ = train(run)
    rows = [row for batch in seen for row in batch]
    assert any(end in row for row in rows) and not any(end in row[:-1] for row in rows), "the last token alone"
    assert not any("good" in text for text in texts)
    ended = sum(end in row or run.actor.tokenizer.eos_token_id in row for row in rows) / len(rows)
    told = [value for _, quantity, _, value in curve if quantity == "finished_rate"]
    assert sum(told) / len(told) == pytest.approx(ended)
