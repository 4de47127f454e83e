"""A disk that is full."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_disk() -> Iterator[None]:
    """Let every write to a file fail, as on a full disk: files can be made, but not grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # Python ignores the signal, so that writes raise OSError
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
