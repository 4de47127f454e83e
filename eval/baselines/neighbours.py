"""Item neighbourhoods and matrix factorisation of the library implicit, with its defaults, not tuned.

Sources: Sarwar et al., "Item-Based Collaborative Filtering Recommendation Algorithms", WWW 2001 (neighbours, cosine);
Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008 (alternating least squares).
"""

from collections.abc import Sequence
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
from implicit.utils import ParameterWarning
from scipy import sparse

from genrec.errors import check_count
from genrec.rankers import DenseRanker, DenseScores, RankRequest
from genrec.types import IntArray


class ItemKnn(DenseRanker):
    """Scores an item by the sum of its similarities to the items of a history.

    Args:
        offsets: int64 [U + 1]; histories as in `Interactions.to_indices`.
        item_indices: int64 [E].
        item_count: N.
        neighbours: number of neighbours per item.
    """

    source = "itemknn"

    def __init__(self, offsets: IntArray, item_indices: IntArray, item_count: int, *, neighbours: int = 20) -> None:
        check_count("neighbours", neighbours)
        model = CosineRecommender(K=neighbours + 1)  # each item is its own nearest neighbour
        with catch_warnings():
            simplefilter("ignore", ParameterWarning)  # about a conversion that the library makes itself
            model.fit(_interaction_matrix(np.split(item_indices, offsets[1:-1]), item_count), show_progress=False)
        links = sparse.csr_array(model.similarity)
        links.setdiag(0)
        self._similarities = links

    def can_rank(self, request: RankRequest) -> bool:
        """Whether the history has items."""
        return len(request.history) > 0

    def scores(self, requests: Sequence[RankRequest]) -> DenseScores:
        """float64 [U, N]; minus infinity for items that are not neighbours of the history."""
        histories = [request.history for request in requests]
        scores = (
            (sparse.csr_array(_interaction_matrix(histories, self._similarities.shape[0])) @ self._similarities)
            .toarray()
            .astype(np.float64)
        )
        scores[scores == 0] = -np.inf
        found: DenseScores = scores
        return found


class Als(DenseRanker):
    """Scores an item by the inner product of its factors and the user factors computed from the history.

    Args:
        offsets, item_indices, item_count: as for `ItemKnn`.
        factors: D.
        iterations: passes over the histories.
        regularization, alpha: parameters of the loss, see the source.
        seed: seed of the initial factors.
    """

    source = "als"

    def __init__(
        self,
        offsets: IntArray,
        item_indices: IntArray,
        item_count: int,
        *,
        factors: int = 100,
        iterations: int = 15,
        regularization: float = 0.01,
        alpha: float = 1.0,
        seed: int = 0,
    ) -> None:
        check_count("factors", factors)
        check_count("iterations", iterations)
        self._model: Any = AlternatingLeastSquares(
            factors=factors, iterations=iterations, regularization=regularization, alpha=alpha, random_state=seed
        )
        self._model.fit(_interaction_matrix(np.split(item_indices, offsets[1:-1]), item_count), show_progress=False)
        self._items = item_count

    def can_rank(self, request: RankRequest) -> bool:
        """Whether the history has items."""
        return len(request.history) > 0

    def scores(self, requests: Sequence[RankRequest]) -> DenseScores:
        """float32 [U, N]."""
        interactions = _interaction_matrix([request.history for request in requests], self._items)
        factors = self._model.recalculate_user(np.arange(len(requests)), interactions)
        scores: DenseScores = np.atleast_2d(factors) @ self._model.item_factors.T
        return scores


def _interaction_matrix(histories: Sequence[IntArray], item_count: int) -> sparse.csr_matrix:
    """float32 [U, N], 1 where a history contains an item; the library requires the older sparse matrix type."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    columns = np.concatenate([np.empty(0, dtype=np.int64), *histories])
    matrix = sparse.csr_matrix(
        (np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(len(histories), item_count)
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix
