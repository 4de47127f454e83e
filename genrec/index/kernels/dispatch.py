"""Selection of the compiled or the numpy kernels."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any


def select_kernels() -> Any:
    """The module of numba kernels if numba is installed, else that of numpy kernels."""
    return import_module(f"genrec.index.kernels.{'numba' if find_spec('numba') else 'numpy'}")


def find_int8_kernels() -> Any | None:
    """The module of int8 kernels; None if numba is not installed."""
    return import_module("genrec.index.kernels.int8") if find_spec("numba") else None
