"""What every arm is given: a random model of a known shape, prompts of equal length, and the lengths of responses."""

import ctypes
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from moa.experiment.keys import Lora
from moa.lm.models import add_adapter, device

PROMPTS, GROUP, PROMPT, LIMIT, MINI = 16, 4, 45, 48, 16
# Tokens with the end token of the embedded task's reference policy, at 16 even quantiles of 1 000 responses (mean 30;
# a quarter is cut at 48). `SELECT tokens + finished::INT FROM 'results/reviews/reference_responses.parquet'`.
LENGTHS = (5, 8, 11, 14, 18, 21, 24, 28, 33, 36, 40, 45, 48, 48, 48, 48)
END = 2
SMALL: dict[str, Any] = {"tie_word_embeddings": True, "max_position_embeddings": 2048}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": SMALL
    | {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    "embedded": SMALL
    | {
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "135m": SMALL
    | {
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "7b": {
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
}
SHAPES["7b small"] = SHAPES["tiny"] | {"tie_word_embeddings": False}  # rehearses what a 7b run does
QUANTISED = ("7b", "7b small")  # NF4, checkpointed, with reward models
LORA = {name: Lora(rank=16, alpha=32) for name in SHAPES}
LORA |= dict.fromkeys(QUANTISED, Lora(rank=64, alpha=128, targets=["q_proj", "v_proj"]))
# Of experiments/assistant.yaml: two reward models on GPT-2 large, one on DistilBERT.
GPT2 = {"7b": {"n_embd": 1280, "n_layer": 36, "n_head": 20}, "7b small": {"n_embd": 32, "n_layer": 2, "n_head": 2}}
BERT: dict[str, dict[str, int]] = {"7b": {}, "7b small": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}}


@dataclass(frozen=True)
class World:
    """The work of one step, and everything random in it.

    Attributes:
        prompts: each is answered by a group.
        lengths: of the responses, in tokens with the end token.
        group: responses to a prompt.
        mini: responses of an optimiser step.
    """

    shape: str
    prompts: list[str]
    lengths: list[int]
    group: int = GROUP
    mini: int = MINI

    @property
    def texts(self) -> list[str]:
        """Return the prompts of all responses, a group's beside each other."""
        return [prompt for prompt in self.prompts for _ in range(self.group)]

    @property
    def limit(self) -> int:
        """Return the longest response's tokens."""
        return max(self.lengths)

    def policy(self) -> PeftModel:
        """Return a fresh policy; all arms have the same weights."""
        torch.manual_seed(0)
        if self.shape in QUANTISED:
            policy = add_adapter(quantised(SHAPES[self.shape]), LORA[self.shape], 0)
            policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            policy.enable_input_require_grads()
            return policy
        base = LlamaForCausalLM(config(self.shape)).eval().requires_grad_(False)
        return add_adapter(base.to(device()), LORA[self.shape], 0)

    def score(self) -> Callable[[Sequence[str], Sequence[str]], NDArray[np.float32]]:
        """Return the rewards: random classifiers of true shapes at 7B, else two formulas that cost nothing."""
        if self.shape not in QUANTISED:
            return scores
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        gpt2 = GPT2Config(**GPT2[self.shape], num_labels=1, pad_token_id=0)
        bert = DistilBertConfig(**BERT[self.shape], num_labels=2)
        made = [GPT2ForSequenceClassification(gpt2), GPT2ForSequenceClassification(gpt2)]
        judges = [*made, DistilBertForSequenceClassification(bert)]
        judges = [judge.eval().to(device(), dtype) for judge in judges]
        length = min(512, len(self.prompts[0].split()) + self.limit)

        @torch.no_grad()
        def read(prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
            ids = torch.randint(1, 500, (len(responses), length), device=device())
            columns = [torch.cat([judge(input_ids=part).logits[:, 0] for part in ids.split(32)]) for judge in judges]
            return torch.stack(columns, 1).float().cpu().numpy()

        return read

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return a tokenizer of whole words, one per id."""
        size = SHAPES[self.shape]["vocab_size"]
        words = {"<pad>": 0, "<s>": 1, "</s>": END, "<unk>": 3, **{f"t{i}": i for i in range(4, size)}}
        made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="left"
        )


def make(shape: str, prompts: int = PROMPTS, group: int = GROUP, limit: int = LIMIT, prompt: int = PROMPT) -> World:
    """Return the work at a shape; the recorded lengths are stretched to another limit."""
    rng = np.random.default_rng(0)
    words = rng.integers(4, SHAPES[shape]["vocab_size"], (prompts, prompt))
    quantiles = np.resize(LENGTHS, prompts * group)  # as often as needed
    lengths = rng.permutation(np.maximum(2, quantiles * limit // LIMIT)).tolist()
    return World(shape, [" ".join(f"t{i}" for i in row) for row in words], lengths, group, min(MINI, prompts * group))


def config(shape: str) -> LlamaConfig:
    return LlamaConfig(**SHAPES[shape], bos_token_id=1, eos_token_id=END, pad_token_id=0)


def scores(prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
    """Two stand-in rewards (B, 2): reward models are measured on their own, not here."""
    found = [[len(r) % 17 / 17, sum(map(ord, r[-20:])) % 23 / 23] for r in responses]
    return np.array(found, np.float32)


def quantised(shape: dict[str, Any]) -> LlamaForCausalLM:
    """Make a random Llama whose linear layers are NF4, a layer at a time: the model in full never exists."""
    import bitsandbytes as bnb

    where, dtype = device(), torch.bfloat16 if torch.cuda.is_available() else torch.float32
    made = LlamaConfig(**shape, bos_token_id=1, eos_token_id=END, pad_token_id=0)
    with torch.device("meta"):
        model = LlamaForCausalLM(made)
    rotary = type(model.model.rotary_emb)(config=made).to(where)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not name.endswith("lm_head"):
            sizes = module.in_features, module.out_features
            layer = bnb.nn.Linear4bit(*sizes, bias=False, compute_dtype=dtype, quant_type="nf4")
            weight = torch.randn(*reversed(sizes), dtype=dtype) * 0.02
            layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
            model.set_submodule(name, layer.to(where))
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            parent, _, leaf = name.rpartition(".")
            filled = torch.ones(parameter.shape) if "norm" in name else torch.randn(parameter.shape) * 0.02
            setattr(model.get_submodule(parent), leaf, nn.Parameter(filled.to(where, dtype), requires_grad=False))
    model.model.rotary_emb = rotary
    model.is_quantized = True
    return model.eval()


def clock() -> tuple[float, float]:
    """Return wall-clock and processor seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


@dataclass
class Phases:
    """Wall-clock and processor seconds of what `around` wraps; a phase inside another one counts for itself alone."""

    spent: dict[str, list[float]] = field(default_factory=dict)
    inside: list[list[float]] = field(default_factory=list)

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time counted under a name."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.inside.append([0.0, 0.0])
            began = clock()
            result = function(*args, **kwargs)
            whole = [b - a for a, b in zip(began, clock(), strict=True)]
            inner = self.inside.pop()
            kept = self.spent.setdefault(name, [0.0, 0.0])
            for i in range(2):
                kept[i] += whole[i] - inner[i]
                if self.inside:
                    self.inside[-1][i] += whole[i]
            return result

        return wrapper


@contextmanager
def peak() -> Iterator[list[float]]:
    """Put into the list how many MiB the block held at most beyond what was held before it; Linux, or CUDA."""
    found: list[float] = []
    if not torch.cuda.is_available():
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier blocks have freed would be held already
    before = memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory begins anew
    yield found
    if torch.cuda.is_available():
        found.append(float(torch.cuda.max_memory_allocated()) / 2**20 - before)
    else:
        lines = Path("/proc/self/status").read_text().splitlines()
        found.append(next(float(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10 - before)


def memory() -> float:
    """Return what this process holds now, in MiB."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**20
    return float(psutil.Process(os.getpid()).memory_info().rss) / 2**20
