"""Passes of a PyTorch model, and what they raise."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from genrec.errors import EngineError

UNSUPPORTED_ERRORS = (TypeError, LookupError, AttributeError, AssertionError, NotImplementedError)
"""What models raise, beside torch's errors, for arguments and states that they do not support."""


@contextmanager
def inference_mode(name: str, description: str) -> Iterator[None]:
    """Disable gradients, and raise torch's errors, such as out of memory, as `EngineError`."""
    try:
        with torch.inference_mode():
            yield
    except (RuntimeError, ValueError, IndexError) as error:
        raise EngineError(f"{name} failed on {description}: {error}") from error
