"""What scoring.score guarantees, whatever the reward."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from moa.errors import MoaError
from moa.experiment.rewards import Python
from moa.rewards import scoring
from moa.rewards.scoring import Scorer, Scores


@dataclass
class Listed(Scorer):
    """Returns len(response) / 10, and remembers what it was shown."""

    low: float | None = None
    seen: list[str] = field(default_factory=list)

    def score(self, prompts: list[str], responses: list[str]) -> Scores:
        self.seen += responses
        return Scores(np.array([len(r) / 10 for r in responses], np.float32), np.array([len(r) > 4 for r in responses]))


# 0.3, blank, 0.5 and cut, blank (the last two characters are invisible), 0.1
RESPONSES = [
    "abc",
    "",
    "abcde",
    " \n\t\u200b\ufeff",
    "a",
]


@pytest.mark.parametrize(
    ("low", "floor", "blank"),
    # The bound, else the least of the floor and of 0.3, 0.5, 0.1: a trained policy can fall below what the reference
    # was seen to do.
    [(-1.0, 0.05, -1.0), (None, 0.05, 0.05), (None, 0.2, 0.1), (None, None, 0.1)],
)
def test_a_blank_response_is_worth_the_least_and_never_reaches_the_reward(
    low: float | None, floor: float | None, blank: float
) -> None:
    reward = Listed(low)
    found = scoring.score("r", reward, ["p"] * 5, RESPONSES, floor)
    assert found.values.tolist() == pytest.approx([0.3, blank, 0.5, blank, 0.1])
    assert found.truncated.tolist() == [False, False, True, False, False]
    assert reward.seen == ["abc", "abcde", "a"]
    assert found.values.dtype == np.float32 and found.truncated.dtype == bool


def test_all_blank_takes_bound_or_floor_and_is_an_error_without_either() -> None:
    assert scoring.score("r", Listed(0.25), ["p"], [" "], None).values.tolist() == [0.25]
    assert scoring.score("r", Listed(), ["p"], [" "], -3.0).values.tolist() == [-3.0]
    with pytest.raises(MoaError, match="reward r: all 2 responses are blank"):
        scoring.score("r", Listed(), ["p", "q"], ["", " "], None)


def test_nothing_to_score_is_an_empty_answer() -> None:
    assert scoring.score("r", Listed(), [], [], None).values.shape == (0,)


def test_prompts_and_responses_must_match() -> None:
    with pytest.raises(MoaError, match="1 prompts for 2 responses"):
        scoring.score("r", Listed(), ["p"], ["a", "b"], None)


def test_fill_leaves_braces_of_the_texts_alone() -> None:
    assert (
        scoring.fill("{prompt} > {response} {x} {{", "say {response}", "{prompt}!")
        == "say {response} > {prompt}! {x} {{"
    )


def test_a_trained_reward_is_found_by_folder_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "reward.json").write_text("{}")
    assert scoring.trained_folder("a", [tmp_path / "b", tmp_path / "a"]) == tmp_path / "a"
    with pytest.raises(MoaError, match="b: no reward.json"):
        scoring.trained_folder("b", [tmp_path / "b", tmp_path / "a"])
    with pytest.raises(MoaError, match=r"reward c: not among the trained rewards \(.*b\); train it first"):
        scoring.trained_folder("c", [tmp_path / "b"])


def test_scoring_with_formulas_loads_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys; from moa.rewards import scoring; from moa.experiment.rewards import *\nfor spec in"
        " (Vader(kind='vader'), Length(kind='length'), Conciseness(kind='conciseness'),"
        " Readability(kind='readability')):\n    scoring.load('r', spec, [])\nprint([m for m in ('torch', 'sklearn',"
        " 'transformers', 'scipy') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


REWARD = """
import numpy as np

def polite(prompts, responses):
    return [len(p) + ("please" in r) for p, r in zip(prompts, responses)]

def array(prompts, responses):
    return np.arange(len(responses), dtype=np.float64)

constant = 3
"""


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the user's package `manners`; forgotten again afterwards, for its name is used by several tests."""
    (tmp_path / "manners").mkdir()
    (tmp_path / "manners" / "words.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("manners", "manners.words"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in ("manners", "manners.words"):
        sys.modules.pop(name, None)


def python(function: str, **bounds: float) -> Scorer:
    return scoring.load("own", Python(kind="python", function=function, **bounds), [])


def test_a_reward_of_the_users_own(user_folder: Path) -> None:
    found = scoring.score("own", python("manners.words:polite"), ["p", "pp"], ["please do", "do"], None)
    assert found.values.tolist() == [2.0, 2.0]  # 1 + 1 and 2 + 0
    assert scoring.score("own", python("manners.words:array"), ["p"] * 3, ["a", " ", "b"], -1.0).values.tolist() == [
        0.0,
        -1.0,
        1.0,
    ]


def test_declared_bounds_are_kept_or_it_is_an_error(user_folder: Path) -> None:
    scorer = python("manners.words:polite", low=0, high=2)
    assert scoring.score("own", scorer, ["p", "p"], ["please", " "], None).values.tolist() == [2.0, 0.0]
    with pytest.raises(MoaError, match=r"score 3 for response 'please' is outside of the declared \[0, 2\]"):
        scoring.score("own", scorer, ["pp"], ["please"], None)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("manners.words:polit", "has no function 'polit'. Did you mean 'polite'"),
        ("manners.words:constant", "'constant' in .*words.py is a int, not a function"),
        ("manners.wrds:polite", "no module 'manners.wrds' in .* or among the installed packages"),
        ("absent_package:polite", "no module 'absent_package'"),
    ],
)
def test_a_module_or_function_that_is_missing(user_folder: Path, function: str, message: str) -> None:
    with pytest.raises(MoaError, match=message):
        python(function)


def test_a_module_that_fails_on_import(user_folder: Path) -> None:
    module = user_folder / "manners" / "words.py"
    module.write_text("import absent_dependency")
    with pytest.raises(MoaError, match="module 'manners.words' needs 'absent_dependency', which is not installed"):
        python("manners.words:polite")
    module.write_text("1 / 0")
    with pytest.raises(MoaError, match="importing 'manners.words' raised ZeroDivisionError: division by zero"):
        python("manners.words:polite")
