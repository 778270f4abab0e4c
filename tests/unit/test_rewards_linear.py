"""The linear reward: features by hand, honest split, what it learns, and the same bytes twice."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.errors import MoaError
from moa.experiment.rewards import Labelled, Linear
from moa.job.process import Job
from moa.rewards import labelled, linear, scoring

GOOD, BAD = ["bright", "lovely", "great"], ["dull", "awful", "boring"]


def spec(source: Path, **settings: object) -> Linear:
    data = {"source": str(source), **settings.pop("data", {})}
    return Linear.model_validate({"kind": "linear", "features": 2**12, "heldout": 0.25, "data": data, **settings})


def write(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def reviews(n: int) -> list[dict]:
    """Alternating good and bad sentences of distinct wording.

    'stars' is 2 for good and -1 for bad, plus the sentence's number / 1000.
    """
    rows = []
    for i in range(n):
        words = GOOD if i % 2 == 0 else BAD
        text = f"film {i} was {words[i % 3]} and {words[(i + 1) % 3]}"
        rows.append(
            {
                "text": text,
                "label": 1 - i % 2,
                "stars": (2.0 if i % 2 == 0 else -1.0) + i / 1000,
                "scene": f"scene {i // 4}",
            }
        )
    return rows


def train(folder: Path, declared: Linear) -> scoring.Trained:
    folder.mkdir(parents=True)
    return scoring.train(folder.name, declared, folder, Job(folder))


def test_counts_of_a_text() -> None:
    found = linear.counts(["ab a", "b"], 2**12)
    words, characters = found[:, : 2**12], found[:, 2**12 :]
    # 'ab a': words ab, a and the pair 'ab a': 3. Characters of ' ab ' are ' ab', 'ab ', ' ab '; of ' a ' itself: 4.
    assert (words.sum(1)[0, 0], characters.sum(1)[0, 0]) == (3, 4)
    assert (words.sum(1)[1, 0], characters.sum(1)[1, 0]) == (1, 1)


def test_weights_of_counts() -> None:
    # Two word columns, two character columns; 3 rows.
    found = linear.sparse.csr_matrix(np.array([[1, 3, 1, 0], [1, 0, 1, 0], [1, 0, 0, 2]], np.float32))
    idf = linear.inverse_document_frequencies(found)
    # df = 3, 1, 2, 1 of 3 rows: log(4/4) + 1 = 1, log(4/2) + 1 = 1.6931, log(4/3) + 1 = 1.2877, 1.6931
    assert idf.tolist() == pytest.approx([1, 1.693147, 1.287682, 1.693147], abs=1e-5)
    features = linear.weigh(found, idf).toarray()
    # Row 0, words: (1 + log 1) * 1 = 1 and (1 + log 3) * 1.6931 = 3.5533, divided by their norm 3.6913
    assert features[0].tolist() == pytest.approx([1 / 3.6913, 3.5533 / 3.6913, 1, 0], abs=1e-4)
    assert features[2].tolist() == pytest.approx([1, 0, 0, 1])


def test_held_out_rows_share_no_prompt_with_training_rows_whatever_the_order(tmp_path: Path) -> None:
    """Of 30 scenes those are held out whose hash is in the least 0.3 of its range, with their 4 rows each."""
    rows = reviews(120)
    least = {f"scene {i}" for i in range(30) if labelled.position("held out", f"scene {i}") < 0.3}
    data = {"label": "label", "prompt": "scene"}
    one = labelled.examples("r", Labelled(source=str(write(tmp_path / "a.parquet", rows)), **data), "{response}", 0.3)
    other = labelled.examples(
        "r", Labelled(source=str(write(tmp_path / "b.parquet", rows[::-1])), **data), "{response}", 0.3
    )
    training, heldout = ({e.group for e in part} for part in one)
    assert heldout == least and 4 < len(heldout) < 15 and len(training | heldout) == 30 and not training & heldout
    assert heldout == {e.group for e in other[1]}
    assert (len(one[0]), len(one[1])) == (4 * (30 - len(least)), 4 * len(least))


def dialogue(i: int) -> str:
    """Return the beginning of a dialogue as HH-RLHF writes it; its first turn is `Question i`."""
    return f"\n\nHuman:  Question  {i}\n\nAssistant: Which one?\n\nHuman: This.\n\nAssistant:"


def test_two_files_that_hold_the_same_prompts_agree_on_which_are_held_out(tmp_path: Path) -> None:
    """One has scores of single turns, the other pairs of whole dialogues with the same first turns, and more of them.

    No row of either says anything of the other file, and yet no prompt that one trains on is held out by the other.
    """
    scores = [{"q": f"question {i}", "text": f"answer {i}", "score": i / 7} for i in range(60)]
    pairs = [{"q": dialogue(i), "yes": f"yes {i}", "no": f"no {i}"} for i in reversed(range(90))]
    one = Labelled(source=str(write(tmp_path / "a.parquet", scores)), prompt="q", target="score")
    other = Labelled(source=str(write(tmp_path / "b.parquet", pairs)), prompt="q", chosen="yes", rejected="no")
    (a_train, a_held), (b_train, b_held) = (
        [{e.group for e in part} for part in labelled.examples("r", data, "{response}", 0.2)] for data in (one, other)
    )
    assert a_train | a_held == {f"question {i}" for i in range(60)} and a_held and a_train <= b_train
    assert a_held <= b_held and b_held - a_held == {f"question {i}" for i in range(60, 90)} & b_held
    without = labelled.examples("r", one.model_copy(update={"prompt": None}), "{response}", 0.2)
    assert {e.group for e in without[1]} != a_held, "texts have hashes of their own"


def test_few_rows_hold_out_one_of_each_class() -> None:
    """A share of 0.001 of 20 rows is none by hash; one row of each class is held out all the same, 18 are not."""
    made = [labelled.Example("", f"text {i}", "", float(i % 2), f"text {i}") for i in range(20)]
    training, held = labelled.split(made, 0.001)
    assert sorted(e.value for e in held) == [0.0, 1.0] and len(training) == 18
    for value in (0.0, 1.0):  # those whose places are the least
        least = min(labelled.position("held out", e.group) for e in made if e.value == value)
        assert least in [labelled.position("held out", e.group) for e in held]


def test_two_halves_share_no_prompt_and_each_has_rows_that_are_held_out(tmp_path: Path) -> None:
    scores = [{"q": f"question {i}", "text": f"answer {i}", "score": i / 7} for i in range(120)]
    data = Labelled(source=str(write(tmp_path / "a.parquet", scores)), prompt="q", target="score")
    first, second = (
        labelled.examples("r", data.model_copy(update={"part": part}), "{response}", 0.3)
        for part in ((0.0, 0.5), (0.5, 1.0))
    )
    whole = labelled.examples("r", data, "{response}", 0.3)
    halves = [{e.group for e in [*training, *held]} for training, held in (first, second)]
    assert not halves[0] & halves[1] and len(halves[0] | halves[1]) == 120 and 40 < len(halves[0]) < 80
    assert {e.group for e in first[1] + second[1]} == {e.group for e in whole[1]}, "the same are held out"
    assert min(len(first[1]), len(second[1])) > 5
    with pytest.raises(MoaError, match="rewards.r.data: the training rows of .*a.parquet are 0"):
        labelled.examples("r", data.model_copy(update={"part": (0.0, 1e-9)}), "{response}", 0.3)


def test_duplicate_texts_fall_on_one_side(tmp_path: Path) -> None:
    rows = reviews(30)
    source = write(tmp_path / "a.parquet", rows + rows)
    training, heldout = labelled.examples("r", Labelled(source=str(source), label="label"), "{response}", 0.25)
    assert not {e.text for e in training} & {e.text for e in heldout}
    assert len(training) + len(heldout) == 60


def test_template_takes_prompt_and_text(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", reviews(20))
    training, _ = labelled.examples(
        "r", Labelled(source=str(source), label="label", prompt="scene"), "{prompt}: {response}", 0.25
    )
    assert all(e.prompt == e.group and e.text.startswith("film") for e in training)


def test_some_rows_are_a_sample_of_the_whole_file(tmp_path: Path) -> None:
    rows = sorted(reviews(400), key=lambda r: r["label"])  # sorted by label, as files often are
    source = write(tmp_path / "a.parquet", rows)
    training, heldout = labelled.examples("r", Labelled(source=str(source), label="label", rows=60), "{response}", 0.25)
    assert len(training) + len(heldout) == 60
    assert 15 < sum(e.value for e in training + heldout) < 45


def test_logistic_regression_on_labels(tmp_path: Path) -> None:
    declared = spec(write(tmp_path / "a.parquet", reviews(80)), data={"label": "label", "positive": [1]})
    trained = train(tmp_path / "mood", declared)
    n = trained.heldout["n"]
    assert trained.heldout == {"n": n, "auc": 1.0, "accuracy": 1.0} and trained.rows == 80 - n and 10 < n < 30
    scorer = scoring.load("mood", declared, [tmp_path / "mood"])
    good, bad = scoring.score("mood", scorer, ["", ""], ["a lovely film", "an awful film"], None).values
    assert good > 0 > bad  # a logit
    card = json.loads((tmp_path / "mood" / "reward.json").read_text())
    assert card["heldout"] == trained.heldout and card["settings"]["features"] == 2**12 and card["rows"] == 80 - n


def test_ridge_regression_on_targets(tmp_path: Path) -> None:
    declared = spec(write(tmp_path / "a.parquet", reviews(240)), data={"target": "stars"}, regularisation=0.01)
    trained = train(tmp_path / "stars", declared)
    # Which half a film is in can be known, its number cannot: two halves in order, random within, have a rank
    # correlation of 3/4.
    assert 40 < trained.heldout["n"] < 80 and trained.heldout["spearman"] > 0.65
    scorer = scoring.load("stars", declared, [tmp_path / "stars"])
    values = scoring.score(
        "stars", scorer, ["", ""], ["film 90 was great and bright", "film 91 was dull and awful"], None
    ).values
    assert values.tolist() == pytest.approx([2, -1], abs=0.4)  # regression values, in the target's unit


def test_bradley_terry_on_pairs(tmp_path: Path) -> None:
    rows = [
        {"q": f"scene {i}", "yes": f"take {i} was {GOOD[i % 3]}", "no": f"take {i} was {BAD[i % 3]}"} for i in range(60)
    ]
    rows.append({"q": "tie", "yes": "same", "no": "same"})  # says nothing, left out
    declared = spec(write(tmp_path / "a.parquet", rows), data={"prompt": "q", "chosen": "yes", "rejected": "no"})
    trained = train(tmp_path / "pairs", declared)
    n = trained.heldout["n"]
    assert trained.heldout == {"n": n, "accuracy": 1.0} and trained.rows == 60 - n and 8 < n < 25
    scorer = scoring.load("pairs", declared, [tmp_path / "pairs"])
    assert isinstance(scorer, linear.LinearScorer) and scorer.intercept == 0
    good, bad = scorer.score(["", ""], ["lovely", "boring"]).values
    assert good > bad


def test_bradley_terry_is_logistic_regression_on_both_directions(tmp_path: Path) -> None:
    # One column: chosen less rejected is always +d, so the weight w minimises 1/2 w^2 + C n log(1 + exp(-w d)), C = 1.
    rows = [{"yes": "aa", "no": "bb"}] * 8 + [{"yes": f"x{i} aa", "no": f"x{i} bb"} for i in range(8)]
    declared = spec(write(tmp_path / "a.parquet", rows), data={"chosen": "yes", "rejected": "no"}, heldout=0.1)
    training, _ = labelled.examples("r", declared.data, "{response}", 0.1)
    scorer = linear._fit(declared, training)
    differences = np.array(
        [float(np.subtract(*scorer.score([e.prompt] * 2, [e.text, e.rejected]).values)) for e in training]
    )
    x = np.stack(
        [
            (
                linear.weigh(linear.counts([e.text], 2**12), scorer.idf)
                - linear.weigh(linear.counts([e.rejected], 2**12), scorer.idf)
            ).toarray()[0]
            for e in training
        ]
    )
    # Stationary point of the penalised likelihood: w = sum_i sigma(-w'x_i) x_i
    assert scorer.coefficients == pytest.approx((x / (1 + np.exp(differences))[:, None]).sum(0), abs=2e-3)


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    declared = spec(write(tmp_path / "a.parquet", reviews(60)), data={"label": "label"})
    for name in ("one", "two"):
        train(tmp_path / name / "mood", declared)
    for file in ("model.safetensors", "reward.json"):
        assert (tmp_path / "one" / "mood" / file).read_bytes() == (tmp_path / "two" / "mood" / file).read_bytes()


def test_a_score_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    declared = spec(write(tmp_path / "a.parquet", reviews(60)), data={"label": "label"})
    train(tmp_path / "mood", declared)
    scorer = scoring.load("mood", declared, [tmp_path / "mood"])
    texts = [r["text"] for r in reviews(60)]
    together = scorer.score([""] * 60, texts).values
    assert [scorer.score([""], [t]).values[0] for t in texts] == together.tolist()


def test_a_reward_trained_with_other_settings_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", reviews(60))
    train(tmp_path / "mood", spec(source, data={"label": "label"}))
    with pytest.raises(
        MoaError, match="mood was trained with another regularisation than the config's; delete the folder"
    ):
        scoring.load("mood", spec(source, data={"label": "label"}, regularisation=2.0), [tmp_path / "mood"])


def test_real_reviews(shared: Path, tmp_path: Path) -> None:
    declared = Linear.model_validate(
        {"kind": "linear", "features": 2**16, "data": {"source": str(shared / "imdb"), "label": "label", "rows": 1500}}
    )
    trained = train(tmp_path / "sentiment", declared)
    # a tenth by hash: 150, give or take four times sqrt(1500 * 0.1 * 0.9) = 11.6
    assert abs(trained.heldout["n"] - 150) < 47 and trained.heldout["auc"] > 0.85  # 0.966 with all 25 000 rows
    scorer = scoring.load("sentiment", declared, [tmp_path / "sentiment"])
    good, bad = scorer.score(
        ["", ""], ["A wonderful film, one of the best.", "The worst, a boring waste of time."]
    ).values
    assert good > bad
