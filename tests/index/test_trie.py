"""Laws of the trie: it holds every identifier once, its nodes are where identifiers part, and both kernels agree."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec.data.subset import Mask, Subset
from genrec.errors import ArtifactError, InputError
from genrec.index import front_coding
from genrec.index import trie as trie_module
from genrec.index.allowed_batch import AllowedBatch
from genrec.index.kernels import numba as numba_kernels
from genrec.index.kernels import numpy as numpy_kernels
from genrec.index.kernels.numpy import ragged_ranges
from genrec.index.trie import TokenTrie
from genrec.types import IntArray

END = 0
# Numbers around powers of 256, where a comparison of bytes would go wrong first.
TOKENS = st.sampled_from([1, 2, 3, 254, 255, 256, 257, 65_535, 65_536, 16_777_215, 2**31 - 2])
BODIES = st.lists(st.lists(TOKENS, max_size=6).map(tuple), min_size=1, max_size=30, unique=True)
# With 1 every inner node is wide, with 8192 every node is narrow.
WIDTHS = st.sampled_from([1, 3, 8192])

Rows = list[tuple[int, ...]]
# All examples of a test use the same kernels.
law = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=[numba_kernels, numpy_kernels], ids=["numba", "numpy"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every law holds for the numba kernels and for the numpy kernels."""
    monkeypatch.setattr(front_coding, "select_kernels", lambda: request.param)


def identifiers(bodies: Rows) -> list[IntArray]:
    return [np.array([*body, END]) for body in bodies]


def trie_of(bodies: Rows, wide: int = 8192) -> TokenTrie:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie_module, "_WIDE_NODE_ROWS", wide)
        trie = TokenTrie.from_sequences(identifiers(bodies))
        assert trie.nbytes  # computes the wide nodes
    return trie


def rows_of(trie: TokenTrie) -> Rows:
    return [tuple(trie.tokens_of_row(row).tolist()) for row in range(len(trie))]


def common(rows: Rows) -> int:
    """The length of the longest common prefix of rows."""
    return next(
        (depth for depth, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1), len(min(rows))
    )


@law
@given(BODIES, WIDTHS)
def test_rows_are_the_identifiers_in_order(bodies: Rows, wide: int) -> None:
    """Otherwise a row stands for the wrong item, or for none."""
    trie = trie_of(bodies, wide)
    rows = rows_of(trie)
    assert rows == sorted((*body, END) for body in bodies)
    assert [(*bodies[item], END) for item in trie.items] == rows
    assert trie.items[trie.rows_of_items].tolist() == list(range(len(bodies)))
    assert trie.lengths.tolist() == [len(row) for row in rows]
    assert trie.shared.tolist() == [0, *(common(rows[row - 1 : row + 1]) for row in range(1, len(rows)))]


@law
@given(BODIES)
def test_every_prefix_has_one_index(bodies: Rows) -> None:
    """Priors are stored by position; a prefix with two positions, or a shared one, would correct the wrong titles."""
    trie = trie_of(bodies)
    rows = rows_of(trie)
    prefixes = [row[:depth] for row in rows for depth in range(1, len(row) + 1)]
    places = trie.path_positions(np.arange(len(trie))).tolist()
    named = dict(zip(prefixes, places, strict=True))
    assert sorted(named.values()) == list(range(len(trie.tokens)))
    for prefix, place in named.items():
        assert trie.tokens[place] == prefix[-1]
        assert trie.depths[place] == len(prefix) - 1
        assert trie.parents[place] == (named[prefix[:-1]] if prefix[1:] else -1)
    assert trie.last_positions.tolist() == [named[row] for row in rows]


@law
@given(BODIES, WIDTHS)
def test_a_node_is_the_range_of_rows_that_share_its_path(bodies: Rows, wide: int) -> None:
    """Otherwise the search reaches items that do not begin with a path, or misses items that do."""
    trie = trie_of(bodies, wide)
    rows = rows_of(trie)
    assert trie.node_depths(np.arange(len(rows)), np.arange(1, len(rows) + 1)).tolist() == [len(row) for row in rows]
    low, high = np.array([0]), np.array([len(rows)])
    seen = []
    while (inner := high - low > 1).any():
        low, high = low[inner], high[inner]
        children = trie.expand(low, high)
        assert trie.node_depths(low, high).tolist() == children.depths.tolist()
        for node in range(len(low)):
            below, depth = rows[low[node] : high[node]], int(children.depths[node])
            assert depth == common(below)
            own = slice(children.offsets[node], children.offsets[node + 1])
            tokens = sorted({row[depth] for row in below})
            assert children.tokens[own].tolist() == tokens
            found = [rows[a:b] for a, b in zip(children.low[own], children.high[own], strict=True)]
            assert found == [[row for row in below if row[depth] == token] for token in tokens]
            places = trie.positions_at_depth(children.low[own].astype(np.int64), np.full(len(tokens), depth))
            assert trie.tokens[places].tolist() == tokens
        seen += children.low[children.high - children.low == 1].tolist()
        low, high = children.low.astype(np.int64), children.high.astype(np.int64)
    assert sorted(seen) == list(range(len(rows))) or len(rows) == 1


