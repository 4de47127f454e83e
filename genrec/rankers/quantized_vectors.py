"""Item vectors quantised to 8 bits, for a first pass of exact ranking that reads a quarter of the memory.

Letters: N items, U users, D dimensions, W >= D stored dimensions; the padding stands for 0.

Source: scalar quantisation, one quantiser per dimension, as in Jégou, Douze and Schmid, "Product Quantization for
Nearest Neighbor Search", IEEE TPAMI 33(1), 2011, section II.A. The quantisation error is bounded here, so that the
second pass, over exact scores of the remaining items, gives the exact ranking.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.index.kernels.dispatch import find_int8_kernels
from genrec.types import FloatArray

_BLOCK_ROWS = 4096  # vectors quantised at once
_FLOAT32_EPSILON = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class QuantizedVectors:
    """N quantised vectors, and bounds of the error of inner products with them.

    Dimension d of item n is approximately `(quantized[n, d] - 128) * scales[d]`, with an error of at most half of
    `scales[d]`. Made by `QuantizedVectors.from_vectors`.

    Attributes:
        quantized: uint8 [N, W].
        scales: float64 [D].
        max_error_norm: the greatest norm of the N quantisation errors.
        max_quantized_norm: the greatest norm of the N quantised vectors, in units of `scales`.
        max_norm: the greatest norm of the N vectors.
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
        """Quantise float32 [N, D] in a few passes; None if there is no kernel for these vectors on this machine."""
        kernels = find_int8_kernels()
        if kernels is None or not len(vectors) or vectors.shape[1] > kernels.MAX_WIDTH:
            return None
        blocks = [slice(first, first + _BLOCK_ROWS) for first in range(0, len(vectors), _BLOCK_ROWS)]
        largest = np.max([np.abs(vectors[block]).max(axis=0) for block in blocks], axis=0).astype(np.float64)
        scales = np.where(largest > 0, largest / kernels.INT8_MAX, 1.0)
        width = -(-len(scales) // kernels.SIMD_WIDTH) * kernels.SIMD_WIDTH
        quantized = np.full((len(vectors), width), kernels.ZERO_POINT, dtype=np.uint8)
        error_norm, quantized_norm, norm = 0.0, 0.0, 0.0
        for block in blocks:
            rounded = np.rint(vectors[block] / scales)
            quantized[block, : len(scales)] = rounded + kernels.ZERO_POINT
            error_norm = max(error_norm, _max_norm(vectors[block] - rounded * scales))
            quantized_norm = max(quantized_norm, _max_norm(rounded))
            norm = max(norm, _max_norm(vectors[block]))
        return cls(quantized, scales, error_norm, quantized_norm, norm, kernels)

    def approximate_products(self, user_vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], FloatArray]:
        """Approximate inner products of U users and N items, with error bounds.

        By the Cauchy-Schwarz inequality the quantisation error of an item changes the product by at most the norm of
        the user vector times the norm of the error. The same holds for the user vector, which is quantised as well.

        Args:
            user_vectors: float32 [U, D].

        Returns:
            The products, float32 [U, N], and float64 [U], the greatest difference of a user's products from the
            products computed in float32.
        """
        products = np.empty((len(user_vectors), len(self.quantized)), dtype=np.float32)
        norms, error_norms = np.empty(len(user_vectors)), np.empty(len(user_vectors))
        self.kernels.quantized_inner_products(self.quantized, self.scales, user_vectors, products, norms, error_norms)
        # The rounding error of a float32 sum in any order is at most half of this.
        rounding = _FLOAT32_EPSILON * (user_vectors.shape[1] + 4) * norms * (self.max_norm + self.max_error_norm)
        return products, norms * self.max_error_norm + error_norms * self.max_quantized_norm + rounding


def _max_norm(vectors: NDArray[np.float32] | FloatArray) -> float:
    """The greatest norm of some vectors."""
    return float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64).max()))
