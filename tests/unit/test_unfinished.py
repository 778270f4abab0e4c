"""Responses that the limit of new tokens cut: kept, left out of the loss, or penalised, by the loop and by TRL."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moa.lm.generation import Decoding, Rollout
from moa.method import Combination, Scores
from moa.rl.experience import Asked, Experience
from moa.rl.loop import Loop
from moa.rl.reading import read_all
from moa.trainers import trl_grpo
from moa.trainers.grpo_run import arguments, data
from moa.trainers.ppo import describe
from tests.tiny_grpo import adapter, of, tiny, train
from tests.tiny_policy import loop

GROUPS = {"advantages": "group", "group_size": 4}


def experience(run: Loop) -> Experience:
    """Three responses of 2, 3 and 1 tokens with advantages 1, 10 and 4 per token; the second was cut."""
    ids = torch.tensor([[1, 11, 4, 2, 0], [1, 12, 4, 5, 6], [1, 13, 4, 0, 0]])
    response_mask = torch.tensor([[1.0, 1, 0], [1, 1, 1], [1, 0, 0]])
    mask = torch.cat([torch.ones(3, 2), response_mask], 1).long()
    rollout = Rollout(ids, mask, response_mask, torch.tensor([True, False, True]), ["good", "good bad short", "good"])
    seen = read_all(run.actor, rollout, 3, sensitive=False)
    cut = run.ppo.unfinished == "leave_out"
    advantages = torch.tensor([[1.0], [10.0], [4.0]]) * response_mask
    none = torch.zeros(2, 3, 3)
    return Experience(
        rollout=rollout,
        mismatch=0.0,
        loss_mask=response_mask * rollout.finished[:, None] if cut else response_mask,
        preferences=torch.full((3, 2), 0.5),
        scores=Scores(torch.zeros(3, 2), torch.zeros(3, 2)),
        extra=torch.zeros(3, 0),
        seen=seen,
        returns=none,
        advantages=none,
        combination=Combination(advantages, torch.ones(2)),
    )


@pytest.mark.parametrize(("unfinished", "expected"), [("keep", -6.0), ("leave_out", -2.0)])
def test_the_loss_is_a_mean_over_the_tokens_that_are_not_left_out(
    unfinished: str, expected: float, tmp_path: Path
) -> None:
    """At ratio 1 the surrogate is minus the mean advantage of a token.

    keep: (2 * 1 + 3 * 10 + 1 * 4) / 6 = 6.     leave_out: (2 * 1 + 1 * 4) / 3 = 2.
    """
    run = loop(
        "linear", tmp_path, unfinished=unfinished, batch_size=3, mini_batch_size=3, **{**GROUPS, "group_size": 3}
    )
    run.updater.run(experience(run), 0, 0.0)
    assert run.updater.seen["policy_loss"][0] == pytest.approx(expected)


def test_a_mini_batch_of_nothing_but_cut_responses_makes_no_update(tmp_path: Path) -> None:
    """Adam has momentum from the step before, and still the policy stays."""
    run = loop("linear", tmp_path, unfinished="leave_out", batch_size=3, mini_batch_size=1, epochs=1)
    whole = experience(run)
    run.updater._mini_batch(whole, torch.tensor([0]), 0, 0.1)
    before = adapter(run)
    assert run.updater._mini_batch(whole, torch.tensor([1]), 0, 0.1) == 0.0
    assert torch.equal(adapter(run), before)
    run.updater._mini_batch(whole, torch.tensor([2]), 0, 0.1)
    assert not torch.equal(adapter(run), before)


@pytest.mark.parametrize("advantages", [{}, GROUPS])
def test_a_whole_batch_of_cut_responses_teaches_nothing(advantages: dict[str, object], tmp_path: Path) -> None:
    """One new token, and never the end token first: every response is cut."""
    run = loop("moc", tmp_path, unfinished="leave_out", steps=2, **advantages)
    run.actor.decoding = Decoding(1, 1.0, 1.0)
    before = adapter(run)
    list(run.run())
    assert torch.equal(adapter(run), before)
    assert run.value("finished_rate") == 0.0 and "  100 % cut  " in describe(run)
    assert all(value == value for _, _, _, value in run.curve), "nothing was divided by 0"


def collected(run: Loop) -> Experience:
    torch.manual_seed(0)
    prompts, preferences = [f"p{i // 4}" for i in range(12)], torch.full((12, 2), 0.5)
    return run.collector.collect(Asked(0, 0, prompts, prompts, preferences), 0.0, 12, 12)


def test_a_penalty_is_taken_from_every_reward_of_a_cut_response(tmp_path: Path) -> None:
    """Advantages are rewards less their group's mean, so a penalty of 0.5 moves them by -0.5 (u - mean u), u = cut."""
    plain, dear = (
        collected(loop("linear", tmp_path / str(penalty), unfinished_penalty=penalty, **GROUPS)) for penalty in (0, 0.5)
    )
    assert plain.rollout.texts == dear.rollout.texts
    cut = 1 - plain.rollout.finished.float()
    assert 0 < cut.sum() < 12
    moved = -0.5 * (cut - cut.view(3, 4).mean(1).repeat_interleave(4))
    for k in range(2):
        got = dear.advantages[k] - plain.advantages[k]
        torch.testing.assert_close(got, moved[:, None] * plain.rollout.response_mask)
    assert torch.equal(plain.scores.quantile, dear.scores.quantile), "the curve shows what the rewards said"