@law
@given(BODIES, WIDTHS)
def test_token_by_token_every_prefix_has_the_tokens_that_follow_it(bodies: Rows, wide: int) -> None:
    """Decoders that generate one token at a time rely on this; a row that has ended must have no next token."""
    trie = trie_of(bodies, wide)
    rows = rows_of(trie)
    low, high, depth = np.array([0]), np.array([len(rows)]), 0
    while low.size:
        found = trie.expand(low, high, depths=np.full(len(low), depth))
        for node in range(len(low)):
            below = rows[low[node] : high[node]]
            own = slice(*found.offsets[node : node + 2])
            tokens = sorted({row[depth] for row in below if len(row) > depth})
            assert found.tokens[own].tolist() == tokens
            kept = [rows[a:b] for a, b in zip(found.low[own], found.high[own], strict=True)]
            assert kept == [[row for row in below if row[depth] == token] for token in tokens]
        low, high, depth = found.low.astype(np.int64), found.high.astype(np.int64), depth + 1


@law
@given(BODIES, st.data())
def test_a_filter_leaves_the_children_that_hold_an_allowed_row(bodies: Rows, data: st.DataObject) -> None:
    """One child too many leads to an item that is not allowed, one too few hides an item that is."""
    trie = trie_of(bodies)
    size = len(trie)
    if size == 1:
        return
    chosen = st.lists(st.integers(0, size - 1), max_size=size)
    mask = Mask.from_bool(np.isin(np.arange(size), data.draw(chosen)))
    kinds = [
        Subset.everything(size),
        Subset.from_indices(size, data.draw(chosen)),
        Subset.everything(size).without(data.draw(chosen)),
    ]
    if data.draw(st.booleans()):
        kinds = [
            Subset.from_mask(mask),
            Subset.from_indices(size, data.draw(chosen)),
            Subset.from_mask(mask).without(data.draw(chosen)),
        ]
    owner = np.array([0, 1, 2, 1])
    low, high = np.zeros(4, dtype=np.int64), np.full(4, size)
    every = trie.expand(low, high)
    found = trie.expand(low, high, owner, AllowedBatch.from_subsets(kinds))
    for node, prompt in enumerate(owner):
        own, kept = slice(*every.offsets[node : node + 2]), slice(*found.offsets[node : node + 2])
        pairs = zip(every.low[own].tolist(), every.high[own].tolist(), every.tokens[own].tolist(), strict=True)
        expected = [pair for pair in pairs if kinds[prompt].to_bool()[pair[0] : pair[1]].any()]
        assert list(zip(found.low[kept], found.high[kept], found.tokens[kept], strict=True)) == expected


def test_numpy_and_numba_kernels_agree() -> None:
    """Row starts are summed in blocks; kernels with different block sizes would read the tokens of another row."""
    assert numba_kernels.START_BLOCK == numpy_kernels.START_BLOCK


def test_gather_reads_each_row_at_its_own_tokens() -> None:
    """One row off, and every item gets its neighbour's probability."""
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    for loops in (numba_kernels, numpy_kernels):
        found = loops.gather(matrix, np.array([3, 0, 1]), np.array([0, 1, 1, 3]))
        assert found.tolist() == [3.0, 8.0, 9.0]


def test_prompts_with_different_masks_are_refused() -> None:
    """The kernels take one mask; prompts with another mask would be filtered by the wrong one."""
    masks = [Subset.from_mask(Mask.from_bool(np.array([True, place == 1]))) for place in range(2)]
    with pytest.raises(InputError, match="the batch has 2 different masks; search the prompts of each mask separately"):
        AllowedBatch.from_subsets(masks)
    assert AllowedBatch.from_subsets([Subset.everything(2)]) is None


@law
@given(BODIES, st.data())
def test_a_restriction_is_the_trie_of_its_rows(bodies: Rows, data: st.DataObject) -> None:
    """Candidates are scored in a restriction, and must be the items that were retrieved."""
    trie = trie_of(bodies)
    kept = sorted(data.draw(st.sets(st.integers(0, len(trie) - 1), min_size=1)))
    part = trie.restrict(np.array(kept))
    assert part.items.tolist() == kept
    assert rows_of(part) == [rows_of(trie)[row] for row in kept]


