"""The embedding ranker."""

import numpy as np
import pytest
from ranker_support import EVERYTHING, TITLES, DenseRankerContract, LetterEncoder, embedding, history

from genrec.deadline import Deadline
from genrec.errors import InputError
from genrec.index.kernels import numba as numba_kernels
from genrec.index.kernels import numpy as numpy_kernels
from genrec.rankers.base import Ranker, RankRequest
from genrec.rankers.embedding import EmbeddingRanker


class TestEmbeddingRanker(DenseRankerContract):
    subject = "EmbeddingRanker"
    atol = 1e-6

    @pytest.fixture
    def ranker(self) -> Ranker:
        return embedding()

    def test_query_alone_finds_matching_items(self, ranker: Ranker) -> None:
        """A new user who enters a query must not get popular items instead."""
        (ranking,) = ranker.rank([RankRequest(history(), TITLES[11], EVERYTHING)], 1, deadline=Deadline.never())
        assert ranking.item_indices.tolist() == [11]
        assert not ranker.can_rank(RankRequest(history(), " \n", EVERYTHING))
        silent = EmbeddingRanker(LetterEncoder().encode(TITLES))
        assert not silent.can_rank(RankRequest(history(), "words", EVERYTHING))

    def test_invalid_vectors_are_rejected(self) -> None:
        """One NaN would spread to every score."""
        for vectors in (np.zeros(3), np.full((2, 2), np.nan)):
            with pytest.raises(InputError, match="vectors must be finite and of shape"):
                EmbeddingRanker(vectors.astype(np.float32))
        with pytest.raises(InputError, match="decay is 0"):
            EmbeddingRanker(np.ones((1, 1), dtype=np.float32), decay=0)

    @pytest.mark.parametrize("n_users", [1, 3, 4, 7, 16, 17])
    def test_numpy_and_numba_kernels_agree(self, n_users: int) -> None:
        """Scores must not depend on installed packages or on the batch size."""
        random = np.random.default_rng(n_users)
        vectors = random.standard_normal((2500, 19), dtype=np.float32)
        users = random.standard_normal((n_users, 19), dtype=np.float32)
        for kernels in (numpy_kernels, numba_kernels):
            found = np.full((n_users, 2500), np.nan, dtype=np.float32)
            kernels.inner_products(vectors, users, found)
            np.testing.assert_allclose(found, users.astype(np.float64) @ vectors.T.astype(np.float64), atol=1e-5)
