"""Running out of memory, told alike on GPU and CPU."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CPU_WORDS = "can't allocate memory"  # of the CPU's allocator, whose error is a plain RuntimeError


@contextmanager
def allocating() -> Iterator[None]:
    """Run a block that may need more memory than there is.

    Raises:
        torch.OutOfMemoryError: it did, on whichever device.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or CPU_WORDS not in str(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def smaller(micro: int, batch: int) -> int:
    """Return the next size to try when `micro` examples at a time do not fit: at most half, a divisor of the batch."""
    return max(m for m in range(1, micro // 2 + 1) if batch % m == 0)


def release() -> None:
    """Give back what a failed pass left in memory; call it outside the handler, whose exception holds the tensors."""
    gc.collect()
    torch.cuda.empty_cache()
