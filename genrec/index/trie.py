"""The index over identifiers: sorted rows, each kept without what it shares with the row before.

Letters: N rows, T tokens that are kept, R nodes, C children.

A node is the range of rows `low <= row < high` that share a path. It lies where they part, so runs of forced tokens
belong to one edge (a radix tree), and needs no memory of its own: the least of what neighbours share is its depth, and
its children begin where neighbours share no more than that. So the kept tokens are the tree's edges, each once. The
front coding of rows is that of Witten, Moffat and Bell, "Managing Gigabytes", 1999, section 4.1; shared lengths as an
implicit tree follow Abouelhoda, Kurtz and Ohlebusch, "Replacing suffix trees with enhanced suffix arrays", Journal of
Discrete Algorithms 2(1), 2004, section 3.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec import artifact
from genrec.data.subset import Subset, concat_ragged
from genrec.errors import ArtifactError, InputError
from genrec.index.kernels.dispatch import select_kernels
from genrec.index.kernels.numpy import START_BLOCK, child_row_ends
from genrec.types import BoolArray, IntArray

_KIND = "trie"
_VERSION = 1
_WIDE_NODE_ROWS = 8192  # rows from which on a node's children are looked up instead of found
_INT32_MAX = 2**31 - 1
_HASH_CHUNK = 1 << 20  # numbers that are hashed at once
_MIN_KEY_BITS = 33  # bits of a first key that leave few ties among ten million rows

_NO_DEPTHS = np.empty(0, dtype=np.int64)

AnyArray = NDArray[Any]


@dataclass(frozen=True)
class Children:
    """The children of R nodes; those of node r are `offsets[r]` to `offsets[r + 1]`.

    Attributes:
        depths: int64 [R], tokens on the path to each node.
        offsets: int64 [R + 1].
        low: int32 [C], the first row of a child; one that has a single row is a leaf.
        tokens: [C], the first token of the edge to a child.
    """

    depths: IntArray
    offsets: IntArray
    low: AnyArray
    tokens: AnyArray
    _parent_high: IntArray
    _known_high: AnyArray | None = None

    @cached_property
    def high(self) -> AnyArray:
        """int32 [C], behind which row each child ends; written down when it is asked for."""
        return (
            child_row_ends(self.offsets, self.low, self._parent_high) if self._known_high is None else self._known_high
        )


@dataclass(frozen=True)
class AllowedBatch:
    """The subsets of U prompts as the trie's loops read them. Made by `AllowedBatch.from_subsets`."""

    listed: IntArray
    offsets: IntArray
    is_allowlist: BoolArray
    prefix_counts: AnyArray

    @classmethod
    def from_subsets(cls, subsets: Sequence[Subset]) -> "AllowedBatch | None":
        """The filter of prompts that share a mask, or none; None where every row is allowed to all.

        Raises:
            InputError: they have different masks; ask about each group of prompts alone.
        """
        masks = {id(subset.mask): subset.mask for subset in subsets if not subset.is_allowlist}
        if len(masks) > 1:
            raise InputError(f"{len(masks)} different masks in one batch; ask about the prompts of each mask together")
        mask = next(iter(masks.values()), None)
        if mask is None and not any(subset.is_allowlist or len(subset.listed) for subset in subsets):
            return None
        return cls(
            *concat_ragged([subset.listed for subset in subsets]),
            np.array([subset.is_allowlist for subset in subsets]),
            np.empty(0, dtype=np.uint32) if mask is None else mask.prefix_counts,
        )


