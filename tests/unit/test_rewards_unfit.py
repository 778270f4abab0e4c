"""Models that cannot be what they are named for, and judges that would repeat their reward's mistakes: a line each."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.ahead import check as ahead
from moa.ahead import local
from moa.errors import MoaError
from moa.experiment import schema
from moa.experiment.rewards import Classifier
from moa.lm import loading
from moa.lm.inspect import inspect_model
from moa.plan import Plan
from moa.rewards import scoring
from tests import tiny_models, tiny_rewards

WAYS: dict[str, dict[str, Any]] = {
    "vader": {"kind": "vader"},
    "labels": {"kind": "linear", "data": {"source": "owner/rows", "label": "label"}},
    "numbers": {"kind": "linear", "data": {"source": "owner/rows", "target": "stars"}},
    "net": {"kind": "transformer", "source": "owner/m", "data": {"source": "owner/rows", "label": "label"}},
    "half": {"kind": "linear", "data": {"source": "owner/rows", "label": "label", "part": [0, 0.5]}},
    "rest": {
        "kind": "transformer",
        "source": "owner/m",
        "data": {"source": "owner/rows", "label": "l", "part": [0.5, 1]},
    },
    "test": {"kind": "linear", "data": {"source": "owner/rows", "label": "label", "split": "test"}},
    "first": {"kind": "classifier", "source": "owner/many", "logit": 0},
    "second": {"kind": "classifier", "source": "owner/many", "logit": 1},
    "other": {"kind": "classifier", "source": "owner/other"},
    "mine": {"kind": "python", "function": "mine:f", "low": 0},
    "again": {"kind": "python", "function": "mine:f", "high": 1},
    "ari": {"kind": "readability"},
    "cl": {"kind": "readability", "formula": "coleman_liau"},
}


def experiment(rewards: dict[str, Any], reward: str, judge: str | None, **sections: Any) -> schema.Experiment:
    return schema.parse(
        {
            "task": "t",
            "run": {"methods": ["reference"], "seeds": [0]},
            "data": {"source": "embedded"},
            "model": {"source": "scratch", "scratch": {}, "sft": {}},
            "objectives": {"a": {"reward": reward, "judge": judge}, "b": {"reward": "short"}},
            "rewards": {**rewards, "short": {"kind": "conciseness"}},
            **sections,
        },
        "mine.yaml",
    )


@pytest.mark.parametrize(
    ("reward", "judge", "same"),
    [
        ("vader", "vader", "it is the reward itself; name another reward"),
        ("labels", "numbers", "both are trained on the same prompts of owner/rows; train them on two halves"),
        ("net", "labels", "both are trained on the same prompts of owner/rows; train them on two halves, data.part"),
        ("half", "labels", "both are trained on the same prompts"),
        ("first", "second", "both are the model owner/many; name another model"),
        ("mine", "again", "both are the function mine:f; name another reward"),
        ("labels", "vader", None),
        ("half", "rest", None),
        ("labels", "test", None),
        ("first", "other", None),
        ("ari", "cl", None),
    ],
)
def test_a_judge_is_independent_of_its_reward(reward: str, judge: str, same: str | None) -> None:
    if same is None:
        assert experiment(WAYS, reward, judge).objectives["a"].judge == judge
        return
    message = f"mine.yaml: objectives.a.judge: {judge} is no independent judge of {reward}: {same}"
    with pytest.raises(MoaError, match=message):
        experiment(WAYS, reward, judge)


def test_a_judge_of_the_same_prompts_in_another_file_is_found_before_the_run(tmp_path: Path) -> None:
    """Scores of 40 prompts, and pairs of dialogues that begin with them: 40 less those that both hold out."""
    scores = [{"q": f"question {i}", "text": f"answer {i}", "score": i / 7} for i in range(40)]
    pairs = [{"q": f"\n\nHuman: Question {i}\n\nAssistant:", "yes": f"yes {i}", "no": f"no {i}"} for i in range(40)]
    for name, rows in (("scores", scores), ("pairs", pairs)):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")

    def plan(reward: list[float], judge: list[float]) -> Plan:
        one = {"source": str(tmp_path / "scores.parquet"), "prompt": "q", "target": "score", "part": reward}
        other = {"source": str(tmp_path / "pairs.parquet"), "prompt": "q", "chosen": "yes", "rejected": "no"}
        rewards = {"one": {"kind": "linear", "data": one}, "two": {"kind": "linear", "data": {**other, "part": judge}}}
        return Plan(experiment(rewards, "one", "two"), "mine.yaml")

    with pytest.raises(
        MoaError, match=r"objectives.a.judge: two and one are trained on \d\d of the same prompts, first"
    ):
        ahead.check(plan([0, 1], [0, 1]), "mine.yaml")
    assert ahead.check(plan([0, 0.5], [0.5, 1]), "mine.yaml")


def test_an_encoder_cannot_be_the_base(tmp_path: Path) -> None:
    folder = tiny_rewards.bert(tmp_path / "bert")
    message = r"it is an encoder, model type bert, which reads texts and writes none\); name a causal language model"
    declared = experiment({"vader": {"kind": "vader"}}, "vader", None, model={"source": str(folder)})
    (found,) = local.mistakes(Plan(declared, "mine.yaml"))
    assert found.startswith("model.source: ") and message.replace("\\", "") in found
    with pytest.raises(MoaError, match=message):
        loading.causal_lm(inspect_model(folder))
    tiny_models.edit_json(folder / "config.json", is_decoder=True)
    assert not [line for line in local.mistakes(Plan(declared, "mine.yaml")) if "encoder" in line]


def test_another_models_tokenizer_is_named_whether_it_knows_more_tokens_or_fewer(tmp_path: Path) -> None:
    """The model has 20 embeddings: one tokenizer has 320 tokens, another, of three words less, 15: under 16 of 20."""
    more, fewer = (tiny_rewards.bert(tmp_path / name) for name in ("more", "fewer"))
    tiny_models.tokenizer().save_pretrained(more)

    def drop(path: Path) -> None:
        found = json.loads(path.read_text())
        kept = {word: i for word, i in found["model"]["vocab"].items() if i < 15}
        path.write_text(json.dumps({**found, "model": {**found["model"], "vocab": kept}}))

    drop(fewer / "tokenizer.json")
    for folder, message in (
        (more, r"the tokenizer's ids go up to 319, .*, the model has embeddings for 20 tokens"),
        (
            fewer,
            r"reward r: its tokenizer knows 15 tokens and the model has embeddings for 20, so it is most likely an",
        ),
    ):
        spec = Classifier(kind="classifier", source=str(folder), max_length=32)
        with pytest.raises(MoaError, match=message):
            scoring.load("r", spec, [], "cpu")


def test_too_short_a_context_is_named_with_what_fits(tmp_path: Path) -> None:
    folder = tiny_rewards.bert(tmp_path / "bert")
    spec = {"kind": "classifier", "source": str(folder), "max_length": 512}
    plan = Plan(experiment({"r": spec}, "r", None), "mine.yaml")
    (found,) = local.mistakes(plan)
    assert found == f"rewards.r.max_length is 512, but {folder} reads at most 64 tokens; set it to 64 or less"
    with pytest.raises(
        MoaError, match="max_length is 512, but the model reads at most 64 tokens; set max_length to 64"
    ):
        scoring.load("r", Classifier.model_validate(spec), [], "cpu")
