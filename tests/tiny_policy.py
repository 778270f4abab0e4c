"""Tiny random policies and tasks for tests of the loops: a Llama of 2 layers over some twenty words."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from moa.experiment.keys import Lora, Ppo
from moa.experiment.preferences import Preference, label, lattice
from moa.lm import models as moa_models
from moa.lm.generation import Decoding
from moa.methods import catalogue
from moa.rl.actor import Actor
from moa.rl.estimation import Scale
from moa.rl.loop import Loop, Task
from moa.testbed.bandit import Arms

WORDS = ["good", "bad", "short", "long", "w1-0", "w0.5-0.5", "w0-1", *(f"p{i}" for i in range(9))]


def tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """Whole words; <s> in front."""
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
    )


def base(seed: int = 0, words: Sequence[str] = WORDS, hidden: int = 32, spread: float = 0.3) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=4 + len(words),
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        initializer_range=spread,
    )
    return LlamaForCausalLM(config).eval()


def arms_loop(kind: str, folder: Path, arms: Arms, seed: int, **ppo: object) -> Loop:
    """A bandit as a language model: the prompt is a preference, the response one word, an arm.

    Any other word pays like the worst arm's ends.
    """
    names = [f"a{i}" for i in range(arms.actions)]
    training = lattice(2, 4)
    words = [*names, *(label(p) for p in training)]
    pays = {
        **{word: (-0.3, -0.3) for word in ["", *words[arms.actions :]]},
        **dict(zip(names, arms.table.tolist(), strict=True)),
    }

    def score(prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        return np.array([pays[r.strip()] for r in responses], dtype=np.float32)

    method = catalogue.load(kind, {"kind": kind, "group_size": 8, "beta": 0.0}, ["a", "b"])
    model = moa_models.add_adapter(base(seed, words, 128, 0.1), Lora(rank=4, alpha=8, dropout=0.0), seed)
    actor = Actor(model, moa_models.ValueHeads(128, 2), tokenizer(words), Decoding(1, 1.0, 1.0), 32)
    task = Task(["arms"], lambda p, w: label(w) if w else "", score, arms.scale, training, None)
    return Loop(actor, method, Ppo.model_validate(ppo), task, seed, folder)


def count_words(prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
    """Reward a: 'good's less 'bad's; reward b: 1 less a tenth per word. Both (B,)."""
    rows = [r.split() for r in responses]
    return np.array([[r.count("good") - r.count("bad"), 1 - len(r) / 10] for r in rows], dtype=np.float32)


def loop(
    kind: str,
    folder: Path,
    *,
    weights: Preference | None = None,
    seed: int = 0,
    lm: PreTrainedModel | None = None,
    score: object = count_words,
    settings: dict[str, object] | None = None,
    **ppo: object,
) -> Loop:
    """A loop of a few fast steps; `ppo` overrides its settings."""
    method = catalogue.load(kind, settings or {}, ["a", "b"])
    model = moa_models.add_adapter(lm or base(), Lora(rank=4, alpha=8, dropout=0.0), seed)
    heads = moa_models.ValueHeads(32, 2 + len(method.extra_heads))
    actor = Actor(model, heads, tokenizer(), Decoding(8, 1.0, 1.0), 32)
    scale = Scale(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 1.0]))
    training = [weights] if weights else (lattice(2, 2) if method.conditioned else [(0.5, 0.5)])
    task = Task(  # type: ignore[arg-type]
        [f"p{i}" for i in range(9)], lambda p, w: p if w is None else f"{label(w)} {p}", score, scale, training, None
    )
    chosen = {
        "steps": 4,
        "batch_size": 12,
        "mini_batch_size": 6,
        "epochs": 2,
        "learning_rate": 1e-2,
        "checkpoint_every": 1,
        **ppo,
    }
    return Loop(actor, method, Ppo.model_validate(chosen), task, seed, folder)
