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

MAX_CONTEXTS = 20_000  # items whose neighbourhoods are decomposed

_MIN_SINGULAR_VALUE_RATIO = 1e-6  # to the largest singular value; smaller ones are rounding
_PROJECTED_ROWS = 4096  # rows projected at once
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
        # Numbers of 32 bits halve the memory of the pairs; SciPy widens them where there are too many.
        users = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
        item_indices = item_indices.astype(np.int32)
        ones = np.ones(len(users), dtype=np.float32)
        seen = sparse.csr_array((ones, (users, item_indices)), shape=(len(offsets) - 1, n_items))
        seen.data[:] = 1.0
        same_user = users[1:] == users[:-1]
        before, after = item_indices[:-1][same_user], item_indices[1:][same_user]
        following = sparse.csr_array((ones[: len(before)], (before, after)), shape=(n_items, n_items))
        totals = seen.sum(axis=0)
        # The product is symmetric, so its columns, which SciPy computes, are its rows.
        self._cooccurrence = _cosine_normalize((seen.T @ seen).tocsc().T, totals)
        self._next_item = _cosine_normalize(following, totals)
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
        scores = np.empty((len(requests), self._similarities.shape[0]))
        for row, request in enumerate(requests):
            scores[row] = self._scores_after(request.history)
        return scores

    def _scores_after(self, history: IntArray) -> FloatArray:
        """float64 [N], minus infinity for items that never co-occur with an item of the history.

        Only the rows of the history are read: a product of sparse matrices would copy the whole matrix.
        """
        powers = self._decay ** np.arange(len(history))[::-1]
        items, position = np.unique(history, return_inverse=True)
        weights = np.bincount(position, powers / powers.sum())
        scores: FloatArray = self._similarities[items].T @ weights
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
    """Counts of item pairs divided by the roots of both totals, without those of an item and itself: float32 [N, N].

    In place where possible, because there are tens of millions of pairs in a log of a million events.
    """
    scale = 1.0 / np.sqrt(np.maximum(totals, 1.0))
    rows = np.repeat(np.arange(len(totals), dtype=counts.indices.dtype), np.diff(counts.indptr))
    others = rows != counts.indices
    rows, columns = rows[others], counts.indices[others]
    values = scale[rows]
    values *= counts.data[others]
    values *= scale[columns]
    row_offsets = np.append(0, np.cumsum(np.bincount(rows, minlength=len(totals))))
    return sparse.csr_array((values, columns, row_offsets.astype(columns.dtype)), shape=counts.shape)


def fit_pmi_vectors(
    offsets: IntArray,
    item_indices: IntArray,
    n_items: int,
    *,
    dimension: int = 128,
    window: int | None = 7,
    max_contexts: int = MAX_CONTEXTS,
) -> NDArray[np.float32]:
    """Item vectors that are similar for items with the same neighbours in histories.

    They are the left singular vectors, times their singular values, of the positive pointwise mutual information of
    items at most `window` steps apart in a history. Pairs d steps apart count 1 / sqrt(d).

    In a larger catalog they are computed for the `max_contexts` most frequent items, and the other items are projected
    into their space, because the time of the decomposition grows with the items, and rare neighbours tell little.

    Args:
        offsets: int64 [U + 1]; histories as in `Interactions.to_indices`.
        item_indices: int64 [E], oldest first within a user.
        n_items: N.
        dimension: the greatest D; it is less than N and `max_contexts`, but at least 1.
        window: greatest distance of neighbours, in steps; None takes all items of a history as neighbours, whatever
            their order, and counts each pair of a user once.
        max_contexts: number of items whose neighbourhoods are decomposed, and which count as neighbours.

    Returns:
        float32 [N, D], each of length 1, or 0 for an item without neighbours; on the grid of
        `genrec.index.vector_grid`. Items with the same counts have the same vector.
    """
    counts = _neighbour_counts(offsets, item_indices, n_items, window)
    counts.setdiag(0)
    counts.eliminate_zeros()
    dimension = min(dimension, max(min(n_items, max_contexts) - 1, 1))
    vectors = np.zeros((n_items, dimension), dtype=np.float32)
    if n_items > 1 and counts.nnz:
        totals = counts.sum(axis=0)
        frequent = np.sort(np.argsort(-totals, kind="stable")[:max_contexts])
        _factorize(_positive_pmi(counts, totals, frequent), frequent, vectors)
        vectors[totals == 0] = 0.0  # items without neighbours have no direction
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(lengths > 0, lengths, np.float32(1.0))
    return round_to_grid(vectors, max_norm=1.0)


def _neighbour_counts(offsets: IntArray, item_indices: IntArray, n_items: int, window: int | None) -> sparse.csr_array:
    """Weighted counts of pairs of neighbours, symmetric: float64 [N, N]."""
    users = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
    item_indices = item_indices.astype(np.int32)
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


def _positive_pmi(counts: sparse.csr_array, totals: FloatArray, contexts: IntArray) -> sparse.csr_array:
    """The positive pointwise mutual information of N items and the C `contexts`: float64 [N, C]."""
    context_totals = totals**_CONTEXT_SMOOTHING
    pmi = (counts if len(contexts) == len(totals) else counts[:, contexts]).tocoo()
    expected = totals[pmi.row] * context_totals[contexts][pmi.col]
    pmi.data = np.maximum(np.log(pmi.data * context_totals.sum() / expected), 0.0)
    return pmi.tocsr()


def _factorize(pmi: sparse.csr_array, contexts: IntArray, vectors: NDArray[np.float32]) -> None:
    """Write the left singular vectors, times their singular values, of the rows `contexts` of `pmi` into these rows of
    `vectors`, float32 [N, D], and project the other rows on the right singular vectors.

    Both are the same formula: of a matrix M with the right singular vectors V, the left ones times their values are MV.
    """
    if len(contexts) == len(vectors):
        left, values, _ = _singular_vectors(pmi, vectors.shape[1])
        vectors[:] = left * _without_noise(values)
        return
    _, values, right = _singular_vectors(pmi[contexts], vectors.shape[1])
    right[:, _without_noise(values) == 0] = 0.0
    for start in range(0, len(vectors), _PROJECTED_ROWS):
        block = slice(start, start + _PROJECTED_ROWS)
        vectors[block] = pmi[block] @ right


def _without_noise(values: FloatArray) -> FloatArray:
    """Singular values, with 0 for those at rounding level, whose singular vectors are noise."""
    return np.where(values > _MIN_SINGULAR_VALUE_RATIO * values.max(), values, 0.0)


def _singular_vectors(matrix: sparse.csr_array, count: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The `count` largest singular values [count], with their left and their right singular vectors, float64
    [rows, count] and [columns, count], as (left, values, right); the same in every process."""
    size = matrix.shape[0]
    if size <= _MAX_DENSE_ITEMS:
        left, values, right = np.linalg.svd(matrix.toarray())
        return left[:, :count], values[:count], right[:count].T
    left, values, right = svds(matrix, k=count, v0=np.random.default_rng(0).standard_normal(size))
    return left, values, np.ascontiguousarray(right.T)
