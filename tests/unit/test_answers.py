"""How a row answers: its adapters, the exact soup, the nearest policy, the same draws whatever else is generated."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moa.errors import MoaError
from moa.experiment.keys import Conditioning, Model
from moa.experiment.schema import TrainSection
from moa.lm import answering, cards, models
from moa.lm.answering import Base, Prompting, Sampling
from moa.lm.conditioning import encode
from moa.lm.generation import Decoding, Rollout, Sampler
from moa.lm.reader import Reader
from moa.store.provenance import file_hash
from moa.trainers.request import Request, Trained, write
from tests import tiny_models, tiny_policy

PLAIN = Model(source="x")
NF4 = Model(source="x", quantisation="nf4")
BYTES = tiny_models.tokenizer()
DECODING = Decoding(6, 1.0, 1.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def corners(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("policies")
    named = [("b", (0.0, 1.0)), ("a", (1.0, 0.0))]  # not in the objectives' order
    return [tiny_models.save_adapter(folder / n / "s0", seed=i, name=n, weights=w) for i, (n, w) in enumerate(named)]


def load(
    base: Path, folders: list[Path], way: answering.Way, spec: Model = PLAIN, conditioned: bool = False
) -> answering.Answerer:
    return answering.load(Base(base, spec), folders, way, Prompting(["a", "b"], Conditioning(), conditioned))


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids, mask = encode(["The lamp is good", "My"], BYTES, 128)
    with torch.no_grad():
        return models.forward(model, ids, mask, 2)[0]


def products(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Return s B A of every adapted layer by its name in the base, from PEFT's own arithmetic."""
    model = models.load_adapters(models.load_base(base, PLAIN), {"x": folder})
    return {
        n.removeprefix("base_model.model."): m.get_delta_weight("x")
        for n, m in model.named_modules()
        if hasattr(m, "get_delta_weight")
    }


def test_a_soup_is_the_average_of_the_products(base: Path, corners: list[Path]) -> None:
    """Its logits are those of a base with weights W + .3 s_a B_a A_a + .7 s_b B_b A_b."""
    soup = load(base, corners, "soup")
    assert soup.switch((0.3, 0.7)) == "0.7 b + 0.3 a"
    by_hand = models.load_base(base, PLAIN)
    with torch.no_grad():
        for share, folder in ((0.7, corners[0]), (0.3, corners[1])):
            for name, delta in products(base, folder).items():
                by_hand.get_submodule(name).weight += share * delta
    expected = logits(by_hand)
    assert (logits(soup.model) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (logits(models.load_base(base, PLAIN)) - expected).abs().max() > 0.1, "the adapters matter"


def test_not_the_average_of_the_factors(base: Path, corners: list[Path]) -> None:
    """(.5 B_a + .5 B_b)(.5 A_a + .5 A_b) is another matrix, and the soup is not it."""
    soup = load(base, corners, "soup")
    soup.switch((0.5, 0.5))
    layer = soup.model.get_base_model().model.layers[0].self_attn.q_proj
    a, b, scale = layer.lora_A, layer.lora_B, layer.scaling["policy0"]
    factors = (
        (b["policy0"].weight + b["policy1"].weight) / 2 @ ((a["policy0"].weight + a["policy1"].weight) / 2) * scale
    )
    exact = (b["policy0"].weight @ a["policy0"].weight + b["policy1"].weight @ a["policy1"].weight) / 2 * scale
    mixed = layer.get_delta_weight(answering.SOUP)
    assert torch.allclose(mixed, exact, atol=1e-5)
    assert not torch.allclose(mixed, factors, atol=1e-2)


@pytest.mark.parametrize("spec", [PLAIN, NF4])
def test_a_corner_of_the_soup_is_its_policy(base: Path, corners: list[Path], spec: Model) -> None:
    soup = load(base, corners, "soup", spec)
    assert soup.switch((0.5, 0.5)) == "0.5 b + 0.5 a"
    assert soup.switch((1.0, 0.0)) == "1 a", "the earlier mixture is gone"
    alone = logits(models.load_adapters(models.load_base(base, spec), {"x": corners[1]}))
    assert torch.allclose(logits(soup.model), alone, atol=1e-4)


def test_a_soup_on_four_bits(base: Path, corners: list[Path]) -> None:
    """Linear in the products: on the first layer the mixture's change is the mean of the two policies' changes."""
    soup = load(base, corners, "soup", NF4)
    layer = soup.model.get_base_model().model.layers[0].self_attn.q_proj
    x = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
    outputs = {}
    for preference in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)):
        soup.switch(preference)
        with torch.no_grad():
            outputs[preference] = layer(x)
    mean = (outputs[1.0, 0.0] + outputs[0.0, 1.0]) / 2
    assert torch.allclose(outputs[0.5, 0.5], mean, atol=1e-5)
    assert not torch.allclose(outputs[1.0, 0.0], mean, atol=1e-2)