@dataclass(frozen=True, eq=False)
class TokenTrie:
    """Identifiers in the order of their tokens. Made by `from_rows`, `from_sequences`, `merge` or `load`.

    Attributes:
        tokens: uint16, or uint32 where ids need it, [T]: of every row in turn, the tokens it does not share with the
            row before. Places in this array name prefixes: each prefix of an identifier has one.
        shared: [N], how many tokens a row shares with the row before; the least type that holds them.
        tails: [N], how many tokens of its own it has, at least 1.
        items: int32 [N], the item of each row; ties between items are broken by this number.
    """

    tokens: AnyArray
    shared: AnyArray
    tails: AnyArray
    items: AnyArray

    def __reduce__(self) -> tuple[object, ...]:
        # To another process goes what cannot be derived; a mapped file is read whole for it.
        return TokenTrie, (self.tokens, self.shared, self.tails, self.items)

    @classmethod
    def from_sequences(cls, sequences: Sequence[IntArray], *, vocab_size: int | None = None) -> "TokenTrie":
        """The trie of the identifiers of items 0, 1, ...; see `from_rows`."""
        if not len(sequences):
            raise InputError("an index needs at least one identifier")
        lengths = np.fromiter((len(sequence) for sequence in sequences), dtype=np.int64, count=len(sequences))
        return cls.from_rows(np.concatenate(sequences), lengths, vocab_size=vocab_size)

    @classmethod
    def from_rows(
        cls,
        tokens: NDArray[Any],
        lengths: IntArray | None = None,
        *,
        item_indices: IntArray | None = None,
        vocab_size: int | None = None,
    ) -> "TokenTrie":
        """Sort identifiers, in any order, into a trie.

        Args:
            tokens: [N, L], or all identifiers one after the other.
            lengths: int64 [N], where `tokens` is flat.
            item_indices: the item of each identifier; by default 0, 1, ...
            vocab_size: token ids lie below it.

        Raises:
            InputError: no identifiers, an empty one, a token outside the vocabulary, or an identifier that is equal
                to another or its beginning (items named).
        """
        if lengths is None:
            if tokens.ndim != 2:
                raise InputError(f"tokens have shape {tokens.shape}; give [N, L], or all in one row and their lengths")
            lengths = np.full(len(tokens), tokens.shape[1], dtype=np.int64)
            tokens = tokens.reshape(-1)
        item_indices = np.arange(len(lengths), dtype=np.int32) if item_indices is None else np.asarray(item_indices)
        for name, array in (("tokens", tokens), ("lengths", lengths), ("items", item_indices)):
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise InputError(
                    f"{name} are of type {array.dtype} and shape {array.shape}; give whole numbers in a row"
                )
        if not len(lengths):
            raise InputError("an index needs at least one identifier")
        if len(item_indices) == len(lengths):
            _check_item_indices(item_indices)
        if int(lengths.min()) == 0 and len(item_indices) == len(lengths):
            raise InputError(f"item {int(item_indices[np.argmin(lengths)])} has an empty identifier; give it a title")
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if (
            lengths.min() < 0
            or len(lengths) > _INT32_MAX
            or len(offsets) != len(item_indices) + 1
            or offsets[-1] != len(tokens)
        ):
            raise InputError(
                f"{len(tokens):,} tokens, {len(lengths):,} lengths that add up to {int(offsets[-1]):,} and "
                f"{len(item_indices):,} items do not fit; give one length and one item for each of at most {_INT32_MAX:,} rows"
            )
        _check_tokens(tokens, offsets, item_indices, vocab_size)
        kernel = select_kernels()
        return _build_front_coded(kernel, tokens, lengths, _sort_rows(kernel, tokens, offsets), item_indices)

    def __len__(self) -> int:
        """The number of rows (N)."""
        return len(self.items)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that `open`, `measure`, `start` and `decode` need.

        What is made of them on request counts apart: `rows_of_items` (8 an item), `parents` and `depths` (8 a token).
        """
        total: int = self.items.nbytes + sum(array.nbytes for array in self._kernel_arrays[:-1])
        return total

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the rows and their items, in hexadecimal, whatever types hold them."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.shared, self.tails, self.items):
            for start in range(0, len(array), _HASH_CHUNK):
                digest.update(np.ascontiguousarray(array[start : start + _HASH_CHUNK], dtype="<u4").tobytes())
        return digest.hexdigest()

    @cached_property
    def max_length(self) -> int:
        """Tokens in the longest row."""
        return int(np.add(self.shared, self.tails, dtype=np.int32).max())

    @cached_property
    def lengths(self) -> IntArray:
        """int64 [N], tokens in each row."""
        return self.shared.astype(np.int64) + self.tails

    @cached_property
    def last_positions(self) -> IntArray:
        """int64 [N], the place in `tokens` of each row's last token."""
        return np.cumsum(self.tails, dtype=np.int64) - 1

    @cached_property
    def parents(self) -> IntArray:
        """int64 [T], the place of the token before each token on its path, -1 at the beginning of a path."""
        parents = np.arange(-1, len(self.tokens) - 1)
        shared = self.shared.astype(np.int64)
        begins = self.last_positions + 1 - self.tails
        rows = np.arange(len(self))
        for depth in range(int(shared.max()) + 1):
            here = np.flatnonzero(shared == depth)
            if depth == 0:
                parents[begins[here]] = -1
            elif here.size:
                # The row whose own tokens reach up to this depth is the newest that shares less.
                above = np.maximum.accumulate(np.where(shared < depth, rows, 0))[here]
                parents[begins[here]] = begins[above] + depth - 1 - shared[above]
        return parents

    @cached_property
    def depths(self) -> IntArray:
        """int64 [T], how many tokens stand before each token on its path."""
        begins = self.last_positions + 1 - self.tails
        return np.arange(len(self.tokens)) - np.repeat(begins - self.shared, self.tails)

    @cached_property
    def rows_of_items(self) -> IntArray:
        """int64 [items], the row of each item, -1 for one that has none."""
        rows = np.full(int(self.items.max()) + 1, -1, dtype=np.int64)
        rows[self.items] = np.arange(len(self))
        return rows

    def tokens_of_row(self, row: int) -> AnyArray:
        """The tokens of one row."""
        return self.tokens_of_rows(np.array([row]))

    def path_positions(self, rows: IntArray) -> IntArray:
        """int64, for every row the places in `tokens` of its path from its beginning; row after row."""
        lengths = self.lengths[rows]
        stops = np.cumsum(lengths)
        result = np.empty(int(stops[-1]) if len(rows) else 0, dtype=np.int64)
        place, into = self.last_positions[rows], stops - 1
        while place.size:
            result[into] = place
            place = self.parents[place]
            left = place >= 0
            place, into = place[left], into[left] - 1
        return result

    def conflicts_with(self, tokens: IntArray) -> bool:
        """Whether an identifier is equal to a row, its beginning, or a continuation of one."""
        low, high, depth = 0, len(self), 0
        while high - low > 1:
            children = self.expand(np.array([low]), np.array([high]))
            at, edge = int(children.depths[0]), self.tokens_of_rows(np.array([low]))
            if len(tokens) <= at or (edge[depth:at] != tokens[depth:at]).any():
                return len(tokens) <= at and bool((edge[depth : len(tokens)] == tokens[depth:]).all())
            child = int(np.searchsorted(children.tokens, tokens[at]))
            if child == len(children.tokens) or children.tokens[child] != tokens[at]:
                return False
            low, high, depth = int(children.low[child]), int(children.high[child]), at
        row = self.tokens_of_rows(np.array([low]))
        size = min(len(row), len(tokens))
        return bool((row[:size] == tokens[:size]).all())

    def restrict(self, rows: IntArray) -> "TokenTrie":
        """The trie of some rows, at least one; `items` of it are these rows, not their items.

        Args:
            rows: int64, rising and distinct.
        """
        lengths = self.shared[rows].astype(np.int64) + self.tails[rows]
        return _build_front_coded(self._kernels, self.tokens_of_rows(rows), lengths, np.arange(len(rows)), rows)

    def tokens_of_rows(self, rows: IntArray) -> AnyArray:
        """The tokens of rows, one row after the other."""
        if not hasattr(self._kernels, "tokens_of_rows"):
            return self.tokens[self.path_positions(rows)]
        lengths = self.shared[rows].astype(np.int64) + self.tails[rows]
        tokens: AnyArray = self._kernels.tokens_of_rows(*self._kernel_arrays, rows, np.cumsum(lengths))
        return tokens

    def expand(
        self,
        low: IntArray,
        high: IntArray,
        prompt_indices: IntArray | None = None,
        allowed: AllowedBatch | None = None,
        *,
        depths: IntArray | None = None,
    ) -> Children:
        """The children of R nodes, in the order of their tokens.

        Args:
            low, high: int64 [R], the rows of the nodes, two or more each.
            prompt_indices: int64 [R], the prompt of each node, where there is a filter.
            allowed: children without an allowed row are left out.
            depths: int64 [R], to go token by token: a node is then all rows that share a path of so many tokens, one
                row too, and its children are what follows there, even where nothing parts. A row that has ended has
                none.
        """
        if allowed is not None and prompt_indices is None:
            raise InputError("children are filtered by the prompt of each node; pass owner beside allowed")
        at = _NO_DEPTHS if depths is None else depths
        depths, offsets, below, tokens = self._kernels.expand_nodes(*self._kernel_arrays, low, high, at)
        if allowed is None:
            return Children(depths, offsets, below, tokens, high)
        below, above, tokens = self._kernels.filter_children(
            offsets,
            below,
            tokens,
            high,
            prompt_indices,
            allowed.listed,
            allowed.offsets,
            allowed.is_allowlist,
            allowed.prefix_counts,
        )
        return Children(depths, offsets, below, tokens, high, above)

    def branching_points(self, row: int) -> list[tuple[int, AnyArray]]:
        """Where a row parts from others: the depth, and the tokens that may follow there, its own among them."""
        found, low, high = [], 0, len(self)
        while high - low > 1:
            children = self.expand(np.array([low]), np.array([high]))
            found.append((int(children.depths[0]), children.tokens))
            own = int(np.searchsorted(children.low, row, side="right")) - 1
            low, high = int(children.low[own]), int(children.high[own])
        return found

    def node_depths(self, low: IntArray, high: IntArray) -> IntArray:
        """int64 [R], tokens on the path to each node; a leaf's is its row's length."""
        shared, tails, _, _, wide_low, wide_high, wide_depth, *_, limit = self._kernel_arrays
        depths: IntArray = self._kernels.node_depths(shared, tails, wide_low, wide_high, wide_depth, limit, low, high)
        return depths

    def positions_at_depth(self, low: IntArray, depths: IntArray) -> IntArray:
        """int64 [R], the place of the token at a depth of a node's path, where the node's parent is no deeper."""
        return self.row_starts(low) + depths - self.shared[low]

    def row_starts(self, rows: IntArray) -> IntArray:
        """int64 [rows], the place where the tokens of a row's own begin."""
        starts: IntArray = self._kernels.row_starts(self.tails, self._block_starts, rows)
        return starts

    def merge(self, other: "TokenTrie | None" = None, *, removed_rows: IntArray | None = None) -> "TokenTrie":
        """This trie with other rows added and some left out, in one pass and without sorting.

        Args:
            other: rows to add, with the items they are of.
            removed_rows: int64, rows to leave out, rising and distinct.

        Raises:
            InputError: nothing would be left, an added identifier is equal to one that stays, or its beginning, an
                added item is there already, or `removed_rows` is not what it has to be.
        """
        removed_rows = np.empty(0, dtype=np.int64) if removed_rows is None else np.asarray(removed_rows)
        if removed_rows.ndim != 1 or (removed_rows.size and removed_rows.dtype.kind not in "iu"):
            raise InputError(f"rows to leave out are of type {removed_rows.dtype}; give whole numbers in a row")
        if removed_rows.size and (
            removed_rows[0] < 0 or removed_rows[-1] >= len(self) or (np.diff(removed_rows) <= 0).any()
        ):
            raise InputError(
                f"rows to leave out are {removed_rows[:5].tolist()}...; give rows of this trie, rising and distinct"
            )
        if other is None:
            other = TokenTrie(*(array[:0] for array in (self.tokens, self.shared, self.tails, self.items)))
        rows = len(self) + len(other) - len(removed_rows)
        if rows <= 0:
            raise InputError("nothing would be left in the index; keep or add an item")
        self._check_no_duplicate_items(other, removed_rows)
        if not hasattr(self._kernels, "merge"):
            return self._merge_by_sorting(other, removed_rows)
        sizes = [trie.max_length if len(trie) else 1 for trie in (self, other)]
        small, wide = np.min_scalar_type(max(sizes)), max(self.tokens.dtype, other.tokens.dtype)
        # A row behind one that goes may have to keep all it shared with it. What is not written to takes no memory.
        room = len(self.tokens) + len(other.tokens) + len(removed_rows) * sizes[0]
        shared, tails, tokens, items = (
            np.empty(size, kind) for size, kind in ((rows, small), (rows, small), (room, wide), (rows, np.int32))
        )
        done, filled = self._kernels.merge(
            self.shared, self.tails, self.tokens, self.items, removed_rows,
            other.shared, other.tails, other.tokens, other.items,
            shared, tails, tokens, items, *(np.empty(size, wide) for size in sizes),
        )  # fmt: skip
        if done < 0:
            row = -1 - done
            raise _prefix_conflict_error(
                (int(self.lengths[row]), self.items[row]), (int(other.lengths[filled]), other.items[filled])
            )
        return TokenTrie(tokens[:filled], shared, tails, items)

    def save(self, directory: str | Path) -> None:
        """Write a folder, whole or not at all.

        Raises:
            ArtifactError: the place cannot be written, or holds something else.
        """
        with artifact.artifact_writer(
            Path(directory), kind=_KIND, version=_VERSION, metadata={"rows": len(self)}
        ) as folder:
            self.write(folder / "trie.safetensors")

    @classmethod
    def load(cls, directory: str | Path) -> "TokenTrie":
        """Map a saved trie into memory after checking its SHA-256; pages are read when they are needed.

        Raises:
            ArtifactError: the file is missing, cut short or altered.
        """
        directory = Path(directory)
        artifact.verify(directory, kind=_KIND, version=_VERSION)
        return cls.read(directory / "trie.safetensors")

    def write(self, path: Path) -> None:
        """Write one file that `read` maps back."""
        artifact.write_arrays(path, {name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def read(cls, path: Path) -> "TokenTrie":
        """Map what `write` wrote; its bytes are not checked against anything.

        Raises:
            ArtifactError: it is no such file.
        """
        arrays = artifact.mmap_arrays(path)
        try:
            trie = cls(**arrays)
        except TypeError:
            raise ArtifactError(f"{path} holds {', '.join(arrays)} and is no trie", remedy="build it again") from None
        if len({len(trie.shared), len(trie.tails), len(trie.items)}) > 1 or not len(trie):
            raise ArtifactError(f"the arrays of {path} are not of one trie", remedy="build it again")
        return trie

    @cached_property
    def _kernels(self) -> Any:
        return select_kernels()

    @cached_property
    def _block_starts(self) -> IntArray:
        """Where the tokens of every 64th row begin; sums of short runs give the rest."""
        sums = np.add.reduceat(self.tails, np.arange(0, len(self), START_BLOCK), dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(sums[:-1])])
        return starts.astype(np.uint32 if len(self.tokens) < 1 << 32 else np.int64)

    @cached_property
    def _wide_nodes(self) -> tuple[Any, ...]:
        """The nodes of more than `_WIDE` rows, by `low` and `high`: these, depths, first children, children, tokens."""
        found: list[tuple[int, int, int, IntArray]] = []
        waiting = [(0, len(self))] if len(self) > _WIDE_NODE_ROWS else []
        while waiting:
            low, high = waiting.pop()
            inner = self.shared[low + 1 : high]
            depth = int(inner.min())
            below = np.append(low, low + 1 + np.flatnonzero(inner == depth))
            found.append((low, high, depth, below))
            sizes = np.diff(np.append(below, high))
            waiting += [(int(below[at]), int(below[at] + sizes[at])) for at in np.flatnonzero(sizes > _WIDE_NODE_ROWS)]
        found.sort(key=lambda node: node[:2])
        low_, high_, depths, first = (
            np.array(column, dtype=np.int64)
            for column in (
                [node[0] for node in found],
                [node[1] for node in found],
                [node[2] for node in found],
                np.cumsum([0, *(len(node[3]) for node in found)]),
            )
        )
        rows = np.concatenate([node[3] for node in found]) if found else np.empty(0, dtype=np.int64)
        tokens = self.tokens[self.row_starts(rows) + np.repeat(depths, np.diff(first)) - self.shared[rows]]
        return low_, high_, depths, first, rows.astype(np.int32), tokens

    @cached_property
    def _kernel_arrays(self) -> tuple[Any, ...]:
        return (self.shared, self.tails, self._block_starts, self.tokens, *self._wide_nodes, _WIDE_NODE_ROWS)

    def _check_no_duplicate_items(self, other: "TokenTrie", removed_rows: IntArray) -> None:
        """An item that stays must not be added: it would stand in a list twice."""
        if not len(other) or int(other.items.min()) > int(self.items.max()):
            return
        added = np.zeros(int(max(other.items.max(), self.items.max())) + 1, dtype=np.bool_)
        added[other.items] = True
        twice = np.setdiff1d(np.flatnonzero(added[self.items]), removed_rows)
        if twice.size:
            raise InputError(f"item {int(self.items[twice[0]])} is there already; leave its row out to add it anew")

    def _merge_by_sorting(self, other: "TokenTrie", removed_rows: IntArray) -> "TokenTrie":
        """What `merge` does, by sorting everything again."""
        parts = [(self, np.delete(np.arange(len(self)), removed_rows)), (other, np.arange(len(other)))]
        parts = [part for part in parts if len(part[1])]
        return TokenTrie.from_rows(
            np.concatenate([trie.tokens[trie.path_positions(rows)] for trie, rows in parts]),
            np.concatenate([trie.lengths[rows] for trie, rows in parts]),
            item_indices=np.concatenate([trie.items[rows] for trie, rows in parts]),
        )


def _build_front_coded(
    kernel: Any, tokens: AnyArray, lengths: IntArray, order: IntArray, item_indices: IntArray
) -> TokenTrie:
    """The trie of identifiers that stand one after the other in `tokens`, taken in `order`, which sorts them."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    small = np.min_scalar_type(int(lengths.max()))
    shared, tails = np.empty(len(order), dtype=small), np.empty(len(order), dtype=small)
    own = np.empty(len(tokens), dtype=np.uint16 if int(tokens.max()) < 1 << 16 else np.uint32)
    filled = kernel.front_code(tokens, offsets, order, shared, tails, own)
    if filled <= 0:
        raise _prefix_conflict_error(
            *((lengths[row], item_indices[row]) for row in order[-filled - 1 : 1 - filled or None])
        )
    return TokenTrie(own[:filled], shared, tails, item_indices[order].astype(np.int32))


def _check_item_indices(item_indices: IntArray) -> None:
    """Refuse two rows of one item, and numbers that are none of an item."""
    if int(item_indices.min()) < 0 or int(item_indices.max()) > _INT32_MAX:
        raise InputError(
            f"items go from {int(item_indices.min())} to {int(item_indices.max())}; number them from 0 to {_INT32_MAX:,}"
        )
    if (np.diff(item_indices) > 0).all():
        return
    ordered = np.sort(item_indices)
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    if again.size:
        raise InputError(f"item {int(ordered[again[0]])} has more than one identifier; give each item one")


def _check_tokens(tokens: AnyArray, offsets: IntArray, item_indices: IntArray, vocab_size: int | None) -> None:
    most = min(_INT32_MAX, vocab_size if vocab_size is not None else _INT32_MAX)
    if int(tokens.max()) < most and int(tokens.min()) >= 0:
        return
    place = int(np.argmax((tokens >= most) | (tokens < 0)))
    item = int(item_indices[np.searchsorted(offsets, place, side="right") - 1])
    raise InputError(
        f"the identifier of item {item} holds token {int(tokens[place])}; the vocabulary has tokens 0 to {most - 1:,}; "
        "encode the catalog with the tokenizer of the model that will rank it"
    )


def _sort_rows(kernel: Any, tokens: AnyArray, offsets: IntArray) -> IntArray:
    """int64 [N], the order of rows by their tokens: a few tokens at a time, as one number, and only where they tie."""
    rows, lengths = len(offsets) - 1, np.diff(offsets)
    longest = int(lengths.max())
    # Where rows differ in length, the end of one is a digit too, below every token.
    end = int(lengths.min() < longest)
    bits = max(1, (int(tokens.max()) + end).bit_length())
    # A number that holds its row beside some tokens is sorted as it is, which is faster than sorting rows by it.
    room = 64 - (rows - 1).bit_length()
    packed = room // bits * bits >= _MIN_KEY_BITS
    depth = count = room // bits if packed else 64 // bits
    keys = kernel.pack_keys(tokens, offsets, np.arange(rows), 0, count, bits, end)
    if packed:
        keys <<= np.uint64(64 - room)
        keys |= np.arange(rows, dtype=np.uint64)
        keys.sort()
        order: IntArray = (keys & np.uint64((1 << 64 - room) - 1)).astype(np.int64)
        keys >>= np.uint64(64 - room)
    else:
        order = np.argsort(keys)
        keys = keys[order]
    places = np.arange(rows)
    while True:
        tied = np.concatenate([[False], keys[1:] == keys[:-1]])
        kept = tied | np.append(tied[1:], False)
        places, groups = places[kept], (np.cumsum(~tied)[kept]).astype(np.uint64)
        if not places.size or depth >= longest:
            return order
        groups = np.cumsum(np.append(False, groups[1:] != groups[:-1])).astype(np.uint64)
        count = max(1, (64 - int(groups[-1]).bit_length()) // bits)
        own = order[places]
        # What ties stays together: its group stands above its next tokens in one number.
        keys = kernel.pack_keys(tokens, offsets, own, depth, count, bits, end)
        keys |= groups << np.uint64(count * bits)
        ranked = np.argsort(keys)
        order[places] = own[ranked]
        keys = keys[ranked]
        depth += count


def _prefix_conflict_error(one: tuple[int, int], other: tuple[int, int]) -> InputError:
    """What to say of two rows, each a length and an item."""
    (_, first), (_, second) = sorted((one, other))
    return InputError(
        f"the identifier of item {first} is equal to, or the beginning of, that of item {second}; "
        "make identifiers distinct and end each with an end token"
    )
