"""What is known before a run: mistakes in what is local, lengths, sizes; the smallest experiment, and what it tells."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from transformers import LlamaConfig, LlamaForSequenceClassification

from moa.ahead import local, smallest, trial
from moa.ahead.check import check
from moa.errors import MoaError
from moa.experiment.schema import load, parse
from moa.job import trial as job
from moa.plan import Plan
from moa.store.tables import Row
from tests import tiny_models

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "config.yaml", ROOT / "tests" / "tiny.yaml", *sorted((ROOT / "experiments").glob("*.yaml"))]
DATA = {"source": "reviews.jsonl", "text": "text", "texts": 30, "heldout_texts": 4, "train_prompts": 8}
DATA |= {"evaluation_prompts": 4}
WORDS = ["lamp", "chair", "table", "clock", "radio", "mirror", "carpet", "kettle", "basket", "candle", "ladder"]


def words(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with 60 labelled texts of twelve words in it."""
    monkeypatch.chdir(tmp_path)
    rows = [{"text": words(12, i), "label": i % 2, "score": i / 60, "better": words(9, 100 + i)} for i in range(60)]
    lines(tmp_path / "reviews.jsonl", rows)
    return tmp_path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a language model with a context of 128 tokens and a vocabulary of 320."""
    return tiny_models.save_base(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a classifier with two logits that reads 64 tokens."""
    folder = tmp_path_factory.mktemp("model") / "judge"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = LlamaConfig(vocab_size=320, max_position_embeddings=64, num_labels=2, **sizes)
    LlamaForSequenceClassification(made).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def plan(**sections: Any) -> Plan:
    """Return the plan of tests/tiny.yaml with these sections in place of its own."""
    return Plan(parse(yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text()) | sections), "mine.yaml")


def rewarded(**spec: Any) -> dict[str, Any]:
    """Return the sections of an experiment whose sentiment is this reward."""
    return {
        "data": DATA,
        "objectives": {"sentiment": {"reward": "mine"}, "conciseness": {"reward": "short"}},
        "rewards": {"mine": spec, "short": {"kind": "conciseness"}},
    }


def taught(**data: Any) -> dict[str, Any]:
    return rewarded(kind="linear", data={"source": "reviews.jsonl", **data})


def on(folder: Path, **keys: Any) -> dict[str, Any]:
    return {"data": DATA, "model": {"source": str(folder), "lora": {"rank": 4, "alpha": 8}, **keys}}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": DATA | {"source": "review.jsonl"}}, "data: review.jsonl: no such file or folder. Did you mean 'rev"),
        ({"data": DATA | {"text": "txt"}}, "data: reviews.jsonl: no column 'txt'; the columns are text, label"),
        # 60 rows for 70 texts, 4 held out and 4 prompts of evaluation
        ({"data": DATA | {"texts": 70}}, "data: reviews.jsonl, split train, has 60 rows with text, the run needs 78"),
        (
            taught(label="label", positive=["yes"]),
            "rewards.mine.data.positive: no row's label is one of ['yes']; colum",
        ),
        (taught(label="label", positive=[0, 1]), "rewards.mine.data.positive: every row's label is one of [0, 1]"),
        (taught(target="text"), "rewards.mine.data, row 0 of reviews.jsonl: target 'text' is '"),
        (taught(chosen="better", rejected="worse"), "rewards.mine.data: reviews.jsonl: no column 'worse'"),
        (rewarded(kind="python", function="polite:score"), "rewards.mine.function: no module 'polite' in "),
        (rewarded(kind="classifier", source="./judge"), "rewards.mine.source: ./judge is no folder, and no hub id"),
    ],
)
def test_a_plan_names_what_is_wrong_with_what_is_local(here: Path, sections: dict[str, Any], message: str) -> None:
    found = local.mistakes(plan(**sections))
    assert len(found) == 1 and found[0].startswith(message), found


