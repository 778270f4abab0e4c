"""MODPO: its loss by hand, its optimum on a bandit, its labels, and a tiny policy end to end."""

from contextlib import ExitStack
from itertools import permutations
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moa.errors import Diverged, MoaError
from moa.experiment.keys import Ppo
from moa.experiment.preferences import lattice
from moa.job.process import Stopwatch, keeping
from moa.lm import cards
from moa.methods import catalogue, modpo
from moa.store import tables
from moa.trainers import modpo as trainer
from moa.trainers import pair_loop
from moa.trainers.pair_loop import Samples, trimmed
from moa.trainers.pairs import all_pairs, label_probabilities, make_pairs, modpo_loss
from tests import trained

NAMES = ["sentiment", "conciseness"]
ONE = torch.ones(1)


def make(**settings: Any) -> modpo.Method:
    method = catalogue.load("modpo", settings, NAMES)
    assert isinstance(method, modpo.Method)
    return method


def test_the_loss_by_hand() -> None:
    """beta .5, gap 2, w_j dR_j = .4, w_k = .5: logit (1 - .4) / .5 = 1.2; the other way round it is -1.2."""
    gap, others = torch.tensor([2.0]), torch.tensor([0.4])
    assert modpo_loss(gap, others, ONE, 0.5, 0.5).item() == pytest.approx(log(1 + exp(-1.2)))
    assert modpo_loss(-gap, -others, 1 - ONE, 0.5, 0.5).item() == pytest.approx(log(1 + exp(-1.2))), (
        "the same pair, its responses exchanged"
    )
    assert modpo_loss(gap, others, 0.75 * ONE, 0.5, 0.5).item() == pytest.approx(
        0.75 * log(1 + exp(-1.2)) + 0.25 * log(1 + exp(1.2))
    )


def test_a_corner_is_plain_dpo() -> None:
    """w_k = 1: -log sigma(beta gap)."""
    gap = torch.tensor([-3.0, 0.0, 2.0])
    torch.testing.assert_close(
        modpo_loss(gap, torch.zeros(3), torch.ones(3), 1.0, 0.1), -torch.nn.functional.logsigmoid(0.1 * gap)
    )


def test_a_vanishing_weight_leaves_loss_and_gradient_finite() -> None:
    """The divisor is .05: logit (.1 * 30 - 1) / .05 = 40, so the loss is about exp(-40).

    At gap -30 it is 80 and its slope -.1 / .05.
    """
    gap = torch.tensor([30.0, -30.0], requires_grad=True)
    loss = modpo_loss(gap, torch.tensor([1.0, 1.0]), torch.ones(2), 1e-6, 0.1)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([exp(-40), 80.0])
    assert gap.grad is not None and gap.grad.tolist() == pytest.approx([0.0, -2.0], abs=1e-6)


