"""GRPO at its borders: what TRL reads and is refused, divergence, memory, and what the stage writes."""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GPT2Config, GPT2LMHeadModel

from moa.errors import Diverged, MoaError
from moa.experiment.keys import Conditioning, Model
from moa.experiment.preferences import lattice
from moa.experiment.schema import TrainSection
from moa.job.process import Stopwatch
from moa.lm import answering
from moa.lm.conditioning import token_rows
from moa.lm.models import forward
from moa.methods import catalogue
from moa.rl.loop import CurveRow
from moa.rl.losses import logprobs_and_entropy
from moa.stages import train as stage
from moa.store import tables
from moa.trainers import trl_grpo
from moa.trainers.grpo_run import arguments, data
from tests import tiny_models
from tests.tiny_grpo import NAMES, of, tiny, train
from tests.tiny_policy import count_words


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
    rollout = run.actor.sample(["p1", "p1 p2 p3 p4 p5"], ["a", "b"])
    given = arguments(of(run), str(tmp_path))
    rewards = trl_grpo.Rewards(run.method, run.task, run.actor)  # type: ignore[arg-type]
    trainer = trl_grpo.Trainer(
        run.actor.model,
        reward_funcs=rewards,
        args=given,
        train_dataset=data(of(run)),
        processing_class=run.actor.tokenizer,
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
    # the preference column decides
    assert rewards(["", ""], ["", ""], [ids, ids], ["", ""], [[0.0, 1.0]] * 2) == [
        0.0,
        1.0,
    ]
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
    with pytest.raises(Diverged, match="step 0: the reward of objective 'a' is NaN or infinite for 12 of 12"):
        train(run)
    run = tiny("grpo", tmp_path / "loss")

    def break_the_policy(prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        next(p for p in run.actor.model.parameters() if p.requires_grad).data.fill_(float("nan"))
        return count_words(prompts, responses)

    run.task.score = break_the_policy
    with pytest.raises(Diverged, match="step 0: the (loss|grad_norm) is NaN .* Lower ppo.learning_rate"):
        train(run)


@pytest.mark.parametrize("key", ["group_size", "beta", "learning_rate", "epochs"])
def test_settings_out_of_range_are_refused(key: str) -> None:
    with pytest.raises(MoaError, match=rf"methods\.row\.{key}: "):
        catalogue.load("row", {"kind": "gdpo", key: -1}, NAMES)


def section(kind: str) -> TrainSection:
    return TrainSection.model_validate(
        {
            "task": "t",
            "model": {"source": "some/model", "lora": tiny_models.LORA.model_dump()},
            "generation": {"max_new_tokens": 8},
            "objectives": {"sentiment": {"reward": "vader"}, "conciseness": {"reward": "short"}},
            "rewards": {"vader": {"kind": "vader"}, "short": {"kind": "conciseness", "full": 1, "zero": 60}},
            "ppo": {"steps": 2, "batch_size": 8, "mini_batch_size": 4, "epochs": 1, "learning_rate": 1e-3},
            "conditioning": {},
            "training": lattice(2, 2),
            "dirichlet": None,
            "settings": {"kind": kind, "group_size": 4},
        }
    )


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
            section=given.model_dump_json(),
            row=kind,
            policy="policy",
            seed=0,
            weights="null",
            depends="",
            prompts=tmp_path / "prompts.parquet",
            base=tmp_path / "base",
            normaliser=tmp_path / "normaliser.parquet",
            models=[],
            texts=[],
            checkpoints=tmp_path / "checkpoints",
            out=out,
            curve=tmp_path / "curve.parquet",
            costs=tmp_path / "costs.parquet",
        )
    )
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*")) == [
        "adapter",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "moa.sha256",
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
