"""Checks of arguments that hold one value per user or item."""

from collections.abc import Sized

import numpy as np
from numpy.typing import ArrayLike

from genrec.errors import InputError
from genrec.types import FloatArray


def finite_values(values: ArrayLike, what: str, minimum: float = -np.inf) -> FloatArray:
    """Values as float64, one per user or item.

    Args:
        values: one-dimensional, at least one number.
        what: names a value in the error message, such as "the value of user".
        minimum: the least value that is accepted.

    Raises:
        InputError: the shape is wrong, or a value is not finite or below the minimum.
    """
    figures = np.asarray(values, dtype=np.float64)
    if figures.ndim != 1 or not len(figures):
        raise InputError(
            f"{what} must be one number; got an array of shape {figures.shape}, pass shape (n,) with n of at least 1"
        )
    if (bad := ~np.isfinite(figures) | (figures < minimum)).any():
        raise InputError(f"{what} {np.argmax(bad)} is {figures[np.argmax(bad)]}; correct or omit it")
    return figures


def require_same_length(**columns: Sized) -> None:
    """Check that all columns have one entry per user.

    Raises:
        InputError: the lengths differ.
    """
    if len({len(column) for column in columns.values()}) > 1:
        found = " and ".join(f"{len(column):,} {name}" for name, column in columns.items())
        raise InputError(f"got {found}; pass one of each for every user")
