"""Rewards-in-Context: targets by hand, what its prompt shows, what a round keeps, and a tiny policy end to end."""

import json
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from moa.errors import Diverged, MoaError
from moa.experiment.keys import Conditioning, Model, Ppo
from moa.lm import answering, cards, sft, training
from moa.lm.answering import Base, Prompting, Sampling
from moa.lm.generation import Decoding
from moa.lm.targets import Targets, direction
from moa.methods import catalogue, ric
from moa.respond import respond
from moa.store import tables
from tests import killed, tiny_models, trained

NAMES = ["sentiment", "conciseness"]
TARGETS = Targets(low=(-1.0, -2.0), high=(1.0, 2.0), mean=(0.0, 0.0), std=(1.0, 1.0))


def make(**settings: Any) -> ric.Method:
    method = catalogue.load("ric", settings, NAMES)
    assert isinstance(method, ric.Method)
    return method


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("l2", [0.6 / sqrt(0.52), 0.4 / sqrt(0.52)]),  # 0.36 + 0.16 = 0.52
        ("linf", [1.0, 0.4 / 0.6]),
        ("linear", [0.6, 0.4]),
    ],
)
def test_directions_by_hand(form: Any, wanted: list[float]) -> None:
    assert direction((0.6, 0.4), form) == pytest.approx(wanted)


def test_targets_by_hand() -> None:
    """linear (.75, .25): .75 * 2 - 1 = .5 and .25 * 4 - 2 = -1; linf: 1 and a third of 4 less 2."""
    assert TARGETS.model_copy(update={"map": "linear"}).rewards((0.75, 0.25)) == pytest.approx([0.5, -1.0])
    assert TARGETS.model_copy(update={"map": "linf"}).rewards((0.75, 0.25)) == pytest.approx([1.0, 4 / 3 - 2])
    half = 1 / sqrt(2)  # l2 of (.5, .5)
    assert TARGETS.rewards((0.5, 0.5)) == pytest.approx([2 * half - 1, 4 * half - 2])


@pytest.mark.parametrize("form", ["l2", "linf", "linear"])
def test_a_corner_asks_for_the_most_of_one_and_the_least_of_the_others(form: Any) -> None:
    targets = TARGETS.model_copy(update={"map": form})
    assert targets.rewards((1.0, 0.0)) == [1.0, -2.0]
    assert targets.rewards((0.0, 1.0)) == [-1.0, 2.0]


def test_compat_draws_normal_bounds_and_rounds() -> None:
    scores = np.array([[0.0, 10.0], [2.0, 30.0]])
    targets = make(compat="ric").targets(scores, 0)
    assert all(-4.8 < low < -3.3 and 3.3 < high < 4.8 for low, high in zip(targets.low, targets.high, strict=True)), (
        "20 000 draws of N(0, 1)"
    )
    assert targets == make(compat="ric").targets(scores, 0) != make(compat="ric").targets(scores, 1), "the seed decides"
    rounded = TARGETS.model_copy(update={"step": 0.1})
    assert rounded.rewards((0.5, 0.5)) == [0.4, 0.8]  # .41421 and .82843
    assert TARGETS.rewards((0.5, 0.5)) != rounded.rewards((0.5, 0.5))


def test_targets_keep_the_rows_settings() -> None:
    """Map linf of (1/2, 1/2) is (1, 1): the most of both; l2 asks for 1 / sqrt 2 of the way."""
    scores = np.array([[0.0, 10.0], [2.0, 30.0]])
    plain, other = (
        make(bounds=[0, 1]).targets(scores, 0),
        make(bounds=[0, 1], map="linf", format="tags", compat="ric").targets(scores, 0),
    )
    assert (plain.map, plain.format, plain.step) == ("l2", "names", None)
    assert (other.map, other.format, other.step) == ("linf", "tags", 0.1)
    assert plain.rewards((0.5, 0.5)) == pytest.approx([-1 + 2 / sqrt(2)] * 2)
    assert other.rewards((0.5, 0.5)) == [round(high, 1) for high in other.high]


def test_bounds_are_quantiles_of_the_standardised_texts() -> None:
    """Rewards 0 to 4: mean 2, std sqrt 2; the quarter quantile is 1, so (1 - 2) / sqrt 2."""
    scores = np.stack([np.arange(5.0), 10 * np.arange(5.0)], 1)
    targets = make(bounds=[0.25, 1.0]).targets(scores, 0)
    assert targets.low == pytest.approx([-1 / sqrt(2)] * 2)
    assert targets.high == pytest.approx([sqrt(2)] * 2)
    assert (targets.mean, targets.std) == (pytest.approx((2.0, 20.0)), pytest.approx((sqrt(2), 10 * sqrt(2))))
    assert ric.zscores(np.array([[3.0, 20.0]]), targets).tolist() == [pytest.approx([1 / sqrt(2), 0.0])]


