"""Collaborative signals: co-occurrence counts, next-item counts and item vectors.

Sources: Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms", ACM TOIS 22(1), 2004, section 4.1 (cosine
co-occurrence); Rendle et al., "Factorizing Personalized Markov Chains for Next-Basket Recommendation", WWW 2010 (the
first-order Markov chain of next-item counts). Item vectors: Levy and Goldberg, "Neural Word Embedding as Implicit
Matrix Factorization", NeurIPS 2014, section 4.2, with items in place of words as in Barkan and Koenigstein, "Item2Vec",
MLSP 2016.
"""

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import svds

from genrec.errors import InputError
from genrec.index.vector_grid import round_to_grid
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.types import FloatArray, IntArray

_MIN_SINGULAR_VALUE_RATIO = 1e-6  # to the largest singular value; smaller ones are rounding
_MAX_DENSE_ITEMS = 1000  # smaller matrices are often of low rank, where ARPACK goes on from a random vector of its own
_CONTEXT_SMOOTHING = 0.75  # exponent of the count of a neighbour; Levy, Goldberg and Dagan, TACL 2015, section 3.2


class CooccurrenceRanker(DenseRanker):
    """Scores an item by its co-occurrence with the history items and by how often it directly follows them.

    The score is the weighted mean over the history of the cosine-normalised co-occurrence count plus the
    cosine-normalised next-item count. The weight of a history item is `decay` to the power of its distance from the
    newest. Nothing is trained.

    Args:
        offsets: int64 [U + 1]; histories as in `Interactions.to_indices`.
        item_indices: int64 [E], oldest first within a user.
        n_items: N.
        decay: weight of a history item relative to the next newer one, above 0 and at most 1.
        next_weight: weight of the next-item counts.
        cooccurrence_weight: weight of the co-occurrence counts.

    Raises:
        InputError: `decay` is out of range, or both weights are 0.
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
        seen = sparse.csr_array((ones, (users, item_indices)), shape=(len(offsets) - 1, n_items))
        seen.data[:] = 1.0
        together = (seen.T @ seen).tocsr()
        together.setdiag(0)
        same_user = users[1:] == users[:-1]
        before, after = item_indices[:-1][same_user], item_indices[1:][same_user]
        following = sparse.csr_array((ones[: len(before)], (before, after)), shape=(n_items, n_items))
        following.setdiag(0)
        totals = seen.sum(axis=0)
        self._cooccurrence = _cosine_normalize(together, totals).tocsr()
        self._next_item = _cosine_normalize(following, totals).tocsr()
        self._apply_weights(decay, next_weight, cooccurrence_weight)

    def with_weights(
        self, *, decay: float, next_weight: float = 1.0, cooccurrence_weight: float = 1.0
    ) -> "CooccurrenceRanker":
        """A copy with other weights that shares the counts."""
        other = copy.copy(self)
        other._apply_weights(decay, next_weight, cooccurrence_weight)
        return other

    def reindexed(self, new_indices: IntArray, n_items: int) -> "CooccurrenceRanker":
        """A copy for another version of the catalog, without the counts of removed items.

        Args:
            new_indices: int64 [N], the new index of each item, -1 for a removed item.
            n_items: number of items in the other version.
        """
        other = copy.copy(self)
        other._cooccurrence, other._next_item = (
            _reindex_matrix(matrix, new_indices, n_items) for matrix in (self._cooccurrence, self._next_item)
        )
        other._apply_weights(self._decay, self._next_weight, self._cooccurrence_weight)
        return other

    def _apply_weights(self, decay: float, next_weight: float, cooccurrence_weight: float) -> None:
        if not 0 < decay <= 1:
            raise InputError(f"decay is {decay}; pass a number above 0 and at most 1")
        pairs = [(self._cooccurrence, cooccurrence_weight), (self._next_item, next_weight)]
        weighted = [matrix if weight == 1 else weight * matrix for matrix, weight in pairs if weight]
        if not weighted:
            raise InputError("next_weight and cooccurrence_weight are both 0; pass a weight above 0 for one of them")
        self._similarities = weighted[0] if len(weighted) == 1 else (weighted[0] + weighted[1]).tocsr()
        self._known = np.diff(self._similarities.indptr) > 0
        self._decay, self._next_weight, self._cooccurrence_weight = decay, next_weight, cooccurrence_weight

    def can_rank(self, request: RankRequest) -> bool:
        """True if any item of the history co-occurs with another item."""
        return bool(self._known[request.history].any())

    def scores(self, requests: Sequence[RankRequest]) -> FloatArray:
        """float64 [U, N]; minus infinity for items that never co-occur with an item of the history."""
        sizes = [len(request.history) for request in requests]
        powers = [self._decay ** np.arange(size)[::-1] for size in sizes]
        weights = np.concatenate([power / power.sum() for power in powers])
        columns = np.concatenate([request.history for request in requests])
        users = sparse.csr_array(
            (weights, (np.repeat(np.arange(len(requests)), sizes), columns)),
            shape=(len(requests), self._similarities.shape[0]),
        )
        scores: FloatArray = (users @ self._similarities).toarray()
        scores[scores == 0] = -np.inf
        return scores


def _reindex_matrix(matrix: sparse.csr_array, new_indices: IntArray, n_items: int) -> sparse.csr_array:
    if np.array_equal(new_indices, np.arange(len(new_indices))):  # items were only appended, so no copy is needed
        row_offsets = np.append(matrix.indptr, np.full(n_items - len(new_indices), matrix.indptr[-1]))
        return sparse.csr_array((matrix.data, matrix.indices, row_offsets), shape=(n_items, n_items))
    kept = np.argsort(new_indices, kind="stable")[np.count_nonzero(new_indices < 0) :]
    rows = matrix[kept]
    columns = new_indices[rows.indices]
    remaining = columns >= 0
    sizes = np.zeros(n_items + 1, dtype=np.int64)
    sizes[1 + new_indices[kept]] = np.diff(np.concatenate([[0], np.cumsum(remaining)])[rows.indptr])
    return sparse.csr_array((rows.data[remaining], columns[remaining], np.cumsum(sizes)), shape=(n_items, n_items))


def _cosine_normalize(counts: sparse.csr_array, totals: FloatArray) -> sparse.csr_array:
    scale = sparse.diags_array(1.0 / np.sqrt(np.maximum(totals, 1.0)))
    return scale @ counts @ scale


def fit_pmi_vectors(
    offsets: IntArray, item_indices: IntArray, n_items: int, *, dimension: int = 128, window: int | None = 7
) -> NDArray[np.float32]:
    """Item vectors that are similar for items with the same neighbours in histories.

    They are the left singular vectors, times their singular values, of the positive pointwise mutual information of
    items at most `window` steps apart in a history. Pairs d steps apart count 1 / sqrt(d).

    Args:
        offsets: int64 [U + 1]; histories as in `Interactions.to_indices`.
        item_indices: int64 [E], oldest first within a user.
        n_items: N.
        dimension: the greatest D; it is at most N - 1, but at least 1.
        window: greatest distance of neighbours, in steps; None takes all items of a history as neighbours, whatever
            their order, and counts each pair of a user once.

    Returns:
        float32 [N, D], each of length 1, or 0 for an item without neighbours; on the grid of
        `genrec.index.vector_grid`. Items with the same counts have the same vector.
    """
    counts = _neighbour_counts(offsets, item_indices, n_items, window)
    counts.setdiag(0)
    counts.eliminate_zeros()
    vectors = np.zeros((n_items, min(dimension, max(n_items - 1, 1))), dtype=np.float32)
    if not counts.nnz:
        return vectors
    pmi = counts.tocoo()
    totals = counts.sum(axis=0)
    context_totals = totals**_CONTEXT_SMOOTHING
    log_ratios = np.log(pmi.data * context_totals.sum() / (totals[pmi.row] * context_totals[pmi.col]))
    pmi.data = np.maximum(log_ratios, 0.0)
    if n_items > 1:
        left, values = _left_singular_vectors(pmi.tocsr(), vectors.shape[1])
        # Singular vectors of values at rounding level are noise, and items without neighbours have no direction.
        vectors[:] = left * np.where(values > _MIN_SINGULAR_VALUE_RATIO * values.max(), values, 0.0)
        vectors[totals == 0] = 0.0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(lengths > 0, lengths, np.float32(1.0))
    return round_to_grid(vectors, max_norm=1.0)


def _neighbour_counts(offsets: IntArray, item_indices: IntArray, n_items: int, window: int | None) -> sparse.csr_array:
    """Weighted counts of pairs of neighbours, symmetric: float64 [N, N]."""
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    if window is None:
        seen = sparse.csr_array((np.ones(len(users)), (users, item_indices)), shape=(len(offsets) - 1, n_items))
        seen.data[:] = 1.0
        return (seen.T @ seen).tocsr()
    counts = sparse.csr_array((n_items, n_items), dtype=np.float64)
    for step in range(1, window + 1):
        same = users[step:] == users[:-step]
        pair = item_indices[:-step][same], item_indices[step:][same]
        counts = counts + sparse.csr_array((np.full(len(pair[0]), step**-0.5), pair), shape=(n_items, n_items))
    return (counts + counts.T).tocsr()


def _left_singular_vectors(matrix: sparse.csr_array, count: int) -> tuple[FloatArray, FloatArray]:
    """The left singular vectors of the `count` largest singular values, float64 [N, count], and these values; the same
    in every process."""
    size = matrix.shape[0]
    if size <= _MAX_DENSE_ITEMS:
        left, values, _ = np.linalg.svd(matrix.toarray())
        return left[:, :count], values[:count]
    left, values, _ = svds(matrix, k=count, v0=np.random.default_rng(0).standard_normal(size))
    return left, values
