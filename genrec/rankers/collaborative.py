"""Items that people who chose the same things chose with them, or next; counted, or as vectors.

Sources: Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms", ACM TOIS 22(1), 2004, section 4.1 (cosine
co-occurrence); the directed next-item counts are the first-order Markov chain of Rendle et al., WWW 2010. Vectors:
Levy and Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", NeurIPS 2014, section 4.2, with items for
words as in Barkan and Koenigstein, "Item2Vec", MLSP 2016.
"""

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import svds

from genrec.errors import InputError
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.types import FloatArray, IntArray

_MIN_SINGULAR_VALUE_RATIO = 1e-6  # of the largest singular value
_CONTEXT_SMOOTHING = 0.75  # power of an item's count as a neighbour; Levy, Goldberg and Dagan, TACL 2015, section 3.2


class CooccurrenceRanker(DenseRanker):
    """Counts, without training: for each history item, what stood beside it and what came right after it.

    The score of an item is the mean over the history, each item weighted by `decay` to the power of its distance from
    the newest, of its cosine-normalised co-occurrence and its cosine-normalised next-item count.

    Args:
        offsets: int64 [U + 1]; histories as in `Interactions.to_indices`.
        item_indices: int64 [E], oldest first within a user.
        n_items: N.
        decay: above 0 and at most 1.
        next_weight: weight of the next-item counts beside co-occurrence.
        cooccurrence_weight: weight of co-occurrence.
    """

    source = "cooccurrence"

    def __init__(
        self,
        offsets: IntArray,
        item_indices: IntArray,
        n_items: int,
        *,
        decay: float = 0.9,
        next_weight: float = 1.0,
        cooccurrence_weight: float = 1.0,
    ) -> None:
        users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        ones = np.ones(len(users), dtype=np.float32)
        met = sparse.csr_array((ones, (users, item_indices)), shape=(len(offsets) - 1, n_items))
        met.data[:] = 1.0
        beside = (met.T @ met).tocsr()
        beside.setdiag(0)
        same_user = users[1:] == users[:-1]
        before, after = item_indices[:-1][same_user], item_indices[1:][same_user]
        steps = sparse.csr_array((ones[: len(before)], (before, after)), shape=(n_items, n_items))
        steps.setdiag(0)
        totals = met.sum(axis=0)
        self._cooccurrence, self._next_item = (
            _cosine_normalize(beside, totals).tocsr(),
            _cosine_normalize(steps, totals).tocsr(),
        )
        self._apply_weights(decay, next_weight, cooccurrence_weight)

    def with_weights(
        self, *, decay: float, next_weight: float = 1.0, cooccurrence_weight: float = 1.0
    ) -> "CooccurrenceRanker":
        """The same counts, weighed otherwise; nothing is counted again."""
        other = copy.copy(self)
        other._apply_weights(decay, next_weight, cooccurrence_weight)
        return other

    def reindexed(self, new_indices: IntArray, n_items: int) -> "CooccurrenceRanker":
        """The same counts over another numbering of the items, without those of items that are gone.

        Args:
            new_indices: int64 [N], the new number of each item, -1 for one that is gone.
            n_items: how many there are now.
        """
        other = copy.copy(self)
        other._cooccurrence, other._next_item = (
            _reindex_matrix(links, new_indices, n_items) for links in (self._cooccurrence, self._next_item)
        )
        other._apply_weights(self._decay, self._next_weight, self._cooccurrence_weight)
        return other

    def _apply_weights(self, decay: float, next_weight: float, cooccurrence_weight: float) -> None:
        if not 0 < decay <= 1:
            raise InputError(f"decay is {decay}; it lies above 0 and at most at 1")
        pairs = [(self._cooccurrence, cooccurrence_weight), (self._next_item, next_weight)]
        weighed = [links if weight == 1 else weight * links for links, weight in pairs if weight]
        if not weighed:
            raise InputError("next_weight and beside_weight are both 0; give one of them some weight")
        self._similarities = weighed[0] if len(weighed) == 1 else (weighed[0] + weighed[1]).tocsr()
        self._known = np.diff(self._similarities.indptr) > 0
        self._decay, self._next_weight, self._cooccurrence_weight = decay, next_weight, cooccurrence_weight

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
            shape=(len(requests), self._similarities.shape[0]),
        )
        scores: FloatArray = (people @ self._similarities).toarray()
        scores[scores == 0] = -np.inf
        return scores