def test_what_is_left_out_still_counts_in_its_groups_baseline(tmp_path: Path) -> None:
    kept, left = (collected(loop("linear", tmp_path / u, unfinished=u, **GROUPS)) for u in ("keep", "leave_out"))
    assert torch.equal(kept.advantages, left.advantages)
    assert torch.equal(kept.loss_mask, kept.rollout.response_mask)
    assert torch.equal(left.loss_mask, left.rollout.response_mask * left.rollout.finished[:, None])


def test_grpo_leaves_cut_responses_out_as_trl_does(tmp_path: Path) -> None:
    run = tiny("grpo", tmp_path, steps=1, unfinished="leave_out")
    given = arguments(of(run, 6), str(tmp_path))
    rewards = trl_grpo.Rewards(run.method, run.task, run.actor)  # type: ignore[arg-type]
    trainer = trl_grpo.Trainer(
        run.actor.model,
        reward_funcs=rewards,
        args=given,
        train_dataset=data(of(run)),
        processing_class=run.actor.tokenizer,
    )
    trainer.model.train()
    made = trainer._generate_and_score_completions([row for row in data(of(run)) for _ in range(4)])
    ended = (made["completion_ids"] == run.actor.tokenizer.eos_token_id).any(1)
    assert 0 < int(ended.sum()) < 12
    assert torch.equal(made["completion_mask"].any(1), ended)
    assert int(made["num_items_in_batch"]) == int(made["completion_mask"].sum())
    assert not arguments(of(tiny("grpo", tmp_path)), str(tmp_path)).mask_truncated_completions


def test_grpo_with_a_whole_batch_of_cut_responses_teaches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL takes a response that ends with the padding token for a finished one, so none is drawn here."""
    suppressed = {"generation_kwargs": {"min_new_tokens": 1, "suppress_tokens": [0]}, "steps_per_generation": None}
    monkeypatch.setattr(trl_grpo, "arguments", lambda *given: replace(arguments(*given), **suppressed))
    run = tiny("grpo", tmp_path, steps=2, unfinished="leave_out", kl={"coefficient": 0.05})
    run.actor.decoding = Decoding(1, 1.0, 1.0)
    before = adapter(run)
    curve, _ = train(run)
    assert torch.equal(adapter(run), before)
    assert [v for _, q, _, v in curve if q == "kl_coefficient"] == [0.05, 0.05], "a KL of no token moves no weight"


def test_grpo_takes_the_penalty_from_every_reward(tmp_path: Path) -> None:
    """Scale: a from -1 to 1, b from 0 to 1. 'good' is worth (1, 0.9), so 0.75 * 1 + 0.25 * 0.9 = 0.975."""
    run = tiny("grpo", tmp_path)
    rewards = trl_grpo.Rewards(run.method, run.task, run.actor, penalty=0.5)  # type: ignore[arg-type]
    good, end = run.actor.tokenizer.convert_tokens_to_ids("good"), run.actor.tokenizer.eos_token_id
    got = rewards(["", ""], ["", ""], [[good, end], [good]], ["p0", "p0"], [[0.75, 0.25]] * 2)
    assert got == pytest.approx([0.975, 0.475])
    assert ("finished_rate", "all", 0.5) in rewards.rows
