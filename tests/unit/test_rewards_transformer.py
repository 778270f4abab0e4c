"""A transformer reward trained by TRL's RewardTrainer from a tiny random model, scored by the classifier's code."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from moa.errors import Diverged, MoaError
from moa.experiment.rewards import Transformer
from moa.job.process import Job
from moa.rewards import labelled, scoring, transformer
from tests import killed, tiny_models, tiny_rewards

HELD, STEPS = 6, 17  # of 40 prompts, at a share of 0.2 by hash; 4 passes over 34 pairs in batches of 8


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs in which the chosen answer ends with 'good', the rejected one with 'bad'."""
    texts = tiny_rewards.texts(40, longest=6)
    rows = [{"q": f"the plot {i}", "yes": f"{t} good", "no": f"{t} bad"} for i, t in enumerate(texts)]
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def spec(pairs: Path, source: Path, **settings: object) -> Transformer:
    data = {"source": str(pairs), "prompt": "q", "chosen": "yes", "rejected": "no"}
    defaults = {
        "template": "it ends {prompt} {response}",
        "max_length": 32,
        "batch_size": 8,
        "epochs": 4,
        "learning_rate": 1e-2,
        "heldout": 0.2,
    }
    return Transformer.model_validate(
        {"kind": "transformer", "source": str(source), "data": data, **defaults, **settings}
    )


def train(folder: Path, declared: Transformer) -> scoring.Trained:
    folder.mkdir(parents=True)
    return scoring.train(folder.name, declared, folder, Job(folder.with_name("checkpoints")))


@pytest.fixture(scope="module")
def trained(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, Path, scoring.Trained]:
    root = tmp_path_factory.mktemp("trained")
    declared = spec(pairs, tiny_rewards.gpt2(root / "base"))
    return declared, root / "liking", train(root / "liking", declared)


def test_it_learns_the_pairs_and_says_so(trained: tuple[Transformer, Path, scoring.Trained]) -> None:
    declared, folder, result = trained
    training, heldout = labelled.examples("liking", declared.data, declared.template, 0.2)
    assert result.heldout == {"n": len(heldout), "accuracy": 1.0} and result.rows == len(training) == 40 - len(heldout)
    card = json.loads((folder / "reward.json").read_text())
    assert (
        card["heldout"] == result.heldout
        and card["settings"]["epochs"] == 4
        and set(card["versions"]) == {"torch", "transformers", "trl"}
    )
    # 4 epochs of the training pairs; a token is a word: 'it ends', 'the plot 7', and a text with its last word
    assert result.tokens == 4 * sum(
        len(f"it ends {pair.prompt} {text}".split()) for pair in training for text in (pair.text, pair.rejected)
    )
    assert training[0].prompt.startswith("the plot ")


