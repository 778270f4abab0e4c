"""A data set's own preference pairs: what is read, what is left out, and a MODPO policy trained on them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from moa.errors import MoaError
from moa.experiment.pairs import PairSource
from moa.experiment.schema import parse
from moa.lm import generation
from moa.lm.conditioning import token_rows
from moa.lm.models import forward
from moa.methods import catalogue, modpo
from moa.plan import Plan
from moa.rl.losses import forbid_empty, logprobs_and_entropy
from moa.stages import train
from moa.store import tables
from moa.store.provenance import text_hash
from moa.tasks.preference_pairs import Pair, read_pairs
from moa.trainers import setup
from moa.trainers.pair_samples import _fitting, _rollout, given
from moa.trainers.pairs import given_pairs
from tests import trained

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ["The lamp", "The red chair", "This phone"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_columns_and_what_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = row("The lamp", "is good.", " is bad. ")
    rows = [
        good,
        good,
        row("A chair", "same", "same "),
        row(" ", "a", "b"),
        row("A desk", "fine", "  "),
        row("the SOFA!", "yes", "no"),
    ]
    source = PairSource(source=str(write(tmp_path / "pairs.jsonl", rows)), prompt="prompt")
    with caplog.at_level("INFO", "moa"):
        assert read_pairs("methods.modpo.pairs", source, ["The sofa"]) == [Pair("The lamp", " is good.", " is bad.")]
    assert (
        "1 exact duplicates, 1 with equal responses, 2 with a blank prompt or response, 1 near-duplicates of evaluation"
        " prompts" in caplog.text
    )


def test_a_frame_is_taken_off_and_longer_dialogues_are_left_out(tmp_path: Path) -> None:
    talk = "\n\nHuman: {}\n\nAssistant:"
    rows = [
        row(talk.format("Why?"), "Yes.", "No."),
        row("Why?", "Yes.", "No."),
        row(talk.format("Hi\n\nAssistant: Hello.\n\nHuman: Why?"), "Yes.", "No."),
    ]
    source = PairSource(
        source=str(write(tmp_path / "pairs.jsonl", rows)), prompt="prompt", frame="\n\nHuman: {prompt}\n\nAssistant:"
    )
    assert read_pairs("k", source, []) == [Pair("Why?", " Yes.", " No.")]
    with pytest.raises(ValueError, match="frame must hold {prompt} exactly once"):
        PairSource(source="x", prompt="p", frame="Human:")


def test_an_evaluation_prompt_is_found_in_a_turn_of_a_dialogue(tmp_path: Path) -> None:
    rows = [
        row("\n\nHuman: How do I teach kids to meditate?\n\nAssistant:", "So.", "No."),
        row("\n\nHuman: How do I bake?\n\nAssistant:", "So.", "No."),
    ]
    source = PairSource(source=str(write(tmp_path / "pairs.jsonl", rows)), prompt="prompt")
    assert [p.prompt.split()[-2] for p in read_pairs("k", source, ["How do I teach kids to meditate?"])] == ["bake?"]


def test_texts_outside_the_given_length_are_left_out(tmp_path: Path) -> None:
    """Prompt and response with its space: 4 + 3 = 7 and 4 + 5 = 9 characters."""
    source = PairSource(
        source=str(write(tmp_path / "pairs.jsonl", [row("Why?", "so", "nope"), row("Why?", "so", "no")])),
        prompt="prompt",
        text_characters=(7, 8),
    )
    assert read_pairs("k", source, []) == [Pair("Why?", " so", " no")]


def test_whole_dialogues(tmp_path: Path) -> None:
    talk = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
    rows = [
        {"chosen": f"{talk} Because.", "rejected": f"{talk} No."},
        {"chosen": f"{talk} Because.", "rejected": "\n\nHuman: Hi\n\nAssistant: Yes"},
    ]
    source = PairSource(source=str(write(tmp_path / "pairs.jsonl", rows)), prompt_end="\n\nAssistant:")
    assert read_pairs("k", source, []) == [Pair(talk, " Because.", " No.")], (
        "the second row's dialogues differ before their last turn"
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row("A", "x", "x")],
            r"k: none of the 1 rows of .*pairs.jsonl is a usable pair \(1 with equal responses\); correct the columns",
        ),
        (
            [{"prompt": "A", "chosen": ["x"], "rejected": "y"}],
            r"k, row 0 of .*: column 'chosen' holds list \(\['x'\]\), expected text",
        ),
        ([{"prompt": "A", "choosen": "x", "rejected": "y"}], r"no column 'chosen'; .* Did you mean 'choosen'"),
    ],
)
def test_bad_pairs_are_named(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(MoaError, match=message):
        read_pairs("k", PairSource(source=str(write(tmp_path / "pairs.jsonl", rows)), prompt="prompt"), [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": {"source": "x"}, "objective": "sentiment"}, "name the `prompt` column, or the `prompt_end`"),
        (
            {"pairs": {"source": "x", "prompt": "p"}},
            "`pairs` hold the preferences of one objective; name it as `objective`",
        ),
        (
            {"pairs": {"source": "x", "prompt": "p"}, "objective": "sentiment", "responses": 3},
            "`pairs` bring their own responses; leave out responses",
        ),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MoaError, match=message):
        catalogue.load("modpo", settings, ["sentiment", "conciseness"])


def test_a_file_that_is_not_there_is_refused_by_the_plan(tmp_path: Path) -> None:
    method = catalogue.load(
        "modpo",
        {"objective": "sentiment", "pairs": {"source": str(tmp_path / "pears.jsonl"), "prompt": "p"}},
        ["sentiment", "conciseness"],
    )
    write(tmp_path / "pairs.jsonl", [])
    with pytest.raises(MoaError, match=r"pears.jsonl: no such file or folder. Did you mean 'pairs.jsonl'"):
        method.check(parse(load("tests/tiny.yaml"), "tiny").ppo, None)


def test_pairs_by_hand() -> None:
    """w = (.75, .25), k the second: the first response of each two is chosen, others = .75 dR_1."""
    rewards = torch.tensor([[0.9, 0.1], [0.4, 0.5], [0.0, 0.2], [1.0, 1.0]])
    made = given_pairs(rewards, torch.tensor([0.75, 0.25]), 1)
    assert (made.rows.tolist(), made.chosen.tolist(), made.weight) == ([[0, 1], [2, 3]], [1.0, 1.0], 0.25)
    torch.testing.assert_close(made.others, torch.tensor([0.75 * 0.5, 0.75 * -1.0]))
    torch.testing.assert_close(made.better, torch.tensor([0.375 - 0.1, -0.75 - 0.2]))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = trained.write_inputs(tmp_path_factory.mktemp("inputs"))
    prompts = tables.read(tables.PROMPTS, folder / "prompts.parquet").to_pylist()
    held = {"task": "t", "prompt_id": text_hash("An unseen thing"), "split": "evaluation", "prompt": "An unseen thing"}
    tables.write(tables.PROMPTS, [*prompts, held], folder / "prompts.parquet")
    return folder


def pairs_file(folder: Path) -> Path:
    rows = [row(f"{p} {i}", "is good.", "is a very bad and dull thing.") for p in PROMPTS for i in range(8)]
    pq.write_table(
        pa.Table.from_pylist([*rows, row("An unseen thing", "is good.", "is bad.")]), folder / "pairs.parquet"
    )
    return folder / "pairs.parquet"


def policy(inputs: Path, out: Path, file: Path, **settings: Any) -> Path:
    return trained.run(
        inputs,
        out,
        "modpo",
        (0.25, 0.75),
        pairs={"source": str(file), "prompt": "prompt"},
        objective="sentiment",
        **settings,
    )


def test_a_policy_learns_what_the_pairs_prefer(inputs: Path, tmp_path: Path) -> None:
    """24 pairs, budget 4 steps of 8 responses = 16 pairs; sentiment and conciseness both prefer the chosen one."""
    out = policy(inputs, tmp_path, pairs_file(tmp_path), epochs=10, beta=0.5)
    curve = trained.curve(tmp_path)
    accuracy = [v for _, q, _, v in curve if q == "pair_accuracy"]
    assert accuracy[-1] == 1.0, accuracy
    assert [v for s, q, _, v in curve if (s, q) == (0, "finished_rate")] == [1.0]
    cost = tables.read(tables.COSTS, out / "costs.parquet").to_pylist()[0]
    assert cost["models"] == 1 and cost["tokens"] > 32, "32 responses with their end tokens were read"


def test_an_edited_file_is_not_continued_from_the_old_ones_samples(tmp_path: Path) -> None:
    """The folder of checkpoints, which holds the samples, is keyed by the file's content."""
    file = pairs_file(tmp_path)
    source = PairSource(source=str(file), prompt="prompt")
    method = catalogue.load(
        "modpo", {"pairs": source.model_dump(), "objective": "sentiment"}, ["sentiment", "conciseness"]
    )
    assert isinstance(method, modpo.Method) and method.sources() == [str(file)]
    data = {**load("tests/tiny.yaml"), "methods": {"modpo": {"objective": "sentiment", "pairs": source.model_dump()}}}
    data["run"] = {"methods": ["modpo", "linear"], "seeds": [0]}
    before = Plan(parse(data, "tiny"), "tiny")
    state, other = before.train_files("modpo"), before.train_files("linear")
    write(file, [row("A", "x", "y")])
    assert before.train_files("modpo") != state
    assert before.train_files("linear") == other, "a method that does not read the file keeps its policies"


