"""Laws of the trie: every identifier is in it once, and its nodes are the places where identifiers part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.errors import InputError
from genrec.trie import TokenTrie, ragged_ranges
from genrec.types import IntArray

END = 0
# Numbers around powers of 256, where a comparison of bytes would go wrong first.
TOKENS = st.sampled_from([1, 2, 3, 254, 255, 256, 257, 65_535, 65_536, 16_777_215, 2**31 - 2])
BODIES = st.lists(st.lists(TOKENS, max_size=6).map(tuple), min_size=1, max_size=30, unique=True)


def identifiers(bodies: list[tuple[int, ...]]) -> list[IntArray]:
    return [np.array([*body, END]) for body in bodies]


@given(BODIES)
def test_rows_are_the_identifiers_in_order(bodies: list[tuple[int, ...]]) -> None:
    """Otherwise a row stands for another item than the one it names, or for none."""
    trie = TokenTrie.from_sequences(identifiers(bodies))
    rows = [tuple(trie.row(row).tolist()) for row in range(len(trie))]
    assert rows == sorted((*body, END) for body in bodies)
    assert [(*bodies[item], END) for item in trie.items] == rows
    assert trie.items[trie.rows_of_items].tolist() == list(range(len(bodies)))
    assert trie.lengths.tolist() == [len(row) for row in rows]
    assert trie.shared.tolist() == [-1, *(common(rows[row - 1 : row + 1]) for row in range(1, len(rows))), -1]


def common(rows: list[tuple[int, ...]]) -> int:
    """How many tokens rows share from their beginning on."""
    return next(
        (depth for depth, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1), len(min(rows))
    )


@given(BODIES)
def test_a_node_is_the_range_of_rows_that_share_its_path(bodies: list[tuple[int, ...]]) -> None:
    """Otherwise the search lets a path into items that do not begin with it, or loses some that do."""
    trie = TokenTrie.from_sequences(identifiers(bodies))
    nodes = trie.nodes
    rows = [tuple(trie.row(row).tolist()) for row in range(len(trie))]
    assert (nodes.low[0], nodes.high[0], nodes.parent[0]) == (0, len(rows), -1)
    assert nodes.first_child[-1] == len(nodes.low) <= 2 * len(rows) - (len(rows) > 1)
    for node, (low, high, depth) in enumerate(zip(nodes.low, nodes.high, nodes.depth, strict=True)):
        below = rows[low:high]
        children = range(nodes.first_child[node], nodes.first_child[node + 1])
        if len(below) == 1:
            assert depth == len(below[0])
            assert not children
        else:
            assert depth == common(below)
            by_token = [
                [row for row in below if row[depth] == token] for token in sorted({row[depth] for row in below})
            ]
            assert [rows[nodes.low[child] : nodes.high[child]] for child in children] == by_token
        assert all(nodes.parent[child] == node for child in children)


def test_a_trie_of_many_rows_is_quick_and_small() -> None:
    """An object per node, or a loop per row, would show here as minutes; this says nothing about milliseconds."""
    random = np.random.default_rng(0)
    bodies = np.unique(random.integers(1, 500, (200_000, 4)), axis=0)
    trie = TokenTrie.from_sequences([np.append(body, END) for body in random.permutation(bodies)])
    assert (trie.tokens.reshape(-1, 5)[:, :4] == bodies).all()
    assert int((np.diff(trie.nodes.first_child) == 0).sum()) == len(bodies)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "at least one identifier"),
        ([[5, 0], []], "item 1 has an empty identifier"),
        ([[5, 0], [7, 0], [5, 0]], "item 0 is equal to, or the beginning of, that of item 2"),
        ([[5, 6, 0], [7, 0], [5, 6]], "item 2 is equal to, or the beginning of, that of item 0"),
        ([[5], [5, 0]], "item 0 is equal to, or the beginning of, that of item 1"),
    ],
)
def test_identifiers_that_cannot_be_told_apart_are_refused(sequences: list[list[int]], message: str) -> None:
    """Otherwise one of two items could never be recommended."""
    with pytest.raises(InputError, match=message):
        TokenTrie.from_sequences([np.array(sequence, dtype=np.int64) for sequence in sequences])


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(-3, 9)), max_size=10))
def test_ragged_ranges_are_ranges_one_after_the_other(pairs: list[tuple[int, int]]) -> None:
    """All of the search stands on this one function."""
    starts = np.array([start for start, _ in pairs], dtype=np.int64)
    stops = np.array([start + size for start, size in pairs], dtype=np.int64)
    values, begins = ragged_ranges(starts, stops)
    ranges = [list(range(start, start + size)) for start, size in pairs]
    assert values.tolist() == [value for one in ranges for value in one]
    assert begins.tolist() == [sum(map(len, ranges[:place])) for place in range(len(ranges))]
