"""MOD: the mixed next-token distribution by hand, a corner is its policy to the last draw, and who is asked at all."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import GPT2Config, GPT2LMHeadModel

from moa.errors import MoaError
from moa.experiment.keys import Conditioning, Lora, Model
from moa.experiment.preferences import lattice
from moa.experiment.schema import GenerateSection
from moa.lm import answering, models
from moa.lm.answering import Base, Prompting, Sampling
from moa.lm.conditioning import encode
from moa.lm.draws import nucleus
from moa.lm.generation import Decoding, Sampler
from moa.lm.mixture import Mixture
from moa.lm.reader import PolicyReader, Seen
from moa.methods import catalogue
from moa.stages import generate
from moa.store import tables
from moa.store.provenance import text_hash
from tests import tiny_models

PLAIN = Model(source="x")
NF4 = Model(source="x", quantisation="nf4")
BYTES = tiny_models.tokenizer()
PROMPTS = ["The battery of my phone", "My", "This old lamp", "It"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def corners(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("policies")
    named = [("b", (0.0, 1.0)), ("a", (1.0, 0.0))]  # not in the objectives' order
    return [tiny_models.save_adapter(folder / n / "s0", seed=i, name=n, weights=w) for i, (n, w) in enumerate(named)]


def load(base: Path, folders: list[Path], way: answering.Way, spec: Model = PLAIN) -> answering.Answerer:
    return answering.load(Base(base, spec), folders, way, Prompting(["a", "b"], Conditioning()))


def mixed_model(base: Path, corners: list[Path]) -> PeftModel:
    """The base with adapters 'second' (objective b) and 'first' (a)."""
    return models.load_adapters(models.load_base(base, PLAIN), {"second": corners[0], "first": corners[1]})


def alone(base: Path, folder: Path, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return one policy's next-token probabilities (B, V).

    They are those of a model with that adapter alone, without a cache, one prompt at a time.
    """
    model = models.load_adapters(models.load_base(base, PLAIN), {"x": folder})
    with torch.no_grad():
        rows = [model(input_ids=row[keep.bool()][None]).logits[0, -1] for row, keep in zip(ids, mask, strict=True)]
    return torch.stack(rows).double().softmax(-1)


def test_the_mixture_by_hand(base: Path, corners: list[Path]) -> None:
    """p = pi_a^.3 pi_b^.7 / Z at the prompt's end and after each of two more tokens, which the caches carry."""
    ids, mask = encode(PROMPTS, BYTES, 128)
    reader = Mixture(mixed_model(base, corners), {"first": 0.3, "second": 0.7})
    seen = reader.begin(ids, mask, torch.arange(len(ids)), 3)
    for token in (40, 50, 60):
        a, b = alone(base, corners[1], ids, mask), alone(base, corners[0], ids, mask)
        product = a**0.3 * b**0.7
        expected = product / product.sum(-1, keepdim=True)
        found = seen.logits.double().softmax(-1)
        assert (found.log() - expected.log()).abs().max() < 1e-4
        assert all((p.log() - expected.log()).abs().max() > 0.5 for p in (a, b)), "the policies differ from it"
        seen = reader.next(torch.full((len(ids),), token))
        ids = torch.cat([ids, torch.full((len(ids), 1), token)], 1)
        mask = torch.cat([mask, torch.ones(len(ids), 1, dtype=torch.long)], 1)


def test_positions_count_from_the_first_real_token() -> None:
    """GPT-2 learns a vector per position, so padding on the left would show; Llama's rotation only sees distances."""
    torch.manual_seed(0)
    lm = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(BYTES), n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5)
    ).eval()
    model = models.add_adapter(lm, Lora(rank=4, alpha=8, dropout=0.0, targets=["c_attn"]), 0)
    ids, mask = encode(PROMPTS, BYTES, 64)
    reader = PolicyReader(model)
    seen = reader.begin(ids, mask, torch.arange(len(ids)), 2)
    for token in (40, 50):
        for row, keep, logits in zip(ids, mask, seen.logits, strict=True):
            with torch.no_grad():
                torch.testing.assert_close(
                    logits, lm(input_ids=row[keep.bool()][None]).logits[0, -1], atol=1e-3, rtol=1e-3
                )
        ids = torch.cat([ids, torch.full((len(ids), 1), token)], 1)
        mask = torch.cat([mask, torch.ones(len(ids), 1, dtype=torch.long)], 1)
        seen = reader.next(ids[:, -1])


