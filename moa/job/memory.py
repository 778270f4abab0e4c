"""Running out of memory, told alike on GPU and CPU."""

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
