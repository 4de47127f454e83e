"""Items that people who chose the same things chose with them, or next.

Source: Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms", ACM TOIS 22(1), 2004, section 4.1 (cosine
co-occurrence); the directed next-item counts are the first-order Markov chain of Rendle et al., WWW 2010.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from genrec.errors import InputError
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.types import FloatArray, IntArray


class CooccurrenceRanker(DenseRanker):
    """Counts, without training: for each history item, what stood beside it and what came right after it.

    The score of an item is the mean over the history, each item weighted by `decay` to the power of its distance from
    the newest, of its cosine-normalised co-occurrence and its cosine-normalised next-item count.

    Args:
        offsets: int64 [U + 1]; histories as in `Interactions.as_indices`.
        item_indices: int64 [E], oldest first within a user.
        items: N.
        decay: above 0 and at most 1.
        next_weight: weight of the next-item counts beside co-occurrence.
    """

    source = "cooccurrence"

    def __init__(
        self, offsets: IntArray, item_indices: IntArray, items: int, *, decay: float = 0.9, next_weight: float = 1.0
    ) -> None:
        if not 0 < decay <= 1:
            raise InputError(f"decay is {decay}; it lies above 0 and at most at 1")
        users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        ones = np.ones(len(users), dtype=np.float32)
        met = sparse.csr_array((ones, (users, item_indices)), shape=(len(offsets) - 1, items))
        met.data[:] = 1.0
        beside = (met.T @ met).tocsr()
        beside.setdiag(0)
        same_user = users[1:] == users[:-1]
        before, after = item_indices[:-1][same_user], item_indices[1:][same_user]
        steps = sparse.csr_array((ones[: len(before)], (before, after)), shape=(items, items))
        steps.setdiag(0)
        self._links = (_cosine(beside, met.sum(axis=0)) + next_weight * _cosine(steps, met.sum(axis=0))).tocsr()
        self._known = np.diff(self._links.indptr) > 0
        self._decay = decay

    def can_rank(self, request: RankRequest) -> bool:
        """Whether any item of the history was ever met beside another."""
        return bool(self._known[request.history].any())

    def scores(self, requests: Sequence[RankRequest]) -> FloatArray:
        """float64 [U, N]; minus infinity for items never met beside anything in the history."""
        sizes = [len(request.history) for request in requests]
        powers = [self._decay ** np.arange(size)[::-1] for size in sizes]
        weights = np.concatenate([power / power.sum() for power in powers])
        columns = np.concatenate([request.history for request in requests])
        people = sparse.csr_array(
            (weights, (np.repeat(np.arange(len(requests)), sizes), columns)),
            shape=(len(requests), self._links.shape[0]),
        )
        scores: FloatArray = (people @ self._links).toarray()
        scores[scores == 0] = -np.inf
        return scores


def _cosine(counts: sparse.csr_array, totals: FloatArray) -> sparse.csr_array:
    scale = sparse.diags_array(1.0 / np.sqrt(np.maximum(totals, 1.0)))
    return scale @ counts @ scale
