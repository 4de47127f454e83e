"""Vectors on a grid, whose inner products are exact in float64, in whatever order they are added up.

BLAS and compiled loops add up an inner product in an order that depends on the number of rows, the place of a row, the
threads and the processor. So equal vectors would get different scores, and a user another list in a batch than alone.
If all coordinates are whole multiples of a unit, so are products and sums, and float64 holds them exactly.
Source: the pre-rounding of Demmel and Nguyen, "Fast Reproducible Floating-Point Summation", ARITH 2013.

Letters: N vectors, D dimensions.
"""

import math

import numpy as np
from numpy.typing import NDArray

_BITS = 26  # the longest vector is as long as 2 ** 26 units, so a sum of products has at most 52 bits
_NORM_TOLERANCE = 1e-3  # of the binary logarithm: vectors of length 1 may be longer by rounding
_BLOCK_ROWS = 4096


def round_to_grid(vectors: NDArray[np.float32], *, max_norm: float | None = None) -> NDArray[np.float32]:
    """Round each coordinate to a multiple of 2 ** -26 times the next power of two of the longest norm.

    Coordinates above an eighth of the longest norm are on the grid already, so nearly nothing is lost.

    Args:
        vectors: float32 [N, D], finite.
        max_norm: an upper bound of their norms, at which the grid does not depend on the other vectors; by default the
            longest norm.

    Returns:
        The same array if it is on the grid already, otherwise a copy.
    """
    starts = range(0, len(vectors), _BLOCK_ROWS)
    if max_norm is None:
        squares = (
            np.einsum("nd,nd->n", block, block, dtype=np.float64)
            for block in (vectors[start : start + _BLOCK_ROWS] for start in starts)
        )
        max_norm = math.sqrt(max((float(block.max(initial=0.0)) for block in squares), default=0.0))
    if not max_norm:
        return vectors
    unit = np.float32(2.0 ** (math.ceil(math.log2(max_norm) - _NORM_TOLERANCE) - _BITS))
    copied = False
    for start in starts:
        block = vectors[start : start + _BLOCK_ROWS]
        rounded = np.rint(block / unit) * unit
        if not np.array_equal(rounded, block):
            vectors, copied = (vectors if copied else vectors.copy()), True
            vectors[start : start + _BLOCK_ROWS] = rounded
    return vectors
