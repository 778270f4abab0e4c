"""The loop on a tiny random policy: KL 0 at the start, resuming, learning, running out of memory, divergence."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import PreTrainedModel

from moa.errors import Diverged, MoaError
from moa.experiment.keys import Model
from moa.experiment.preferences import Preference, lattice
from moa.lm import generation
from moa.lm.merged import Merged
from moa.lm.models import load_base, save_policy
from moa.metrics import normaliser
from moa.rl import reading
from moa.rl.actor import Actor
from moa.rl.loop import Loop, batch_preferences, prompt_indices
from moa.store import tables
from tests.tiny_policy import base, count_words, loop

METHODS = ["mse_only", "moc", "moc_feedback", "pama", "morlhf"]
GROUP = {"advantages": "group", "group_size": 3}


def weights_for(kind: str) -> tuple[float, float] | None:
    return (0.25, 0.75) if kind == "morlhf" else None


def policy_bytes(finished: object, folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    actor, streams = finished.actor, finished.method.streams  # type: ignore[attr-defined]
    save_policy(folder, actor.model, actor.heads, streams, {})
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("place", ["separate", "heads"])
def test_kl_is_zero_at_step_0(kind: str, place: str, tmp_path: Path) -> None:
    run = loop(kind, tmp_path, weights=weights_for(kind), steps=2, kl={"place": place})
    list(run.run())
    kl = [v for s, q, _, v in run.curve if q == "kl"]
    assert 0.0 <= kl[0] <= 1e-6
    assert kl[1] > 1e-6


def test_first_tokens_have_the_probabilities_that_they_were_drawn_with(tmp_path: Path) -> None:
    """Prompt 'p0' comes with each of the 20 tokens as its whole response.

    Without the end token, which no sample begins with, their probabilities sum to 1.
    """
    run = loop("morlhf", tmp_path, weights=(0.5, 0.5))
    tokens, end = torch.arange(20), run.actor.tokenizer.eos_token_id
    ids = torch.stack([torch.full((20,), 1), torch.full((20,), 11), tokens], 1)
    rollout = generation.Rollout(
        ids, torch.ones_like(ids), torch.ones(20, 1), torch.zeros(20, dtype=torch.bool), [""] * 20
    )
    seen = reading.read(run.actor, rollout, torch.arange(20), sensitive=False)
    logprobs, entropy = seen.logprobs, seen.entropy
    assert float(logprobs[end, 0].exp()) == 0.0
    torch.testing.assert_close(logprobs[:, 0].exp().sum(), torch.tensor(1.0))
    drawn = logprobs[tokens != end, 0]
    torch.testing.assert_close(entropy[0, 0], -(drawn.exp() * drawn).sum())
    torch.testing.assert_close(logprobs, seen.reference_logprobs)
    assert float(seen.kl.max()) < 1e-6
    # The end token was no small share: the plain softmax gives the others less.
    plain = torch.log_softmax(run.actor.model(input_ids=ids[:1, :2]).logits[0, -1], -1)
    assert float(plain[end].detach().exp()) > 1e-3


def test_the_loop_knows_every_end_token(tmp_path: Path) -> None:
    """With 'good' as an end token, too, the probabilities of the other 18 first tokens sum to 1."""
    run = loop("morlhf", tmp_path, weights=(0.5, 0.5), steps=1)
    run.actor.decoding = replace(run.actor.decoding, stop=("good",))
    assert run.actor.ends == [2, 4]
    ids = torch.stack([torch.full((20,), 1), torch.full((20,), 11), torch.arange(20)], 1)
    rollout = generation.Rollout(
        ids, torch.ones_like(ids), torch.ones(20, 1), torch.zeros(20, dtype=torch.bool), [""] * 20
    )
    seen = reading.read(run.actor, rollout, torch.arange(20), sensitive=False)
    said = seen.logprobs[[t for t in range(20) if t not in run.actor.ends]]
    assert float(said.exp().sum()) == pytest.approx(1, abs=1e-5)
    list(run.run())
    assert max(v for _, q, _, v in run.curve if q == "kl") < 1e-6


def test_a_sampler_that_is_another_policy_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin that is merged once alone: what it sampled after the first update is what a reading says of it."""
    refresh = Merged.refresh
    merged: list[Merged] = []

    def once(self: Merged) -> PreTrainedModel:
        if self not in merged:
            merged.append(self)
            refresh(self)
        return self.model

    monkeypatch.setattr(Merged, "refresh", once)
    stale = loop("linear", tmp_path / "a", steps=3)
    list(stale.run())
    monkeypatch.setattr(Actor, "traces", False)
    read = loop("linear", tmp_path / "b", steps=3)
    list(read.run())

    def curve(run: Loop, quantity: str) -> list[float]:
        return [v for _, q, _, v in run.curve if q == quantity]

    off = curve(stale, "sampler_mismatch")
    assert off[0] < 1e-4 < min(off[1:]), "the first step's is the policy's own"
    assert curve(read, "sampler_mismatch") == [0.0] * 3
    for quantity in ("kl", "policy_loss", "grad_norm"):
        assert curve(stale, quantity) == pytest.approx(curve(read, quantity), rel=1e-3, abs=1e-6)


