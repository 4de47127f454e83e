"""Loading weights without progress bars and reports, because a library does not write to its caller's terminal."""

import logging as standard_logging
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def progress_bars_disabled() -> Iterator[None]:
    """Disable Transformers' progress bars, and restore the previous setting after."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def load_report_disabled() -> Iterator[None]:
    """Disable Transformers' warnings, unless somebody has changed what it logs, and restore the setting after."""
    changed = logging.get_verbosity() != standard_logging.WARNING
    if not changed:
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if not changed:
            logging.set_verbosity_warning()  # type: ignore[no-untyped-call]