def test_equal_rewards_have_no_unit() -> None:
    with pytest.raises(MoaError, match=r"methods.ric: all texts have the same reward of objective 'conciseness'"):
        make().targets(np.array([[0.0, 1.0], [2.0, 1.0]]), 0)


def test_bounds_are_ordered() -> None:
    with pytest.raises(MoaError, match="methods.ric.*two quantiles, the smaller first"):
        make(bounds=[0.9, 0.1])


def test_prompt_text() -> None:
    # -0.35 lies just above -.35 in binary
    assert TARGETS.rewards_text([1.2345, -0.35], NAMES) == "sentiment 1.2 conciseness -0.3"
    assert (
        TARGETS.model_copy(update={"format": "tags"}).rewards_text([1.2, -0.4], NAMES)
        == "<rm1_score> 1.2 <rm2_score> -0.4"
    )
    assert TARGETS.rewards_text([-0.04, 0.0], NAMES) == "sentiment 0.0 conciseness 0.0", "no minus zero"
    assert TARGETS.text((1.0, 0.0), NAMES) == "sentiment 1.0 conciseness -2.0"


def test_bars_are_tenths_of_the_range() -> None:
    """From -1 to 1 and from -2 to 2: -0.4 is 3 tenths of the way and 0.8 is 7.

    Beyond the ends there are none, or all.
    """
    bars = TARGETS.model_copy(update={"format": "bars"})
    assert bars.rewards_text([-0.4, 0.8], NAMES) == "sentiment + + + conciseness + + + + + + +"
    assert bars.rewards_text([-1.7, 5.0], NAMES) == "sentiment conciseness + + + + + + + + + +"
    assert bars.rewards_text([-0.5, -1.4000000000000001], NAMES) == "sentiment + + conciseness + +", (
        "a half, 2.5 and 1.5 tenths, to the even one"
    )
    assert bars.text((1.0, 0.0), NAMES) == "sentiment + + + + + + + + + + conciseness"
    assert make(format="bars").targets(np.array([[0.0, 10.0], [2.0, 30.0]]), 0).format == "bars"


@pytest.mark.parametrize("form", ["names", "bars"])
def test_a_reward_too_many_or_too_few_is_never_left_out(form: Any) -> None:
    shown = TARGETS.model_copy(update={"format": form})
    for rewards, names in (
        ([0.0], NAMES),
        ([0.0], NAMES[:1]) if form == "bars" else ([0.0, 0.0, 0.0], NAMES),
        ([0.0, 0.0], NAMES[:1]),
    ):
        with pytest.raises(ValueError, match=r"zip\(\)"):
            shown.rewards_text(rewards, names)
    with pytest.raises(ValueError, match=r"zip\(\)"):
        shown.rewards((0.2, 0.3, 0.5))


def test_bars_need_a_range() -> None:
    """Of a hundred texts one has a conciseness of 1: its quarter quantiles are equal."""
    scores = np.stack([np.arange(100.0), np.eye(100)[0]], 1)
    assert make(bounds=[0.25, 0.75]).targets(scores, 0).format == "names"
    with pytest.raises(MoaError, match=r"methods.ric.format: .* equal for objective 'conciseness'; widen its bounds"):
        make(bounds=[0.25, 0.75], format="bars").targets(scores, 0)


def test_a_response_good_at_anything_is_kept() -> None:
    """Quantile .7 of 0..9 is 6.3: 7, 8, 9 pass. The second reward runs the other way, so 0, 1, 2 pass by it."""
    ascending = np.arange(10.0)
    assert np.flatnonzero(ric.kept(np.stack([ascending, 9 - ascending], 1), 0.7)).tolist() == [0, 1, 2, 7, 8, 9]
    assert ric.kept(np.ones((3, 2)), 0.7).all(), "at the quantile counts"
    large = np.stack([ascending, 100 + ascending[::-1]], 1)
    assert np.flatnonzero(ric.kept(large, 0.7)).tolist() == [
        0,
        1,
        2,
        7,
        8,
        9,
    ], "each objective has a quantile of its own, whatever its size"


def save_policy(folder: Path) -> Path:
    """A random conditioned policy whose card holds targets."""
    tiny_models.save_adapter(folder, seed=0, conditioned=True)
    card = json.loads((folder / "policy.json").read_text())
    settings = {
        "conditioning": Conditioning().model_dump(),
        "generation": {"max_new_tokens": 6},
        "model": Model(source="x").model_dump(),
    }
    (folder / "policy.json").write_text(json.dumps(card | settings | {"targets": TARGETS.model_dump()}))
    return folder