def test_a_soup_lacks_an_ingredient(base: Path, corners: list[Path]) -> None:
    with pytest.raises(MoaError, match="no policy was trained on objective 'b' alone"):
        load(base, corners[1:], "soup").switch((0.5, 0.5))


def test_nearest() -> None:
    """(.6, .4) is .1 sqrt 2 from (.5, .5) and .4 sqrt 2 from (1, 0); (.75, .25) is as far from both: the first one."""
    known = [cards.Card("half", (0.5, 0.5)), cards.Card("a", (1.0, 0.0)), cards.Card("b", (0.0, 1.0))]
    assert cards.nearest((0.6, 0.4), known) == 0
    assert cards.nearest((0.9, 0.1), known) == 1
    assert cards.nearest((0.75, 0.25), known) == 0
    assert cards.nearest((0.0, 1.0), known) == 2


def test_nearest_needs_weights() -> None:
    with pytest.raises(MoaError, match="policy free: its card names no weights"):
        cards.nearest((0.5, 0.5), [cards.Card("free")])


def test_the_nearest_policy_answers(base: Path, corners: list[Path]) -> None:
    row = load(base, corners, "nearest")
    assert row.switch((0.9, 0.1)) == "a"
    assert torch.equal(
        logits(row.model), logits(models.load_adapters(models.load_base(base, PLAIN), {"x": corners[1]}))
    )
    assert row.switch((0.1, 0.9)) == "b"
    with pytest.raises(MoaError, match="needs a preference"):
        row.switch(None)


def test_without_policies_the_base_answers(base: Path) -> None:
    row = load(base, [], "policy")
    assert row.switch(None) == "reference"
    assert torch.equal(logits(row.model), logits(models.load_base(base, PLAIN)))


def test_only_a_conditioned_row_shows_the_preference(base: Path) -> None:
    assert load(base, [], "policy", conditioned=True).texts(["My"], (0.5, 0.5)) == ["a 0.50 b 0.50 My"]
    assert load(base, [], "policy").texts(["My"], (0.5, 0.5)) == ["My"]


def test_cards(corners: list[Path], tmp_path: Path) -> None:
    assert cards.read_card(corners[1]) == cards.Card("a", (1.0, 0.0))
    assert cards.read_card(corners[1] / "adapter") == cards.Card("adapter"), "a plain PEFT folder has none"
    (tmp_path / "policy.json").write_text("{")
    with pytest.raises(MoaError, match="policy.json: not readable as a policy's card"):
        cards.read_card(tmp_path)


def test_responses_keep_the_prompts_order(base: Path) -> None:
    """Batches are sorted by length; with an almost greedy draw a prompt's answer does not depend on its batch."""
    row, greedy = load(base, [], "policy"), Decoding(6, 1e-4, 1.0)
    prompts = ["The battery of my phone", "My", "This old lamp", "It"]
    alone = [answering.respond(row, [p], Sampling(greedy, 1, "s"))[0] for p in prompts]
    assert answering.respond(row, prompts, Sampling(greedy, 2, "s")) == alone


def test_the_seed_decides_the_draws(base: Path) -> None:
    row = load(base, [], "policy")
    torch.manual_seed(1)
    first = answering.respond(row, ["My"] * 4, Sampling(DECODING, 2, "generate 0 0"))
    torch.manual_seed(2)
    assert answering.respond(row, ["My"] * 4, Sampling(DECODING, 2, "generate 0 0")) == first, (
        "whatever was drawn before"
    )
    assert answering.respond(row, ["My"] * 4, Sampling(DECODING, 2, "generate 0 1")) != first
    assert first[:2] != first[2:], "batches differ"


