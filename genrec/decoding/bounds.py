"""What is taken off a path's score for being likely whoever asks, and the most that the rest of a path can win by it.

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
    """The log-probabilities of a prior over the tokens of a trie, and their weight.

    Args:
        trie: whose tokens.
        log_probs: float32 or float64 [T], the prior's log-probability of each token behind its path.
        weight: how much of the prior's score is subtracted, at least 0.
    """

    def __init__(self, trie: TokenTrie, log_probs: LogProbArray, weight: float) -> None:
        if log_probs.shape != trie.tokens.shape:
            raise InputError(f"the prior has shape {log_probs.shape}; the trie has {len(trie.tokens)} tokens")
        if not np.isfinite(weight) or weight < 0:
            raise InputError(f"the prior's weight is {weight}; it must be a number of at least 0")
        self.trie, self.log_probs, self.weight = trie, log_probs, weight

    def log_probs_at(self, positions: IntArray) -> FloatArray:
        """float64, the prior's log-probabilities of the tokens at places."""
        return self.log_probs[positions].astype(np.float64)

    def score_bound(self, score_kind: str) -> "ScoreBound":
        """The bound for a kind of score, "model" or "catalog"; made once for each.

        Raises:
            InputError: some tokens have no prior yet, or there is no such kind.
        """
        if score_kind not in ("model", "catalog"):
            raise InputError(f"score {score_kind!r} is neither model nor catalog")
        return self._catalog_bound if score_kind == "catalog" else self._model_bound

    def check_finite(self, log_probs: LogProbArray) -> None:
        """Refuse to score by a prior that is not known."""
        if not np.isfinite(log_probs).all():
            missing = int((~np.isfinite(log_probs)).sum())
            raise InputError(
                f"{missing:,} tokens have no prior, or one that is not finite; fill it for their rows first"
            )

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
    """The most that any row of a range can still win behind a prefix.

    Args:
        trie: whose rows.
        gains: float64 [T], what each token of a path wins.

    Attributes:
        prefix_gains: float64 [T], what a path has won up to each token.
        row_gains: float64 [N], what each row wins.
    """

    def __init__(self, trie: TokenTrie, gains: FloatArray) -> None:
        self.prefix_gains = prefix_sums(trie, gains)
        self.row_gains = self.prefix_gains[trie.last_positions]
        self._range_max = RangeMax(self.row_gains)

    def max_gain(self, low: IntArray, high: IntArray, positions: IntArray) -> FloatArray:
        """float64 [Q]: the most that a row of `low <= row < high` wins behind the token at a place of its path."""
        return self._range_max.max(low, high) - self.prefix_gains[positions]


class RangeMax:
    """The highest of any range of N values, found in constant time.

    Blocks of values are joined by a sparse table (Bender and Farach-Colton, "The LCA Problem Revisited", LATIN 2000,
    section 3); the ends of a range are looked through.

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
        """float64 [Q], the highest of the values `low` to `high`, which are not empty ranges."""
        best = np.full(len(low), -np.inf)
        first, last = -(-low // _BLOCK_SIZE), high // _BLOCK_SIZE
        for level, table in enumerate(self._levels):
            inside = (last - first >= 1 << level) & (last - first < 2 << level)
            if inside.any():
                begin, end = first[inside], last[inside] - (1 << level)
                best[inside] = np.maximum(table[begin], table[end])
        steps = np.arange(_BLOCK_SIZE)
        for begin, stop in ((low, np.minimum(first * _BLOCK_SIZE, high)), (np.maximum(last * _BLOCK_SIZE, low), high)):
            some = np.flatnonzero(stop > begin)
            # A range within one block is looked through twice, which changes nothing.
            places = np.minimum(begin[some, None] + steps, stop[some, None] - 1)
            best[some] = np.maximum(best[some], self._values[places].max(axis=1))
        return best


def renormalize_over_children(trie: TokenTrie, log_probs: FloatArray) -> FloatArray:
    """From log-probabilities over the vocabulary [T] to those over the children of each node [T]; forced tokens 0."""
    order = np.argsort(trie.parents, kind="stable")
    family = trie.parents[order]
    begins = np.flatnonzero(np.append(True, family[1:] != family[:-1]))
    result = np.empty_like(log_probs)
    shares = renormalize_runs(log_probs[order], begins)
    result[order] = shares
    return result


def renormalize_runs(log_probs: FloatArray, starts: IntArray) -> FloatArray:
    """Log-probabilities normalised within each run, the runs beginning at `starts`; that of a lone one is 0."""
    if not len(log_probs):
        return log_probs
    sizes = np.diff(np.append(starts, len(log_probs)))
    highest = np.maximum.reduceat(log_probs, starts)
    highest = np.where(np.isfinite(highest), highest, 0.0)
    owner = np.repeat(np.arange(len(starts)), sizes)
    moved = log_probs - highest[owner]
    # Where nothing is possible, nothing has a share; elsewhere the highest alone makes the sum at least 1.
    total = np.maximum(np.add.reduceat(np.exp(moved), starts), 1.0)
    shares: FloatArray = np.minimum(moved - np.log(total)[owner], 0.0)
    shares[starts[sizes == 1]] = 0.0
    return shares


def prefix_sums(trie: TokenTrie, values: FloatArray) -> FloatArray:
    """Sum along each prefix [T], in the order of its tokens."""
    sums = values.copy()
    depths = trie.depths
    order = np.argsort(depths, kind="stable")
    bounds = np.searchsorted(depths[order], np.arange(int(depths.max()) + 2))
    for depth in range(1, len(bounds) - 1):
        places = order[bounds[depth] : bounds[depth + 1]]
        sums[places] += sums[trie.parents[places]]
    return sums
