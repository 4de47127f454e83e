"""Item vectors in a byte a number, by which those that cannot be among the first are found at a quarter of the reading.

Letters: N items, U people, D numbers of a vector, W numbers as they are kept, of which those behind D stand for 0.

Source: scalar quantisation as in Jegou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search" (2011),
section II.A, one quantiser a dimension; here what it leaves out is bounded, so that nothing is lost.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.index.kernels.dispatch import find_narrow_loops
from genrec.types import FloatArray

_ROWS = 4096  # vectors written in bytes at once
_ROUNDING = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class Screen:
    """N vectors in bytes, and how far a product with them can be from the one with the vectors themselves.

    Number d of an item is `(narrow[n, d] - 128) * steps[d]`, off by half a step at most. Made by `Screen.of`, where
    the compiled loops are that read it.

    Attributes:
        narrow: uint8 [N, W].
        steps: float64 [D].
        off: the longest of the N differences between a vector and what stands for it.
        whole: the longest of the N vectors in steps.
        reach: the longest of the N vectors.
        loops: `genrec.index.kernels.int8`.
    """

    narrow: NDArray[np.uint8]
    steps: FloatArray
    off: float
    whole: float
    reach: float
    loops: Any

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> "Screen | None":
        """The screen of float32 [N, D]; costs a few looks at each number. None where it cannot be read."""
        loops = find_narrow_loops()
        if loops is None or not len(vectors) or vectors.shape[1] > loops.WIDEST:
            return None
        parts = [slice(first, first + _ROWS) for first in range(0, len(vectors), _ROWS)]
        largest = np.max([np.abs(vectors[part]).max(axis=0) for part in parts], axis=0).astype(np.float64)
        steps = np.where(largest > 0, largest / loops.LARGEST, 1.0)
        width = -(-len(steps) // loops.WIDTH) * loops.WIDTH
        narrow = np.full((len(vectors), width), loops.ZERO, dtype=np.uint8)
        off, whole, reach = 0.0, 0.0, 0.0
        for part in parts:
            rounded = np.rint(vectors[part] / steps)
            narrow[part, : len(steps)] = rounded + loops.ZERO
            off = max(off, _longest(vectors[part] - rounded * steps))
            whole, reach = max(whole, _longest(rounded)), max(reach, _longest(vectors[part]))
        return cls(narrow, steps, off, whole, reach, loops)

    def near(self, people: NDArray[np.float32]) -> tuple[NDArray[np.float32], FloatArray]:
        """The inner products of U people and N items, nearly.

        By the inequality of Cauchy and Schwarz what the bytes of an item leave out adds no more to the product than
        the person's length times the length of what is left out; likewise for the person, who is rounded, too.

        Args:
            people: float32 [U, D].

        Returns:
            float32 [U, N], and float64 [U], how far one of them can be from the product in float32.
        """
        near = np.empty((len(people), len(self.narrow)), dtype=np.float32)
        lengths, lefts = np.empty(len(people)), np.empty(len(people))
        self.loops.multiply_nearly(self.narrow, self.steps, people, near, lengths, lefts)
        # Sums of float32, in whatever order, are off by half of this.
        rounding = _ROUNDING * (people.shape[1] + 4) * lengths * (self.reach + self.off)
        return near, lengths * self.off + lefts * self.whole + rounding


def _longest(vectors: NDArray[np.float32] | FloatArray) -> float:
    """The greatest length of some vectors."""
    return float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64).max()))
