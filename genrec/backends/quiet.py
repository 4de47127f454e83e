"""Loading weights without a progress bar: a library does not write to its caller's terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def progress_bars_disabled() -> Iterator[None]:
    """Hold Transformers' progress bars back, and give them back as they were."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