def load(path: str) -> dict[str, Any]:
    import yaml

    data: dict[str, Any] = yaml.safe_load((ROOT / path).read_text())
    return data


def make(inputs: Path, settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return actor, task and ppo of the tiny task."""
    request = train.read_request(trained.command(inputs, inputs, "modpo", (0.5, 0.5), **settings))
    actor = setup.actor_of(request)
    return actor, setup.task_of(request, actor), request.section.ppo


def test_the_layout_is_that_of_generation(inputs: Path) -> None:
    """A response laid out here reads as if it had been generated: same text, same tokens, the end token counted."""
    actor, task, _ = make(inputs, {})
    rows = [
        side
        for both in _fitting(actor, task, [Pair("The lamp", " is good.", " is a very bad thing.")])
        for side in both
    ]
    rollout = _rollout(actor, rows)
    pad = actor.tokenizer.pad_token_id
    width = rollout.ids.shape[1] - rollout.response
    again = generation.finish(rollout.ids, rollout.mask[:, :width], actor.ends, pad, actor.tokenizer)
    assert again.texts == [" is good.", " is a very bad thing."] == rollout.texts
    assert (
        again.ids.equal(rollout.ids)
        and again.mask.equal(rollout.mask)
        and again.response_mask.equal(rollout.response_mask)
    )
    assert rollout.finished.all()
    assert (
        rollout.ids[0][:width][rollout.mask[0][:width] == 1].tolist()
        == token_rows([task.text_of("The lamp", None)], actor.tokenizer)[0]
    )


def test_log_probabilities_are_the_references(inputs: Path) -> None:
    """Read in parts of 3 and joined, they are those of one response read alone, with the adapter off.

    Rewards stand in the file's order.
    """
    actor, task, ppo = make(inputs, {})
    pairs = [Pair(f"The lamp {i}", " is good." + " Yes." * i, " is bad.") for i in range(3)]
    samples = given(actor, task, ppo.model_copy(update={"batch_size": 3, "steps": 2}), pairs, seed=0)
    assert samples.raw.shape == (6, 2)
    for i in range(6):
        real = samples.mask[i].bool()
        t = int(samples.response_mask[i].sum())
        with torch.no_grad(), actor.model.disable_adapter():
            logits, _ = forward(actor.model, samples.ids[i : i + 1, real], samples.mask[i : i + 1, real], t)
        alone, _ = logprobs_and_entropy(
            forbid_empty(logits, actor.ends),
            samples.ids[i : i + 1, real][:, -t:],
            actor.decoding.temperature,
        )
        torch.testing.assert_close(samples.reference[i, :t], alone[0], atol=1e-5, rtol=1e-5)
        assert not samples.reference[i, t:].any()
    positive, negative = samples.raw[0::2, 0], samples.raw[1::2, 0]
    assert (positive > negative).all(), "VADER: chosen responses say good, rejected ones bad"


def test_pairs_longer_than_the_context(inputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    actor, task, ppo = make(inputs, {})
    long = Pair("The lamp", " good" * 500, " bad.")
    with pytest.raises(MoaError, match=r"none of the 1 pairs fits into the model's context of \d+ tokens"):
        given(actor, task, ppo, [long], 0)
    with caplog.at_level("WARNING", "moa"):
        assert len(given(actor, task, ppo, [long, Pair("The lamp", " is good.", " is bad.")], 0).raw) == 2
    assert "1 of 2 pairs left out: longer than the model's context" in caplog.text