def bandit(weights: list[float], labelled: int, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A policy over five answers, trained on all pairs as the reference draws them; return it and the optimum."""
    torch.manual_seed(0)
    reference, rewards, w = torch.randn(5).double(), torch.rand(5, 2).double(), torch.tensor(weights).double()
    base = reference.log_softmax(0)
    first, second = torch.tensor(list(permutations(range(5), 2))).T
    margins = rewards[first] - rewards[second]
    others = margins @ w - w[labelled] * margins[:, labelled]
    frequency = (base[first] + base[second]).exp()
    policy = reference.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [policy], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        ratio = policy.log_softmax(0) - base
        loss = (
            frequency
            * modpo_loss(
                ratio[first] - ratio[second], others, label_probabilities(margins[:, labelled]), weights[labelled], beta
            )
        ).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return policy.detach().softmax(0), (base + rewards @ w / beta).softmax(0)


@pytest.mark.parametrize(("weights", "labelled"), [([0.7, 0.3], 0), ([0.7, 0.3], 1), ([1.0, 0.0], 0), ([0.5, 0.5], 1)])
def test_the_minimum_is_the_tilted_reference(weights: list[float], labelled: int) -> None:
    """pi_ref exp(sum_k w_k R_k / beta), whichever objective's preferences the pairs hold."""
    found, wanted = bandit(weights, labelled, 0.2)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_argmax_labels_would_not_give_it() -> None:
    """With the better response always chosen nothing bounds the log-ratio: the gradient at the optimum is not 0."""
    gap, margin = torch.tensor([1.0], requires_grad=True), 0.2  # beta gap = dR: the optimum of that pair
    modpo_loss(gap, torch.zeros(1), torch.sigmoid(torch.tensor([margin])), 1.0, margin).sum().backward()
    assert gap.grad is not None and gap.grad.item() == pytest.approx(0.0, abs=1e-7)
    gap.grad = None
    modpo_loss(gap, torch.zeros(1), ONE, 1.0, margin).sum().backward()
    assert gap.grad.item() < -0.05


def test_labels_and_margins_by_hand() -> None:
    """Two prompts with two responses; w = (.75, .25), k the first: others = .25 dR_2."""
    rewards = torch.tensor([[0.9, 0.1], [0.4, 0.5], [0.0, 0.2], [1.0, 1.0]])
    made = make_pairs(rewards, 2, torch.tensor([0.75, 0.25]), 0)
    assert made.rows.tolist() == [[0, 1], [2, 3]]
    torch.testing.assert_close(made.others, torch.tensor([0.25 * -0.4, 0.25 * -0.8]))
    torch.testing.assert_close(made.better, torch.tensor([0.75 * 0.5 - 0.1, -0.75 - 0.2]))
    torch.testing.assert_close(made.chosen, torch.sigmoid(torch.tensor([0.5, -1.0])))
    assert made.weight == 0.75


def test_all_pairs_of_a_prompts_responses() -> None:
    assert all_pairs(2, 3).tolist() == [[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5]]


def test_padding_is_cut_on_both_sides() -> None:
    """Prompts of at most one token, responses of at most two: the first column and the last two go."""
    mask = torch.tensor([[0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0]])
    ids, cut, response = trimmed(torch.arange(12).reshape(2, 6), mask, 4)
    assert (ids.tolist(), cut.tolist(), response) == ([[1, 2, 3], [7, 8, 9]], [[0, 1, 1], [1, 1, 0]], 2)


def test_policies_are_all_its_own() -> None:
    found = make().policies(lattice(2, 2))
    assert [(p.row, p.name, p.weights) for p in found] == [
        ("modpo", "conciseness", (0.0, 1.0)),
        ("modpo", "w0.5-0.5", (0.5, 0.5)),
        ("modpo", "sentiment", (1.0, 0.0)),
    ]


def test_policies_that_differ_after_a_dot_do_not_lock_each_other(tmp_path: Path) -> None:
    names = ["modpo-w0.5-0.5-s0-a", "modpo-w0.5-0.5-s1-b", "modpo-w0.5-0.25-s0-c"]
    with ExitStack() as held:
        for name in names:
            held.enter_context(keeping(tmp_path, name, "key"))
        assert len(list(tmp_path.glob("*.lock"))) == 3


def test_pairs_of_its_own_need_no_source() -> None:
    assert make().sources() == []


def test_the_labelled_objective() -> None:
    assert [make().labelled(w) for w in ((0.2, 0.8), (0.5, 0.5), (0.8, 0.2))] == [1, 0, 0]
    assert make(objective="conciseness").labelled((0.8, 0.2)) == 1
    with pytest.raises(MoaError, match="methods.modpo.objective: no objective 'concise'. Did you mean 'conciseness'"):
        make(objective="concise")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.write_inputs(tmp_path_factory.mktemp("inputs"))


def run(inputs: Path, out: Path, weights: tuple[float, float] = (0.25, 0.75), **settings: Any) -> Path:
    return trained.run(inputs, out, "modpo", weights, **settings)


def tensors(out: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(out / "policy" / "adapter" / "adapter_model.safetensors")
    return found


def test_end_to_end(inputs: Path, tmp_path: Path) -> None:
    """32 responses: 16 pairs in batches of 2, two epochs: 16 updates in 4 steps."""
    run(inputs, tmp_path)
    assert sorted(p.name for p in (tmp_path / "policy").iterdir()) == ["adapter", "moa.sha256", "policy.json"]
    card = cards.read_card(tmp_path / "policy")
    assert (card.name, card.weights, card.targets) == ("policy", (0.25, 0.75), None)
    rows = trained.curve(tmp_path)
    for quantity in ("pair_loss", "pair_accuracy", "forward_kl", "grad_norm", "micro_batch"):
        assert [(s, o) for s, q, o, _ in rows if q == quantity] == [(s, "all") for s in range(4)], quantity
    assert all(0 <= v <= 1 for _, q, _, v in rows if q == "pair_accuracy"), "a step's mean over its four updates"
    assert [v for _, q, _, v in rows if q == "micro_batch"] == [4.0] * 4, "two pairs of responses"
    assert [s for s, q, o, _ in rows if (q, o) == ("reward", "sentiment")] == [0]
    assert len({row[:3] for row in rows}) == len(rows)
    cost = tables.read(tables.COSTS, tmp_path / "costs.parquet").to_pylist()[0]
    assert cost["models"] == 1 and 32 <= cost["tokens"] <= 32 * 6, "32 responses of one to six tokens"
    assert any(t.abs().max() > 0 for name, t in tensors(tmp_path).items() if "lora_B" in name)


def test_resuming_gives_the_policy_of_never_stopping(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(inputs, tmp_path / "whole")
    real, done = pair_loop.PairLoop._update, []

    def failing(self: Any, chosen: torch.Tensor, step: int) -> dict[str, float]:
        if len(done) == 10:
            raise RuntimeError("pulled the plug")
        done.append(step)
        return real(self, chosen, step)

    monkeypatch.setattr(pair_loop.PairLoop, "_update", failing)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        run(inputs, tmp_path / "stopped")
    monkeypatch.setattr(pair_loop.PairLoop, "_update", real)
    monkeypatch.setattr(trainer, "draw", lambda *_: pytest.fail("sampled again"))
    run(inputs, tmp_path / "stopped")
    whole, resumed = tensors(tmp_path / "whole"), tensors(tmp_path / "stopped")
    assert all(whole[name].equal(resumed[name]) for name in whole)
    assert trained.curve(tmp_path / "whole") == trained.curve(tmp_path / "stopped")


def test_samples_of_a_killed_attempt_count_and_damaged_ones_are_drawn_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, watch, later = (
        tmp_path / "job" / "samples.safetensors",
        Stopwatch(seconds=40.0, cpu_seconds=70.0),
        Stopwatch(),
    )
    assert Samples.load(path, later) is None
    made = Samples(*(torch.full((2, 3), float(i)) for i in range(7)))
    made.save(path, watch)
    found = Samples.load(path, later)
    assert found is not None and all(a.equal(b) for a, b in zip(vars(made).values(), vars(found).values(), strict=True))
    assert (later.seconds, later.cpu_seconds, later.earlier_seconds) == (40.0, 70.0, 40.0)
    content = path.read_bytes()
    changed = bytearray(content)
    changed[-1] ^= 1  # a bit of the last number
    for damaged in (content[:-8], changed, content.replace(b"40.0", b"90.0"), b""):
        path.write_bytes(damaged)
        assert Samples.load(path, Stopwatch()) is None
    save_file({"ids": torch.zeros(1)}, path)  # as an earlier version wrote them, without a hash
    assert Samples.load(path, Stopwatch()) is None
    assert len(caplog.messages) == 5 and all(str(path) in m and "drawing them again" in m for m in caplog.messages)


@pytest.mark.parametrize(("schedule", "shares"), [("linear", [1.0, 0.75, 0.5, 0.25]), ("constant", [1.0] * 4)])
def test_the_rate_falls_as_the_other_methods_does(
    schedule: str, shares: list[float], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, rates = pair_loop.PairLoop._update, []

    def watched(self: Any, chosen: torch.Tensor, step: int) -> dict[str, float]:
        rates.append((step, self.optimizer.param_groups[0]["lr"]))
        return real(self, chosen, step)

    monkeypatch.setattr(pair_loop.PairLoop, "_update", watched)
    run(inputs, tmp_path, learning_rate=0.1, ppo={"schedule": schedule})
    assert rates == [(step, pytest.approx(0.1 * shares[step])) for step in range(4) for _ in range(4)]


def test_training_puts_the_pairs_in_order(inputs: Path, tmp_path: Path) -> None:
    """64 pairs again and again: the policy's ranking comes to follow the weighted rewards."""
    run(
        inputs,
        tmp_path,
        epochs=20,
        beta=0.05,
        ppo={"steps": 8, "batch_size": 16, "mini_batch_size": 16, "learning_rate": 1e-2},  # four seeds: 0.85 to 0.93
    )
    accuracy = [v for _, q, _, v in trained.curve(tmp_path) if q == "pair_accuracy"]
    assert accuracy[-1] > max(0.8, accuracy[0]), accuracy


def test_out_of_memory_halves_the_pairs_and_changes_nothing_else(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(inputs, tmp_path / "plain")
    real = pair_loop.forward

    def limited(
        model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, response: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("a limit of 2 rows, as a full GPU would set")
        return real(model, ids, mask, response)

    monkeypatch.setattr(pair_loop, "forward", limited)
    run(inputs, tmp_path / "tight")
    plain, tight = tensors(tmp_path / "plain"), tensors(tmp_path / "tight")
    assert all(torch.allclose(plain[name], tight[name], atol=2e-3) for name in plain)
    assert {v for _, q, _, v in trained.curve(tmp_path / "tight") if q == "micro_batch"} == {2.0}


def test_divergence_names_the_step_and_the_rate(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained.overshoot(monkeypatch)
    with pytest.raises(Diverged, match=r"step \d+: .* is NaN or infinite.*methods.modpo.learning_rate \(now 0.1\)"):
        run(inputs, tmp_path, learning_rate=0.1)


def test_more_responses_than_the_budget(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(MoaError, match=r"= 32 responses are less than the 33"):
        run(inputs, tmp_path, responses=33)
    make(responses=32).check(Ppo(steps=4, batch_size=8, mini_batch_size=8), None)