def test_the_update_starts_at_ratio_1(tmp_path: Path) -> None:
    run = loop("linear", tmp_path, steps=1, epochs=1, mini_batch_size=12)
    list(run.run())
    assert run.value("policy_moved") < 1e-9
    assert run.value("clip_fraction") == 0.0
    assert run.value("kl") < 1e-6


def test_moc_as_the_paper_has_it_trains_and_logs_its_weights(tmp_path: Path) -> None:
    """A^1, A^2 and the control advantage of a head of its own are weighed by min-norm at every step.

    The weights c lie on the simplex, near the minimum.
    """
    run = loop("moc", tmp_path, settings={"streams": "literal", "target": "scaled"}, steps=3)
    list(run.run())
    for step in range(3):
        weights = {o: v for s, q, o, v in run.curve if (s, q) == (step, "stream_weight")}
        assert (
            set(weights) == {"a", "b", "control"}
            and sum(weights.values()) == pytest.approx(1.0, abs=1e-5)
            and min(weights.values()) >= 0.0
        )
        (gap,) = (v for s, q, _, v in run.curve if (s, q) == (step, "duality_gap"))
        assert 0.0 <= gap < 1e-9
    assert max(v for _, q, _, v in run.curve if q == "policy_moved") > 0.0


@pytest.mark.parametrize(("kind", "ppo"), [*((kind, {}) for kind in METHODS), ("moc", GROUP)])
def test_resuming_gives_the_bytes_of_never_stopping(kind: str, ppo: dict[str, object], tmp_path: Path) -> None:
    whole = loop(kind, tmp_path / "a", weights=weights_for(kind), **ppo)
    list(whole.run())
    stopped = loop(kind, tmp_path / "b", weights=weights_for(kind), **ppo)
    for step in stopped.run():
        if step == 1:
            break
    resumed = loop(kind, tmp_path / "b", weights=weights_for(kind), **ppo)
    list(resumed.run())
    assert resumed.resumed in (1, 2)
    assert policy_bytes(resumed, tmp_path / "pb") == policy_bytes(whole, tmp_path / "pa")
    timing = {"seconds", "tokens_per_second", "memory"}
    assert [r for r in resumed.curve if r[1] not in timing] == [r for r in whole.curve if r[1] not in timing]


