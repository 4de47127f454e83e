"""Upper bounds of what the rest of a path can still gain, and sums over the paths of a trie.

Letters: T tokens of a trie, N rows, Q ranges of rows.
"""

import numpy as np
from numpy.typing import NDArray

from genrec.index.trie import TokenTrie
from genrec.types import FloatArray, IntArray

LogProbArray = FloatArray | NDArray[np.float32]

_BLOCK_SIZE = 16
_EPSILON = float(np.finfo(np.float64).eps)  # twice the relative error of one rounding


class ScoreBound:
    """The maximum that any row of a range can still gain after a prefix.

    A search adds the same gains in another order, so its sums are rounded differently, and may exceed the sums here.
    `rounding_error` says by how much; a bound without it can hide a row that ties with the k-th of a list.

    Args:
        trie: the trie.
        gains: float64 [T], the gain of each token.
        gain_error: by how much the gain that a search adds for a token may exceed this one.

    Attributes:
        prefix_gains: float64 [T], the total gain of the path up to each token.
        row_gains: float64 [N], the total gain of each row.
    """

    def __init__(self, trie: TokenTrie, gains: FloatArray, *, gain_error: float = 0.0) -> None:
        self.prefix_gains = prefix_sums(trie, gains)
        self.row_gains = self.prefix_gains[trie.last_positions]
        self._range_max = RangeMax(self.row_gains)
        # A sum of n terms is wrong by at most (n - 1) / 2 epsilon times the sum of their absolute values. There are
        # three of at most `max_length` + 2 terms: the path's gains here, up to the prefix and in all, and the score.
        self._relative_error = 2 * (trie.max_length + 4) * _EPSILON
        self._gain_error = (
            self._relative_error * float(np.abs(self.prefix_gains).max(initial=0.0)) + trie.max_length * gain_error
        )

    def max_gain(self, low: IntArray, high: IntArray, positions: IntArray) -> FloatArray:
        """float64 [Q], the highest gain of a row of `low <= row < high` after the token at a position of its path."""
        return self._range_max.max(low, high) - self.prefix_gains[positions]

    def rounding_error(self, magnitudes: FloatArray) -> FloatArray:
        """float64 [Q], by how much scores may exceed what is summed here; 0 or more.

        Args:
            magnitudes: float64 [Q], the absolute values of what is added to the gains, such as the score so far.
        """
        return self._gain_error + self._relative_error * magnitudes


class RangeMax:
    """The maximum of any range of N values, in constant time.

    A sparse table covers blocks of values; the values at the ends of a range are compared one by one.
    Source: Bender and Farach-Colton, "The LCA Problem Revisited", LATIN 2000, section 3.

    Args:
        values: float64 [N].
    """

    def __init__(self, values: FloatArray) -> None:
        self._values = np.full(-(-len(values) // _BLOCK_SIZE) * _BLOCK_SIZE, -np.inf)
        self._values[: len(values)] = values
        self._levels = [self._values.reshape(-1, _BLOCK_SIZE).max(axis=1)]
        span = 1
        while 2 * span <= len(self._levels[0]):
            level = self._levels[-1]
            self._levels.append(np.maximum(level[:-span], level[span:]))
            span *= 2

    def max(self, low: IntArray, high: IntArray) -> FloatArray:
        """float64 [Q], the maximum of `values[low:high]` for each range; no range is empty."""
        best = np.full(len(low), -np.inf)
        first, last = -(-low // _BLOCK_SIZE), high // _BLOCK_SIZE
        for level, table in enumerate(self._levels):
            inside = (last - first >= 1 << level) & (last - first < 2 << level)
            if inside.any():
                begin, end = first[inside], last[inside] - (1 << level)
                best[inside] = np.maximum(table[begin], table[end])
        offsets = np.arange(_BLOCK_SIZE)
        for begin, stop in ((low, np.minimum(first * _BLOCK_SIZE, high)), (np.maximum(last * _BLOCK_SIZE, low), high)):
            filled = np.flatnonzero(stop > begin)
            # A range within one block is compared twice, which does not change the maximum.
            indices = np.minimum(begin[filled, None] + offsets, stop[filled, None] - 1)
            best[filled] = np.maximum(best[filled], self._values[indices].max(axis=1))
        return best


def renormalize_over_children(trie: TokenTrie, log_probs: FloatArray) -> FloatArray:
    """Renormalise log-probabilities float64 [T] over the children of each node; forced tokens get 0."""
    order = np.argsort(trie.parents, kind="stable")
    parents = trie.parents[order]
    starts = np.flatnonzero(np.append(True, parents[1:] != parents[:-1]))
    result = np.empty_like(log_probs)
    result[order] = renormalize_runs(log_probs[order], starts)
    return result


def renormalize_runs(log_probs: FloatArray, starts: IntArray) -> FloatArray:
    """Normalise log-probabilities within each run; a run of one gets 0.

    Args:
        log_probs: float64, all runs one after the other.
        starts: int64, the index at which each run begins.
    """
    if not len(log_probs):
        return log_probs
    sizes = np.diff(np.append(starts, len(log_probs)))
    highest = np.maximum.reduceat(log_probs, starts)
    highest = np.where(np.isfinite(highest), highest, 0.0)
    run = np.repeat(np.arange(len(starts)), sizes)
    shifted = log_probs - highest[run]
    # The highest value makes every sum at least 1, except in a run of only -inf, which stays -inf.
    total = np.maximum(np.add.reduceat(np.exp(shifted), starts), 1.0)
    normalized: FloatArray = np.minimum(shifted - np.log(total)[run], 0.0)
    normalized[starts[sizes == 1]] = 0.0
    return normalized


def renormalization_error(trie: TokenTrie) -> float:
    """By how much two renormalisations of a token differ by rounding if one includes fewer siblings, at most."""
    # The normaliser is a sum over the children, of exponentials that are correct to a few units in the last place.
    max_children = int(np.bincount(trie.parents + 1).max(initial=0))
    return 2 * (max_children + 16) * _EPSILON


def prefix_sums(trie: TokenTrie, values: FloatArray) -> FloatArray:
    """float64 [T], the sum of the values along the path to each token, in the order of the path."""
    sums = values.copy()
    depths = trie.depths
    order = np.argsort(depths, kind="stable")
    depth_starts = np.searchsorted(depths[order], np.arange(int(depths.max()) + 2))
    for depth in range(1, len(depth_starts) - 1):
        positions = order[depth_starts[depth] : depth_starts[depth + 1]]
        sums[positions] += sums[trie.parents[positions]]
    return sums
