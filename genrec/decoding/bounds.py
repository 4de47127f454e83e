"""The prior penalty of a score, and upper bounds of what the rest of a path can gain from it.

Letters: T tokens of a trie, N rows, Q ranges of rows.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from genrec.errors import InputError
from genrec.index.trie import TokenTrie
from genrec.types import FloatArray, IntArray

LogProbArray = FloatArray | NDArray[np.float32]

_BLOCK_SIZE = 16


class PriorPenalty:
    """The log-probabilities of a prior over the tokens of a trie, and the weight with which a score subtracts them.

    Args:
        trie: the trie.
        log_probs: float32 or float64 [T], the prior log-probability of each token given its path.
        weight: the factor of the prior in a score, at least 0.

    Raises:
        InputError: `log_probs` has another shape, or the weight is negative or not finite.
    """

    def __init__(self, trie: TokenTrie, log_probs: LogProbArray, weight: float) -> None:
        if log_probs.shape != trie.tokens.shape:
            raise InputError(
                f"the prior has shape {log_probs.shape}, but the trie has {len(trie.tokens)} tokens; "
                "compute the prior for this trie"
            )
        if not np.isfinite(weight) or weight < 0:
            raise InputError(f"the weight of the prior is {weight}; it must be a finite number of at least 0")
        self.trie, self.log_probs, self.weight = trie, log_probs, weight

    def log_probs_at(self, positions: IntArray) -> FloatArray:
        """float64, the prior log-probabilities of the tokens at the given positions."""
        return self.log_probs[positions].astype(np.float64)

    def score_bound(self, score_kind: str) -> "ScoreBound":
        """The bound for a kind of score, "model" or "catalog"; computed once for each.

        Raises:
            InputError: some tokens have no prior yet, or the kind is unknown.
        """
        if score_kind not in ("model", "catalog"):
            raise InputError(f"score_kind is {score_kind!r}; choose model or catalog")
        return self._catalog_bound if score_kind == "catalog" else self._model_bound

    def check_finite(self, log_probs: LogProbArray) -> None:
        """Check that every log-probability of a prior is known.

        Raises:
            InputError: some are NaN or infinite.
        """
        if not np.isfinite(log_probs).all():
            missing = int((~np.isfinite(log_probs)).sum())
            raise InputError(f"{missing:,} tokens have no finite prior; call Prior.fill for their rows first")

    @cached_property
    def _model_bound(self) -> "ScoreBound":
        self.check_finite(self.log_probs)
        return ScoreBound(self.trie, self.log_probs.astype(np.float64) * -self.weight)

    @cached_property
    def _catalog_bound(self) -> "ScoreBound":
        self.check_finite(self.log_probs)
        return ScoreBound(
            self.trie, renormalize_over_children(self.trie, self.log_probs.astype(np.float64)) * -self.weight
        )


class ScoreBound:
    """The maximum that any row of a range can still gain after a prefix.

    Args:
        trie: the trie.
        gains: float64 [T], the gain of each token.

    Attributes:
        prefix_gains: float64 [T], the total gain of the path up to each token.
        row_gains: float64 [N], the total gain of each row.
    """

    def __init__(self, trie: TokenTrie, gains: FloatArray) -> None:
        self.prefix_gains = prefix_sums(trie, gains)
        self.row_gains = self.prefix_gains[trie.last_positions]
        self._range_max = RangeMax(self.row_gains)

    def max_gain(self, low: IntArray, high: IntArray, positions: IntArray) -> FloatArray:
        """float64 [Q], the highest gain of a row of `low <= row < high` after the token at a position of its path."""
        return self._range_max.max(low, high) - self.prefix_gains[positions]


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
