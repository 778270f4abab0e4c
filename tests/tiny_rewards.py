"""Tiny randomly initialised sequence classifiers, saved as a user would have them on disk."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
)

WORDS = [
    "good",
    "bad",
    "a",
    "film",
    "the",
    "plot",
    "was",
    "very",
    "dull",
    "and",
    "bright",
    ".",
    "!",
    "it",
    "ends",
    "well",
]


def _tokenizer(
    special: list[str], template: processors.TemplateProcessing | None, **names: object
) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=special[0]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template is not None:
        made.post_processor = template
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token=special[0], **names)


def bert(folder: Path, *, labels: int = 2, seed: int = 0) -> Path:
    """An encoder with pad token, [CLS] and [SEP], token types, and 64 positions."""
    special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
    template = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    _tokenizer(special, template, **names).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        num_labels=labels,
        pad_token_id=1,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def gpt2(folder: Path, *, labels: int = 1, pad: int | None = None, seed: int = 0) -> Path:
    """A decoder whose tokenizer has no pad token; `pad` is the model config's pad_token_id, 1 the end token."""
    _tokenizer(["<unk>", "<end>"], None, eos_token="<end>", bos_token="<end>").save_pretrained(folder)
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=20,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=64,
        num_labels=labels,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=pad,
        initializer_range=0.5,
    )
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    return folder


def texts(n: int, longest: int = 20, seed: int = 0) -> list[str]:
    """Random sentences of 1 to `longest` known words."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (n,), generator=generator).tolist()
    return [
        " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=generator).tolist())
        for length in lengths
    ]


def plain(folder: Path, *texts: str) -> np.ndarray:
    """Logits (L,) of one text or pair by transformers itself, batch of one."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**AutoTokenizer.from_pretrained(folder)(*texts, return_tensors="pt")).logits[0].numpy()
