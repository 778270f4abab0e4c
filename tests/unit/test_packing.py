"""Reading and sampling with each prompt once: the numbers are those of reading every response alone."""

from collections.abc import Callable

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from moa.experiment.keys import Lora
from moa.lm import models, packing
from moa.lm.adapters import PeftModel
from moa.lm.generation import Decoding, Rollout, Sampler, end_tokens
from moa.lm.merged import Merged, mergeable
from moa.lm.reader import PolicyReader
from moa.rl.losses import logprobs_and_entropy
from tests import tiny_models

BYTES = tiny_models.tokenizer()
WORDS = len(BYTES)
SIZES = {"vocab_size": WORDS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3}
LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES, **LLAMA, num_key_value_heads=2, tie_word_embeddings=True))


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(**SIZES, n_embd=32, n_layer=2, n_head=4, n_positions=64))


def bloom() -> PreTrainedModel:
    """Its attention is biased by the distance of keys, which it counts itself."""
    return BloomForCausalLM(BloomConfig(**SIZES, hidden_size=32, n_layer=2, n_head=4))


def mistral() -> PreTrainedModel:
    """It sees a window of four tokens."""
    return MistralForCausalLM(MistralConfig(**SIZES, **LLAMA, num_key_value_heads=2, sliding_window=4))


def policy(make: Callable[[], PreTrainedModel], spread: float = 0.05) -> PeftModel:
    """The model with an adapter that does something."""
    torch.manual_seed(0)
    made = models.add_adapter(make().eval(), Lora(rank=4, alpha=8), 0)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=spread)
    return made


def rollout() -> Rollout:
    """Five responses of 4, 1, 3, 2 and 4 tokens to two prompts of 2 and 5, not beside each other."""
    torch.manual_seed(1)
    prompts = torch.randint(4, WORDS, (2, 5))
    real = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
    owner, lengths = torch.tensor([0, 1, 0, 1, 0]), torch.tensor([4, 1, 3, 2, 4])
    mask = (torch.arange(4) < lengths[:, None]).long()
    ids = torch.cat([(prompts * real)[owner], torch.randint(4, WORDS, (5, 4)) * mask], 1)
    return Rollout(ids, torch.cat([real[owner], mask], 1), mask.float(), torch.ones(5) > 0, [""] * 5)