@law
@given(BODIES, BODIES, st.data())
def test_a_merge_equals_a_rebuild(bodies: Rows, more: Rows, data: st.DataObject) -> None:
    """An update that differs from a rebuild recommends removed items, or misses new ones."""
    trie = trie_of(bodies)
    gone = sorted(data.draw(st.sets(st.integers(0, len(trie) - 1))))
    stay = {bodies[item]: item for row, item in enumerate(trie.items.tolist()) if row not in gone}
    fresh = [body for body in more if body not in stay]
    if not stay and not fresh:
        with pytest.raises(InputError, match="the index would be empty; keep or add an item"):
            trie.merge(removed_rows=np.array(gone))
        return
    other = None
    if fresh:
        tokens, lengths = np.concatenate(identifiers(fresh)), np.array([len(body) + 1 for body in fresh])
        other = TokenTrie.from_rows(tokens, lengths, item_indices=np.arange(len(fresh)) + len(bodies))
    merged = trie.merge(other, removed_rows=np.array(gone, dtype=np.int64))
    whole = [*stay, *fresh]
    items = np.array([*stay.values(), *range(len(bodies), len(bodies) + len(fresh))])
    lengths = np.array([len(body) + 1 for body in whole])
    rebuilt = TokenTrie.from_rows(np.concatenate(identifiers(whole)), lengths, item_indices=items)
    for name in ("tokens", "shared", "tails", "items"):
        assert getattr(merged, name).tolist() == getattr(rebuilt, name).tolist()


def test_a_merge_refuses_conflicting_identifiers() -> None:
    """Of two items with one identifier, one could never be recommended."""
    trie = trie_of([(1,), (2, 3), (7,)])
    for tokens, message in (
        ([2, 3, END], "item 1 is equal to"),
        ([7], "item 9 is equal to, or a prefix of, the identifier of item 2"),
    ):
        other = TokenTrie.from_rows(np.array(tokens), np.array([len(tokens)]), item_indices=np.array([9]))
        with pytest.raises(InputError, match=message):
            trie.merge(other)
    gone = trie.rows_of_items[[1]]
    assert (
        len(trie.merge(TokenTrie.from_rows(np.array([[2, 3, END]]), item_indices=np.array([9])), removed_rows=gone))
        == 3
    )


def test_a_trie_of_many_rows_is_quick_and_small() -> None:
    """An object per node or a Python loop per row would take minutes here; milliseconds are not measured."""
    random = np.random.default_rng(0)
    bodies = np.unique(random.integers(1, 500, (200_000, 4)), axis=0)
    rows = np.column_stack([bodies, np.zeros(len(bodies), dtype=np.int64)])
    trie = TokenTrie.from_rows(random.permutation(rows))
    assert (trie.tokens_of_rows(np.arange(len(trie))).reshape(-1, 5) == rows).all()
    assert trie.nbytes < 14 * len(trie)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "at least one identifier"),
        ([[5, 0], []], "item 1 has an empty identifier"),
        ([[5, 0], [7, 0], [5, 0]], "item 0 is equal to, or a prefix of, the identifier of item 2"),
        ([[5, 6, 0], [7, 0], [5, 6]], "item 2 is equal to, or a prefix of, the identifier of item 0"),
        ([[5], [5, 0]], "item 0 is equal to, or a prefix of, the identifier of item 1"),
        ([[5, 0], [2, 9, 0]], "the identifier of item 1 contains token 9, but the vocabulary has tokens 0 to 7"),
        ([[5, 0], [-2, 0]], "the identifier of item 1 contains token -2"),
    ],
)
def test_invalid_identifiers_are_refused(sequences: list[list[int]], message: str) -> None:
    """Otherwise one of two items could never be recommended."""
    with pytest.raises(InputError, match=message):
        TokenTrie.from_sequences([np.array(sequence, dtype=np.int64) for sequence in sequences], vocab_size=8)


