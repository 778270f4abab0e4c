"""GRPO and GDPO through TRL: the scalar reward by hand, what TRL is handed, the outputs of the stage, divergence."""

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback

from moa.errors import Diverged, MoaError
from moa.experiment.keys import Conditioning, Model
from moa.experiment.preferences import lattice
from moa.experiment.schema import TrainSection
from moa.job.command import Steps
from moa.job.process import Job, Stopwatch
from moa.lm import answering
from moa.lm.conditioning import token_rows
from moa.lm.generation import decode, sample
from moa.lm.models import forward
from moa.methods import catalogue
from moa.rl.loop import CurveRow, Loop, prompt_indices
from moa.rl.losses import logprobs_and_entropy
from moa.stages import train as stage
from moa.store import tables
from moa.testbed.bandit import Arms
from moa.trainers import trl_grpo
from moa.trainers.grpo_run import GrpoRun, arguments, data
from tests import tiny_models
from tests.tiny_policy import arms_loop, count_words, loop

NAMES = ["a", "b"]


def make(kind: str, group_size: int):  # type: ignore[no-untyped-def]
    return catalogue.load("row", {"kind": kind, "group_size": group_size}, NAMES)


def tiny(kind: str, folder: Path, **changes: object) -> Loop:
    """Policy, task and settings of a few fast steps in groups of 4."""
    return loop(kind, folder, settings={"kind": kind, "group_size": 4}, **{"steps": 3, **changes})  # type: ignore[arg-type]


def of(run: Loop, micro: int = 3, checkpointing: bool = False, watch: Stopwatch | None = None) -> GrpoRun:
    """The same policy and task as TRL's trainer is told of them."""
    job = Job(run.checkpoints, watch or Stopwatch())
    return GrpoRun(run.actor, run.method, run.ppo, run.task, run.seed, micro, checkpointing, job)  # type: ignore[arg-type]


def train(
    run: Loop, micro: int = 3, checkpointing: bool = False, watch: Stopwatch | None = None
) -> tuple[list[CurveRow], int]:
    return trl_grpo.train(of(run, micro, checkpointing, watch), Steps("", run.ppo.steps))