@pytest.mark.parametrize("damaged", ["adapter.safetensors", "state.json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damaged: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = loop("moc", tmp_path / "a")
    list(whole.run())
    stopped = loop("moc", tmp_path / "b")
    for step in stopped.run():
        if step == 2:
            break
    file = tmp_path / "b" / "step-000003" / damaged
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    resumed = loop("moc", tmp_path / "b")
    list(resumed.run())
    assert resumed.resumed == 2
    assert "step-000003 cannot be used" in caplog.text and "going back to the one before it, of step 2" in caplog.text
    assert policy_bytes(resumed, tmp_path / "pb") == policy_bytes(whole, tmp_path / "pa")


def test_without_a_good_checkpoint_training_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("step-000001", "step-000002"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text("{}")
    run = loop("moc", tmp_path, steps=1)
    list(run.run())
    assert run.resumed == 0
    assert "step-000002 cannot be used" in caplog.text and "step-000001 cannot be used" in caplog.text
    assert f"no checkpoint in {tmp_path} can be used: training begins anew" in caplog.text


@pytest.mark.parametrize(
    "ppo",
    [
        {},
        {"advantages": "group", "group_size": 8, "whiten": "batch"},
        {"advantages": "group", "group_size": 8, "whiten": "combined"},
    ],
)
def test_single_objective_training_raises_its_reward(ppo: dict[str, object], tmp_path: Path) -> None:
    size = {"steps": 25, "batch_size": 32, "mini_batch_size": 32, "epochs": 4, "learning_rate": 5e-2}
    run = loop("single_objective", tmp_path, weights=(1.0, 0.0), kl={"coefficient": 0.0}, **size, **ppo)
    list(run.run())
    rewards = [v for _, q, o, v in run.curve if q == "reward" and o == "a"]
    # responses are at most 8 words, of which the random policy draws 'good' as often as 'bad': mean 0
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 1.0


def test_a_group_shares_prompt_and_preference_and_needs_no_critic(tmp_path: Path) -> None:
    """Batch 12 in groups of 3: the prompts and preferences of a batch of 4, each three times."""
    run = loop("mse_only", tmp_path, steps=2, **GROUP)
    read, text_of = [], run.task.text_of

    def noted(prompt: str, preference: Preference | None) -> str:
        read.append((prompt, preference))
        return text_of(prompt, preference)

    run.task.text_of = noted
    list(run.run())
    for step in range(2):
        prompts = [run.task.prompts[i] for i in prompt_indices(9, 4, 0, step)]
        preferences = [tuple(w) for w in batch_preferences(run.task.training, 4, None, 0, step).tolist()]
        assert read[12 * step : 12 * step + 12] == [
            pair for pair in zip(prompts, preferences, strict=True) for _ in range(3)
        ]
    assert not any(p.any() for p in run.actor.heads.parameters()), "value heads stay as they began"
    assert {q for _, q, _, _ in run.curve} >= {"policy_loss", "kl"} and "value_loss" not in {
        q for _, q, _, _ in run.curve
    }
    assert {o for _, q, o, _ in run.curve if q == "weight"} == {"a", "b", "control"}


def poison(run: Loop, value: float) -> None:
    """Let the optimiser's next step leave `value` in a parameter."""
    parameter = next(p for p in run.actor.model.parameters() if p.requires_grad)

    def after(*_: object) -> None:
        with torch.no_grad():
            parameter.fill_(value)

    run.optimizer.register_step_post_hook(after)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_divergence_stops_within_a_step_and_keeps_the_checkpoint(value: float, tmp_path: Path) -> None:
    """The update that breaks a parameter is the one that says so.

    Nothing is sampled from it and nothing of it is kept.
    """
    run = loop("moc", tmp_path, steps=6)
    with pytest.raises(
        Diverged, match=r"step 3: parameter .*lora_A.* after the update is NaN or infinite; training stopped"
    ):
        for step in run.run():
            if step == 2:
                poison(run, value)
    kept = sorted(tmp_path.glob("step-*"))
    assert [p.name for p in kept] == ["step-000002", "step-000003"]
    assert all(torch.isfinite(t).all() for p in kept for t in load_file(p / "adapter.safetensors").values())


@pytest.mark.parametrize("step", [2, 5])
def test_parameters_too_large_to_compute_with_are_divergence_too(step: int, tmp_path: Path) -> None:
    """1e38 is finite, what the model makes of it is not: the next forward pass says so, in the last step as well."""
    run = loop("linear", tmp_path, steps=6, epochs=1, mini_batch_size=12)
    poisoned = {2: "the policy's next-token distribution", 5: "the finished policy's log-probability"}
    with pytest.raises(
        Diverged, match=rf"step {step + (step < 5)}: {poisoned[step]} is NaN or infinite; training stopped"
    ):
        for finished in run.run():
            if finished == step - 1:
                poison(run, 1e38)


def test_nan_reward_is_named(tmp_path: Path) -> None:
    def broken(prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        scores = count_words(prompts, responses)
        scores[1:3, 1] = np.nan, np.inf
        return scores

    with pytest.raises(
        Diverged,
        match=(
            "step 0: the reward of objective 'b' is NaN or infinite for 2 of 12 responses.*Correct the reward's"
            " function or model"
        ),
    ) as caught:
        list(loop("pama", tmp_path, score=broken).run())
    assert "learning_rate" not in str(caught.value)


def test_a_normaliser_without_width_is_named(tmp_path: Path) -> None:
    row = {
        "task": "t",
        "low": 1.0,
        "high": 1.0,
        "mean": 1.0,
        "std": 0.0,
        "floor": 1.0,
        "reference_point": 1.0,
        "n": 5,
        "hash": "h",
    }
    tables.write(
        tables.NORMALISER, [{**row, "objective": "a", "high": 2.0}, {**row, "objective": "b"}], tmp_path / "n.parquet"
    )
    with pytest.raises(MoaError, match=r"n.parquet: objective 'b' has the scale \[1, 1\], which is no scale"):
        normaliser.read(tmp_path / "n.parquet", ["a", "b"])


def test_every_prompt_once_per_pass_and_equal_for_all_methods() -> None:
    steps = [i for step in range(3) for i in prompt_indices(9, 6, seed=1, step=step)]
    assert sorted(steps[:9]) == list(range(9)) and sorted(steps[9:]) == list(range(9))
    assert steps[:9] != steps[9:]


def test_training_preferences_are_balanced() -> None:
    rows = batch_preferences(lattice(2, 4), 64, None, seed=0, step=3)
    counts = torch.unique(rows, dim=0, return_counts=True)[1].tolist()
    assert sorted(counts) == [12, 13, 13, 13, 13]
    # Fewer places than preferences: seven steps of three are 21 places, so each of seven preferences has had three.
    few = torch.cat([batch_preferences(lattice(2, 6), 3, None, seed=0, step=step) for step in range(7)])
    assert torch.unique(few, dim=0, return_counts=True)[1].tolist() == [3] * 7
    drawn = batch_preferences(lattice(2, 4), 64, 0.5, seed=0, step=3)
    torch.testing.assert_close(drawn.sum(1), torch.ones(64))
    assert len(drawn.unique(dim=0)) == 64


def test_gradient_checkpointing_acts_and_changes_nothing(tmp_path: Path) -> None:
    plain = loop("moc", tmp_path / "a", steps=2)
    list(plain.run())
    saving = loop("moc", tmp_path / "b", steps=2)
    saving.actor.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    saving.actor.model.enable_input_require_grads()
    modes: list[bool] = []
    layer = saving.actor.model.base_model.model.model.layers[0]
    layer.mlp.register_forward_pre_hook(
        lambda module, _: modes.append(module.training and torch.is_grad_enabled()) and None
    )
    list(saving.run())
    # Per step 2 epochs x 2 mini-batches; a checkpointed layer's forward runs again in the backward pass: 2 x 4 x 2 =
    # 16.
    assert sum(modes) == 16
    assert not saving.actor.model.training
    for p, q in zip(plain.actor.model.parameters(), saving.actor.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("quantisation", "packed"), [("nf4", torch.uint8), ("int8", torch.int8)])
def test_moc_trains_on_a_quantised_base(quantisation: str, packed: torch.dtype, tmp_path: Path) -> None:
    """The loop itself: the reference is the same quantised base, so the KL still starts at exactly 0."""
    base().save_pretrained(tmp_path / "base")
    lm = load_base(tmp_path / "base", Model.model_validate({"source": "base", "quantisation": quantisation}))
    run = loop("moc", tmp_path / "checkpoints", lm=lm, steps=3)
    start = {n: p.detach().clone() for n, p in run.actor.model.named_parameters() if p.requires_grad}
    list(run.run())
    assert {p.dtype for n, p in lm.named_parameters() if "q_proj.base_layer.weight" in n} == {packed}
    assert next(v for _, q, _, v in run.curve if q == "kl") <= 1e-6
    assert all(not torch.equal(start[n], p) for n, p in run.actor.model.named_parameters() if n in start)


def test_joined_rollouts_keep_every_row() -> None:
    parts = [
        generation.Rollout(
            torch.tensor([[5, 6, 7, 2]]),
            torch.ones(1, 4, dtype=torch.long),
            torch.ones(1, 2),
            torch.tensor([True]),
            ["x"],
        ),
        generation.Rollout(
            torch.tensor([[8, 9, 9, 9]]),
            torch.ones(1, 4, dtype=torch.long),
            torch.ones(1, 3),
            torch.tensor([False]),
            ["y"],
        ),
    ]
    got = generation.join(parts, pad=0)
    # prompt widths 2 and 1, response widths 2 and 3: padded to 2 + 3
    assert got.ids.tolist() == [[5, 6, 7, 2, 0], [0, 8, 9, 9, 9]]
    assert got.mask.tolist() == [[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]]
    assert got.response_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert (got.finished.tolist(), got.texts) == ([True, False], ["x", "y"])