def test_a_plan_names_every_mistake_and_the_file(here: Path) -> None:
    mistaken = taught(label="label", positive=[7]) | {"data": DATA | {"text": "txt"}}
    pairs = {"source": "reviews.jsonl", "prompt": "question", "chosen": "better", "rejected": "text"}
    mistaken |= {"methods": {"modpo": {"pairs": pairs, "objective": "sentiment"}}}
    mistaken |= {"run": {"methods": ["reference", "modpo"], "seeds": [0]}}
    with pytest.raises(MoaError) as error:
        local.refuse(plan(**mistaken), "mine.yaml")
    starts = [line.split(": ")[1] for line in str(error.value).splitlines()]
    assert starts == ["data", "methods.modpo.pairs", "rewards.mine.data.positive"]
    assert all(line.startswith("mine.yaml: ") for line in str(error.value).splitlines())


def test_rows_that_cannot_train_are_named_together() -> None:
    """Two rows that are wrong in the run, and one section that the run leaves out."""
    rows = {"methods": ["grpo", "modpo"], "seeds": [0]}
    wrong = {"grpo": {"group_size": 3}, "modpo": {"responses": 100}, "moc": {"steams": "away"}}
    with pytest.raises(MoaError) as error:
        plan(run=rows, methods=wrong)
    keys = [line.split(":")[1].strip().split(" ")[0] for line in str(error.value).splitlines()]
    assert sorted(keys) == ["methods.grpo.group_size", "methods.moc", "methods.modpo.responses"]


def test_of_a_large_parquet_file_the_schema_is_read_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "SMALL", 0)
    pq.write_table(pa.table({"text": [words(12, i) for i in range(60)]}), here / "reviews.parquet")
    found = local.mistakes(plan(data=DATA | {"source": "reviews.parquet", "text": "body"}))
    assert found == ["data: reviews.parquet: no column 'body'; the columns are text. Known: text."]
    (found,) = local.mistakes(plan(data=DATA | {"source": "reviews.parquet", "texts": 53}))
    assert "has 60 rows with text, the run needs 61 at least" in found  # 53 + 4 + 4
    (here / "reviews.parquet").write_bytes(b"PAR1")
    (found,) = local.mistakes(plan(data=DATA | {"source": "reviews.parquet"}))
    assert "reviews.parquet: not a readable parquet file" in found


@pytest.mark.parametrize(
    ("keys", "sections", "message"),
    [
        ({}, {"generation": {"max_new_tokens": 128}}, "generation.max_new_tokens is 128, but"),
        ({}, {"conditioning": {"chat": True}}, "conditioning.chat is true, but"),
        ({"lora": {"targets": ["c_attn"]}}, {}, "model.lora.targets: no layer of"),
    ],
)
def test_a_base_that_cannot_do_what_is_asked(
    here: Path, base: Path, keys: dict[str, Any], sections: dict[str, Any], message: str
) -> None:
    (found,) = local.mistakes(plan(**on(base, **keys), **sections))
    assert message in found and str(base) in found


def test_a_model_whose_files_are_not_whole(here: Path, base: Path) -> None:
    folder = Path(shutil.copytree(base, here / "copy"))
    (folder / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:1000])
    (found,) = local.mistakes(plan(**on(folder)))
    assert found.startswith("model.source: ") and "model.safetensors" in found and "cannot be loaded" in found
    (folder / "config.json").unlink()
    (found,) = local.mistakes(plan(**on(folder)))
    assert found.startswith("model.source: ") and "config.json is missing" in found


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"logit": 2, "max_length": 64}, "rewards.mine.logit is 2, but"),
        ({"max_length": 512}, "rewards.mine.max_length is 512, but"),
    ],
)
def test_a_classifier_that_has_not_what_is_asked(here: Path, judge: Path, spec: dict[str, Any], message: str) -> None:
    (found,) = local.mistakes(plan(**rewarded(kind="classifier", source=str(judge), **spec)))
    assert message in found


