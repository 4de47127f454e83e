"""Ids: each one is found at its index, by its text or its number."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.ids import Ids
from genrec.errors import InputError


@given(st.lists(st.one_of(st.text(min_size=1), st.integers(-(2**63), 2**63 - 1).map(str)), unique=True, min_size=1))
def test_every_id_is_found_at_its_index(texts: list[str]) -> None:
    """Otherwise a history refers to other items."""
    texts = [text for text in texts if text.encode(errors="ignore").decode() == text] or ["a"]
    ids = Ids(pa.array(texts, pa.large_string()))
    assert [ids.position(text) for text in texts] == list(range(len(texts)))
    many = texts * (1 + 64 // len(texts))
    assert ids.positions(many).tolist() == [texts.index(text) for text in many]
    assert list(ids) == texts
    assert ids.position("\ud800") == ids.position(None) == ids.position(1.5) == -1


def test_whole_number_ids_are_found_by_text_and_by_number() -> None:
    """Otherwise ids from a URL, which are text, miss a catalog whose ids are numbers."""
    ids = Ids(pa.array([85123, -1, 0]))
    assert ids.position(85123) == ids.position("85123") == ids.position(np.int32(85123)) == 0
    assert ids.position("085123") == ids.position(True) == ids.position(85123.5) == -1
    assert ids[1] == -1
    assert list(ids[:2]) == [85123, -1]
    with pytest.raises(InputError, match="expected several ids"):
        ids.positions("85123")


@pytest.mark.parametrize("values", [[1, 2, 2**53], ["1", "2", str(2**53)]])
def test_an_id_that_became_a_float_is_the_same_id(values: list[int | str]) -> None:
    """A gap in a column makes 1.0 of 1 in pandas and "1.0" in its CSV files: it is user 1 everywhere, or nowhere."""
    ids = Ids(pa.array(values, pa.large_string() if isinstance(values[0], str) else pa.int64()))
    assert ids.positions([1.0, np.float64(2), float(2**53), "1.0", "2.0"]).tolist() == [0, 1, 2, 0, 1]
    unknown = [1.5, "1.50", "01.0", "1.00", float("nan"), float("inf"), float(2**60), 10**5000, None]
    assert ids.positions(unknown).tolist() == [-1] * len(unknown)
    assert Ids(pa.array(["1.0", "1"], pa.large_string())).positions(["1.0", "1", 1.0]).tolist() == [0, 1, 1]


def test_ids_with_equal_hashes_are_distinguished() -> None:
    """Ids are untrusted: ids chosen to have equal hashes must not be confused."""
    word = "a"
    for _ in range(11):  # Thue-Morse words: every polynomial hash modulo 2**64 of a word and its complement is equal
        word += word.translate(str.maketrans("ab", "ba"))
    other = word.translate(str.maketrans("ab", "ba"))
    ids = Ids(pa.array(["x", other, "y", word], pa.large_string()))
    assert ids.positions([word, other, word, "x"]).tolist() == [3, 1, 3, 0]
    assert Ids(pa.array([word], pa.large_string())).position(other) == -1


def test_a_slice_of_a_column_has_its_own_indices() -> None:
    """Arrow slices columns without copying, so indices could be counted from the start of the whole column."""
    column = pa.array([f"item {number}" for number in range(200_000)], pa.large_string())
    ids = Ids(column.slice(1000, 150_000))
    asked = ["item 1000", "item 150999", "item 999", "item 151000", "item 99999"]
    assert ids.positions(asked).tolist() == [0, 149_999, -1, -1, 98_999]
    assert ids.take(np.array([2, 0])) == ["item 1002", "item 1000"]
