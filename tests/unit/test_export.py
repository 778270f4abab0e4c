"""Export: the chat template tells what conditioning tells, and a folder answers as the policy does, without moa."""

import copy
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from huggingface_hub import ModelCard
from jinja2 import TemplateError
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from moa.cli import exporting
from moa.cli.exporting import export
from moa.errors import MoaError
from moa.experiment.keys import Conditioning, Lora, Model
from moa.lm import telling
from moa.lm.answering import Base, Prompting
from moa.lm.conditioning import token_rows
from moa.lm.conversation import Reading, Turn
from moa.lm.export import write_merged
from moa.lm.generation import Decoding
from moa.lm.models import add_adapter
from moa.lm.targets import Targets
from moa.report.model_card import card, measured
from moa.respond import find, load, weigh
from tests import synthetic, tiny_models, tiny_policy, tiny_task

NAMES = ["helpful", "humor"]
FORMATS = get_args(Conditioning.model_fields["format"].annotation)
PREFERENCES = [(0.5, 0.5), (0.8, 0.2), (1.0, 0.0), (0.125, 0.875), (0.25, 0.75), (1 / 3, 2 / 3), (0.005, 0.995)]
TURNS = [Turn("Hello, who\nis it?", "Good day!"), Turn(" And now?", "")]
DATED = "{{ strftime_now('%d %b %Y') }} " + tiny_models.CHAT


@pytest.fixture(autouse=True)
def unheld() -> Iterator[None]:
    """A command holds what it imports, and DuckDB counts its objects when Python ends."""
    yield
    gc.unfreeze()


def reading(tokenizer: PreTrainedTokenizerBase, own: str | None, conditioned: bool = True, **keys: Any) -> Reading:
    made = copy.deepcopy(tokenizer)
    made.chat_template = own
    spec = Conditioning.model_validate(keys)
    return Reading(Prompting(NAMES, spec, conditioned), None, made)


def same(read: Reading, **extra: Any) -> None:
    """The exported tokenizer's ids are those that the project feeds the policy."""
    exported = telling.tokenizer(read)
    for turns in ([], TURNS):
        said = [{"role": r, "content": c} for t in turns for r, c in (("user", t.message), ("assistant", t.answer))]
        messages = [*said, {"role": "user", "content": " The lamp {prompt} is: "}]
        for weights in PREFERENCES:
            (expected,) = token_rows([read.text(turns, " The lamp {prompt} is: ", weights)], read.tokenizer)
            named = {name: weight for name, weight in zip(NAMES, weights, strict=True) if weight}
            found = exported.apply_chat_template(
                messages, preference=named, add_generation_prompt=True, return_dict=False, **extra
            )
            assert found == expected, exported.decode(found)
        even = token_rows([read.text(turns, " The lamp {prompt} is: ", (0.5, 0.5))], read.tokenizer)
        assert [exported.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)] == even


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("frame", ["plain", "system", "user", "dated", "unsteered"])
def test_the_template_gives_the_tokens_that_conditioning_gives(kind: str, form: str, frame: str) -> None:
    tokenizer = tiny_models.tokenizer() if kind == "byte-level" else tiny_models.sentencepiece()
    own = {"plain": None, "dated": DATED}.get(frame, "\n  " + tiny_models.CHAT)
    role = "system" if frame == "system" else "user"
    template = 'It\'s {prompt} "as" \\{preference}:\n'
    keys = {"format": form, "template": template, "plain": "Q: {prompt}\n", "role": role, "chat": frame != "plain"}
    same(reading(tokenizer, own, conditioned=frame != "unsteered", **keys))


@pytest.mark.parametrize("map_", get_args(Targets.model_fields["map"].annotation))
@pytest.mark.parametrize("form", get_args(Targets.model_fields["format"].annotation))
@pytest.mark.parametrize("step", [None, 0.1])
def test_rewards_in_context_shows_its_targets(map_: str, form: str, step: float | None) -> None:
    targets = Targets(low=(-1.5, 0.25), high=(1.75, 3.0), mean=(0, 0), std=(1, 1), map=map_, format=form, step=step)  # type: ignore[arg-type]
    same(replace(reading(tiny_models.tokenizer(), tiny_models.CHAT, chat=True, role="system"), targets=targets))