def test_the_card_decides_what_the_prompt_shows(tmp_path: Path) -> None:
    base = tiny_models.save_base(tmp_path / "t" / "base")
    folder = save_policy(tmp_path / "t" / "policies" / "ric" / "policy" / "s0")
    prompting = Prompting(["a", "b"], Conditioning(), conditioned=True)
    row = answering.load(Base(base, Model(source="x")), [folder], "policy", prompting)
    assert row.texts(["My {preference}"], (1.0, 0.0)) == ["a 1.0 b -2.0 My {preference}"]
    assert row.texts(["My"], None) == ["My"], "the reference reads plain prompts"
    said = respond(folder, "The lamp", {"a": 1.0, "b": 0.0})
    assert said and said != respond(folder, "The lamp", {"a": 0.0, "b": 1.0}), "moa respond shows targets too"


def test_a_damaged_card(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text(
        json.dumps({"policy": "p", "weights": None, "targets": {"low": [0], "high": [0, 1], "mean": [0], "std": [1]}})
    )
    with pytest.raises(MoaError, match="policy.json: not a policy's card"):
        cards.read_card(tmp_path)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.run(inputs, tmp_path_factory.mktemp("finished"), "ric")


def test_end_to_end(inputs: Path, finished: Path) -> None:
    policy = finished / "policy"
    assert sorted(p.name for p in policy.iterdir()) == ["adapter", "moa.sha256", "policy.json"]
    texts = {
        r["text_id"] for r in tables.read(tables.TEXTS, inputs / "texts.parquet").to_pylist() if r["split"] == "train"
    }
    scores = [
        r["score"]
        for r in tables.read(tables.TEXT_SCORES, inputs / "text_scores.parquet").to_pylist()
        if r["text_id"] in texts and r["objective"] == "sentiment"
    ]
    targets = cards.read_card(policy).targets
    assert targets is not None
    assert targets.mean[0] == pytest.approx(np.mean(scores)), "of the train texts alone"
    assert targets.low[0] == pytest.approx((np.quantile(scores, 0.01) - np.mean(scores)) / np.std(scores))
    prompting = Prompting(NAMES, Conditioning(template="{preference}: {prompt}"), conditioned=True)
    row = answering.load(Base(inputs / "base", Model(source="x")), [policy], "policy", prompting)
    assert row.texts(["My"], (0.0, 1.0)) == [f"sentiment {targets.low[0]:.1f} conciseness {targets.high[1]:.1f}: My"]
    assert not list((finished / "checkpoints").glob("*/")), "checkpoints vanish when the job ends well"


def test_no_more_responses_than_the_shared_loop(finished: Path) -> None:
    """4 steps of 8 responses: two rounds of two batches."""
    rows = trained.curve(finished)
    assert [s for s, q, o, _ in rows if (q, o) == ("reward", "sentiment")] == [0, 1, 2, 3]
    assert [s for s, q, _, _ in rows if q == "online_loss"] == [1, 3]
    assert [s for s, q, _, _ in rows if q == "offline_loss"] == [0]
    assert all(0.3 <= v <= 1.0 for _, q, _, v in rows if q == "kept_share")
    assert len({row[:3] for row in rows}) == len(rows)


def test_interrupted_between_parts_gives_the_same_policy(
    inputs: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second round fails once; what follows resumes after the first and ends with the bytes of never stopping."""
    real, steps = sft.fine_tune, []

    def failing(*arguments: Any) -> sft.Trained:
        steps.append(arguments[3].sft.steps)
        if len(steps) == 3:
            raise RuntimeError("pulled the plug")
        return real(*arguments)

    monkeypatch.setattr(sft, "fine_tune", failing)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        trained.run(inputs, tmp_path, "ric")
    trained.run(inputs, tmp_path, "ric")
    assert steps == [
        7,
        1,
        1,
        1,
    ], "56 texts in batches of 8, a fifth of that per round; the fourth is the second round again"
    again, whole = (
        load_file(path / "policy" / "adapter" / "adapter_model.safetensors") for path in (tmp_path, finished)
    )
    assert all(again[name].equal(whole[name]) for name in whole)
    assert trained.curve(tmp_path) == trained.curve(finished)


def test_killed_within_a_part_gives_the_same_policy(
    inputs: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven steps offline, killed in the fifth: four of them are not done again."""
    done = killed.in_step(monkeypatch, sft.Tuner, 5)
    with pytest.raises(KeyboardInterrupt):
        trained.run(inputs, tmp_path, "ric")
    trained.run(inputs, tmp_path, "ric")
    assert len(done) == 5 + 3 + 1 + 1
    again, whole = (
        load_file(path / "policy" / "adapter" / "adapter_model.safetensors") for path in (tmp_path, finished)
    )
    assert all(again[name].equal(whole[name]) for name in whole)
    assert trained.curve(tmp_path) == trained.curve(finished)


def test_rates_of_the_parts(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounds train at 1/14 of the offline rate, on kept responses and half as many texts as responses.

    That is at most 16 + 8.
    """
    real, seen = sft.fine_tune, []

    def watched(*arguments: Any) -> sft.Trained:
        seen.append((arguments[3].sft.learning_rate, len(arguments[2])))
        return real(*arguments)

    monkeypatch.setattr(sft, "fine_tune", watched)
    trained.run(inputs, tmp_path, "ric", learning_rate=0.014)
    assert [rate for rate, _ in seen] == pytest.approx([0.014, 0.001, 0.001])
    assert seen[0][1] == 56
    assert all(8 < count <= 24 for _, count in seen[1:])


def test_out_of_memory_starts_the_part_again_with_fewer_examples(
    inputs: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = sft.fine_tune, []

    def small_gpu(*arguments: Any) -> sft.Trained:
        tried.append(arguments[3].micro)
        if arguments[3].micro > 4:
            # half a step was taken
            arguments[0].get_parameter("base_model.model.model.layers.0.mlp.up_proj.lora_B.default.weight").data.fill_(
                9.0
            )
            raise sft.torch.OutOfMemoryError
        return real(*arguments)

    monkeypatch.setattr(sft, "fine_tune", small_gpu)
    trained.run(inputs, tmp_path, "ric", rounds=0)
    assert tried == [8, 4]
    assert trained.curve(tmp_path)[0][3] == pytest.approx(trained.curve(finished)[0][3], abs=1e-3), (
        "the loss of the first part, as without the failure"
    )


def test_divergence_names_the_methods_own_rate(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = training.Course.on_log

    def on_log(self: training.Course, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        for parameter in options["model"].parameters():
            if parameter.requires_grad:
                parameter.data.fill_(1e30)

    monkeypatch.setattr(training.Course, "on_log", on_log)
    with pytest.raises(Diverged, match=r"lower methods.ric.learning_rate \(now 0.1\)"):
        trained.run(inputs, tmp_path, "ric", learning_rate=0.1)


def test_more_rounds_than_batches(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(MoaError, match=r"methods.ric.rounds: 2 rounds share ppo.steps \(1\) batches"):
        trained.run(inputs, tmp_path, "ric", ppo={"steps": 1})
    make(rounds=2).check(Ppo(steps=2), None)  # a batch for each


def test_the_policy_learns_to_read_rewards(inputs: Path, tmp_path: Path) -> None:
    """Texts whose second reward says whether they end in '!': after training the prompt decides that."""
    reviews = tiny_models.texts()[:40]
    texts = [
        {"task": "t", "text_id": f"x{i}{end}", "split": "train", "prompt": r.prompt, "response": f" is {end * 3}"}
        for i, r in enumerate(reviews)
        for end in "!?"
    ]
    scores = [
        {
            "task": "t",
            "text_id": t["text_id"],
            "objective": o,
            "role": "reward",
            "score": float(t["text_id"].endswith("!") == (o == "sentiment")),
            "truncated": False,
        }
        for t in texts
        for o in NAMES
    ]
    for name, table, rows in (("texts", tables.TEXTS, texts), ("text_scores", tables.TEXT_SCORES, scores)):
        tables.write(table, rows, tmp_path / f"{name}.parquet")
    for name in ("base", "prompts.parquet", "normaliser.parquet"):
        (tmp_path / name).symlink_to(inputs / name)
    out = trained.run(tmp_path, tmp_path / "out", "ric", rounds=0, epochs=12)
    prompting = Prompting(NAMES, Conditioning(template="{preference}: {prompt}"), conditioned=True)
    row = answering.load(Base(inputs / "base", Model(source="x")), [out / "policy"], "policy", prompting)
    row.switch(None)
    for preference, end in (((1.0, 0.0), "!"), ((0.0, 1.0), "?")):
        asked = row.texts(["The lamp", "My sister", "This old radio"], preference)
        said = answering.respond(row, asked, Sampling(Decoding(8, 0.1, 1.0), 3, "s"))
        assert all(end in r.text for r in said), [r.text for r in said]