def adapter(run: Loop) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.actor.model.parameters() if p.requires_grad])


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
    """TRL's own aggregation, with one reward function per objective and the preference as its weights, trains the same adapter."""
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
    """Rates fall linearly, Adam has its moments, the KL's weight adapts, dropout draws.

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
        chosen = (
            run.actor.model(input_ids=rows).logits[:, -1].softmax(1)[:, 4 : 4 + arms.actions]
        )  # the first four are special
    preferences = torch.tensor(run.task.training)
    loss = (preferences @ arms.table.T).amax(1) - (preferences * (chosen @ arms.table)).sum(1)
    assert float(chosen[:, arms.optimal].sum(1).min()) > 0.95
    assert float(loss.max()) < 2 * neighbour
    position = chosen @ arms.position
    assert float(position[-1] - position[0]) > 0.7


def test_a_prompt_is_read_with_one_bos_and_scored_without_its_preference(tmp_path: Path) -> None:
    run = tiny("grpo", tmp_path, steps=1)
    plain_text_of = run.task.text_of
    run.task.text_of = lambda p, w: "<s> " + plain_text_of(p, w)  # as a chat template writes it
    fed, generate = [], run.actor.model.generate
    run.actor.model.generate = lambda **options: fed.append(options) or generate(**options)
    train(run)
    rows = [row[m.bool()].tolist() for row, m in zip(fed[0]["input_ids"], fed[0]["attention_mask"], strict=True)]
    expected = [r["prompt"] for r in data(of(run)) for _ in range(4)]
    assert rows == token_rows(expected, run.actor.tokenizer)
    assert all(row.count(1) == 1 for row in rows)
    decoding = fed[0]["generation_config"]
    assert (decoding.temperature, decoding.top_p, decoding.top_k, decoding.max_new_tokens, decoding.min_new_tokens) == (
        1.0,
        1.0,
        0,
        8,
        1,
    )


def test_padded_prompts_keep_their_positions(tmp_path: Path) -> None:
    """GPT-2 numbers its positions: log-probabilities in training must be those of sampling, whatever the padding."""
    torch.manual_seed(0)
    shape = GPT2Config(
        vocab_size=20,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=32,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.5,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    )
    run = tiny("grpo", tmp_path, lm=GPT2LMHeadModel(shape).eval(), steps=1)
    given = arguments(of(run), str(tmp_path))
    rewards = trl_grpo.Rewards(run.method, run.task, run.actor)  # type: ignore[arg-type]
    trainer = trl_grpo.Trainer(
        run.actor.model,
        reward_funcs=rewards,
        args=given,
        train_dataset=data(of(run)),
        processing_class=run.actor.tokenizer,
    )
    rollout = sample(
        run.actor.model, run.actor.tokenizer, ["p1", "p1 p2 p3 p4 p5"], run.actor.decoding, run.actor.context
    )
    assert rollout.mask[0].sum() < rollout.mask[1].sum() + 8 and not bool(rollout.mask[0, 0])
    with torch.no_grad():
        logits, _ = forward(run.actor.model, rollout.ids, rollout.mask, rollout.response)
        expected, _ = logprobs_and_entropy(logits, rollout.ids[:, -rollout.response :], 1.0)
        got, _, _ = trainer._get_per_token_logps_and_entropies(
            run.actor.model, rollout.ids, rollout.mask, rollout.response
        )
    real = rollout.response_mask.bool()
    torch.testing.assert_close(got[real], expected[real], atol=1e-4, rtol=1e-4)


def test_rewards_see_the_text_that_generation_decodes(tmp_path: Path) -> None:
    run, seen = tiny("grpo", tmp_path), []
    tokenizer = run.actor.tokenizer = tiny_models.sentencepiece()
    run.task.score = lambda prompts, responses: (
        seen.append((list(prompts), list(responses))) or np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    )
    ids = tokenizer("works well", add_special_tokens=False)["input_ids"]  # the tokenizer puts a space before it
    rewards = trl_grpo.Rewards(run.method, run.task, run.actor)  # type: ignore[arg-type]
    got = rewards(
        ["", ""],
        ["works well", "works well"],
        [[*ids, tokenizer.eos_token_id], ids],
        ["The lamp", "The lamp"],
        [[0.75, 0.25]] * 2,
    )
    assert seen == [(["The lamp", "The lamp"], [" works well", " works well"])]
    # scale: a from -1 to 1, b from 0 to 1; quantile (1, 0) and (0.5, 1): 0.75 and 0.75 * 0.5 + 0.25
    assert got == [0.75, 0.625]
    assert rewards(["", ""], ["", ""], [ids, ids], ["", ""], [[0.0, 1.0]] * 2) == [
        0.0,
        1.0,
    ]  # the preference column decides
    assert ("finished_rate", "all", 0.0) in rewards.rows and rewards.tokens == 4 * len(ids) + 1


def test_groups_must_fill_a_batch(tmp_path: Path) -> None:
    run = tiny("grpo", tmp_path, batch_size=10, mini_batch_size=5)
    with pytest.raises(MoaError, match=r"methods\.grpo\.group_size \(4\) must divide ppo\.batch_size \(10\)"):
        run.method.check(run.ppo, None)
    run.method.check(run.ppo.model_copy(update={"batch_size": 12}), None)  # three groups of four


def test_divergence_stops_at_its_step(tmp_path: Path) -> None:
    run = tiny(
        "grpo", tmp_path / "reward", score=lambda prompts, responses: np.full((len(prompts), 2), np.nan, np.float32)
    )
    with pytest.raises(Diverged, match=r"step 0: a reward .* methods\.grpo\.learning_rate"):
        train(run)
    run = tiny("grpo", tmp_path / "loss")

    def break_the_policy(prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        next(p for p in run.actor.model.parameters() if p.requires_grad).data.fill_(float("nan"))
        return count_words(prompts, responses)

    run.task.score = break_the_policy
    with pytest.raises(Diverged, match="step 0: the (loss|grad_norm) is NaN"):
        train(run)


@pytest.mark.parametrize("key", ["group_size", "beta", "learning_rate", "epochs"])
def test_settings_out_of_range_are_refused(key: str) -> None:
    with pytest.raises(MoaError, match=rf"methods\.row\.{key}: "):
        catalogue.load("row", {"kind": "gdpo", key: -1}, NAMES)


def section(kind: str) -> TrainSection:
    return TrainSection.model_validate(
        {
            "task": "t", "model": {"source": "some/model", "lora": tiny_models.LORA.model_dump()}, "generation": {"max_new_tokens": 8},
            "objectives": {"sentiment": {"reward": "vader"}, "conciseness": {"reward": "short"}},
            "rewards": {"vader": {"kind": "vader"}, "short": {"kind": "conciseness", "full": 1, "zero": 60}},
            "ppo": {"steps": 2, "batch_size": 8, "mini_batch_size": 4, "epochs": 1, "learning_rate": 1e-3},
            "conditioning": {}, "training": lattice(2, 2), "dirichlet": None, "settings": {"kind": kind, "group_size": 4},
        }
    )  # fmt: skip


def test_out_of_memory_goes_on_from_the_checkpoint_with_fewer_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second step on 6 rows do not fit, 3 do.

    The batch stays, time is counted once, and a third attempt starts with 3.
    """
    watch, real = Stopwatch(), trl_grpo.Trainer.compute_loss

    def limited(
        self: trl_grpo.Trainer, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *rest: object, **named: object
    ) -> torch.Tensor:
        if self.sampled > 1 and len(inputs["completion_ids"]) > 3:
            raise torch.OutOfMemoryError("a limit of 3 rows")
        return real(self, model, inputs, *rest, **named)  # type: ignore[no-any-return]

    def attempt(micro: int, steps: int = 4) -> list[CurveRow]:
        return train(tiny("grpo", tmp_path / "a", steps=steps, checkpoint_every=1), micro, watch=watch)[0]

    monkeypatch.setattr(trl_grpo.Trainer, "compute_loss", limited)
    with pytest.raises(torch.OutOfMemoryError):
        attempt(6)
    counted = watch.seconds
    assert counted > 0
    curve = attempt(3)
    assert [v for _, q, _, v in curve if q == "micro_batch"] == [6.0, 3.0, 3.0, 3.0]
    assert watch.earlier_seconds == 0.0 and watch.seconds > counted, "the same process: nothing was spent earlier"
    assert [v for s, q, _, v in attempt(6, steps=5) if (s, q) == (4, "micro_batch")] == [3.0]


