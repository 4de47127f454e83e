"""Quantised vectors: errors are within their bounds, and rankings stay exact."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genrec.data.subset import Boost, Mask, Subset
from genrec.deadline import Deadline
from genrec.errors import InputError
from genrec.index.kernels import int8 as int8_kernels
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.quantized_vectors import QuantizedVectors
from genrec.types import Ranking

N = 20_000
EVERYTHING = Subset.everything(N)
Vectors = NDArray[np.float32]


def drawn(seed: int, count: int, width: int) -> Vectors:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def normal(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def with_an_outlier(vectors: Vectors) -> Vectors:
    vectors[7, 0] = 1e4
    return vectors


def with_twins(vectors: Vectors) -> Vectors:
    vectors[len(vectors) // 2 :] = vectors[: len(vectors) - len(vectors) // 2]
    return vectors


def with_gaps(vectors: Vectors) -> Vectors:
    vectors[::3] = 0
    return vectors


KINDS = {
    "normal": lambda vectors: vectors,
    "coarse, with many ties": np.rint,
    "close to each other": lambda vectors: vectors * np.float32(0.01) + 1,
    "one outlier": with_an_outlier,
    "twins": with_twins,
    "some are unknown": with_gaps,
}


def quantized_ranker(vectors: Vectors) -> EmbeddingRanker:
    found = EmbeddingRanker(normal(vectors))
    found.enable_quantization()
    return found


@pytest.fixture(scope="module", params=KINDS)
def ranker(request: pytest.FixtureRequest) -> EmbeddingRanker:
    return quantized_ranker(KINDS[request.param](drawn(0, N, 40)))


def filters(seed: int) -> list[Subset]:
    """Subsets of many kinds and sizes."""
    random = np.random.default_rng(seed)
    half, few, none = (Subset.from_mask(Mask.from_bool(random.random(N) < share)) for share in (0.5, 0.001, 0.0))
    some = random.integers(0, N, 3_000)
    return [EVERYTHING, EVERYTHING.without(some), half, half.without(some), few, none, Subset.from_indices(N, some)]


def ranked(ranker: EmbeddingRanker, request: RankRequest, k: int = 10) -> list[Ranking]:
    return ranker.rank([request], k, deadline=Deadline.never())


def ranked_exactly(ranker: EmbeddingRanker, request: RankRequest, k: int = 10) -> list[Ranking]:
    """Ranks without quantisation."""
    return DenseRanker.rank(ranker, [request], k, deadline=Deadline.never())


def assert_equal_rankings(found: list[Ranking], expected: list[Ranking]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.item_indices.tolist() == other.item_indices.tolist()
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-6)
        assert one.proven


@pytest.mark.parametrize("k", [1, 10, 300])
def test_quantized_ranking_equals_exact_ranking(ranker: EmbeddingRanker, k: int) -> None:
    """Lists must be exact with ties, filters, unknown users, and vectors that quantise badly."""
    histories = [*np.random.default_rng(k).integers(0, N, (6, 5)), np.empty(0, dtype=np.int64)]
    requests = [RankRequest(history, "", allowed) for history, allowed in zip(histories, filters(k), strict=True)]
    expected = [ranked_exactly(ranker, one, k)[0] for one in requests]
    assert_equal_rankings(ranker.rank(requests, k, deadline=Deadline.never()), expected)


def test_ranking_does_not_depend_on_the_batch(ranker: EmbeddingRanker) -> None:
    """A list must not change with the load."""
    requests = [RankRequest(np.arange(start, start + 4), "", EVERYTHING) for start in range(9)]
    together = ranker.rank(requests, 10, deadline=Deadline.never())
    for request, beside in zip(requests, together, strict=True):
        (alone,) = ranked(ranker, request)
        assert alone.item_indices.tolist() == beside.item_indices.tolist()
        assert alone.scores.tolist() == beside.scores.tolist()


def test_few_items_are_rescored_exactly() -> None:
    """Otherwise quantisation costs more than it saves; the ranking reports how many items were scored."""
    ranker = quantized_ranker(drawn(1, N, 384))
    (found,) = ranked(ranker, RankRequest(np.arange(5), "", EVERYTHING))
    assert 10 <= found.num_scored < N // 100


def test_boosts_are_added_to_exact_scores() -> None:
    """A boosted item may score below every item that the first pass keeps."""
    ranker = quantized_ranker(drawn(2, N, 40))
    request = RankRequest(np.arange(5), "", EVERYTHING, Boost.from_pairs([(19_999, 2.0), (3, -2.0)]))
    found = ranked(ranker, request)
    assert found[0].item_indices[0] == 19_999
    assert_equal_rankings(found, ranked_exactly(ranker, request))


def test_reindexed_items_are_quantized_again() -> None:
    """Quantised vectors of moved items would stand for other items."""
    ranker = quantized_ranker(drawn(3, N, 40))
    request = RankRequest(np.arange(5), "", EVERYTHING)
    ranked(ranker, request)
    turned = ranker.reindexed(np.arange(N)[::-1].copy(), [])
    found = ranked(turned, request)
    assert found[0].num_scored < N // 100
    assert_equal_rankings(found, ranked_exactly(turned, request))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 200),
    kind=st.sampled_from(sorted(KINDS)),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_quantization_error_is_within_its_bound(seed: int, width: int, kind: str, scale: float) -> None:
    """A wrong bound loses an item that belongs in a list."""
    vectors = KINDS[kind](drawn(seed, 60, width)) * np.float32(scale)
    users = drawn(seed + 1, 5, width)
    users[0] = 0
    quantized = QuantizedVectors.from_vectors(vectors)
    assert quantized is not None
    products, error = quantized.approximate_products(users)
    off = np.abs(products - users.astype(np.float64) @ vectors.astype(np.float64).T).max(axis=1)
    assert (off <= error).all()


@pytest.mark.parametrize("kind", ["loop", "instruction"])
def test_scalar_and_simd_kernels_agree(kind: str) -> None:
    """Machines run one or the other, and the largest possible sum must not overflow."""
    if kind == "instruction" and not int8_kernels._has_vnni():
        pytest.skip("this processor, or its LLVM, has no such instruction")
    inner = int8_kernels._dot_scalar if kind == "loop" else int8_kernels._dot_vnni
    added = numba.njit(lambda item, user: inner(item, user))
    random = np.random.default_rng(4)
    for width in (64, 384, int8_kernels.MAX_WIDTH):
        item = random.integers(0, 256, width).astype(np.uint8)
        user = random.integers(-127, 128, width).astype(int8_kernels._USER_DTYPE)
        for items, users in ((item, user), (item | 255, user * 0 + 127), (item | 255, user * 0 - 127)):
            assert added(items, users) == int(items.astype(np.int64) @ users.astype(np.int64))


def test_requests_over_another_catalog_are_rejected(ranker: EmbeddingRanker) -> None:
    """Compiled kernels do not check bounds: they would list forbidden items and read foreign memory."""
    for universe in (100, N + 1):
        with pytest.raises(InputError, match=f"of {universe:,} items, but there are 20,000 vectors"):
            ranked(ranker, RankRequest(np.arange(5), "", Subset.everything(universe)))


@pytest.mark.parametrize("setting", [{"NUMBA_ENABLE_AVX": "0"}, {"NUMBA_CPU_NAME": "generic"}])
def test_ranking_works_without_vector_instructions(setting: dict[str, str]) -> None:
    """An instruction that numba may not use ends the process."""
    code = "from test_quantized_vectors import *; "
    code += "ranked(quantized_ranker(drawn(0, N, 40)), RankRequest(np.arange(5), '', EVERYTHING))"
    environment = {
        **os.environ,
        **setting,
        "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{Path(__file__).parents[1] / 'support'}",
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parents[2])


def test_invalid_k_is_rejected(ranker: EmbeddingRanker) -> None:
    """A comparison with the number of items before the check would raise an error without a remedy."""
    for k in ("3", 0, True):
        with pytest.raises(InputError, match=f"k is {k!r}"):
            ranked(ranker, RankRequest(np.arange(5), "", EVERYTHING), k)  # type: ignore[arg-type]