def test_before_or_after_the_temperature_is_the_same() -> None:
    """Two tokens and T = 0.5: (.8, .2) and (.5, .5) mixed half and half.

    Mixed first: sqrt(.8 .5) : sqrt(.2 .5) = 2 : 1, squared 4 : 1. At T first: (.64, .04) -> 16 : 1 and 1 : 1, sqrt(16)
    : 1 = 4 : 1.
    """
    policies = torch.tensor([[0.8, 0.2], [0.5, 0.5]]).log()
    mixed_first = nucleus(policies.mean(0, keepdim=True), 0.5, 1.0)
    torch.testing.assert_close(mixed_first, torch.tensor([[0.8, 0.2]]))
    at_temperature = nucleus(policies, 0.5, 1.0).log()
    torch.testing.assert_close(at_temperature.mean(0).softmax(-1), torch.tensor([0.8, 0.2]))


class Said:
    """A reader of a policy that always says the same."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def next(self, tokens: torch.Tensor) -> Seen:
        return Seen(self.logits[None], torch.zeros(1, 1))


def test_mixing_tilted_policies_is_optimal_for_the_weighted_reward() -> None:
    """MOD rests on the identity prod_k pi_k^{w_k} = pi_ref exp(sum_k w_k r_k / beta) / Z.

    It holds up to a constant of its own. Two policies over three arms: the reference (.5, .3, .2) tilted by one reward
    each, pi_k = pi_ref exp(r_k / beta) / Z.
    """
    reference, beta = torch.tensor([0.5, 0.3, 0.2]).log(), 0.25
    rewards = {"a": torch.tensor([0.9, 0.4, 0.1]), "b": torch.tensor([0.2, 0.7, 0.8])}
    weights = {"a": 0.7, "b": 0.3}
    mixture = Mixture(SimpleNamespace(active_adapter="a", set_adapter=lambda _: None), weights)  # type: ignore[arg-type]
    mixture.parts = {
        name: (weight, Said(torch.log_softmax(reference + rewards[name] / beta, -1)))  # type: ignore[misc]
        for name, weight in weights.items()
    }
    mixed = mixture.next(torch.zeros(1, dtype=torch.long)).logits
    optimum = reference + (0.7 * rewards["a"] + 0.3 * rewards["b"]) / beta
    torch.testing.assert_close(mixed.softmax(-1)[0], optimum.softmax(-1))


@pytest.mark.parametrize("spec", [PLAIN, NF4])
@pytest.mark.parametrize("decoding", [Decoding(16, 1.0, 1.0), Decoding(16, 0.7, 0.9)])
def test_a_corner_is_its_policy_to_the_last_draw(
    base: Path, corners: list[Path], spec: Model, decoding: Decoding
) -> None:
    """Prompts of four lengths in two batches, responses that end and that do not."""
    row, prompts = load(base, corners, "mixture", spec), PROMPTS * 6
    drawn = {}
    for preference, folder in (((1.0, 0.0), corners[1]), ((0.0, 1.0), corners[0])):
        row.switch(preference)
        drawn[preference] = answering.respond(row, prompts, Sampling(decoding, 16, "s"))
        assert drawn[preference] == answering.respond(
            load(base, [folder], "policy", spec), prompts, Sampling(decoding, 16, "s")
        )
    assert drawn[1.0, 0.0] != drawn[0.0, 1.0]


def test_responses_end_as_those_of_generate(base: Path, corners: list[Path]) -> None:
    row = load(base, corners, "mixture")
    assert row.switch((0.5, 0.5)) == "0.5 b + 0.5 a"
    found = answering.respond(row, ["My"] * 64, Sampling(Decoding(40, 1.0, 1.0), 64, "s"))
    assert {r.finished for r in found} == {True, False}
    assert all(r.tokens == 40 if not r.finished else 1 <= r.tokens < 40 for r in found), "never the end token first"


def test_padding_changes_nothing(base: Path, corners: list[Path]) -> None:
    """Almost greedy, a prompt gets the same answer alone and in a batch."""
    row, greedy = load(base, corners, "mixture"), Decoding(8, 1e-4, 1.0)
    row.switch((0.25, 0.75))
    assert answering.respond(row, PROMPTS, Sampling(greedy, 4, "s")) == [
        answering.respond(row, [p], Sampling(greedy, 1, "s"))[0] for p in PROMPTS
    ]


def test_it_is_not_the_soup(base: Path, corners: list[Path]) -> None:
    """Almost greedy: averaging distributions and averaging weights choose different tokens somewhere."""
    found = []
    for way in ("mixture", "soup"):
        row = load(base, corners, way)
        row.switch((0.5, 0.5))
        found.append(answering.respond(row, PROMPTS, Sampling(Decoding(16, 1e-4, 1.0), 4, "s")))
    assert found[0] != found[1]


def test_a_policy_without_weight_is_never_asked(base: Path, corners: list[Path]) -> None:
    """3 tokens: 3 passes at a corner, 6 with two policies; every pass after the first reads one token per row."""
    for weights, passes in (({"first": 1.0, "second": 0.0}, 3), ({"first": 0.5, "second": 0.5}, 6)):
        model, read = mixed_model(base, corners), []
        model.get_input_embeddings().register_forward_pre_hook(
            lambda _, inputs, read=read: read.append(inputs[0].shape[1])
        )
        Sampler(BYTES, Decoding(3, 1e-4, 1.0), 128).draw(Mixture(model, weights), ["The lamp"], ["k"])
        assert read[passes // 3 :] == [1] * (passes - passes // 3)
        assert len(read) == passes


def test_a_missing_ingredient(base: Path, corners: list[Path]) -> None:
    with pytest.raises(MoaError, match="mixture: no policy was trained on objective 'b' alone"):
        load(base, corners[1:], "mixture").switch((0.5, 0.5))
    with pytest.raises(MoaError, match="a mixture needs a preference"):
        load(base, corners, "mixture").switch(None)


def test_it_borrows_the_single_objective_policies() -> None:
    method = catalogue.load("mod", {}, ["a", "b"])
    assert [(p.row, p.name) for p in method.policies(lattice(2, 4))] == [
        ("single_objective", "a"),
        ("single_objective", "b"),
    ]
    assert method.evaluation_preferences(lattice(2, 4)) == lattice(2, 4)
    assert catalogue.load("mod", {"ingredients": "other"}, ["a", "b"]).policies([])[0].row == "other"


def test_the_stage_generates_with_it(base: Path, corners: list[Path], tmp_path: Path) -> None:
    """Corner points hold what the corner policies answer at the same points of the grid."""
    rows = [{"task": "t", "prompt_id": text_hash(p), "split": "evaluation", "prompt": p} for p in PROMPTS]
    tables.write(tables.PROMPTS, rows, tmp_path / "prompts.parquet")
    section = {
        "task": "t",
        "model": {"source": "x"},
        "conditioning": {},
        "generation": {"max_new_tokens": 6},
        "objectives": ["a", "b"],
    }
    answered = {}
    for row in ("mod", "rewarded_soups"):
        given = GenerateSection.model_validate({**section, "evaluation": [(1.0, 0.0), (0.5, 0.5)], "settings": {}})
        paths = {
            "prompts": tmp_path / "prompts.parquet",
            "base": base,
            "out": tmp_path / "out.parquet",
            "costs": tmp_path / "costs.parquet",
        }
        generate.main(Namespace(section=given.model_dump_json(), row=row, seed=0, policies=corners, **paths))
        answered[row] = tables.read(tables.GENERATIONS, paths["out"]).to_pylist()
    assert [r["policy"] for r in answered["mod"]] == ["1 a"] * 4 + ["0.5 b + 0.5 a"] * 4
    same = [m["response"] == s["response"] for m, s in zip(answered["mod"], answered["rewarded_soups"], strict=True)]
    assert all(same[:4]) and not all(same[4:]), "at a corner both are the policy"


def test_every_end_token_ends_a_mixtures_response(base: Path, corners: list[Path]) -> None:
    """Half of the vocabulary ends a response, so that each ends soon, as its policy's own would."""
    row, alone = load(base, corners, "mixture"), load(base, [corners[1]], "policy")
    row.switch((1.0, 0.0))
    drawn = []
    for one in (row, alone):
        one.model.generation_config.eos_token_id = list(range(1, len(BYTES), 2))
        drawn.append(answering.respond(one, ["My"] * 8, Sampling(Decoding(60, 1.0, 1.0), 8, "s")))
    assert drawn[0] == drawn[1] and all(r.finished and r.tokens < 60 for r in drawn[0])
