"""The stage prompts: splits, ids, near-duplicates, formats, and real data."""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.experiment.keys import Data
from moa.stages import prompts as stage
from moa.store import tables
from moa.store.provenance import text_hash
from moa.tasks.duplicates import Near

SMALL = {"texts": 8, "heldout_texts": 4, "train_prompts": 4, "evaluation_prompts": 2}


def store(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def stories(count: int, seed: int = 0) -> list[str]:
    """Texts of two sentences whose words hardly agree."""
    rng = random.Random(seed)
    names = [
        f"{a}{b}"
        for a in ("ka", "lo", "mi", "ra", "tu")
        for b in ("ben", "dor", "fin", "gol", "mek", "nar", "pas", "rix")
    ]
    return [
        " ".join(rng.choices(names, k=7)).capitalize() + ". " + " ".join(rng.choices(names, k=5)).capitalize() + "."
        for _ in range(count)
    ]


def prepare(path: Path, **settings: Any) -> stage.Sets:
    return stage.prepare(Data(source=str(path), **{**SMALL, **settings}))


def command(data: dict[str, Any], folder: Path) -> argparse.Namespace:
    section = json.dumps({"task": "test", "data": data})
    return argparse.Namespace(
        section=section,
        prompts=folder / "prompts.parquet",
        texts=folder / "texts.parquet",
        costs=folder / "costs.parquet",
    )


def test_openings_of_texts(tmp_path: Path) -> None:
    texts = stories(40)
    sets = prepare(
        store(tmp_path / "a.jsonl", [{"text": t} for t in texts]), text="text", opening_words=[2, 3], sentences=1
    )
    assert [len(part) for part in (sets.texts, sets.heldout, sets.train, sets.evaluation)] == [8, 4, 4, 2]
    firsts = {text.split(". ")[0] + "." for text in texts}
    for item in sets.texts + sets.heldout:
        assert item.prompt + item.response in firsts
        assert item.response.startswith(" ") and len(item.prompt.split()) in (2, 3)
    assert all(any(first.startswith(prompt + " ") for first in firsts) for prompt in sets.train + sets.evaluation)


def test_train_prompts_come_from_other_rows_than_texts_where_rows_suffice(tmp_path: Path) -> None:
    sets = prepare(store(tmp_path / "a.jsonl", [{"text": t} for t in stories(40)]), text="text")
    assert not {item.prompt for item in sets.texts + sets.heldout} & set(sets.train)
    few = prepare(store(tmp_path / "b.jsonl", [{"text": t} for t in stories(14)]), text="text")
    assert set(few.train) <= {item.prompt for item in few.texts}, "14 rows: 2 evaluate, 4 are held out, 8 train both"


def test_breaks_and_spaces_are_normalised_in_texts(tmp_path: Path) -> None:
    rows = [{"text": text.replace(". ", ".<br /><br />\n ")} for text in stories(20)]
    sets = prepare(store(tmp_path / "a.jsonl", rows), text="text")
    assert all("<" not in i.response and "\n" not in i.response and "  " not in i.response for i in sets.texts)


def test_the_evaluation_split_serves_evaluation_only(tmp_path: Path) -> None:
    train, test = stories(30), stories(10, seed=1)
    store(tmp_path / "train.jsonl", [{"text": t} for t in [*train, test[0], test[0].upper()]])
    store(tmp_path / "test.jsonl", [{"text": t} for t in test])
    sets = prepare(tmp_path, text="text", evaluation_split="test", evaluation_prompts=10, texts=20)
    assert len(sets.evaluation) == 10 and all(any(t.startswith(p + " ") for t in test) for p in sets.evaluation)
    trained = [i.content for i in sets.texts + sets.heldout] + sets.train
    assert not any(text.startswith(test[0][:9]) or text.startswith(test[0].upper()[:9]) for text in trained), (
        "also not in capitals"
    )


def test_given_prompts_stay_as_they_are_and_responses_start_with_a_space(tmp_path: Path) -> None:
    questions = [f"\n\nHuman: {t}\n\nAssistant:" for t in stories(20)]
    rows = [{"q": q, "a": f"  Answer {n}.\n\nSecond line. Third."} for n, q in enumerate(questions)]
    sets = prepare(store(tmp_path / "a.jsonl", rows), prompt="q", response="a")
    assert set(sets.train + sets.evaluation + [i.prompt for i in sets.texts]) <= set(questions)
    assert all(i.response.startswith(" Answer") and i.response.endswith(".\n\nSecond line. Third.") for i in sets.texts)
    cut = prepare(tmp_path / "a.jsonl", prompt="q", response="a", sentences=2)
    assert all(i.response.endswith(". Second line.") for i in cut.texts), "a cut response is on one line"


def test_all_responses_to_a_prompt_are_on_one_side(tmp_path: Path) -> None:
    rows = [{"q": q, "a": f"answer {n}"} for q in stories(12) for n in range(3)]
    sets = prepare(store(tmp_path / "a.jsonl", rows), prompt="q", response="a", heldout_texts=7, texts=18)
    sides = [{i.prompt for i in sets.texts}, {i.prompt for i in sets.heldout}, set(sets.evaluation)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert not set(sets.train) & (sides[1] | sides[2])


def test_texts_from_another_source(tmp_path: Path) -> None:
    asked, answered = stories(20), stories(20, seed=1)
    store(tmp_path / "prompts.jsonl", [{"prompt": q} for q in asked])
    store(tmp_path / "pairs.jsonl", [{"question": q, "answer": "Yes."} for q in [*answered, *asked]])
    responses = {"source": str(tmp_path / "pairs.jsonl"), "prompt": "question", "response": "answer"}
    sets = prepare(tmp_path / "prompts.jsonl", prompt="prompt", responses=responses, texts=20)
    assert set(sets.train + sets.evaluation) <= set(asked)
    assert not {i.prompt for i in sets.texts} & set(sets.evaluation)


def test_dialogues_are_split_after_the_last_mark(tmp_path: Path) -> None:
    rows = [
        {"chosen": f"\n\nHuman: {t}\n\nAssistant: Well.\n\nHuman: So?\n\nAssistant: It is {n}."}
        for n, t in enumerate(stories(20))
    ]
    rows += [{"chosen": "\n\nHuman: nobody answers\n\nAssistant:"}]
    sets = prepare(store(tmp_path / "a.jsonl", rows), text="chosen", prompt_end="\n\nAssistant:")
    assert all(p.endswith("\n\nHuman: So?\n\nAssistant:") for p in sets.train + sets.evaluation)
    assert all(i.response.startswith(" It is ") for i in sets.texts + sets.heldout)


def test_dialogues_for_chat_models_give_their_first_turn(tmp_path: Path) -> None:
    """The chat template brings its own marks of the speakers."""
    asked = stories(20)
    rows = [
        {"chosen": f"\n\nHuman: {t}\n\nAssistant: It is {n}.\n\nHuman: So?\n\nAssistant: Yes."}
        for n, t in enumerate(asked)
    ]
    rows += [{"chosen": "\n\nHuman: nobody answers\n\nAssistant:"}, {"chosen": "no speakers"}]
    marks = {"prompt_start": "\n\nHuman:", "prompt_end": "\n\nAssistant:"}
    sets = prepare(store(tmp_path / "a.jsonl", rows), text="chosen", **marks)
    assert set(sets.train + sets.evaluation) <= set(asked)
    assert {i.prompt: i.response for i in sets.texts + sets.heldout}.items() <= {
        t: f" It is {n}." for n, t in enumerate(asked)
    }.items()


def test_near_duplicates_of_evaluation_prompts_are_dropped_from_train_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    questions = stories(30)
    store(tmp_path / "test.jsonl", [{"q": q, "a": "x"} for q in questions[:2]])
    # 12 words: another last word leaves 9 of 11 word triples, 0.82; another case leaves all of them
    variants = [questions[0].removesuffix(".") + "x.", questions[1].upper()]
    store(tmp_path / "train.jsonl", [{"q": q, "a": "x"} for q in [*questions[2:], *variants]])
    with caplog.at_level("INFO", "moa"):
        sets = prepare(
            tmp_path, prompt="q", response="a", evaluation_split="test", heldout_texts=4, train_prompts=24, texts=24
        )
    assert set(sets.evaluation) == set(questions[:2])
    assert not set(variants) & set(sets.train + [i.prompt for i in sets.texts])
    assert "near-duplicates" in caplog.text


def test_train_prompts_are_no_openings_that_the_evaluation_uses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Different texts whose two-word openings agree but for case: the texts may train, the prompts may not.
    common = [("the end" if n % 2 else "The end,") + " " + text for n, text in enumerate(stories(12))]
    store(tmp_path / "train.jsonl", [{"text": t} for t in [*common, *stories(20, seed=1)]])
    store(
        tmp_path / "test.jsonl",
        [{"text": "The end " + text} for text in stories(1, seed=2)] + [{"text": stories(1, seed=3)[0]}],
    )
    with caplog.at_level("INFO", "moa"):
        sets = prepare(tmp_path, text="text", evaluation_split="test", opening_words=[2, 2], train_prompts=15, texts=28)
    assert "The end" in sets.evaluation
    assert not {"the end", "The end,"} & set(sets.train)
    assert {"the end", "The end,"} <= {item.prompt for item in sets.texts}
    assert "1 near-duplicates of evaluation prompts" in caplog.text


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_splits_are_disjoint_and_independent_of_the_order_of_rows(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("property")
    count, seed = data.draw(st.integers(25, 60)), data.draw(st.integers(0, 99))
    questions = stories(count, seed)
    variants = [
        *questions,
        *(q.upper() for q in questions),
        *(q.replace(".", " !") for q in questions),
        *(q.removesuffix(".") + "x." for q in questions),
    ]
    questions += data.draw(st.lists(st.sampled_from(variants), max_size=30))
    rows = [{"q": q, "a": data.draw(st.sampled_from(["yes", "no"]))} for q in questions]
    settings = {"prompt": "q", "response": "a", "seed": seed}
    sets = prepare(store(folder / "a.jsonl", rows), **settings)
    trained, heldout, evaluation = (
        {i.prompt for i in sets.texts},
        {i.prompt for i in sets.heldout},
        set(sets.evaluation),
    )
    assert not any(Near(evaluation | heldout).matches(prompt) for prompt in trained)
    assert not any(Near(evaluation).matches(prompt) for prompt in sets.train)
    assert not evaluation & heldout
    assert len(set(sets.train)) == len(sets.train) == 4 and len(evaluation) == len(sets.evaluation) == 2
    assert len(set(sets.texts + sets.heldout)) == 12
    data.draw(st.randoms()).shuffle(rows)
    assert prepare(store(folder / "b.jsonl", rows), **settings) == sets


def test_another_seed_draws_other_splits(tmp_path: Path) -> None:
    path = store(tmp_path / "a.jsonl", [{"text": t} for t in stories(60)])
    assert prepare(path, text="text", seed=0).evaluation != prepare(path, text="text", seed=1).evaluation


def test_the_command_writes_the_three_tables_and_the_same_bytes_twice(tmp_path: Path) -> None:
    data = {"source": "embedded", **SMALL}
    for folder in ("one", "two"):
        stage.main(command(data, tmp_path / folder))
    made = [tmp_path / folder / f"{name}.parquet" for name in ("prompts", "texts") for folder in ("one", "two")]
    assert made[0].read_bytes() == made[1].read_bytes() and made[2].read_bytes() == made[3].read_bytes()
    prompts, texts = tables.read(tables.PROMPTS, made[0]).to_pylist(), tables.read(tables.TEXTS, made[2]).to_pylist()
    assert [row["split"] for row in prompts] == ["train"] * 4 + ["evaluation"] * 2
    assert [row["split"] for row in texts] == ["train"] * 8 + ["heldout"] * 4
    assert all(row["prompt_id"] == text_hash(row["prompt"]) and row["task"] == "test" for row in prompts)
    assert all(row["text_id"] == text_hash(row["prompt"], row["response"]) for row in texts)
    cost = tables.read(tables.COSTS, tmp_path / "one" / "costs.parquet").to_pylist()
    assert [(row["task"], row["stage"], row["models"]) for row in cost] == [("test", "prompts", 0)]


def test_imdb(shared: Path) -> None:
    sets = stage.prepare(
        Data(
            source=str(shared / "imdb"),
            text="text",
            sentences=3,
            text_characters=(20, 300),
            texts=5_000,
            train_prompts=1_000,
        )
    )
    assert [len(part) for part in (sets.texts, sets.heldout, sets.train, sets.evaluation)] == [5_000, 400, 1_000, 100]
    assert all("<br" not in i.content and 20 <= len(i.content) <= 300 for i in sets.texts)
    near = Near(sets.evaluation)
    assert not any(near.matches(prompt) for prompt in sets.train)


def test_hh_prompts_with_responses_of_another_file(shared: Path) -> None:
    responses = {"source": str(shared / "hh_map_multireward"), "prompt": "prompt", "response": "response"}
    sets = stage.prepare(
        Data(
            source=str(shared / "hh_rlhf_prompts"),
            prompt="prompt",
            responses=responses,
            prompt_characters=(8, 300),
            texts=3_000,
        )
    )
    assert [len(part) for part in (sets.texts, sets.heldout, sets.train, sets.evaluation)] == [3_000, 400, 4_000, 100]
    assert all(8 <= len(prompt) <= 300 for prompt in sets.train + sets.evaluation)
    near = Near([*sets.evaluation, *(i.prompt for i in sets.heldout)])
    assert not any(near.matches(i.prompt) for i in sets.texts)


@pytest.mark.parametrize("instructions", [1, 4])
@pytest.mark.parametrize("place", ["before", "after"])
def test_an_instruction_that_prompts_share_makes_them_no_duplicates(
    tmp_path: Path, instructions: int, place: str
) -> None:
    """94 words before, or after, each of 120 questions of twelve; 3 of them come again with another last word."""
    said = [" ".join(f"rule{k}{n}" for n in range(94)) for k in range(instructions)]
    asked = stories(120)
    asked += [q.removesuffix(".") + "x." for q in asked[:3]]
    told = [(said[n % instructions], q) for n, q in enumerate(asked[:120])]
    told += [(told[n][0], asked[120 + n]) for n in range(3)]
    rows = [{"q": " ".join((i, q) if place == "before" else (q, i)), "a": "yes"} for i, q in told]
    sets = prepare(store(tmp_path / "a.jsonl", rows), prompt="q", response="a", texts=100, train_prompts=100)
    assert [len(part) for part in (sets.texts, sets.heldout, sets.train, sets.evaluation)] == [100, 4, 100, 2]