def test_a_language_model_is_no_classifier(here: Path, base: Path) -> None:
    (found,) = local.mistakes(plan(**rewarded(kind="classifier", source=str(base), max_length=64)))
    assert "is a LlamaForCausalLM without weights of a classification head" in found


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def scores(prompts, responses):\n    return [1.0, 2.0]\n", "has no function 'score'. Did you mean 'scores'?"),
        ("def score(prompts, responses):\n    return [1.0]\n", "returned 1 scores for 2 responses"),
        ("def score(prompts, responses):\n    return [1.0, float('nan')]\n", "a score must be a finite float32"),
        ("def score(responses):\n    return [1.0, 1.0]\n", "raised TypeError"),
        ("import nowhere_to_be_found\n", "needs 'nowhere_to_be_found', which is not installed"),
    ],
)
def test_a_function_is_asked_before_the_run(
    here: Path, body: str, message: str, request: pytest.FixtureRequest
) -> None:
    module = f"asked_{abs(hash(request.node.name))}"  # an imported module stays in this process
    (here / f"{module}.py").write_text(body)
    with pytest.raises(MoaError) as error:
        check(plan(**rewarded(kind="python", function=f"{module}:score")), "mine.yaml")
    assert str(error.value).startswith("mine.yaml: rewards.mine.function: ") and message in str(error.value)


def test_what_is_known_of_a_run_is_said(here: Path, base: Path, judge: Path) -> None:
    """The base reads 128 tokens; its weights, and the classifier's, are said with the stages that load them."""
    asked = on(base) | {"generation": {"max_new_tokens": 16}}
    said = check(plan(**rewarded(kind="classifier", source=str(judge), max_length=48) | asked), "mine.yaml")
    assert [line.split(":")[0] for line in said] == [
        "reviews.jsonl, split train",
        "prompts",
        "reward mine reads 48 tokens",
        *(f"weights that a job of {stage} loads" for stage in ("base", "reference, train", "generate", "score")),
    ]
    assert "and 16 new ones follow, of a context of 128 (12 looked at)" in said[1]  # 8 + 4 prompts
    size = (judge / "model.safetensors").stat().st_size / 1e6
    assert f"reward mine {size:,.1f} MB" in said[-1]
    rows, unknown = check(plan(data=DATA, model={"source": "org/model"}), "mine.yaml")
    assert rows.startswith("reviews.jsonl, split train: 60 rows; left out: ")  # as the job's log will have it
    assert unknown == "not looked at: model.source: hub model org/model"


def test_what_does_not_fit_is_refused_with_its_lengths(here: Path, base: Path) -> None:
    """Prompts of 200 words are more than 128 tokens; with less than that, a text is cut where fine-tuning reads 8."""
    lines(here / "long.jsonl", [{"text": words(250, i)} for i in range(60)])
    long = DATA | {"source": "long.jsonl", "opening_words": [200, 210]}
    with pytest.raises(MoaError, match="data: 12 of 12 prompts are too long, first '.*' with .* context of 128; lower"):
        check(plan(**on(base) | {"data": long}), "mine.yaml")
    said = check(plan(**on(base, sft={"steps": 1, "max_length": 16})), "mine.yaml")
    assert "texts: 100% are longer than the 16 tokens that fine-tuning reads" in "\n".join(said)  # of 12 words each


def test_a_reward_that_cannot_read_the_texts_is_refused(here: Path, judge: Path) -> None:
    """Texts of twelve words have more than 8 tokens after their opening; the warm start asks the reward for them."""
    narrow = rewarded(kind="classifier", source=str(judge), max_length=8)
    with pytest.raises(MoaError, match="reward mine: 30 of 30 responses are longer than it can read"):
        check(plan(**narrow), "mine.yaml")
    said = check(plan(**narrow, conditioning={}), "mine.yaml")  # nobody scores them
    assert "reward mine reads 8 tokens: of 30 texts 0 lose the beginning of their prompt and 30 that" in "\n".join(said)


