"""PEFT, imported without bitsandbytes.

PEFT imports bitsandbytes wherever it is installed, when it is itself imported and again for every adapter, and that
brings torch's compiler: a third of a small job's start. Only a quantised base needs it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from transformers import PreTrainedModel

QUANTISERS = "bitsandbytes"


@contextmanager
def light() -> Iterator[None]:
    """Let PEFT do without bitsandbytes while the block runs, unless it is loaded already."""
    if QUANTISERS in sys.modules:
        yield
        return
    sys.modules[QUANTISERS] = None  # type: ignore[assignment]  # what Python itself keeps of a module that is not there
    try:
        yield
    finally:
        del sys.modules[QUANTISERS]
        # PEFT remembers what it found.
        import_utils.is_bnb_available.cache_clear()
        import_utils.is_bnb_4bit_available.cache_clear()


with light():
    import peft
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict, import_utils, set_peft_model_state_dict

__all__ = ["LoraConfig", "PeftModel", "get_peft_model_state_dict", "light", "put", "set_peft_model_state_dict"]


def put(base: PreTrainedModel, config: LoraConfig, name: str = "default") -> PeftModel:
    """Return the base with a fresh adapter on it (peft.get_peft_model)."""
    with light():
        return cast(PeftModel, peft.get_peft_model(base, config, adapter_name=name))