def alone(model: torch.nn.Module, made: Rollout) -> torch.Tensor:
    """Each response read by itself, without padding."""
    found = torch.zeros(5, 4)
    for b, (ids, mask) in enumerate(zip(made.ids, made.mask.bool(), strict=True)):
        t = int(made.response_mask[b].sum())
        logits, _ = models.forward(model, ids[mask][None], torch.ones(1, int(mask.sum()), dtype=torch.long), t)
        found[b, :t] = logprobs_and_entropy(logits, ids[mask][None, -t:], 1.0)[0]
    return found


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [4, 2], [1], [3, 0]])
def test_packed_responses_have_the_log_probabilities_of_each_alone(
    make: Callable[[], PreTrainedModel], rows: list[int]
) -> None:
    model, made = policy(make), rollout()
    packed = packing.pack(made, torch.tensor(rows), True, torch.float32)
    prompts = {int(made.mask[b, :5].sum()) for b in rows}
    assert len(packed.ids) == len(prompts), "each prompt once"
    found = packing.log_probabilities(packing.read(model, packed).logits, packed, 1.0)
    torch.testing.assert_close(found, alone(model, made)[rows], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_the_gradient_is_that_of_the_plain_path(make: Callable[[], PreTrainedModel]) -> None:
    model, made, gradients = policy(make), rollout(), []
    worth = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    packed = packing.pack(made, torch.arange(5), True, torch.float32)
    for found in (
        lambda: packing.log_probabilities(packing.read(model, packed).logits, packed, 1.0),
        lambda: alone(model, made),
    ):
        (found() * worth).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        model.zero_grad()
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 1e-5


def test_hidden_states_are_at_the_places_of_their_tokens() -> None:
    """The output layer makes the logits of them."""
    model, made = policy(llama), rollout()
    packed = packing.pack(made, torch.arange(5), True, torch.float32)
    predicted = packing.read(model, packed)
    torch.testing.assert_close(predicted.hidden @ models.output_matrix(model).T, predicted.logits)
    assert packed.of(predicted.hidden).shape == (5, 4, 32)


@pytest.mark.parametrize(("make", "shares"), [(llama, True), (gpt2, True), (bloom, False), (mistral, False)])
def test_a_model_that_would_misread_a_pack_reads_each_response_with_its_own_prompt(
    make: Callable[[], PreTrainedModel], shares: bool
) -> None:
    model, made = policy(make), rollout()
    assert packing.shares_prompts(model) == shares
    packed = packing.pack(made, torch.arange(5), shares, torch.float32)
    assert len(packed.ids) == (2 if shares else 5)
    found = packing.log_probabilities(packing.read(model, packed).logits, packed, 1.0)
    torch.testing.assert_close(found, alone(model, made), atol=2e-5, rtol=1e-5)


PROMPTS = ["The lamp", "My", "The lamp", "This old radio of ours", "My", "The lamp"]
KEYS = [f"k{i}" for i in range(6)]


def drawn(model: torch.nn.Module, rows: list[int], decoding: Decoding = Decoding(24, 1.0, 1.0)) -> list[str]:
    sampler = Sampler(BYTES, decoding, 128)
    return sampler.draw(PolicyReader(model), [PROMPTS[i] for i in rows], [KEYS[i] for i in rows]).texts


@pytest.mark.parametrize("make", [llama, gpt2, bloom, mistral])
@pytest.mark.parametrize("decoding", [Decoding(24, 1.0, 1.0), Decoding(24, 0.8, 0.9)])
def test_no_draw_depends_on_order_or_batch(make: Callable[[], PreTrainedModel], decoding: Decoding) -> None:
    """Sampled tokens, of responses that end at different times, so that rows leave the batch."""
    model = policy(make)
    whole = drawn(model, list(range(6)), decoding)
    assert len(set(whole)) > 3
    assert [drawn(model, [i], decoding)[0] for i in range(6)] == whole
    assert drawn(model, [4, 0, 5], decoding) == [whole[4], whole[0], whole[5]]


def test_the_trace_is_what_a_reading_says() -> None:
    model = policy(llama)
    made = Sampler(BYTES, Decoding(24, 1.0, 1.0), 128).draw(PolicyReader(model), PROMPTS, KEYS, record=True)
    assert made.trace is not None
    tokens = made.ids[:, -made.response :]
    sampled, _ = logprobs_and_entropy(made.trace.logits, tokens, 1.0)
    packed = packing.pack(made, torch.arange(6), True, torch.float32)
    predicted = packing.read(model, packed)
    predicted.logits[:, 0, end_tokens(model, BYTES)] = -torch.inf
    read = packing.log_probabilities(predicted.logits, packed, 1.0)
    torch.testing.assert_close(sampled * made.response_mask, read * made.response_mask, atol=1e-4, rtol=0)
    hidden = (made.trace.hidden - packed.of(predicted.hidden)) * made.response_mask[..., None]
    assert float(hidden.abs().max()) < 1e-4


@pytest.mark.parametrize("make", [llama, gpt2])
def test_the_merged_twin_is_the_policy(make: Callable[[], PreTrainedModel]) -> None:
    """Before and after an update, and with the adapter off; what no adapter changes is the same tensor."""
    model = policy(make)
    assert mergeable(model)
    twin, ids = Merged(model), torch.randint(4, WORDS, (2, 7))

    def logits(of: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return of(input_ids=ids).logits

    torch.testing.assert_close(logits(twin.refresh()), logits(model), atol=1e-4, rtol=1e-4)
    before = logits(model)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.data.mul_(3)
    assert float((logits(model) - before).abs().max()) > 0.1
    torch.testing.assert_close(logits(twin.refresh()), logits(model), atol=1e-4, rtol=1e-4)
    with model.disable_adapter():
        torch.testing.assert_close(logits(twin.refresh()), logits(model), atol=1e-4, rtol=1e-4)
    assert twin.model.get_input_embeddings().weight is model.get_input_embeddings().weight


def test_what_merging_would_round_is_not_merged() -> None:
    """In bfloat16 a small update is lost: 1 + 2^-10 is 1."""
    assert not mergeable(policy(lambda: llama().to(torch.bfloat16)))
    torch.manual_seed(0)
    from peft import LoraConfig, get_peft_model

    dora = get_peft_model(llama(), LoraConfig(target_modules=["q_proj"], use_dora=True))
    assert not mergeable(dora)
