"""Sequence classifiers as rewards: the same score in every batch, the declared logit, truncation flagged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification

from moa.errors import MoaError
from moa.experiment.rewards import Classifier
from moa.experiment.schema import ScoringSection
from moa.rewards import classifier, objectives, scoring
from tests import tiny_rewards


def load(folder: Path, **settings: object) -> classifier.ClassifierScorer:
    spec = Classifier.model_validate({"kind": "classifier", "source": str(folder), "max_length": 64, **settings})
    loaded = scoring.load("tiny", spec, [], "cpu")
    assert isinstance(loaded, classifier.ClassifierScorer)
    return loaded


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("classifiers")
    return {
        "bert": tiny_rewards.bert(root / "bert"),
        "gpt2": tiny_rewards.gpt2(root / "gpt2"),  # no pad token anywhere: the last token counts
        "gpt2_end": tiny_rewards.gpt2(root / "gpt2_end", pad=1),  # the end token pads: the last other token counts
    }


@pytest.mark.parametrize("which", ["bert", "gpt2", "gpt2_end"])
def test_a_score_does_not_depend_on_the_batch(folders: dict[str, Path], which: str) -> None:
    texts = tiny_rewards.texts(64, longest=60)
    alone, together = (load(folders[which], batch_size=n).score([""] * 64, texts).values for n in (1, 64))
    assert np.abs(alone - together).max() < 1e-5
    assert alone.std() > 0.05  # the scores differ, so that a mixed-up order would show
    shuffled = np.random.default_rng(0).permutation(64)
    again = load(folders[which], batch_size=7).score([""] * 64, [texts[i] for i in shuffled]).values
    assert np.abs(again - alone[shuffled]).max() < 1e-5


@pytest.mark.parametrize("which", ["bert", "gpt2", "gpt2_end"])
def test_a_score_is_that_of_transformers_for_the_row_alone(folders: dict[str, Path], which: str) -> None:
    texts = ["good film", "the plot was dull", "a very bright film and a dull plot"]
    # '<end>' last is where the two conventions of decoders part; it is an unknown word to BERT.
    for template in ("{response}", "{response} <end>"):
        found = load(folders[which], template=template).score([""] * 3, texts).values
        expected = [tiny_rewards.plain(folders[which], template.replace("{response}", text))[0] for text in texts]
        assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_two_conventions_of_decoders_differ(folders: dict[str, Path]) -> None:
    skips, reads = (
        [
            load(folders[which], template=t).score([""], ["dull plot"]).values[0]
            for t in ("{response} <end>", "{response}")
        ]
        for which in ("gpt2_end", "gpt2")
    )
    assert skips[0] == pytest.approx(skips[1], abs=1e-5)
    assert abs(reads[0] - reads[1]) > 1e-3


def test_declared_logit_difference_and_sign(folders: dict[str, Path]) -> None:
    first, second = tiny_rewards.plain(folders["bert"], "a dull film")
    score = {
        key: load(folders["bert"], **settings).score([""], ["a dull film"]).values[0]
        for key, settings in {
            "second": {"logit": 1},
            "difference": {"logit": 1, "minus_logit": 0},
            "turned": {"logit": 1, "minus_logit": 0, "sign": -1},
        }.items()
    }
    assert score["second"] == pytest.approx(second, abs=1e-5)
    assert score["difference"] == pytest.approx(second - first, abs=1e-5)
    assert score["turned"] == pytest.approx(first - second, abs=1e-5)


def test_template_and_pair_are_what_the_model_reads(folders: dict[str, Path]) -> None:
    prompt, response = "the plot was", "very dull"
    one = load(folders["bert"], template="{prompt} {response}").score([prompt], [response]).values[0]
    assert one == pytest.approx(tiny_rewards.plain(folders["bert"], "the plot was very dull")[0], abs=1e-5)
    # A pair has its own token types: [CLS] prompt [SEP] with type 0, response [SEP] with type 1.
    two = load(folders["bert"], template="{prompt}", pair="{response}").score([prompt], [response]).values[0]
    assert two == pytest.approx(tiny_rewards.plain(folders["bert"], prompt, response)[0], abs=1e-5)
    assert abs(one - two) > 1e-3


def test_truncation_is_flagged_and_nothing_else(folders: dict[str, Path]) -> None:
    # [CLS] and [SEP] take 2 of 8 tokens: 6 words fit exactly, the seventh is cut.
    texts = ["good " * 6, "good " * 6 + "bad", "good", "good " * 40]
    found = load(folders["bert"], max_length=8).score([""] * 4, texts)
    assert found.truncated.tolist() == [False, True, False, True]
    # The beginning is lost: the last six words are what counts.
    assert found.values[3] == pytest.approx(found.values[0], abs=1e-5)
    assert found.values[1] == pytest.approx(tiny_rewards.plain(folders["bert"], "good " * 5 + "bad")[0], abs=1e-5)


def test_bfloat16_measures_its_deviation_and_float32_has_none(folders: dict[str, Path]) -> None:
    texts = tiny_rewards.texts(40, longest=40)
    exact, rough = load(folders["gpt2"]), load(folders["gpt2"], dtype="bfloat16", batch_size=16)
    reference, found = exact.score([""] * 40, texts).values, rough.score([""] * 40, texts).values
    assert exact.deviation is None
    # bfloat16 has 8 bits of mantissa: scores of about 1 are off by 1/256 per operation and some more after several
    # layers.
    assert rough.deviation is not None and 0 <= rough.deviation < 0.3
    assert 0 < np.abs(found - reference).max() < 0.5
    assert found.dtype == np.float32
    rounded = scoring.Formula(len)
    rounded.deviation = 0.25
    assert scoring.notes({"a": exact, "b": rounded}) == {"moa.deviation": '{"b": 0.25}'}


def test_tokens_read_are_counted(folders: dict[str, Path]) -> None:
    scorer = load(folders["bert"])
    scorer.score(["", ""], ["good film", "bad"])
    assert scorer.tokens == (2 + 2) + (1 + 2)  # words, [CLS] and [SEP]


def test_pad_id_is_one_that_no_row_holds() -> None:
    rows = [{"input_ids": [0, 2]}, {"input_ids": [1, 4, 4]}]
    assert classifier.unused(rows) == 3
    batch = classifier.collate(rows, 3, torch.device("cpu"))
    assert batch["input_ids"].tolist() == [[0, 2, 3], [1, 4, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_too_little_memory_halves_the_batch_and_changes_no_score(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tiny_rewards.texts(20)
    expected = load(folders["bert"]).score([""] * 20, texts).values
    scorer = load(folders["bert"], batch_size=16)
    run = scorer.network._logits
    widths = []

    def small_machine(rows: list[classifier.Encoded]) -> np.ndarray:
        widths.append(len(rows))
        if len(rows) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(rows)

    monkeypatch.setattr(scorer.network, "_logits", small_machine)
    assert scorer.score([""] * 20, texts).values == pytest.approx(expected, abs=1e-5)
    assert widths == [16, 8, 4, 4, 4, 4, 4]
    assert scoring.notes({"bert": scorer}) == {"moa.reduced": '{"bert": 4}'}, "kept with the scores"
    with pytest.raises(MoaError, match="out of memory with a single text of 4 tokens"):
        monkeypatch.setattr(
            scorer.network, "_logits", lambda rows: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))
        )
        scorer.score([""], ["good film"])


def test_one_model_with_several_outputs_runs_once_for_all_of_its_objectives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 texts in batches of 16 are 3 forward passes, for three objectives and a blank answer; alone they are 9."""
    folder = tiny_rewards.bert(tmp_path / "many", labels=4)
    common = {"kind": "classifier", "source": str(folder), "max_length": 64, "batch_size": 16}
    outputs = {"helpful": {"logit": 0}, "harmless": {"logit": 1, "minus_logit": 2}, "brief": {"logit": 3, "sign": -1}}
    rewards = {name: Classifier.model_validate({**common, **output}) for name, output in outputs.items()}
    section = ScoringSection.model_validate(
        {"task": "t", "objectives": {name: {"reward": name} for name in rewards}, "rewards": rewards}
    )
    texts, prompts = [*tiny_rewards.texts(40, longest=12), " "], ["the plot"] * 41
    floors = dict.fromkeys(rewards, -9.0)
    passes = []
    run = BertForSequenceClassification.forward

    def counted(self: BertForSequenceClassification, *arguments: object, **named: object) -> object:
        passes.append(1)
        return run(self, *arguments, **named)

    monkeypatch.setattr(BertForSequenceClassification, "forward", counted)
    alone = np.stack(
        [
            scoring.score(name, scoring.load(name, spec, [], "cpu"), prompts, texts, -9.0).values
            for name, spec in rewards.items()
        ],
        1,
    )
    assert len(passes) == 3 * 3
    together = objectives.load(section, [], floors)
    networks = {id(scorer.network) for _, scorer in together.scorers.values()}
    passes.clear()
    found = together(prompts, texts)
    assert len(networks) == 1 and len(passes) == 3
    assert np.abs(found - alone).max() <= 1e-6 and found[-1].tolist() == [-9.0] * 3
    assert together.tokens == sum(len(text.split()) + 2 for text in texts[:-1]), "read once, counted once"
    together(prompts, texts[::-1])
    assert len(passes) == 6, "other texts are read"
    different = rewards["brief"].model_copy(update={"template": "it {response}"})
    loaded = scoring.load_several({**rewards, "other": different}, [], "cpu")
    assert loaded["other"].network is not loaded["brief"].network, "what reads another text has a model of its own"


def test_an_output_that_a_shared_model_has_not_is_refused(folders: dict[str, Path]) -> None:
    specs = {
        name: Classifier.model_validate(
            {"kind": "classifier", "source": str(folders["bert"]), "max_length": 64, "logit": logit}
        )
        for name, logit in (("first", 1), ("second", 2))
    }
    with pytest.raises(MoaError, match=r"reward second: logit is 2, but .* has 2 logit\(s\), counted from 0"):
        scoring.load_several(specs, [], "cpu")
