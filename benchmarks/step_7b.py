"""One MOC step at 7B on one GPU: peak memory and seconds per phase.

The weights are random, of Llama-2-7B's shape in NF4, with LoRA r 64.

    python benchmarks/step_7b.py --out step_7b.parquet                 (an NVIDIA GPU)
    python benchmarks/step_7b.py --shape tiny --out step.parquet       (anywhere: checks the script, not the speed)

A random model ends nowhere: every response has the full 128 new tokens, the most that a step can cost. Memory is capped
to 48 GB less the CUDA context where the GPU has more.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import moa.lm.models
from moa.experiment.keys import Lora, Ppo
from moa.experiment.preferences import lattice
from moa.lm.generation import Decoding
from moa.methods import catalogue
from moa.rl import estimation, experience, loop, update

SHAPES = {
    "7b": {
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 4096,
    },
}
CARD_GIB = 48.0


def quantised(shape: dict[str, int], where: torch.device) -> LlamaForCausalLM:
    """Make a random Llama whose linear layers are NF4.

    It is made a layer at a time, so that the full-precision model never exists.
    """
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    config = LlamaConfig(**shape, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    rotary = type(model.model.rotary_emb)(config=config).to(where)
    for name, module in list(model.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if isinstance(module, nn.Linear) and leaf != "lm_head":
            layer = bnb.nn.Linear4bit(
                module.in_features,
                module.out_features,
                bias=False,
                compute_dtype=dtype,
                compress_statistics=True,
                quant_type="nf4",
            )
            weight = torch.randn(module.out_features, module.in_features, dtype=dtype) * 0.02
            layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
            setattr(model.get_submodule(parent), leaf, layer.to(where))
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            parent, _, leaf = name.rpartition(".")
            filled = torch.ones(parameter.shape) if "norm" in name else torch.randn(parameter.shape) * 0.02
            setattr(model.get_submodule(parent), leaf, nn.Parameter(filled.to(where, dtype), requires_grad=False))
    model.model.rotary_emb = rotary
    return model.eval()


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    made = Tokenizer(
        models.WordLevel(
            {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **{f"t{i}": i for i in range(4, size)}}, unk_token="<unk>"
        )
    )
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="left"
    )


def random_scores(prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
    """Stand-in rewards: reward models are measured on their own, not here."""
    return np.random.default_rng(len(responses[0])).random((len(responses), 2), dtype=np.float32)


def timed(seconds: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        began = now()
        result = function(*args, **kwargs)
        seconds[name] = seconds.get(name, 0.0) + now() - began
        return result

    return wrapper


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(shape: str, batch: int, prompt: int, response: int, micro: int) -> list[dict[str, Any]]:
    """Run two steps (the first warms up) and return a row per phase of the second."""
    where = moa.lm.models.device()
    if where.type == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (CARD_GIB * 2**30 - 0.6 * 2**30) / total))
    torch.manual_seed(0)
    base = quantised(SHAPES[shape], where)
    method = catalogue.load("moc", {}, ["a", "b"])
    policy = moa.lm.models.add_adapter(base, Lora(targets=["q_proj", "v_proj"]), 0)
    policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy.enable_input_require_grads()
    heads = moa.lm.models.ValueHeads(SHAPES[shape]["hidden_size"], len(method.objectives) + len(method.extra_heads)).to(
        where
    )
    size = SHAPES[shape]["vocab_size"]
    actor = experience.Actor(policy, heads, word_tokenizer(size), Decoding(response, 1.0, 1.0), 4096)
    scale = estimation.Scale(torch.zeros(2, device=where), torch.ones(2, device=where))
    words = torch.randint(4, size, (batch, prompt)).tolist()
    task = loop.Task(
        [" ".join(f"t{i}" for i in row) for row in words], lambda p, w: p, random_scores, scale, lattice(2, 4), None
    )
    ppo = Ppo(steps=2, batch_size=batch, mini_batch_size=micro, epochs=1, early_stop=None)
    seconds: dict[str, float] = {}
    experience.sample_in_parts = timed(seconds, "rollout", experience.sample_in_parts)
    experience.read = timed(seconds, "log-probabilities, values, reference", experience.read)
    update.Updater.run = timed(seconds, "update", update.Updater.run)  # type: ignore[method-assign]
    run = loop.Loop(actor, method, ppo, task, 0, Path(tempfile.mkdtemp()))
    for step in run.run():
        if step == 0:
            seconds.clear()
    name = torch.cuda.get_device_name() if where.type == "cuda" else "cpu"
    seconds["whole step"] = run.value("seconds")
    logged = {
        "response_tokens": run.value("response_tokens"),
        "micro_batch": run.value("micro_batch"),
        "peak_mib": run.value("memory"),
    }
    shared = {"shape": shape, "device": name, "batch": batch, "prompt_tokens": prompt, **logged}
    return [{**shared, "phase": phase, "seconds": s} for phase, s in seconds.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--response", type=int, default=128)
    parser.add_argument("--micro", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = measure(args.shape, args.batch, args.prompt, args.response, args.micro)
    pq.write_table(pa.Table.from_pylist(rows), args.out)
    for row in rows:
        print(f"{row['phase']:>40} {row['seconds']:8.2f} s")
    print(f"{'peak memory':>40} {rows[0]['peak_mib']:8.0f} MiB on {rows[0]['device']}")


if __name__ == "__main__":
    main()