def test_an_item_has_one_row() -> None:
    """With two rows it could appear twice in one list."""
    with pytest.raises(InputError, match="item 7 has more than one identifier"):
        TokenTrie.from_rows(np.array([[1, 0], [2, 0]]), item_indices=np.array([7, 7]))
    with pytest.raises(InputError, match="item indices range from -1 to 0"):
        TokenTrie.from_rows(np.array([[1, 0], [2, 0]]), item_indices=np.array([0, -1]))
    with pytest.raises(InputError, match="tokens have type float64 and shape"):
        TokenTrie.from_rows(np.array([[1.5, 0.0]]))
    for items in (np.array([0.2, 0.7]), np.array([True, False]), np.array([[0], [1]])):
        with pytest.raises(InputError, match="item_indices have type"):
            TokenTrie.from_rows(np.array([[1, 0], [2, 0]]), item_indices=items)
    with pytest.raises(InputError, match=r"tokens have shape \(2,\); pass an array of shape \[N, L\]"):
        TokenTrie.from_rows(np.array([1, 0]))
    trie = trie_of([(1,), (2,)])
    with pytest.raises(InputError, match="removed_rows have type float64"):
        trie.merge(removed_rows=np.array([0.5]))
    with pytest.raises(InputError, match="item 1 is in the index already; remove its row first"):
        trie.merge(TokenTrie.from_rows(np.array([[9, END]]), item_indices=np.array([1])))
    assert (
        len(
            trie.merge(
                TokenTrie.from_rows(np.array([[9, END]]), item_indices=np.array([1])), removed_rows=np.array([1])
            )
        )
        == 2
    )
    for gone in ([0, 0], [1, 0], [-1], [2]):
        with pytest.raises(InputError, match="removed_rows are"):
            trie.merge(removed_rows=np.array(gone))


def test_a_filter_without_prompts_is_refused() -> None:
    """A filter that is silently ignored allows every item."""
    trie = trie_of([(1,), (2,)])
    with pytest.raises(InputError, match="allowed was passed without prompt_indices"):
        trie.expand(np.array([0]), np.array([2]), None, AllowedBatch.from_subsets([Subset.from_indices(2, [0])]))


@law
@given(BODIES, BODIES)
def test_conflicts_with_finds_equal_and_prefix_identifiers(bodies: Rows, others: Rows) -> None:
    """New titles are disambiguated by this; a missed conflict fails the merge, a false one adds a needless suffix."""
    trie, rows = trie_of(bodies), [(*body, END) for body in bodies]
    for other in [*((*body, END) for body in others), *others]:
        if other:
            size = len(other)
            expected = any(row[:size] == other or other[: len(row)] == row for row in rows)
            assert trie.conflicts_with(np.array(other)) == expected


def test_tokens_lengths_and_items_must_match() -> None:
    """A wrong length would give an item the tokens of its neighbour."""
    for lengths, items in (([2, 3], None), ([2, 2], [0]), ([-1, 5], None)):
        given = None if items is None else np.array(items)
        with pytest.raises(InputError, match="do not match"):
            TokenTrie.from_rows(np.array([1, 0, 2, 0]), np.array(lengths), item_indices=given)


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    """A mapped trie must equal the one that was saved."""
    trie = trie_of([(1,), (2, 3), (70_000, 4), (70_000, 5)])
    trie.save(tmp_path / "trie")
    again = TokenTrie.load(tmp_path / "trie")
    for name in ("tokens", "shared", "tails", "items"):
        assert getattr(again, name).dtype == getattr(trie, name).dtype
        assert getattr(again, name).tolist() == getattr(trie, name).tolist()
    assert rows_of(again) == rows_of(trie)


def test_a_file_cut_short_or_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    """One flipped bit recommends another item: none of a thousand damaged files may load."""
    random = np.random.default_rng(5)
    trie_of([tuple(body) for body in {tuple(row) for row in random.integers(1, 40, (300, 5)).tolist()}]).save(
        tmp_path / "trie"
    )
    file = tmp_path / "trie" / "trie.safetensors"
    whole = file.read_bytes()
    for number in range(1000):
        damaged = bytearray(whole)
        place = int(random.integers(len(whole)))
        if number % 4:
            damaged[place] ^= int(random.integers(1, 256))
        file.write_bytes(damaged if number % 4 else damaged[:place])
        with pytest.raises(ArtifactError, match=r"trie\.safetensors"):
            TokenTrie.load(tmp_path / "trie")


@law
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(-3, 9)), max_size=10))
def test_ragged_ranges_concatenates_ranges(pairs: list[tuple[int, int]]) -> None:
    """Every step of the search uses this function."""
    starts = np.array([start for start, _ in pairs], dtype=np.int64)
    stops = np.array([start + size for start, size in pairs], dtype=np.int64)
    values, begins = ragged_ranges(starts, stops)
    ranges = [list(range(start, start + size)) for start, size in pairs]
    assert values.tolist() == [value for one in ranges for value in one]
    assert begins.tolist() == [sum(map(len, ranges[:place])) for place in range(len(ranges))]