def test_all_rows_are_read(here: Path) -> None:
    """Row 41 holds a number for a text, which only the job met; a missing value there is left out as in the job."""
    rows = [{"text": words(12, i) if i != 41 else 41} for i in range(60)]
    lines(here / "reviews.jsonl", rows)
    assert not local.mistakes(plan(data=DATA))
    with pytest.raises(MoaError, match="^mine.yaml: data: .*column 'text' holds int"):
        check(plan(data=DATA), "mine.yaml")
    lines(here / "reviews.jsonl", [{"text": words(12, i % 20)} for i in range(60)])  # 20 different texts for 38
    with pytest.raises(MoaError, match="^mine.yaml: data.texts: 30 asked for"):
        check(plan(data=DATA), "mine.yaml")


def test_an_adapter_is_looked_at(here: Path) -> None:
    folder = tiny_models.save_adapter(here / "theirs", seed=1)
    rows = {"run": {"methods": ["theirs"], "seeds": [0]}, "data": DATA}
    rows |= {"methods": {"theirs": {"kind": "external", "adapter": str(folder)}}}
    assert not local.mistakes(plan(**rows))
    (folder / "adapter" / "adapter_model.safetensors").unlink()
    (found,) = local.mistakes(plan(**rows))
    assert found.startswith("methods.theirs: ") and "adapter_model.safetensors is missing" in found


def test_answers_of_others_must_be_complete(here: Path) -> None:
    pq.write_table(pa.table({"prompt": ["never asked"], "answer": ["x"]}), here / "answers.parquet")
    others = {"run": {"methods": ["other"], "seeds": [0]}, "data": DATA}
    others |= {"methods": {"other": {"kind": "external", "responses": "answers.parquet"}}}
    assert local.mistakes(plan(**others)) == [
        "methods.other: answers.parquet: the columns are prompt, answer; needs `response` and `prompt` or `prompt_id`"
    ]
    pq.write_table(pa.table({"prompt": ["never asked"], "response": ["x"]}), here / "answers.parquet")
    assert not local.mistakes(plan(**others))
    with pytest.raises(MoaError, match="methods.other.responses answers.parquet: 4 of 4 pairs of preference and"):
        check(plan(**others), "mine.yaml")
    reduced, left_out = smallest.smallest(plan(**others).experiment)
    assert left_out == ["other"] and reduced.run.methods == ["reference"]


@pytest.mark.parametrize("file", FILES, ids=[f.stem for f in FILES])
def test_the_smallest_experiment_satisfies_the_schema(file: Path) -> None:
    """What a step costs stays; three steps, four prompts, a preference per objective, one seed."""
    full = load(file)
    reduced, left_out = smallest.smallest(full)
    small = Plan(parse(reduced.model_dump(mode="json")), file.name)  # as the trial's file gives it
    assert not left_out and list(small.experiment.run.methods) == list(full.run.methods)
    found = small.experiment
    assert (found.ppo.steps, found.data.train_prompts, found.data.evaluation_prompts) == (3, 4, 4)
    assert len(small.evaluation) == len(full.objectives) and len(found.run.seeds) == 1
    kept = {"batch_size", "mini_batch_size", "group_size", "epochs", "advantages", "kl"}
    assert found.ppo.model_dump(include=kept) == full.ppo.model_dump(include=kept)
    assert found.generation.max_new_tokens == full.generation.max_new_tokens
    assert found.model.sft is None or found.model.sft.steps == 3
    assert {k: r.kind for k, r in found.rewards.items()} == {k: r.kind for k, r in full.rewards.items()}
    assert found.model.source == full.model.source and found.data.source == full.data.source