def test_it_is_stored_as_safetensors_only(trained: tuple[Transformer, Path, scoring.Trained]) -> None:
    names = {path.name for path in trained[1].iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "reward.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


def test_it_scores_like_any_classifier(trained: tuple[Transformer, Path, scoring.Trained]) -> None:
    declared, folder, _ = trained
    scorer = scoring.load("liking", declared, [folder], "cpu")
    texts = tiny_rewards.texts(30, longest=6, seed=1)  # new texts, with a prompt like those that it was trained on
    good, bad = (scorer.score(["the plot 99"] * 30, [f"{t} {word}" for t in texts]).values for word in ("good", "bad"))
    assert (good > bad).mean() > 0.9
    one_by_one = [scorer.score(["the plot 99"], [f"{t} good"]).values[0] for t in texts]
    assert good.tolist() == pytest.approx(one_by_one, rel=1e-5, abs=1e-5)


def test_training_twice_gives_the_same_bytes(pairs: Path, tmp_path: Path) -> None:
    declared = spec(pairs, tiny_rewards.bert(tmp_path / "base", labels=1), epochs=1)
    for name in ("one", "two"):
        train(tmp_path / name / "liking", declared)
    for file in ("model.safetensors", "reward.json"):
        assert (tmp_path / "one" / "liking" / file).read_bytes() == (tmp_path / "two" / "liking" / file).read_bytes()


def test_too_little_memory_halves_the_pairs_and_keeps_the_batch(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 pairs are 16 rows, which do not fit; 4 pairs do: twice as many passes, as many updates, as good a reward."""
    declared = spec(pairs, tiny_rewards.gpt2(tmp_path / "base"))
    plain = train(tmp_path / "plain" / "liking", declared)
    run, rows = transformer.Tuner.training_step, []

    def limited(
        self: transformer.Tuner, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *rest: object
    ) -> torch.Tensor:
        rows.append(len(inputs["input_ids"]))
        if rows[-1] > 8:
            raise torch.OutOfMemoryError("a limit of 8 rows")
        return run(self, model, inputs, *rest)

    monkeypatch.setattr(transformer.Tuner, "training_step", limited)
    tight = train(tmp_path / "tight" / "liking", declared)
    assert rows == [16, *[8] * (2 * STEPS)] and (plain.micro_batch, tight.micro_batch) == (8, 4)
    assert json.loads((tmp_path / "tight" / "liking" / "reward.json").read_text())["micro_batch"] == 4
    assert tight.heldout == plain.heldout == {"n": HELD, "accuracy": 1.0}
    monkeypatch.setattr(
        transformer.Tuner, "training_step", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))
    )
    with pytest.raises(MoaError, match="reward liking: out of memory with a single pair"):
        train(tmp_path / "full" / "liking", declared)


def test_it_goes_on_where_it_was_killed(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """17 updates, killed in the ninth: eight more and the interrupted one give the same bytes, dropout included.

    The newest checkpoint has lost its moments and is passed over: one update more.
    """
    declared = spec(pairs, tiny_rewards.gpt2(tmp_path / "base"))
    whole = train(tmp_path / "whole" / "liking", declared)
    done = killed.in_step(monkeypatch, transformer.Tuner, 9)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "resumed" / "liking", declared)
    (tmp_path / "resumed" / "liking").rmdir()
    newest = max((tmp_path / "resumed" / "checkpoints").glob("step-*"))
    save_file({}, newest / "optimizer.safetensors")
    killed.seal(newest)
    resumed = train(tmp_path / "resumed" / "liking", declared)
    assert len(done) == 9 + (STEPS - 8) + 1
    assert resumed == whole
    for file in ("model.safetensors", "reward.json"):
        assert (tmp_path / "whole" / "liking" / file).read_bytes() == (
            tmp_path / "resumed" / "liking" / file
        ).read_bytes()


def test_a_diverging_run_stops(pairs: Path, tmp_path: Path) -> None:
    """Weights of up to 3e38 are finite, but their products are not."""
    base = tiny_rewards.gpt2(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    huge = {name: torch.full_like(tensor, 3e38) for name, tensor in weights.items() if name.endswith("wte.weight")}
    assert len(huge) == 1
    save_file({**weights, **huge}, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        Diverged, match="reward liking step 1: the loss is NaN or infinite; lower rewards.liking.learning_rate"
    ):
        train(tmp_path / "liking", spec(pairs, base))


def test_a_model_with_another_head_is_refused(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(MoaError, match="cannot load .*base"):
        train(tmp_path / "liking", spec(pairs, tiny_rewards.bert(tmp_path / "base", labels=3)))


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that end with 'good' (label yes, 30 to 39 stars) or 'bad' (no, 10 to 19), four to a prompt."""
    texts = [t.replace("good", "film").replace("bad", "plot") for t in tiny_rewards.texts(120, longest=2)]
    rows = [
        {
            "q": f"the plot {i // 4}",
            "a": f"{t} {'bad' if i % 2 else 'good'}",
            "liked": "no" if i % 2 else "yes",
            "stars": (10 if i % 2 else 30) + i % 10,
        }
        for i, t in enumerate(texts)
    ]
    path = tmp_path_factory.mktemp("rated") / "rated.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def rating(rated: Path, source: Path, **settings: object) -> Transformer:
    """Return a reward of labels, or of what `data` says."""
    data = {"source": str(rated), "prompt": "q", "text": "a", **settings.pop("data", {})}  # type: ignore[dict-item]
    defaults = {"template": "{prompt} {response}", "max_length": 32, "batch_size": 8, "learning_rate": 1e-2}
    return Transformer.model_validate(
        {"kind": "transformer", "source": str(source), "data": data, "heldout": 0.2, **defaults, **settings}
    )


LIKED = {"label": "liked", "positive": ["yes"]}


@pytest.mark.parametrize("which", ["bert", "gpt2"])
def test_it_learns_labels_as_an_encoder_and_as_a_decoder(rated: Path, tmp_path: Path, which: str) -> None:
    """The decoder has no pad token at all: each batch is padded with an id that none of its rows holds."""
    base = getattr(tiny_rewards, which)(tmp_path / "base", labels=1)
    if which == "bert":  # its weights are ten times as large as BERT's own: too large to learn from
        tiny_models.edit_tensors(
            base / "model.safetensors", lambda t: {k: v if "Norm" in k else v / 5 for k, v in t.items()}
        )
    declared = rating(rated, base, data=LIKED, epochs=5, learning_rate=3e-3)
    trained = train(tmp_path / "liking", declared)
    assert trained.heldout["n"] + trained.rows == 120 and trained.heldout["n"] % 4 == 0, "prompts are held out whole"
    assert trained.heldout["auc"] > 0.95 and trained.heldout["accuracy"] > 0.8
    scorer = scoring.load("liking", declared, [tmp_path / "liking"], "cpu")
    good, bad = scoring.score("liking", scorer, ["the plot 9"] * 2, ["a film good", "a film bad"], None).values
    assert good > 0 > bad, "a logit"


def test_numbers_are_learnt_in_standard_deviations(rated: Path, tmp_path: Path) -> None:
    """34.5 and 14.5 stars on average, of equal number: about one standard deviation above the mean, one below."""
    declared = rating(
        rated, tiny_rewards.gpt2(tmp_path / "base"), data={"target": "stars"}, epochs=5, learning_rate=3e-3
    )
    trained = train(tmp_path / "stars", declared)
    assert set(trained.heldout) == {"n", "spearman"} and trained.heldout["spearman"] > 0.6
    scorer = scoring.load("stars", declared, [tmp_path / "stars"], "cpu")
    values = scorer.score(["the plot 9"] * 2, ["a film good", "a film bad"]).values
    assert values.tolist() == pytest.approx([0.96, -0.96], abs=0.5)


def test_the_losses_by_hand(rated: Path, tmp_path: Path) -> None:
    """Labels: log(1 + exp(-z)) for 1 and log(1 + exp(z)) for 0; numbers: (z - y)^2; z is the logit of the row alone."""
    base = tiny_rewards.gpt2(tmp_path / "base")
    declared = rating(rated, base, data=LIKED)
    tokenizer, model = transformer._fresh("liking", declared)
    model.eval()
    texts = ["the plot was dull", "good film"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    batch = transformer.padded([{"input_ids": row, "value": v} for row, v in zip(ids, (1.0, 0.0), strict=True)], None)
    z = torch.tensor([model(torch.tensor([row])).logits[0, 0].item() for row in ids])
    expected = {
        True: (torch.log1p(torch.exp(-z[0])) + torch.log1p(torch.exp(z[1]))) / 2,
        False: ((z[0] - 1) ** 2 + z[1] ** 2) / 2,
    }
    for labels, loss in expected.items():
        trainer = transformer.Fitter.__new__(transformer.Fitter)
        trainer.labels = labels
        assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(float(loss), abs=1e-5)
    assert model.config.pad_token_id is None


def test_labels_in_smaller_parts_are_learnt_as_well_and_a_kill_changes_nothing(
    rated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = rating(rated, tiny_rewards.gpt2(tmp_path / "base"), data=LIKED)
    whole = train(tmp_path / "whole" / "liking", declared)
    killed.in_step(monkeypatch, transformer.Fitter, 6)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "resumed" / "liking", declared)
    (tmp_path / "resumed" / "liking").rmdir()
    assert train(tmp_path / "resumed" / "liking", declared) == whole
    one, two = ((tmp_path / name / "liking" / "model.safetensors").read_bytes() for name in ("whole", "resumed"))
    assert one == two
    run = transformer.Fitter.training_step

    def limited(self: transformer.Fitter, model: torch.nn.Module, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        if len(inputs["input_ids"]) > 4:
            raise torch.OutOfMemoryError("a limit of 4 rows")
        return run(self, model, inputs, *rest)

    monkeypatch.setattr(transformer.Fitter, "training_step", limited)
    tight = train(tmp_path / "tight" / "liking", declared)
    assert tight.micro_batch == 4 and tight.heldout["auc"] == pytest.approx(whole.heldout["auc"], abs=0.1)