def test_switches_of_the_models_own_template_stay_as_they_were_trained() -> None:
    own = tiny_models.CHAT + "{% if thinking is defined and not thinking %} quiet {{ tone[0] }}{% endif %}"
    read = reading(tiny_models.tokenizer(), own, chat=True, chat_template_kwargs={"thinking": False, "tone": ['"é\n']})
    same(read)
    assert ' quiet "é' in read.text([], "a", (0.5, 0.5))


def test_special_tokens_in_a_message_are_text_where_transformers_is_asked_so() -> None:
    read = reading(tiny_models.sentencepiece(), tiny_models.CHAT, chat=True, format="bars")
    (expected,) = token_rows([read.text([], "Hi </s> there", (1.0, 0.0))], read.tokenizer)
    messages = [{"role": "user", "content": "Hi </s> there"}]
    asked = {"preference": {"helpful": 1.0}, "add_generation_prompt": True, "return_dict": False}
    exported = telling.tokenizer(read)
    assert exported.eos_token_id not in expected and exported.eos_token_id in exported.apply_chat_template(
        messages, **asked
    )
    assert exported.eos_token_id not in exported.apply_chat_template(messages, sanitize_control_tokens=True, **asked)


def test_an_unknown_objective_is_named_by_the_template() -> None:
    exported = telling.tokenizer(reading(tiny_models.tokenizer(), tiny_models.CHAT, chat=True))
    with pytest.raises(TemplateError, match="no objective 'humour'; known: helpful, humor"):
        exported.apply_chat_template([{"role": "user", "content": "a"}], preference={"humour": 1.0})


def test_a_system_message_of_the_callers_follows_the_preference() -> None:
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    for role, shown in (
        ("system", "[system] helpful 0.50 humor 0.50\nBe brief. [user] a "),
        ("user", "[system] Be brief. [user] helpful 0.50 humor 0.50 a "),
    ):
        exported = telling.tokenizer(reading(tiny_models.tokenizer(), tiny_models.CHAT, chat=True, role=role))
        assert shown in exported.apply_chat_template(said, tokenize=False)


def test_a_tokenizer_that_reads_a_template_otherwise_is_refused() -> None:
    """It puts a space before the first word of a text alone, and after a begin token there is no first word."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    texts = [t.prompt + t.response for t in tiny_models.texts()]
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    with pytest.raises(MoaError, match="no template can tell it the preference; use moa respond"):
        telling.tokenizer(reading(tokenizer, None))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "t"
    return tiny_task.save(folder, tiny_models.CHAT, chat=True, format="tags")


def greedy(policy: Path, preference: dict[str, float]) -> list[int]:
    """The project's most probable tokens after 'The lamp'."""
    source = find(policy, None)
    weights = weigh(source, preference, policy)
    answerer = load(source)
    answerer.switch(weights)
    drawn = answerer.draw(answerer.texts(["The lamp"], weights), Decoding(8, 1.0, 1e-9), ["any"])
    return drawn.ids[0, -drawn.response :].tolist()


ALONE = """
import json, sys
sys.modules["moa"] = None  # importing it is an error
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

def answer(model, folder, **given):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "The lamp"}], add_generation_prompt=True, return_tensors="pt", **given
    )
    decoding = GenerationConfig.from_pretrained(folder, do_sample=False, max_new_tokens=8)
    return model.generate(**inputs, generation_config=decoding)[0, inputs["input_ids"].shape[1] :].tolist()

def whole(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32")

def adapted(folder):
    base = json.load(open(folder + "/adapter_config.json"))["base_model_name_or_path"]
    return PeftModel.from_pretrained(whole(base), folder)

told = {"preference": {"a": 0.2, "b": 0.8}}
print(json.dumps({
    "adapter": answer(adapted("adapter"), "adapter", **told),
    "merged": answer(whole("merged"), "merged", **told),
    "soup": answer(adapted("soup"), "soup"),
    "merged soup": answer(whole("merged_soup"), "merged_soup"),
}))
for folder in ("adapter", "merged"):  # each card's example
    code = open(folder + "/README.md").read().partition("```python")[2].partition("```")[0]
    exec(code.replace('folder = "."', f"folder = {folder!r}"))
"""


