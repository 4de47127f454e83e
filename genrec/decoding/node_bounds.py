"""Upper bounds of the scores of all rows below a node, from the prior and the boosts of a search request.

Letters: U prompts, N rows of the trie, C nodes over all prompts.
"""

import numpy as np

from genrec.data.subset import Boost, Subset
from genrec.decoding.bounds import RangeMax
from genrec.decoding.search_request import SearchRequest
from genrec.index.kernels.numpy import ragged_ranges
from genrec.index.trie import TokenTrie
from genrec.types import FloatArray, IntArray

_DENSE_BOOST_RATIO = 16  # a boost of more than one row in this many gets a table of range maxima


class NodeBounds:
    """The bounds of the nodes of U prompts.

    Args:
        trie: N rows.
        request: its prior and boosts; boosts of rows that are not allowed are ignored.
    """

    def __init__(self, trie: TokenTrie, request: SearchRequest) -> None:
        penalty = request.prior_penalty
        self._score_bound = None if penalty is None else penalty.score_bound(request.score_kind)
        self._boosts = [
            _allowed_boost(request.boost_of(prompt), subset) for prompt, subset in enumerate(request.allowed)
        ]
        self._largest_boosts = np.array([np.abs(boost.values).max(initial=0.0) for boost in self._boosts])
        self._has_boosts = any(len(boost) for boost in self._boosts)
        self._dense_boosts = {
            prompt: self._range_maxima(boost, len(trie))
            for prompt, boost in enumerate(self._boosts)
            if len(boost) * _DENSE_BOOST_RATIO > len(trie)
        }

    def boost_values(self, prompt: int, rows: IntArray) -> FloatArray:
        """float64, the boosts of rows of one prompt."""
        return self._boosts[prompt].values_at(rows)

    def priorities(self, prompt: IntArray, low: IntArray, high: IntArray, path_scores: FloatArray) -> FloatArray:
        """float64 [C], the score so far plus the highest boost below each node.

        Args:
            prompt: int64 [C].
            low, high: [C], the rows of each node.
            path_scores: float64 [C].
        """
        return path_scores + self._max_boosts(prompt, low, high) if self._has_boosts else path_scores

    def bounds(
        self,
        prompt: IntArray,
        low: IntArray,
        high: IntArray,
        positions: IntArray,
        path_scores: FloatArray,
        priorities: FloatArray,
    ) -> FloatArray:
        """float64 [C], what no row below each node can exceed.

        Without a prior these are the priorities, since log-probabilities are at most 0, and rounding is monotonic. With
        a prior, the rest of a path can gain at most its weighted negative log-probability under the prior; that sum is
        rounded in another order than the score, so the bounds are wider by the rounding error.

        Args:
            prompt: int64 [C].
            low, high: [C], the rows of each node.
            positions: int64 [C], the position in the trie of the last token of each path; unused without a prior.
            path_scores: float64 [C].
            priorities: float64 [C], see `priorities`.
        """
        if self._score_bound is None:
            return priorities
        low, high = low.astype(np.int64), high.astype(np.int64)
        bounds = priorities + self._score_bound.max_gain(low, high, positions)
        for number, (_, joint_max) in self._dense_boosts.items():
            here = np.flatnonzero(prompt == number)
            # The row with the highest boost is seldom the row with the highest gain: a joint maximum is tighter.
            bounds[here] = (
                path_scores[here]
                + joint_max.max(low[here], high[here])
                - self._score_bound.prefix_gains[positions[here]]
            )
        error = self._score_bound.rounding_error(np.abs(path_scores) + self._largest_boosts[prompt])
        return np.where(np.isneginf(bounds), bounds, bounds + error)

    def _range_maxima(self, boost: Boost, num_rows: int) -> tuple[RangeMax, RangeMax]:
        """For a boost of many rows: the range maxima of the boost, and of the boost plus the prior gain."""
        dense = np.zeros(num_rows)
        dense[boost.indices] = boost.values
        return RangeMax(dense), RangeMax(dense if self._score_bound is None else dense + self._score_bound.row_gains)

    def _max_boosts(self, prompt: IntArray, low: IntArray, high: IntArray) -> FloatArray:
        """float64 [C], the highest boost of the rows of each node; rows without a boost count as 0."""
        best = np.zeros(len(prompt))
        for number, boost in enumerate(self._boosts):
            if not len(boost):
                continue
            here = np.flatnonzero(prompt == number)
            if number in self._dense_boosts:
                best[here] = self._dense_boosts[number][0].max(low[here].astype(np.int64), high[here].astype(np.int64))
                continue
            first, last = np.searchsorted(boost.indices, low[here]), np.searchsorted(boost.indices, high[here])
            has_boost = last > first
            indices, begins = ragged_ranges(first[has_boost], last[has_boost])
            if not indices.size:
                continue
            highest = np.maximum.reduceat(boost.values[indices], begins)
            all_boosted = (last - first)[has_boost] == (high - low)[here[has_boost]]
            best[here[has_boost]] = np.where(all_boosted, highest, np.maximum(highest, 0.0))
        return best


def _allowed_boost(boost: Boost, allowed: Subset) -> Boost:
    """The boost of the allowed rows; boosts of other rows would loosen every bound above them."""
    kept = allowed.contains(boost.indices)
    return boost if kept.all() else Boost(boost.indices[kept], boost.values[kept])
