"""Which of the two sets of loops runs."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any


def choose_loops() -> Any:
    """The module of compiled loops where numba is installed, else that of plain ones."""
    return import_module(f"genrec.kernel.{'compiled' if find_spec('numba') else 'plain'}")