def test_a_folder_answers_as_the_policy_does_without_moa(task: Path, tmp_path: Path) -> None:
    """In a process with Transformers and PEFT alone: the same most probable tokens, and the cards' own examples run."""
    policy, soup = task / "policies" / "linear" / "policy" / "s3", task / "policies" / "rewarded_soups"
    export(policy, tmp_path / "adapter")
    export(policy, tmp_path / "merged", merged=True)
    export(soup, tmp_path / "soup", preference="a=0.3,b=0.7")
    export(soup, tmp_path / "merged_soup", merged=True, preference="a=0.3,b=0.7")
    command = [sys.executable, "-c", ALONE]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[0])
    told, mixed = greedy(policy, {"a": 0.2, "b": 0.8}), greedy(soup, {"a": 0.3, "b": 0.7})
    assert found == {"adapter": told, "merged": told, "soup": mixed, "merged soup": mixed}
    assert told != greedy(policy, {"a": 1.0}) and told != mixed, "the preference and the soup matter"
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.pt"))


def test_a_soup_is_merged_exactly(task: Path, tmp_path: Path) -> None:
    """W + 0.3 * 8/4 B_a A_a + 0.7 * 8/4 B_b A_b, summed here by hand; bfloat16 is that, rounded once."""
    row = task / "policies" / "rewarded_soups"
    export(row, tmp_path / "whole", merged=True, preference="a=0.3,b=0.7")
    export(row, tmp_path / "half", merged=True, dtype="bfloat16", preference="a=0.3,b=0.7")
    found, half = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
    base = load_file(task / "base" / "model.safetensors")
    parts = {n: load_file(task / f"policies/single_objective/{n}/s3/adapter/adapter_model.safetensors") for n in "ab"}
    layers = [key for key in base if f"base_model.model.{key.removesuffix('.weight')}.lora_A.weight" in parts["a"]]
    assert len(layers) == 2 * 7 and found.keys() == base.keys()
    for key, weight in base.items():
        expected = weight.double()
        for name, share in (("a", 0.3), ("b", 0.7)):
            if key in layers:
                at = f"base_model.model.{key.removesuffix('.weight')}"
                first, second = (parts[name][f"{at}.lora_{f}.weight"].double() for f in "AB")
                expected = expected + share * 8 / 4 * second @ first
        torch.testing.assert_close(found[key].double(), expected, rtol=0, atol=2e-6)
        assert torch.equal(half[key], found[key].bfloat16())