def _reindex_matrix(matrix: sparse.csr_array, new_indices: IntArray, n_items: int) -> sparse.csr_array:
    if np.array_equal(
        new_indices, np.arange(len(new_indices))
    ):  # others may have come behind them, and nothing is copied
        bounds = np.append(matrix.indptr, np.full(n_items - len(new_indices), matrix.indptr[-1]))
        return sparse.csr_array((matrix.data, matrix.indices, bounds), shape=(n_items, n_items))
    kept = np.argsort(new_indices, kind="stable")[np.count_nonzero(new_indices < 0) :]
    rows = matrix[kept]
    columns = new_indices[rows.indices]
    there = columns >= 0
    sizes = np.zeros(n_items + 1, dtype=np.int64)
    sizes[1 + new_indices[kept]] = np.diff(np.concatenate([[0], np.cumsum(there)])[rows.indptr])
    return sparse.csr_array((rows.data[there], columns[there], np.cumsum(sizes)), shape=(n_items, n_items))


def _cosine_normalize(counts: sparse.csr_array, totals: FloatArray) -> sparse.csr_array:
    scale = sparse.diags_array(1.0 / np.sqrt(np.maximum(totals, 1.0)))
    return scale @ counts @ scale


def fit_pmi_vectors(
    offsets: IntArray, item_indices: IntArray, n_items: int, *, dimension: int = 128, window: int = 7
) -> NDArray[np.float32]:
    """A vector for each item, near those of items that stood near the same others: float32 [N, D], each of length 1.

    The left singular vectors, times their singular values, of the positive pointwise mutual information of items that
    stand at most `window` steps apart in a history, pairs d steps apart counted as 1 / sqrt(d). The same counts give
    the same cosines, but for rounding.

    Args:
        offsets: int64 [U + 1]; histories as in `Interactions.to_indices`.
        item_indices: int64 [E], oldest first within a user.
        n_items: N.
        dimension: D; fewer where there are not so many items. A vector of an item that stood near no other is 0.
        window: steps.
    """
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    met = sparse.csr_array((n_items, n_items), dtype=np.float64)
    for step in range(1, window + 1):
        same = users[step:] == users[:-step]
        pair = item_indices[:-step][same], item_indices[step:][same]
        met = met + sparse.csr_array((np.full(len(pair[0]), step**-0.5), pair), shape=(n_items, n_items))
    met = (met + met.T).tocsr()
    met.setdiag(0)
    met.eliminate_zeros()
    vectors = np.zeros((n_items, min(dimension, max(n_items - 1, 1))), dtype=np.float32)
    if not met.nnz:
        return vectors
    found = met.tocoo()
    totals = met.sum(axis=0)
    around = totals**_CONTEXT_SMOOTHING
    information = np.log(found.data * around.sum() / (totals[found.row] * around[found.col]))
    found.data = np.maximum(information, 0.0)
    if n_items > 1:
        start = np.random.default_rng(0).standard_normal(n_items)
        left, values, _ = svds(found.tocsr(), k=vectors.shape[1], v0=start)
        # Of values that are rounding alone the directions mean nothing, and items that met none have no direction.
        vectors[:] = left * np.where(values > _MIN_SINGULAR_VALUE_RATIO * values.max(), values, 0.0)
        vectors[totals == 0] = 0.0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(lengths > 0, lengths, np.float32(1.0))
    return vectors