def test_tokens_leave_out_the_end_token(base: Path) -> None:
    row = load(base, [], "policy")
    for response in answering.respond(row, ["My"] * 24, Sampling(Decoding(30, 1.0, 1.0), 24, "s")):
        assert response.tokens == 30 if not response.finished else 1 <= response.tokens < 30


def test_out_of_memory_halves_the_batch(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that holds two responses: four are tried, then two and two."""
    row, sizes, sample = load(base, [], "policy"), [], Sampler.draw

    def small_gpu(sampler: Sampler, reader: Reader, prompts: list[str], *rest: Any) -> Rollout:
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError
        return sample(sampler, reader, prompts, *rest)

    monkeypatch.setattr(Sampler, "draw", small_gpu)
    assert len(answering.respond(row, ["My"] * 4, Sampling(DECODING, 4, "s"))) == 4
    assert sizes == [4, 2, 2]


def test_progress_counts_every_response_once(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight responses, four at a time; the second batch does not fit, so all eight are answered anew, two at a time."""
    row, sizes, heard, sample = load(base, [], "policy"), [], [], Sampler.draw

    def filling_gpu(sampler: Sampler, reader: Reader, prompts: list[str], *rest: Any) -> Rollout:
        sizes.append(len(prompts))
        if len(sizes) == 2:
            raise torch.OutOfMemoryError
        return sample(sampler, reader, prompts, *rest)

    monkeypatch.setattr(Sampler, "draw", filling_gpu)
    answering.respond(row, ["My"] * 8, Sampling(DECODING, 4, "s"), heard.append)
    assert sizes == [4, 4, 2, 2, 2, 2]
    assert heard == [4, 2, 2]  # 4 of the first attempt; of the second, what goes beyond them


def test_not_even_one_response_fits(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gpu(*_: object) -> object:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Sampler, "draw", no_gpu)
    with pytest.raises(MoaError, match="one response at a time does not fit"):
        answering.respond(load(base, [], "policy"), ["My"], Sampling(DECODING, 4, "s"))


def test_weights_too_large_to_compute_with_are_named_by_their_folder(base: Path, tmp_path: Path) -> None:
    """Finite, so loading takes them; 1e30 squared is not a float32."""
    folder = tiny_models.save_adapter(tmp_path / "huge", seed=0)
    path = folder / "adapter" / "adapter_model.safetensors"
    save_file({name: torch.full_like(tensor, 1e30) for name, tensor in load_file(path).items()}, path)
    row = load(base, [folder], "policy")
    with pytest.raises(MoaError, match=f"{folder}: the model's next-token distribution is NaN or infinite"):
        answering.respond(row, ["My"], Sampling(DECODING, 4, "s"))


def test_a_policy_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    """Of the same shape, so that its adapter would load without a complaint."""
    policy = tiny_models.save_adapter(tmp_path / "policy", seed=0)
    card = json.loads((policy / "policy.json").read_text())
    (policy / "policy.json").write_text(json.dumps({**card, "base_hash": file_hash(base)}))
    assert load(base, [policy], "policy").cards[0].base_hash == file_hash(base)
    other = tiny_models.save_base(tmp_path / "other", seed=1)
    with pytest.raises(
        MoaError,
        match=(
            r"policy: this policy was trained on another base \(hash [0-9a-f]{12}\) than .*other .*train the policy"
            r" again"
        ),
    ):
        load(other, [policy], "policy")
    load(other, [policy / "adapter"], "policy")  # a plain adapter says nothing about its base


def test_the_card_of_a_trained_policy_names_its_base(base: Path, tmp_path: Path) -> None:
    section = TrainSection.model_validate(
        {
            "task": "t",
            "objectives": {"a": {"reward": "a"}, "b": {"reward": "b"}},
            "rewards": {n: {"kind": "vader"} for n in "ab"},
            "model": {"source": "x"},
            "conditioning": {},
            "generation": {},
            "ppo": {},
            "training": [],
            "dirichlet": None,
            "settings": {},
        }
    )
    run = tiny_policy.loop("linear", tmp_path / "checkpoints", steps=1)
    paths = {name: tmp_path / name for name in ("prompts", "normaliser", "checkpoints", "out", "curve", "costs")}
    request = Request(section, run.method, None, "policy", 0, base=base, models=[], texts=[], **paths)
    write(request, Trained(run.actor.model, run.actor.heads, run.curve, run.tokens))
    assert cards.read_card(tmp_path / "out").base_hash == file_hash(base)