@pytest.mark.parametrize("kind", ["grpo", "gdpo"])
def test_the_stage_writes_what_the_next_stages_read(kind: str, tmp_path: Path) -> None:
    tiny_models.save_base(tmp_path / "base")
    prompts = [
        {"task": "t", "prompt_id": str(i), "split": "train", "prompt": t.prompt}
        for i, t in enumerate(tiny_models.texts()[:12])
    ]
    tables.write(tables.PROMPTS, prompts, tmp_path / "prompts.parquet")
    scale = {"mean": 0.0, "std": 1.0, "floor": 0.0, "low": 0.0, "high": 1.0, "reference_point": 0.0, "n": 1, "hash": ""}
    rows = [{"task": "t", "objective": o, **scale} for o in ("sentiment", "conciseness")]
    tables.write(tables.NORMALISER, rows, tmp_path / "normaliser.parquet")
    out, given = tmp_path / "policy", section(kind)
    stage.main(
        Namespace(
            section=given.model_dump_json(), row=kind, policy="policy", seed=0, weights="null", depends="", prompts=tmp_path / "prompts.parquet", base=tmp_path / "base",
            normaliser=tmp_path / "normaliser.parquet", models=[], texts=[], checkpoints=tmp_path / "checkpoints", out=out, curve=tmp_path / "curve.parquet",
            costs=tmp_path / "costs.parquet",
        )
    )  # fmt: skip
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*")) == [
        "adapter",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "policy.json",
    ]
    card = json.loads((out / "policy.json").read_text())
    assert (card["method"], card["policy"], card["conditioned"], card["weights"]) == (kind, "policy", True, None)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "base",
        "checkpoints",
        "costs.parquet",
        "curve.parquet",
        "normaliser.parquet",
        "policy",
        "prompts.parquet",
    ]
    assert [p.suffix for p in (tmp_path / "checkpoints").iterdir()] == [".lock"], (
        "checkpoints go when the policy is complete"
    )
    curve = tables.read(tables.CURVES, tmp_path / "curve.parquet").to_pylist()
    assert {(r["method"], r["step"]) for r in curve} == {(kind, 0), (kind, 1)}
    (cost,) = tables.read(tables.COSTS, tmp_path / "costs.parquet").to_pylist()
    assert cost["tokens"] == round(sum(8 * r["value"] for r in curve if r["quantity"] == "response_tokens"))
    assert cost["models"] == 1
    prompting = answering.Prompting(["sentiment", "conciseness"], Conditioning(), conditioned=True)
    base = answering.Base(tmp_path / "base", Model(source="some/model"))
    loaded = answering.load(base, [out], "policy", prompting)
    assert loaded.switch((0.5, 0.5)) == "policy"
    trained = [p for n, p in loaded.model.named_parameters() if "lora_B" in n]
    assert trained and all(bool(p.any()) for p in trained)
