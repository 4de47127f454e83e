"""Laws of vectors on a grid: inner products are exact, so nothing but the two vectors decides them."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genrec.index.kernels import numba as numba_kernels
from genrec.index.kernels import numpy as numpy_kernels
from genrec.index.semantic_ids import _nearest_centroids
from genrec.index.vector_grid import round_to_grid


def unit_vectors(seed: int, count: int, width: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.sampled_from([1e-3, 1.0, 300.0]))
def test_sums_of_products_are_exact_in_any_order(seed: int, width: int, scale: float) -> None:
    """An inexact sum depends on its order, and so on the batch, the threads and the processor."""
    one, other = round_to_grid(unit_vectors(seed, 2, width) * np.float32(scale)).astype(np.float64)
    exact = sum(Fraction(a) * Fraction(b) for a, b in zip(one, other, strict=True))
    order = np.random.default_rng(seed).permutation(width)
    for products in (one * other, (one * other)[::-1], (one * other)[order]):
        assert np.add.accumulate(products)[-1] == exact
    assert one @ other == exact


@pytest.mark.parametrize("scale", [1.0, 1e-3, 300.0])
def test_rounding_to_the_grid_loses_nearly_nothing(scale: float) -> None:
    """A coarse grid would reorder lists."""
    vectors = unit_vectors(1, 5000, 384) * np.float32(scale)
    before, rounded = vectors.copy(), round_to_grid(vectors)
    assert np.abs(rounded - vectors).max() <= scale * 2.0**-26
    assert np.array_equal(vectors, before)
    assert round_to_grid(rounded) is rounded
    assert round_to_grid(np.zeros((3, 2), dtype=np.float32)).tolist() == [[0.0, 0.0]] * 3
    assert round_to_grid(np.zeros((0, 2), dtype=np.float32)).shape == (0, 2)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 130), st.integers(1, 40), st.integers(1, 2200))
def test_a_product_does_not_depend_on_its_place_or_on_the_kernel(
    seed: int, width: int, n_users: int, n_items: int
) -> None:
    """Matrix products use other kernels for the last rows and for few columns, which add up in another order."""
    vectors, users = (
        round_to_grid(unit_vectors(seed + one, size, width)) for one, size in ((0, n_items), (1, n_users))
    )
    vectors[n_items // 2 :] = vectors[0]
    expected = np.empty((n_users, n_items), dtype=np.float32)
    numpy_kernels.inner_products(vectors, users.astype(np.float64), expected)
    assert (expected[:, n_items // 2 :] == expected[:, :1]).all()
    for kernels in (numpy_kernels, numba_kernels):
        for batch in (slice(None), slice(0, 1), slice(n_users // 2, n_users), slice(n_users - 1, n_users)):
            found = np.empty((len(users[batch]), n_items), dtype=np.float32)
            kernels.inner_products(vectors, users[batch].astype(np.float64), found)
            assert np.array_equal(found, expected[batch])


def test_equal_vectors_are_nearest_to_the_same_centre() -> None:
    """An item would be written in other tokens in a catalog of another size, and items with one title in different
    ones."""
    for seed in range(30):
        centres = unit_vectors(seed, 9, 64)
        between = (centres[0] + centres[1]) / 2  # as near to both, up to rounding
        found = _nearest_centroids(np.tile(between, (1027, 1)), centres)
        assert (found == _nearest_centroids(between[None], centres)[0]).all()
