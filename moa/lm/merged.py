"""The policy as a plain model, for sampling: its adapters are merged into copies of the layers that they change.

An adapter triples the number of products per layer, which is what a small model's token costs. Everything that no
adapter changes is shared with the policy, so the copy follows it.
"""

import copy
from itertools import chain

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import nn
from transformers import PreTrainedModel

from moa.lm.adapters import PeftModel


class Merged:
    """A policy's plain twin; `refresh` before it answers."""

    def __init__(self, policy: PeftModel) -> None:
        """Copy the layers that adapters may change; `policy` must be `mergeable`."""
        base = policy.get_base_model()
        shared = {id(tensor): tensor for tensor in chain(base.parameters(), base.buffers())}
        self.model: PreTrainedModel = copy.deepcopy(base, shared)
        self.model.__dict__.pop("forward", None)  # a Trainer leaves the original's there
        self.pairs: list[tuple[Linear, nn.Module]] = []
        for name, layer in base.named_modules():
            if isinstance(layer, Linear):
                plain = copy.deepcopy(layer.get_base_layer())
                plain.requires_grad_(False)
                self.model.set_submodule(name, plain)
                self.pairs.append((layer, plain))
        self.model.eval()

    @torch.no_grad()
    def refresh(self) -> PreTrainedModel:
        """Merge the adapters that are switched on now, W + sum_i s_i B_i A_i, and return the model."""
        for layer, plain in self.pairs:
            weight: torch.Tensor = layer.get_base_layer().weight
            if not layer.disable_adapters:
                for name in layer.active_adapters:
                    if name in layer.lora_A:
                        weight = weight + layer.get_delta_weight(name)
            plain.weight.copy_(weight)
        return self.model


def mergeable(policy: PeftModel) -> bool:
    """Return whether merging loses nothing: float32, not quantised, and LoRA's plain product on linear layers alone.

    A bfloat16 weight would swallow small updates, so that the sampler were another policy than the one that learns.
    """
    base = policy.get_base_model()
    layers = [module for module in base.modules() if isinstance(module, LoraLayer)]
    whole = all(p.dtype == torch.float32 for p in base.parameters())
    plain = all(type(layer) is Linear and not layer.lora_variant for layer in layers)
    return whole and plain and not any("modules_to_save" in name for name, _ in base.named_modules())
