"""A Hugging Face sequence classifier as reward, with its own tokenizer: safetensors only, no remote code.

A model with several outputs, as multi-attribute reward models are, serves several rewards: it is loaded once, and run
once for the texts that they all score.

Notation: B rows of a batch, S tokens of its longest row, L logits. A row's score does not depend on the batch that it
is in: rows are sorted by length, padded on the right and masked. In float32 the difference is rounding (below 1e-5); in
half precision it is measured on the first call and kept in `deviation`.

Decoder models read their score off the last token. Two conventions exist, and the model's config tells them apart: with
a `pad_token_id`, the last token that is not this one counts (a pad token that is also the end token is skipped);
without one, the last token of the row counts whatever it is. For the latter each batch is padded with an id that none
of its rows holds, which gives exactly the score of the row alone.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moa.errors import MoaError
from moa.experiment.rewards import Classifier
from moa.job.memory import allocating
from moa.lm import loading
from moa.lm.inspect import context, inspect_model, unfit
from moa.lm.precision import number_format
from moa.rewards.reading import Encoded, check_covers, encode
from moa.rewards.scoring import Scorer, Scores

log = logging.getLogger("moa")
MEASURED_ROWS = 32  # scored a second time, alone, to measure what rounding does to a batch
PROGRESS_SECONDS = 30.0


@dataclass(frozen=True)
class Read:
    """What a model said of n texts.

    Attributes:
        logits: (n, L) float32.
        truncated: (n,) bool, of `Scores`.
        tokens: that it has read for this.
        alone: some rows' numbers, and their logits one by one, in half precision: what batching does to them.
    """

    logits: NDArray[np.float32]
    truncated: NDArray[np.bool_]
    tokens: int
    alone: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None


class Network:
    """A loaded classifier, which rewards that differ in their outputs share.

    It remembers its last answer: where several objectives score the same texts, it runs once.

    Attributes:
        batch_size: texts per forward pass, fewer where memory ran out.
        reduced: that number, where it did.
    """

    def __init__(self, name: str, spec: Classifier, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
        self.name, self.spec, self.tokenizer, self.model = name, spec, tokenizer, model.eval()
        self.batch_size = spec.batch_size
        self.reduced: int | None = None
        self.told = self.measured = False  # that prompts were cut; what batching does
        self.last: tuple[list[str], list[str], Read] | None = None

    def read(self, prompts: list[str], responses: list[str]) -> Read:
        """Return the logits of n texts, in length-sorted batches; `tokens` is 0 where they are remembered.

        Of a text of more than max_length tokens the prompt is cut, from its beginning; a response that is cut, too, is
        flagged.
        """
        if self.last is not None and self.last[:2] == (prompts, responses):
            return replace(self.last[2], tokens=0)
        rows, shortened, truncated = encode(self.name, self.tokenizer, self.spec, prompts, responses)
        if shortened and not self.told:
            self.told = True
            log.info(
                "reward %s: %d of %d prompts were cut from the left to max_length %d (said once)",
                self.name,
                shortened,
                len(rows),
                self.spec.max_length,
            )
        logits = self._batched(rows)
        alone = None
        if self.spec.dtype != "float32" and not self.measured and len(rows) > 1:
            self.measured = True
            some = np.unique(np.linspace(0, len(rows) - 1, min(MEASURED_ROWS, len(rows))).astype(int))
            alone = some, np.concatenate([self._logits([rows[i]]) for i in some])
        found = Read(logits, truncated, sum(len(row["input_ids"]) for row in rows), alone)
        self.last = list(prompts), list(responses), found
        return found

    def _batched(self, rows: list[Encoded]) -> NDArray[np.float32]:
        # longest first: too little memory shows at once
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
        logits = np.empty((len(rows), self.model.config.num_labels), np.float32)
        done, reported = 0, time.monotonic()
        while done < len(order):
            some = order[done : done + self.batch_size]
            found = self._fitting([rows[i] for i in some])
            if found is None:
                continue
            logits[some] = found
            done += len(some)
            if time.monotonic() - reported > PROGRESS_SECONDS:
                log.info("reward %s: %d of %d texts scored", self.name, done, len(order))
                reported = time.monotonic()
        return logits

    def _fitting(self, rows: list[Encoded]) -> NDArray[np.float32] | None:
        """Return the rows' logits, or None where memory did not suffice and the batch size was halved."""
        try:
            with allocating():
                return self._logits(rows)
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                tokens = len(rows[0]["input_ids"])
                raise MoaError(
                    f"reward {self.name}: out of memory with a single text of {tokens} tokens; give a smaller"
                    " max_length, or dtype: bfloat16"
                ) from error
        self.batch_size = self.reduced = max(1, len(rows) // 2)
        log.warning("reward %s: out of memory, going on with batches of %d", self.name, self.batch_size)
        torch.cuda.empty_cache()
        return None

    @torch.inference_mode()
    def _logits(self, rows: list[Encoded]) -> NDArray[np.float32]:
        """Return the logits (B, L) of one forward pass."""
        own = self.model.config.get_text_config().pad_token_id
        pad = own if own is not None else unused(rows)
        found: NDArray[np.float32] = (
            forward(self.model, collate(rows, pad, self.model.device), pad).float().cpu().numpy()
        )
        return found


class ClassifierScorer(Scorer):
    """An output of a loaded classifier."""

    def __init__(self, name: str, spec: Classifier, network: Network) -> None:
        self.name, self.spec, self.network = name, spec, network
        self.deviation: float | None = None
        self.tokens = 0

    @property
    def reduced(self) -> int | None:  # type: ignore[override]
        """Texts per forward pass, where memory did not suffice for as many as declared."""
        return self.network.reduced

    def score(self, prompts: list[str], responses: list[str]) -> Scores:
        """Score n texts; tokens count for the reward that they were read for, not for those that share the answer."""
        found = self.network.read(prompts, responses)
        values = self._chosen(found.logits)
        if found.alone is not None:
            some, alone = found.alone
            self.deviation = float(np.abs(values[some] - self._chosen(alone)).max())
            log.info(
                "reward %s: scores of %d texts in half precision differ by up to %.3g between a batch and alone",
                self.name,
                len(some),
                self.deviation,
            )
        self.tokens += found.tokens
        return Scores(values, found.truncated)

    def _chosen(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the declared output (n,) of logits (n, L)."""
        chosen = logits[:, self.spec.logit]
        if self.spec.minus_logit is not None:
            chosen = chosen - logits[:, self.spec.minus_logit]
        return np.float32(self.spec.sign) * chosen


def forward(model: PreTrainedModel, batch: dict[str, Tensor], pad: int) -> Tensor:
    """Return the logits (B, L) of a batch that is padded with `pad`; the model's config is as before afterwards."""
    config = model.config.get_text_config()
    own = config.pad_token_id
    try:
        config.pad_token_id = pad
        logits: Tensor = model(**batch).logits
        return logits
    finally:
        config.pad_token_id = own


def unused(rows: list[Encoded]) -> int:
    """Return the smallest token id that no row holds."""
    used = {token for row in rows for token in row["input_ids"]}
    return next(token for token in range(len(used) + 1) if token not in used)


def collate(rows: list[Encoded], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Return (B, S) int64 ids, mask and, where rows have them, token types; padded on the right."""
    width = max(len(row["input_ids"]) for row in rows)
    batch = {key: torch.full((len(rows), width), pad if key == "input_ids" else 0) for key in rows[0]}
    batch["attention_mask"] = torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        for key, tokens in row.items():
            batch[key][i, : len(tokens)] = torch.tensor(tokens)
        batch["attention_mask"][i, : len(row["input_ids"])] = 1
    return {key: value.to(device) for key, value in batch.items()}


def load(name: str, spec: Classifier, models: Sequence[Path], device: str | None) -> ClassifierScorer:
    """Load tokenizer and model from the hub or a local folder.

    Raises:
        MoaError: source, revision, safetensors or classification head are missing; a logit or a length that the model
            has not.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = number_format(spec.dtype, f"rewards.{name}.dtype")
    tokenizer, model = pretrained(name, spec.source, spec.revision, dtype=dtype)
    check_length(name, spec.max_length, tokenizer, model)
    return output(name, spec, Network(name, spec, tokenizer, model.to(where)))


def output(name: str, spec: Classifier, network: Network) -> ClassifierScorer:
    """Return the reward that an output of a loaded model is.

    Raises:
        MoaError: a logit that the model has not.
    """
    labels = network.model.config.num_labels
    for key, logit in (("logit", spec.logit), ("minus_logit", spec.minus_logit)):
        if logit is not None and logit >= labels:
            raise MoaError(
                f"reward {name}: {key} is {logit}, but {spec.source} has {labels} logit(s), counted from 0:"
                f" {network.model.config.id2label}; correct {key}"
            )
    return ClassifierScorer(name, spec, network)


def load_several(specs: Mapping[str, Classifier], device: str | None) -> dict[str, ClassifierScorer]:
    """Load rewards by name; those that read the same texts with the same model, and differ in outputs, share it."""
    networks: dict[str, Network] = {}
    found = {}
    for name, spec in specs.items():
        key = spec.model_copy(update={"logit": 0, "minus_logit": None, "sign": 1}).model_dump_json()
        if key not in networks:
            networks[key] = load(name, spec, [], device).network
        found[name] = output(name, spec, networks[key])
    return found


def pretrained(
    name: str, source: str, revision: str | None, new_head: bool = False, **settings: Any
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Return tokenizer and model with a classification head; with `new_head`, a language model that gets one to train.

    Raises:
        MoaError: tokenizer or model are missing, damaged, quantised or not what config.json says.
    """
    path = Path(source).expanduser()
    if source.startswith((".", "/", "~")) and not path.is_dir():
        raise MoaError(
            f"reward {name}: no folder {source}; correct `source`: a folder with config.json, model.safetensors and a"
            " tokenizer, or a hub id"
        )
    origin = loading.Origin(
        source, revision, f"reward {name}: cannot load {loading.at(source, revision)}", "`source`, `revision`"
    )
    stored = inspect_model(loading.fetch(origin), origin.name)
    if stored.quantisation != "none":
        raise unfit(
            origin.name, f"its weights are stored quantised, {stored.quantisation}", "name the unquantised model"
        )
    tokenizer = loading.tokenizer(origin, classifier=True)
    check_covers(name, tokenizer, stored.vocabulary)
    return tokenizer, loading.classifier(stored, new_head, **settings)


def check_length(name: str, length: int, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Raise a MoaError where max_length is more than the model or its tokenizer can take."""
    limit = min(context(model.config.get_text_config().to_dict()) or length, tokenizer.model_max_length)
    if length > limit:
        raise MoaError(
            f"reward {name}: max_length is {length}, but the model reads at most {limit} tokens; set max_length to"
            f" {limit} or less"
        )
