"""What is taken off a path's score for being likely whoever asks, and the most that the rest of a path can win by it.

Letters: T tokens of a trie, N rows, Q ranges of rows.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from genrec.errors import InputError
from genrec.index.trie import TokenTrie
from genrec.types import FloatArray, IntArray

Steps = FloatArray | NDArray[np.float32]

_BLOCK = 16


class Guide:
    """The log-probabilities of a prior over the tokens of a trie, and their weight.

    Args:
        trie: whose tokens.
        steps: float32 or float64 [T], the prior's log-probability of each token behind its path.
        weight: how much of the prior's score is subtracted, at least 0.
    """

    def __init__(self, trie: TokenTrie, steps: Steps, weight: float) -> None:
        if steps.shape != trie.tokens.shape:
            raise InputError(f"the prior has shape {steps.shape}; the trie has {len(trie.tokens)} tokens")
        if not np.isfinite(weight) or weight < 0:
            raise InputError(f"the prior's weight is {weight}; it must be a number of at least 0")
        self.trie, self.steps, self.weight = trie, steps, weight

    def at(self, places: IntArray) -> FloatArray:
        """float64, the prior's log-probabilities of the tokens at places."""
        return self.steps[places].astype(np.float64)

    def most(self, kind: str) -> "Most":
        """The bound for a kind of score, "model" or "catalog"; made once for each.

        Raises:
            InputError: some tokens have no prior yet, or there is no such kind.
        """
        if kind not in ("model", "catalog"):
            raise InputError(f"score {kind!r} is neither model nor catalog")
        return self._most_catalog if kind == "catalog" else self._most_model

    def check(self, steps: Steps) -> None:
        """Refuse to score by a prior that is not known."""
        if not np.isfinite(steps).all():
            missing = int((~np.isfinite(steps)).sum())
            raise InputError(
                f"{missing:,} tokens have no prior, or one that is not finite; fill it for their rows first"
            )

    @cached_property
    def _most_model(self) -> "Most":
        self.check(self.steps)
        return Most(self.trie, self.steps.astype(np.float64) * -self.weight)

    @cached_property
    def _most_catalog(self) -> "Most":
        self.check(self.steps)
        return Most(self.trie, catalog_steps(self.trie, self.steps.astype(np.float64)) * -self.weight)


class Most:
    """The most that any row of a range can still win behind a prefix.

    Args:
        trie: whose rows.
        wins: float64 [T], what each token of a path wins.

    Attributes:
        before: float64 [T], what a path has won up to each token.
        totals: float64 [N], what each row wins.
    """

    def __init__(self, trie: TokenTrie, wins: FloatArray) -> None:
        self.before = prefix_sums(trie, wins)
        self.totals = self.before[trie.last]
        self._highest = RangeMax(self.totals)

    def best(self, low: IntArray, high: IntArray, places: IntArray) -> FloatArray:
        """float64 [Q]: the most that a row of `low <= row < high` wins behind the token at a place of its path."""
        return self._highest.best(low, high) - self.before[places]


class RangeMax:
    """The highest of any range of N values, found in constant time.

    Blocks of values are joined by a sparse table (Bender and Farach-Colton, "The LCA Problem Revisited", LATIN 2000,
    section 3); the ends of a range are looked through.

    Args:
        values: float64 [N].
    """

    def __init__(self, values: FloatArray) -> None:
        self._values = np.full(-(-len(values) // _BLOCK) * _BLOCK, -np.inf)
        self._values[: len(values)] = values
        self._levels = [self._values.reshape(-1, _BLOCK).max(axis=1)]
        span = 1
        while 2 * span <= len(self._levels[0]):
            level = self._levels[-1]
            self._levels.append(np.maximum(level[:-span], level[span:]))
            span *= 2

    def best(self, low: IntArray, high: IntArray) -> FloatArray:
        """float64 [Q], the highest of the values `low` to `high`, which are not empty ranges."""
        best = np.full(len(low), -np.inf)
        first, last = -(-low // _BLOCK), high // _BLOCK
        for level, table in enumerate(self._levels):
            inside = (last - first >= 1 << level) & (last - first < 2 << level)
            if inside.any():
                begin, end = first[inside], last[inside] - (1 << level)
                best[inside] = np.maximum(table[begin], table[end])
        steps = np.arange(_BLOCK)
        for begin, stop in ((low, np.minimum(first * _BLOCK, high)), (np.maximum(last * _BLOCK, low), high)):
            some = np.flatnonzero(stop > begin)
            # A range within one block is looked through twice, which changes nothing.
            places = np.minimum(begin[some, None] + steps, stop[some, None] - 1)
            best[some] = np.maximum(best[some], self._values[places].max(axis=1))
        return best


def catalog_steps(trie: TokenTrie, steps: FloatArray) -> FloatArray:
    """From log-probabilities over the vocabulary [T] to those over the children of each node [T]; forced tokens 0."""
    order = np.argsort(trie.parents, kind="stable")
    family = trie.parents[order]
    begins = np.flatnonzero(np.append(True, family[1:] != family[:-1]))
    result = np.empty_like(steps)
    shares = shares_of(steps[order], begins)
    result[order] = shares
    return result


def shares_of(steps: FloatArray, begins: IntArray) -> FloatArray:
    """Log-probabilities normalised within each run, the runs beginning at `begins`; that of a lone one is 0."""
    if not len(steps):
        return steps
    sizes = np.diff(np.append(begins, len(steps)))
    highest = np.maximum.reduceat(steps, begins)
    highest = np.where(np.isfinite(highest), highest, 0.0)
    owner = np.repeat(np.arange(len(begins)), sizes)
    moved = steps - highest[owner]
    # Where nothing is possible, nothing has a share; elsewhere the highest alone makes the sum at least 1.
    total = np.maximum(np.add.reduceat(np.exp(moved), begins), 1.0)
    shares: FloatArray = np.minimum(moved - np.log(total)[owner], 0.0)
    shares[begins[sizes == 1]] = 0.0
    return shares


def prefix_sums(trie: TokenTrie, steps: FloatArray) -> FloatArray:
    """Sum along each prefix [T], in the order of its tokens."""
    sums = steps.copy()
    depths = trie.depths
    order = np.argsort(depths, kind="stable")
    bounds = np.searchsorted(depths[order], np.arange(int(depths.max()) + 2))
    for depth in range(1, len(bounds) - 1):
        places = order[bounds[depth] : bounds[depth + 1]]
        sums[places] += sums[trie.parents[places]]
    return sums
