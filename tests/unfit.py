"""What tests of unfit models share: how a model reads a text, how it is refused, how its tensors go missing."""

from collections.abc import Callable

import pytest
import torch

from moa.errors import MoaError
from moa.lm import models
from moa.lm.conditioning import encode
from tests import tiny_models

Tensors = dict[str, torch.Tensor]


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids, mask = encode(["My lamp is good and useful"], tiny_models.tokenizer(), 64)
    with torch.no_grad():
        return models.forward(model, ids, mask, 4)[0]


def refused(load: Callable[[], object], message: str) -> None:
    """Check that loading ends in one line."""
    with pytest.raises(MoaError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if not n.endswith(name)}
