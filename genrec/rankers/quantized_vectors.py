"""Item vectors in a byte a number, by which those that cannot be among the first are found at a quarter of the reading.

Letters: N items, U people, D numbers of a vector, W numbers as they are kept, of which those behind D stand for 0.

Source: scalar quantisation as in Jegou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search" (2011),
section II.A, one quantiser a dimension; here what it leaves out is bounded, so that nothing is lost.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.index.kernels.dispatch import find_int8_kernels
from genrec.types import FloatArray

_BLOCK_ROWS = 4096  # vectors written in bytes at once
_FLOAT32_EPSILON = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class QuantizedVectors:
    """N vectors in bytes, and how far a product with them can be from the one with the vectors themselves.

    Number d of an item is `(narrow[n, d] - 128) * steps[d]`, off by half a step at most. Made by `QuantizedVectors.from_vectors`, where
    the compiled kernels are that read it.

    Attributes:
        quantized: uint8 [N, W].
        scales: float64 [D].
        max_error_norm: the longest of the N differences between a vector and what stands for it.
        max_quantized_norm: the longest of the N vectors in steps.
        max_norm: the longest of the N vectors.
        kernels: `genrec.index.kernels.int8`.
    """

    quantized: NDArray[np.uint8]
    scales: FloatArray
    max_error_norm: float
    max_quantized_norm: float
    max_norm: float
    kernels: Any

    @classmethod
    def from_vectors(cls, vectors: NDArray[np.float32]) -> "QuantizedVectors | None":
        """The screen of float32 [N, D]; costs a few looks at each number. None where it cannot be read."""
        kernels = find_int8_kernels()
        if kernels is None or not len(vectors) or vectors.shape[1] > kernels.MAX_WIDTH:
            return None
        parts = [slice(first, first + _BLOCK_ROWS) for first in range(0, len(vectors), _BLOCK_ROWS)]
        largest = np.max([np.abs(vectors[part]).max(axis=0) for part in parts], axis=0).astype(np.float64)
        steps = np.where(largest > 0, largest / kernels.INT8_MAX, 1.0)
        width = -(-len(steps) // kernels.SIMD_WIDTH) * kernels.SIMD_WIDTH
        narrow = np.full((len(vectors), width), kernels.ZERO_POINT, dtype=np.uint8)
        off, whole, reach = 0.0, 0.0, 0.0
        for part in parts:
            rounded = np.rint(vectors[part] / steps)
            narrow[part, : len(steps)] = rounded + kernels.ZERO_POINT
            off = max(off, _max_norm(vectors[part] - rounded * steps))
            whole, reach = max(whole, _max_norm(rounded)), max(reach, _max_norm(vectors[part]))
        return cls(narrow, steps, off, whole, reach, kernels)

    def approximate_products(self, user_vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], FloatArray]:
        """The inner products of U people and N items, nearly.

        By the inequality of Cauchy and Schwarz what the bytes of an item leave out adds no more to the product than
        the person's length times the length of what is left out; likewise for the person, who is rounded, too.

        Args:
            user_vectors: float32 [U, D].

        Returns:
            float32 [U, N], and float64 [U], how far one of them can be from the product in float32.
        """
        near = np.empty((len(user_vectors), len(self.quantized)), dtype=np.float32)
        lengths, lefts = np.empty(len(user_vectors)), np.empty(len(user_vectors))
        self.kernels.quantized_inner_products(self.quantized, self.scales, user_vectors, near, lengths, lefts)
        # Sums of float32, in whatever order, are off by half of this.
        rounding = _FLOAT32_EPSILON * (user_vectors.shape[1] + 4) * lengths * (self.max_norm + self.max_error_norm)
        return near, lengths * self.max_error_norm + lefts * self.max_quantized_norm + rounding


def _max_norm(vectors: NDArray[np.float32] | FloatArray) -> float:
    """The greatest length of some vectors."""
    return float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64).max()))
