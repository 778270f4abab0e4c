"""Stage base: what the examples teach, from scratch, by fine-tuning, by a merged LoRA, or nothing at all."""

import json
import math
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from moa.errors import Diverged, MoaError
from moa.experiment.keys import Model, Scratch
from moa.experiment.schema import BaseSection
from moa.job.process import Job
from moa.lm import models, scratch, sft
from moa.lm.conditioning import token_rows
from moa.stages import base
from moa.store import inputs, tables
from moa.store.provenance import text_hash
from tests import killed, tiny_models

BYTES = tiny_models.tokenizer()
SCRATCH = {"vocabulary": 320, "hidden": 16, "layers": 1, "heads": 2, "feed_forward": 16, "context": 64}
SFT = {"steps": 2, "batch_size": 4, "learning_rate": 1e-2, "max_length": 48}


def section(model: dict[str, Any], **conditioning: Any) -> BaseSection:
    return BaseSection.model_validate(
        {"task": "t", "model": model, "conditioning": conditioning, "objectives": ["a", "b"]}
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 texts, 2 of them held out; objective a is their length, b its opposite."""
    folder = tmp_path_factory.mktemp("data")
    rows, scores = [], []
    for i, review in enumerate(tiny_models.texts()[:20]):
        text_id = text_hash(review.prompt, review.response)
        rows.append(
            {
                "task": "t",
                "text_id": text_id,
                "split": "heldout" if i < 2 else "train",
                "prompt": review.prompt,
                "response": review.response,
            }
        )
        for objective, sign in (("a", 1), ("b", -1)):
            scores.append(
                {
                    "task": "t",
                    "text_id": text_id,
                    "objective": objective,
                    "role": "reward",
                    "score": sign * len(review.response),
                    "truncated": False,
                }
            )
    tables.write(tables.TEXTS, rows, folder / "texts.parquet")
    tables.write(tables.TEXT_SCORES, scores, folder / "scores.parquet")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_base(tmp_path_factory.mktemp("source"))


def run(data: Path, made: BaseSection, folder: Path) -> Path:
    scores = data / "scores.parquet" if made.conditioning.warm_start else None
    outputs = {"checkpoints": folder / "checkpoints", "model": folder / "base", "costs": folder / "costs.parquet"}
    base.main(
        Namespace(section=made.model_dump_json(), texts=data / "texts.parquet", scores=scores, depends="", **outputs)
    )
    return folder / "base"


# Examples.


def texts(prompts: list[str], responses: list[str]) -> list[sft.Text]:
    return list(map(sft.Text, prompts, responses))


def test_an_example_is_prompt_response_end() -> None:
    (example,) = sft.make_examples(texts(["ab"], [" c"]), BYTES, 99, completion_only=False)
    assert example.ids == [*token_rows(["ab c"], BYTES)[0], BYTES.eos_token_id]
    assert example.labels == example.ids, "from scratch, the prompt is learnt too"
    assert example.ids.count(BYTES.bos_token_id) == 1


@pytest.mark.parametrize(("prompt", "response"), [("ab", " c"), ("ab\n", "c"), ("ab ", "c")])
def test_after_white_space_an_answer_does_not_begin_with_a_space(prompt: str, response: str) -> None:
    """A chat template ends with a line break; texts hold a space before every response."""
    (example,) = sft.make_examples(texts([prompt], [" c"]), BYTES, 99, completion_only=False)
    assert BYTES.decode(example.ids[1:-1]) == prompt + response


def test_completion_only_learns_the_response_and_its_end() -> None:
    (example,) = sft.make_examples(texts(["ab"], [" c"]), BYTES, 99, completion_only=True)
    prompt = len(token_rows(["ab"], BYTES)[0])
    assert example.labels == [-100] * prompt + example.ids[prompt:]
    assert example.labels[-1] == BYTES.eos_token_id, "also where the end token pads"


def test_a_cut_response_does_not_end() -> None:
    """BOS a b c d e END is 7 tokens; 5 fit."""
    (example,) = sft.make_examples(texts(["ab"], ["cde"]), BYTES, 5, completion_only=True)
    assert len(example.ids) == 5
    assert BYTES.eos_token_id not in example.ids


def test_examples_without_anything_to_learn_are_left_out() -> None:
    kept = sft.make_examples(texts(["ab", "ab", "abcdef"], [" c", "", " c"]), BYTES, 5, completion_only=True)
    assert len(kept) == 1
    with pytest.raises(MoaError, match="none of 1 has a response and a prompt under 3 tokens"):
        sft.make_examples(texts(["abc"], [" c"]), BYTES, 3, completion_only=True)


def padding(lengths: Sequence[int], order: Sequence[int], batch: int) -> int:
    chunks = [[lengths[i] for i in order[s : s + batch]] for s in range(0, len(order), batch)]
    return sum(max(c) * len(c) - sum(c) for c in chunks)


def test_random_batches_of_sorted_examples() -> None:
    """Every pass uses every example once; micro-batches pad little; the longest comes first; the seed decides."""
    lengths = torch.randint(5, 80, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    order = sft.random_batches(lengths, 40, 2000, seed=1)
    assert sorted(order) == sorted([*range(1000), *range(1000)])
    assert lengths[order[0]] == max(lengths)
    assert order == sft.random_batches(lengths, 40, 2000, seed=1) != sft.random_batches(lengths, 40, 2000, seed=2)
    shuffled = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).tolist()
    assert padding(lengths, order, 10) / 2 < 0.35 * padding(lengths, shuffled, 10)


def test_every_token_has_the_same_weight() -> None:
    """The loss is a mean over a batch's tokens.

    Were batches sorted, short texts' tokens would count several times as much. Short texts have 10 tokens and long ones
    70. The mean weight (batch / tokens in it) of both kinds differs by a few per cent.
    """
    lengths = [10] * 500 + [70] * 500
    order = sft.random_batches(lengths, 50, 1000, seed=0)
    weights: dict[int, list[float]] = {10: [], 70: []}
    for start in range(0, 1000, 50):
        batch = [lengths[i] for i in order[start : start + 50]]
        for length in batch:
            weights[length].append(50 / sum(batch))
    short, long = (sum(w) / len(w) for w in weights.values())
    assert 1.0 <= short / long < 1.1


@pytest.mark.parametrize(("count", "batch", "total"), [(7, 4, 7), (7, 4, 10), (3, 4, 3), (1, 1, 5), (9, 4, 4)])
def test_few_examples(count: int, batch: int, total: int) -> None:
    order = sft.random_batches(list(range(1, count + 1)), batch, total, seed=0)
    assert len(order) == total
    counts = [order.count(i) for i in range(count)]
    assert max(counts) - min(counts) <= 1, "no example twice before all were seen"


def test_micro_batches() -> None:
    """A quarter of the batch, where that leaves at least four examples each."""
    assert [sft.micro_batch(b) for b in (64, 16, 8, 18, 1)] == [16, 4, 8, 18, 1]


# Tokenizer and model from scratch.


def test_a_new_tokenizer() -> None:
    made = scratch.train_tokenizer(["the lamp is good"] * 9, Scratch(vocabulary=300))
    assert len(made) <= 300
    assert made("0.75")["input_ids"] == [
        0,
        *(made.convert_tokens_to_ids(c) for c in "0.75"),
    ], "one BOS; digits are single tokens"
    text = "Grüße \U0001f600\n\t"
    assert made.decode(made(text, add_special_tokens=False)["input_ids"]) == text
    assert (made.bos_token, made.eos_token, made.pad_token) == ("<s>", "</s>", "<pad>")


def test_a_vocabulary_too_small_still_reads_everything() -> None:
    assert len(scratch.train_tokenizer(["x"], Scratch(vocabulary=64))) == 256 + 3


def test_a_new_model() -> None:
    made, again, other = (scratch.new_model(tiny_models.SCRATCH, BYTES, seed) for seed in (0, 0, 1))
    assert made.config.tie_word_embeddings
    assert made.get_output_embeddings().weight is made.get_input_embeddings().weight
    weight = made.get_input_embeddings().weight
    assert torch.equal(weight, again.get_input_embeddings().weight)
    assert not torch.equal(weight, other.get_input_embeddings().weight)


# The stage.


def test_from_scratch(data: Path, tmp_path: Path) -> None:
    made = section({"source": "scratch", "scratch": SCRATCH, "sft": SFT})
    folder = run(data, made, tmp_path)
    assert {p.name for p in folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "sft.json",
    }
    facts = json.loads((folder / "sft.json").read_text())
    assert (facts["texts"], facts["conditioned"], facts["steps"], facts["micro_batch_size"]) == (18, 0, 2, 4)
    tokenizer, model = models.load_tokenizer(folder), models.load_base(folder, made.model)
    assert tokenizer.padding_side == "left"
    assert model.config.vocab_size == len(tokenizer)
    (cost,) = tables.read(tables.COSTS, tmp_path / "costs.parquet").to_pylist()
    assert (cost["models"], cost["tokens"]) == (1, facts["tokens"])
    again = run(data, made, tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes(), "the same bytes"
    assert (again / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_held_out_texts_are_not_trained_on(data: Path) -> None:
    heldout = {text_hash(r.prompt, r.response) for r in tiny_models.texts()[:2]}
    assert not heldout & {r["text_id"] for r in inputs.texts(data / "texts.parquet")}


def test_warm_start_mixes_plain_and_conditioned(data: Path) -> None:
    """18 texts, a third conditioned; a is length and b its opposite, so u_a + u_b = 1 and long texts get a > .5."""
    made = section({"source": "scratch", "scratch": SCRATCH, "sft": SFT}, warm_start={"share": 1 / 3, "keep": 0.5})
    chosen = base.choose(made, inputs.texts(data / "texts.parquet"), data / "scores.parquet")
    conditioned = [t for t in chosen if t.preference is not None]
    assert (len(chosen), len(conditioned)) == (18, 6)
    shortest = min(len(t.response) for t in conditioned)
    assert {t.preference[0] > 0.5 for t in conditioned if len(t.response) == shortest} == {False}
    prompts = base.prompts_of(conditioned[:1], made, BYTES)
    assert (
        prompts[0]
        == f"a {conditioned[0].preference[0]:.2f} b {conditioned[0].preference[1]:.2f} {conditioned[0].prompt}"
    )


def test_warm_start_needs_every_score(data: Path, tmp_path: Path) -> None:
    made = section({"source": "scratch", "scratch": SCRATCH, "sft": SFT}, warm_start={})
    rows = inputs.texts(data / "texts.parquet")
    with pytest.raises(MoaError, match="give --scores"):
        base.choose(made, rows, None)
    kept = [r for r in tables.read(tables.TEXT_SCORES, data / "scores.parquet").to_pylist() if r["objective"] == "a"]
    tables.write(tables.TEXT_SCORES, kept, tmp_path / "half.parquet")
    with pytest.raises(MoaError, match=r"half.parquet: no reward of objective 'b' for text .*score_texts"):
        base.choose(made, rows, tmp_path / "half.parquet")


def test_fine_tuning_moves_the_weights(data: Path, source: Path, tmp_path: Path) -> None:
    folder = run(data, section({"source": str(source), "sft": SFT}), tmp_path)
    before, after = load_file(source / "model.safetensors"), load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[n], after[n]) for n in before if "proj" in n)
    assert (folder / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_a_lora_is_merged_into_the_full_precision_base(
    data: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantisation: str
) -> None:
    """What is saved is W + s B A of every adapted layer, with W as it was before it was quantised."""
    kept: list[PeftModel] = []
    monkeypatch.setattr(base, "merged", lambda s, m, real=base.merged: (kept.append(m), real(s, m))[1])
    spec = {
        "source": str(source),
        "sft": {**SFT, "lora": True},
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.0},
        "quantisation": quantisation,
    }
    after = load_file(run(data, section(spec), tmp_path) / "model.safetensors")
    before, adapted = load_file(source / "model.safetensors"), 0
    for name, module in kept[0].named_modules():
        if hasattr(module, "get_delta_weight"):
            key = name.removeprefix("base_model.model.") + ".weight"
            delta = (
                module.lora_B["default"].weight @ module.lora_A["default"].weight * module.scaling["default"]
            ).detach()
            assert module.lora_A["default"].weight.dtype == torch.float32, "small updates survive"
            assert delta.abs().max() > 1e-4
            assert torch.allclose(after[key], before[key] + delta, atol=1e-6)
            adapted += 1
    assert adapted == 2 * 7, "two layers of seven linear maps"
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_a_finished_model_is_taken_as_it_is(data: Path, source: Path, tmp_path: Path) -> None:
    folder = run(data, section({"source": str(source), "sft": None, "dtype": "bfloat16"}), tmp_path)
    before, after = load_file(source / "model.safetensors"), load_file(folder / "model.safetensors")
    assert all(torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in before), (
        "nothing is converted"
    )
    assert not (folder / "sft.json").exists()
    assert tables.read(tables.COSTS, tmp_path / "costs.parquet")["models"][0].as_py() == 0


def test_training_lowers_the_loss(source: Path, tmp_path: Path) -> None:
    """Eight copies of one text, twelve steps: most of it is learnt by heart, its end included."""
    spec = Model.model_validate(
        {"source": str(source), "sft": {"steps": 12, "batch_size": 8, "learning_rate": 2e-2, "warmup": 0.1}}
    )
    assert spec.sft is not None
    examples = sft.make_examples(texts(["The lamp"] * 8, [" is good."] * 8), BYTES, 48, completion_only=True)
    model = models.load_base(source, spec)
    trained = sft.fine_tune(model, BYTES, examples, sft.Tuning(spec, spec.sft, 8), Job(tmp_path))
    assert trained.loss < 1.0 < math.log(len(BYTES))
    ids = torch.tensor([token_rows(["The lamp is good."], BYTES)[0]])
    assert int(trained.model(input_ids=ids).logits[0, -1].argmax()) == BYTES.eos_token_id


def test_micro_batches_add_up(source: Path, tmp_path: Path) -> None:
    """Eight at a time and two at a time take the same step."""
    reviews = tiny_models.texts()[:8]
    spec = Model.model_validate({"source": str(source), "sft": {"steps": 2, "batch_size": 8, "learning_rate": 1e-3}})
    assert spec.sft is not None
    lessons = texts([r.prompt for r in reviews], [r.response[:30] for r in reviews])
    examples = sft.make_examples(lessons, BYTES, 64, completion_only=True)
    weights = []
    for micro in (8, 2):
        tuning = sft.Tuning(spec, spec.sft, micro)
        trained = sft.fine_tune(models.load_base(source, spec), BYTES, examples, tuning, Job(tmp_path))
        weights.append(trained.model.model.layers[0].mlp.up_proj.weight.detach())
    assert torch.allclose(*weights, atol=1e-5)


def test_divergence_names_the_step(source: Path, tmp_path: Path) -> None:
    spec = Model.model_validate({"source": str(source), "sft": {"steps": 3, "batch_size": 2}})
    assert spec.sft is not None
    model = models.load_base(source, spec)
    model.model.norm.weight.data[0] = math.nan
    examples = sft.make_examples(texts(["The lamp"] * 2, [" is good."] * 2), BYTES, 48, completion_only=True)
    with pytest.raises(Diverged, match="SFT step 1: the loss is NaN or infinite; lower model.sft.learning_rate"):
        sft.fine_tune(model, BYTES, examples, sft.Tuning(spec, spec.sft, 2), Job(tmp_path))


def test_out_of_memory_halves_the_micro_batch(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that holds three of six examples: 6 do not fit, 3 do; the batch stays 6, and sft.json says 3."""
    tried, real = [], sft.fine_tune

    def small_gpu(model: Any, tokenizer: Any, examples: Any, tuning: sft.Tuning, job: Job) -> sft.Trained:
        tried.append(tuning.micro)
        if tuning.micro > 3:
            raise torch.OutOfMemoryError
        return real(model, tokenizer, examples, tuning, job)

    monkeypatch.setattr(sft, "fine_tune", small_gpu)
    folder = run(data, section({"source": "scratch", "scratch": SCRATCH, "sft": {**SFT, "batch_size": 6}}), tmp_path)
    assert tried == [6, 3]
    assert json.loads((folder / "sft.json").read_text())["micro_batch_size"] == 3


@pytest.mark.parametrize("lora", [False, True])
def test_it_goes_on_where_it_was_killed(
    data: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: bool
) -> None:
    """Eight steps are killed in the sixth.

    The base has the same bytes as one that was not, and five steps are not done twice; with LoRA a damaged checkpoint
    is passed over, and four are not. The rate rises over two steps
    and falls to 0 over eight, so a schedule that began anew would show; dropout would, too.
    """
    settings = {"steps": 8, "batch_size": 4, "learning_rate": 1e-2, "max_length": 48, "warmup": 0.25, "lora": lora}
    made = section(
        {"source": str(source), "sft": settings, "lora": {"dropout": 0.2}}
        if lora
        else {"source": "scratch", "scratch": SCRATCH, "sft": settings}
    )
    whole = run(data, made, tmp_path / "whole")
    done = killed.in_step(monkeypatch, sft.Tuner, 6)
    with pytest.raises(KeyboardInterrupt):
        run(data, made, tmp_path / "resumed")
    assert not (tmp_path / "resumed" / "base").exists()
    if lora:
        newest = max((tmp_path / "resumed" / "checkpoints").glob("*/step-*"))
        os.truncate(newest / "weights.safetensors", 1_000)
    resumed = run(data, made, tmp_path / "resumed")
    assert len(done) == 6 + 3 + lora
    for file in ("model.safetensors", "sft.json"):
        assert (whole / file).read_bytes() == (resumed / file).read_bytes()
    assert not list((tmp_path / "resumed" / "checkpoints").glob("*/step-*")), (
        "nothing is left when the base is complete"
    )


def test_nothing_fits(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_gpu(*_: Any) -> sft.Trained:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(sft, "fine_tune", no_gpu)
    with pytest.raises(MoaError, match="one example at a time does not fit"):
        run(data, section({"source": "scratch", "scratch": SCRATCH, "sft": SFT}), tmp_path)
    assert not (tmp_path / "base").exists()


def test_no_texts(data: Path, tmp_path: Path) -> None:
    rows = [r for r in tables.read(tables.TEXTS, data / "texts.parquet").to_pylist() if r["split"] == "heldout"]
    tables.write(tables.TEXTS, rows, tmp_path / "texts.parquet")
    with pytest.raises(MoaError, match="no texts to train on; set model.sft to null"):
        inputs.texts(tmp_path / "texts.parquet")
