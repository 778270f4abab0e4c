"""The policy: base, adapters, value heads.

The reference is the base with its adapters off, exactly, and on a 4-bit base as well.
"""

import json
import weakref
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from moa.experiment.keys import Model
from moa.lm import models, scratch
from moa.lm.conditioning import encode
from moa.rl.losses import distribution_kl
from tests import tiny_models

PLAIN = Model(source="x")
NF4 = Model(source="x", quantisation="nf4")
INT8 = Model(source="x", quantisation="int8")
BYTES = tiny_models.tokenizer()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_base(tmp_path_factory.mktemp("base"))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return encode([t.prompt + " is good and useful" for t in tiny_models.texts()[:6]], BYTES, 128)


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids, mask = batch()
    with torch.no_grad():
        return models.forward(model, ids, mask, 8)[0]


def shake(model: PeftModel) -> None:
    """Give the adapter a product that matters."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3)


@pytest.mark.parametrize("spec", [PLAIN, NF4, INT8])
def test_a_fresh_adapter_is_the_base(base: Path, spec: Model) -> None:
    """B = 0, so the product is 0 and the KL is exactly 0."""
    alone = logits(models.load_base(base, spec))
    policy = models.add_adapter(models.load_base(base, spec), tiny_models.LORA, seed=0)
    assert torch.equal(logits(policy), alone)


@pytest.mark.parametrize("spec", [PLAIN, NF4, INT8])
def test_adapters_off_is_the_base(base: Path, spec: Model) -> None:
    alone = logits(models.load_base(base, spec))
    policy = models.add_adapter(models.load_base(base, spec), tiny_models.LORA, seed=0)
    shake(policy)
    assert (logits(policy) - alone).abs().max() > 0.1
    with policy.disable_adapter():
        off = logits(policy)
    assert torch.equal(off, alone)
    assert float(distribution_kl(off, alone, 1.0).abs().max()) == 0.0


@pytest.mark.parametrize(("spec", "packed"), [(NF4, torch.uint8), (INT8, torch.int8)], ids=["nf4", "int8"])
def test_a_quantised_base_trains(base: Path, spec: Model, packed: torch.dtype) -> None:
    """Four or eight bits are not thirty-two; gradients reach the adapter alone, and a few steps lower the loss.

    The forward pass without gradients comes first, as a rollout does: it must not change how later ones differentiate.
    """
    policy = models.add_adapter(models.load_base(base, spec), tiny_models.LORA, seed=0)
    logits(policy)
    layer = policy.get_base_model().model.layers[0].self_attn.q_proj.base_layer
    assert layer.weight.dtype == packed, "nf4 packs two weights a byte"
    assert not torch.equal(logits(policy), logits(models.load_base(base, PLAIN)))
    trained = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    before = {n: p.detach().clone() for n, p in trained.items()}
    ids, mask = batch()
    optimizer = torch.optim.Adam(trained.values(), lr=1e-2)
    losses = []
    for _ in range(4):
        loss = policy(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(not torch.equal(before[n], p) for n, p in trained.items())


def test_seed_fixes_the_adapter(base: Path) -> None:
    first, again, other = (
        models.add_adapter(models.load_base(base, PLAIN), tiny_models.LORA, s).state_dict() for s in (3, 3, 4)
    )
    name = next(n for n in first if "lora_A" in n)
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


def test_positions_count_from_the_first_real_token() -> None:
    assert models.positions(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]])).tolist() == [
        [0, 0, 0, 1, 2],
        [0, 1, 2, 3, 3],
    ]


def test_forward_gives_what_predicts_the_response(base: Path) -> None:
    """Response tokens are the last 3 of 8: their logits are those of positions 4, 5, 6."""
    model = models.load_base(base, PLAIN)
    ids = torch.arange(8)[None] + 10
    whole = model(input_ids=ids, output_hidden_states=True)
    part, hidden = models.forward(model, ids, torch.ones_like(ids), 3)
    assert torch.allclose(part, whole.logits[:, 4:7], atol=1e-5)
    assert torch.allclose(hidden, whole.hidden_states[-1][:, 4:7], atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("spec", [PLAIN, NF4, Model(source="x", dtype="bfloat16")], ids=["plain", "nf4", "bfloat16"])
def test_the_hidden_states_are_those_that_the_model_reports(base: Path, spec: Model, checkpointing: bool) -> None:
    """Bit for bit, gradients included, with the adapter on and off."""
    policy = models.add_adapter(models.load_base(base, spec), tiny_models.LORA, seed=0)
    shake(policy)
    if checkpointing:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy.enable_input_require_grads()
    ids, mask = batch()
    wanted = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": models.positions(mask),
        "use_cache": False,
        "logits_to_keep": 9,
    }
    parameters = [p for p in policy.parameters() if p.requires_grad]
    with models.recomputing(policy):
        logits, hidden = models.forward(policy, ids, mask, 8)
        out = policy(**wanted, output_hidden_states=True)
        assert torch.equal(logits, out.logits[:, :8])
        assert torch.equal(hidden, out.hidden_states[-1][:, -9:-1])
        ours = torch.autograd.grad(logits.float().square().sum() + hidden.float().sum(), parameters)
        theirs = torch.autograd.grad(
            out.logits[:, :8].float().square().sum() + out.hidden_states[-1][:, -9:-1].float().sum(), parameters
        )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    with policy.disable_adapter(), torch.no_grad():
        assert torch.equal(
            models.forward(policy, ids, mask, 8)[1],
            policy(**wanted, output_hidden_states=True).hidden_states[-1][:, -9:-1],
        )


def test_forward_keeps_one_layer_at_a_time() -> None:
    """Without gradients, the output of the first of six layers is gone when the last one has run."""
    model = scratch.new_model(tiny_models.SCRATCH.model_copy(update={"layers": 6}), BYTES, 0).eval()
    outputs: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def note(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
        outputs.append(weakref.ref(output))
        alive.append(sum(ref() is not None for ref in outputs))

    for layer in model.model.layers:
        layer.register_forward_hook(note)
    with torch.no_grad():
        models.forward(model, *batch(), 8)
    assert len(alive) == 6
    assert max(alive) <= 2, alive


def test_padding_changes_nothing(base: Path) -> None:
    """The same text alone and left-padded beside a longer one: the same logits."""
    model = models.load_base(base, PLAIN)
    short, long = "My lamp is", "My lamp is the best of all lamps that we ever had"
    alone, both = encode([short], BYTES, 99), encode([short, long], BYTES, 99)
    with torch.no_grad():
        a, b = (models.forward(model, ids, mask, 3)[0][0] for ids, mask in (alone, both))
    assert torch.allclose(a, b, atol=1e-5)


def test_value_heads_start_at_zero_and_are_apart() -> None:
    """Head h maps hidden states to w_h . x + b_h: with w_1 = 1 and b_1 = 2, x = (1, 1, 1) gives 5."""
    heads = models.ValueHeads(3, 2)
    x = torch.ones(4, 5, 3, dtype=torch.bfloat16)
    assert heads(x).shape == (2, 4, 5)
    assert heads(x).dtype == torch.float32
    assert not heads(x).any()
    heads.linear.weight.data[1], heads.linear.bias.data[1] = 1.0, 2.0
    assert heads(x)[0].eq(0).all()
    assert heads(x)[1].eq(5).all()


def test_a_saved_policy_is_the_policy(base: Path, tmp_path: Path) -> None:
    policy = models.add_adapter(models.load_base(base, PLAIN), tiny_models.LORA, seed=0)
    shake(policy)
    heads = models.ValueHeads(32, 2)
    heads.linear.weight.data.normal_()
    models.save_policy(tmp_path, policy, heads, ["sentiment", "control"], {"policy": "x"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "policy.json", "value_heads.safetensors"]
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert json.loads((tmp_path / "policy.json").read_text()) == {"policy": "x"}
    targets = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets) and len(targets) == 7 * 2, "PEFT's own order is another one in every process"
    saved = load_file(tmp_path / "value_heads.safetensors")
    assert sorted(saved) == ["control.bias", "control.weight", "sentiment.bias", "sentiment.weight"]
    assert torch.equal(saved["control.weight"], heads.linear.weight[1:2])
    again = models.load_adapters(models.load_base(base, PLAIN), {"one": tmp_path})
    assert torch.equal(logits(again), logits(policy))


def test_a_plain_peft_folder_is_read_too(tmp_path: Path) -> None:
    folder = tiny_models.save_adapter(tmp_path / "policy", seed=1)
    assert models.adapter_folder(folder) == models.adapter_folder(folder / "adapter") == folder / "adapter"


def test_stored_precision(base: Path) -> None:
    assert models.load_base(base, Model(source="x", dtype="bfloat16")).dtype == torch.bfloat16
    assert models.load_base(base, Model(source="x", dtype="bfloat16"), stored_dtype=True).dtype == torch.float32


def test_a_checkpoints_own_sampling_does_not_leak_in(base: Path, tmp_path: Path) -> None:
    odd = tiny_models.save_base(tmp_path)
    given = {"top_k": 1, "repetition_penalty": 9.0, "do_sample": True, "eos_token_id": 1}
    (odd / "generation_config.json").write_text(json.dumps(given))
    assert (
        models.load_base(odd, PLAIN).generation_config.to_diff_dict()
        == models.load_base(base, PLAIN).generation_config.to_diff_dict()
    )