def test_what_is_small_already_stays() -> None:
    """5 rounds do not fit into 3 steps, nor 30 responses into 3 batches of 8."""
    rows = {"ric": {"rounds": 3}, "many": {"kind": "ric", "rounds": 5}, "modpo": {"responses": 30}}
    tiny = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())
    tiny |= {"run": {"methods": list(rows), "seeds": [4, 5]}, "methods": rows, "ppo": tiny["ppo"] | {"steps": 9}}
    reduced, _ = smallest.smallest(parse(tiny))
    assert reduced.methods == {
        "ric": {"rounds": 3},
        "many": {"kind": "ric", "rounds": 3},
        "modpo": {"responses": 24},  # 3 steps of 8 responses
    }
    assert reduced.run.seeds == [4] and reduced.evaluation.reference_responses == 32
    Plan(parse(reduced.model_dump(mode="json")), "mine.yaml")
    pairs = {"source": "p.jsonl", "chosen": "a", "rejected": "b"}
    trained = {"kind": "transformer", "source": "org/m", "data": pairs, "batch_size": 4, "epochs": 3}
    small = smallest.smallest(parse(tiny | {"rewards": tiny["rewards"] | {"big": trained}}))[0].rewards["big"]
    assert small.model_dump(include={"epochs", "batch_size", "data"})["data"]["rows"] == 14  # ceil(3 * 4 / 0.9)


def test_paths_that_lead_out_of_the_folder_are_written_in_full(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "work").mkdir()
    given = {"data": {"source": "../data", "split": "train"}, "list": ["../data", "../nowhere", "x"], "n": 1}
    found = smallest.absolute(given, tmp_path / "work")
    full = str((tmp_path / "data").resolve())
    assert found == {"data": {"source": full, "split": "train"}, "list": [full, "../nowhere", "x"], "n": 1}


def test_a_trial_has_links_to_all_but_results(tmp_path: Path) -> None:
    for name in ("results", "reports", "logs", ".snakemake", ".moa", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine.py").write_text("x = 1")
    place = job.folder(tmp_path, "mine")
    for _ in range(2):  # an earlier trial's folder is made anew
        job.link(tmp_path, place)
    assert sorted(path.name for path in place.iterdir()) == ["data", "mine.py"]
    assert (place / "mine.py").read_text() == "x = 1" and (place / "data").is_symlink()
    job.remove(place)
    assert (tmp_path / "data").is_dir() and not place.exists()


def cost(stage: str, row: str, policy: str, seconds: float, memory: float = 100.0) -> Row:
    return {"stage": stage, "method": row, "job": policy, "seconds": seconds, "peak_memory": memory}


def step(row: str, policy: str, seconds: float) -> Row:
    return {"method": row, "policy": policy, "quantity": "seconds", "value": seconds}


def test_what_a_trial_took_and_what_a_run_takes_by_that() -> None:
    """Policy of moc: steps of 5, 2 and 2 s in a job of 12 s, so 2 s a step and 3 s besides; 60 steps: 123 s."""
    costs = [
        cost("train", "moc", "policy", 12.0, 900.0),
        cost("train", "ric", "policy", 9.0),
        cost("base", "all", "all", 4),
    ]
    curves = [step("moc", "policy", s) for s in (5.0, 2.0, 2.0)] + [step("ric", "policy", 4.0)]
    assert trial.table(costs) == [
        "  stage  jobs  seconds  longest  peak memory",
        "  base      1      4.0      4.0      100 MiB",
        "  train     2     21.0     12.0      900 MiB",
    ]
    tiny = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())
    asked = plan(run={"methods": ["moc", "ric"], "seeds": [0, 1]}, ppo=tiny["ppo"] | {"steps": 60})
    assert trial.scaled(asked, costs, curves) == [  # ric's rounds are not steps of the loop
        "training in the full run, as far as steps tell:",
        "  moc: 2.00 s per step; 60 steps instead of 3: about 2 min 03 s per policy, 1 x 2 seeds",
        "  together about 4 min 06 s, one job after another",
    ]
