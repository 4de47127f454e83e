"""Equal items score equal, in catalog order, alone and in any batch, with and without compiled kernels."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranker_support import LetterEncoder

from genrec.data.subset import Subset
from genrec.deadline import Deadline
from genrec.index.kernels import numpy as numpy_kernels
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.rankers.collaborative import CooccurrenceRanker, fit_pmi_vectors
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.ensemble import BlendRanker
from genrec.rankers.popularity import PopularityRanker
from genrec.types import Ranking

TITLES = [f"title {number}" for number in range(400)]


@contextmanager
def without_compiled_kernels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genrec.rankers.embedding.select_kernels", lambda: numpy_kernels)
        yield


def rankers(titles: list[str], seed: int) -> dict[str, DenseRanker]:
    """Every dense ranker; items with one title are alike in all signals."""
    random = np.random.default_rng(seed)
    distinct = sorted(set(titles))
    number_of = np.array([distinct.index(title) for title in titles])
    counts = random.integers(0, 4, len(distinct))[number_of]
    embedding = EmbeddingRanker(LetterEncoder().encode(titles), encoder=LetterEncoder())
    items, words = embedding.history_and_words_rankers()
    # Each item is bought once before and once after item 0, alone.
    baskets = [pair for item in range(1, len(titles)) for pair in ((0, item), (item, 0))]
    offsets, bought = np.arange(0, 2 * len(baskets) + 1, 2), np.array(baskets).ravel()
    together = CooccurrenceRanker(offsets, bought, len(titles))
    near = EmbeddingRanker(fit_pmi_vectors(offsets, bought, len(titles), dimension=8))
    popular = PopularityRanker(counts)
    blend = BlendRanker(
        {"items": items, "words": words, "together": together, "near": near, "popular": popular},
        {"items": 1.0, "words": 3.0, "together": 0.3, "near": 0.7, "popular": 0.1},
        non_personalized=["popular"],
    )
    return {"embedding": embedding, "near": near, "together": together, "popular": popular, "blend": blend}


def ranked(ranker: DenseRanker, requests: list[RankRequest], k: int) -> list[Ranking]:
    return ranker.rank(requests, k, deadline=Deadline.never())


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("kernels", [nullcontext, without_compiled_kernels], ids=["compiled", "numpy"])
@pytest.mark.parametrize("name", ["embedding", "near", "together", "popular", "blend"])
def test_equal_items_tie_and_lists_do_not_depend_on_the_batch(name: str, kernels: Any, seed: int) -> None:
    """Five items with one title in another order for each batch size: a list that changes with the load."""
    random = np.random.default_rng(seed)
    titles = random.choice(TITLES[: int(random.integers(2, 60))], int(random.integers(20, 300))).tolist()
    ranker = rankers(titles, seed)[name]
    everything, size = Subset.everything(len(titles)), int(random.integers(1, 40))
    requests = [
        RankRequest(
            random.integers(0, len(titles), int(random.integers(1, 30))), str(random.choice(TITLES)), everything
        )
        for _ in range(size)
    ]
    with kernels():
        together = ranked(ranker, requests, len(titles))
        backwards = ranked(ranker, requests[::-1], len(titles))[::-1]
        alone_each = [ranked(ranker, [request], len(titles))[0] for request in requests]
    for request, own, other, alone in zip(requests, together, backwards, alone_each, strict=True):
        for ranking in (own, other):
            assert ranking.item_indices.tolist() == alone.item_indices.tolist()
            assert ranking.scores.tolist() == alone.scores.tolist()
            assert ranking.main_signals == alone.main_signals
        by_title: dict[str, list[tuple[int, float]]] = {}
        for item, score in zip(alone.item_indices.tolist(), alone.scores.tolist(), strict=True):
            if item:  # item 0 is bought with all others
                by_title.setdefault(titles[item], []).append((item, score))
        for alike in by_title.values():
            if name != "embedding" and any(item in request.history for item, _ in alike):
                continue  # a history item is not bought with itself, but with its twins
            assert [item for item, _ in alike] == sorted(item for item, _ in alike)
            assert len({score for _, score in alike}) == 1


def test_lists_are_the_same_without_compiled_kernels() -> None:
    """A list must not depend on the packages that are installed."""
    random = np.random.default_rng(3)
    vectors = random.standard_normal((3000, 96)).astype(np.float32)
    vectors[1500:] = vectors[:1500]
    ranker = EmbeddingRanker(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    requests = [RankRequest(np.array([start]), "", Subset.everything(3000)) for start in range(20)]
    compiled = ranker.scores(requests[:5])
    with without_compiled_kernels():
        assert np.array_equal(ranker.scores(requests[:5]), compiled)
    assert np.array_equal(ranker.scores(requests)[:5], compiled)
    assert np.array_equal(compiled[:, 1500:], compiled[:, :1500])


def test_items_with_the_same_neighbours_have_the_same_vector() -> None:
    """Singular vectors of equal rows differ by rounding, which would decide between items that nothing tells apart."""
    histories = [[0, 2, 3], [1, 2, 3], [4, 5, 6], [7, 2, 3], [5, 6, 3]] * 4
    offsets = np.cumsum([0, *map(len, histories)])
    vectors = fit_pmi_vectors(offsets, np.concatenate([np.array(one) for one in histories]), 9)
    assert vectors[0].tolist() == vectors[1].tolist() == vectors[7].tolist()
    assert vectors[0].any()