def test_tied_embeddings_part_where_an_adapter_changes_the_output_layer(tmp_path: Path) -> None:
    """Merged into the shared matrix, the product would also change what the model reads."""
    tiny_policy.base().save_pretrained(tmp_path / "base")
    tiny_policy.tokenizer().save_pretrained(tmp_path / "base")
    policy = add_adapter(
        LlamaForCausalLM.from_pretrained(tmp_path / "base"),
        Lora(rank=4, alpha=8, dropout=0.0, targets=["lm_head", "q_proj"]),
        0,
    )
    for key, parameter in policy.named_parameters():
        if "lora_B" in key:
            parameter.data.normal_(0, 0.3)
    policy.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        expected = policy(input_ids=ids).logits
        (tmp_path / "out").mkdir()
        base = Base(tmp_path / "base", Model(source="x"))
        write_merged(tmp_path / "out", base, {tmp_path / "adapter": 1.0}, "float32")
        found = LlamaForCausalLM.from_pretrained(tmp_path / "out")(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("row", "given", "message"),
    [
        ("mod", {"preference": "a=1"}, "row 'mod' mixes its policies' next-token distributions"),
        ("mod", {"merged": True, "preference": "a=1"}, "row 'mod' mixes its policies' next-token distributions"),
        ("reference", {}, "row 'reference' trains nothing, so it has no adapter; --merged writes its base"),
        ("rewarded_soups", {"merged": True}, "give a preference, e.g. --preference a=0.5,b=0.5"),
        ("rewarded_soups", {"preference": "a=0.5"}, "--preference: .* is off the simplex"),
        ("linear/policy/s3", {"preference": "a=1"}, "told the preference in its prompt; leave --preference out"),
        ("single_objective/a/s3", {"preference": "a=1"}, "takes no preference"),
        ("linear/policy/s4", {}, "no policy.json here"),
        ("linear/policy/s3", {"dtype": "bfloat16"}, "--dtype is of a whole model: give --merged"),
    ],
)
def test_refused_before_anything_is_written(
    task: Path, tmp_path: Path, row: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(MoaError, match=message):
        export(task / "policies" / row, tmp_path / "out", **given)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_written_whole_or_not_at_all(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = task / "policies" / "linear" / "policy" / "s3"
    (tmp_path / "mine").mkdir()
    with pytest.raises(MoaError, match="mine: exists already and is kept; give another name"):
        export(policy, tmp_path / "mine")
    monkeypatch.setattr("moa.report.model_card.card", lambda told: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        export(policy, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"] and list((tmp_path / "mine").iterdir()) == []


def test_a_quantised_base_takes_no_merge(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moa.lm import export as weights

    real = weights.stored_base
    monkeypatch.setattr(weights, "stored_base", lambda base: replace(real(base), quantisation="nf4"))
    with pytest.raises(MoaError, match="stored quantised .nf4., and nothing is merged into such ones exactly"):
        export(task / "policies" / "linear", tmp_path / "out", merged=True)


def test_the_base_of_a_row_that_trains_nothing(task: Path, tmp_path: Path) -> None:
    export(task / "policies" / "reference", tmp_path / "out", merged=True)
    found, base = (load_file(f / "model.safetensors") for f in (tmp_path / "out", task / "base"))
    assert found.keys() == base.keys() and all(torch.equal(found[key], base[key]) for key in base)


def test_the_decoding_is_that_of_the_evaluation(task: Path, tmp_path: Path) -> None:
    for name, whole in (("adapter", False), ("model", True)):
        export(task / "policies" / "linear", tmp_path / name, merged=whole)
        found = json.loads((tmp_path / name / "generation_config.json").read_text())
        wanted = {"temperature": 0.7, "top_p": 0.9, "top_k": 0, "do_sample": True, "max_new_tokens": 6}
        assert found | wanted | {"min_new_tokens": 1, "eos_token_id": [tiny_models.tokenizer().eos_token_id]} == found


def test_the_card_says_what_it_is(task: Path, tmp_path: Path) -> None:
    """Base, licence, method, objectives, preference, decoding, and the metrics of the run's tables with intervals."""
    world = synthetic.build(tmp_path, ("a", "b"), seeds=(0,))
    metrics, points = measured(world, "moc", 0)
    (volume,) = [m for m in metrics if m["metric"] == "hypervolume"]
    source = find(task / "policies" / "linear" / "policy" / "s3", None)
    told = exporting._described(
        replace(source, model=source.model.model_copy(update={"source": str(tmp_path)})), None, None
    )
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: x\n---\n# A base\nlicense: mit\n")
    assert told.licence is None and exporting._licence(str(tmp_path), None) == "apache-2.0"
    whole = replace(
        told,
        metrics=metrics,
        points=points,
        licence="apache-2.0",
        read="READ",
        decoding=Decoding(6, 0.7, 1.0),
    )
    shown = card(whole)
    assert f"| hypervolume | {volume['value']:.3g} ({volume['low']:.3g} to {volume['high']:.3g}) |" in shown
    assert sum(line.startswith("| 0") or line.startswith("| 1 /") for line in shown.splitlines()) == len(
        {p["point"] for p in points}
    )
    for part in (
        "Linear-conditioned PPO: one policy",
        "objectives: a, b",
        "temperature 0.7, top_p 1, max_new_tokens 6",
        "READ",
        '{"a": 0.8, "b": 0.2}',
    ):
        assert part in shown
    head = ModelCard(shown).data
    assert (head.license, head.library_name, head.base_model) == ("apache-2.0", "peft", None)
    hub = ModelCard(card(replace(whole, hub=True, source="org/name", merged=True))).data
    assert (hub.library_name, hub.base_model, hub.base_model_relation) == ("transformers", "org/name", "finetune")
