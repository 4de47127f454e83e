"""Sorted identifiers, each stored without the tokens it shares with the row before it (front coding).

Letters: N rows, L tokens of a row, T stored tokens.

Source: Witten, Moffat and Bell, "Managing Gigabytes", 1999, section 4.1.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from genrec import artifact
from genrec.errors import ArtifactError, InputError
from genrec.index.kernels.dispatch import select_kernels
from genrec.index.kernels.numpy import START_BLOCK
from genrec.index.row_sorting import sort_rows
from genrec.index.row_validation import check_rows, prefix_conflict_error
from genrec.types import IntArray

AnyArray = NDArray[Any]

_KIND = "trie"
_VERSION = 1
_FILE = "trie.safetensors"
_HASH_CHUNK = 1 << 20  # numbers hashed at once


@dataclass(frozen=True, eq=False)
class FrontCodedRows:
    """N identifiers in the order of their tokens. Made by `from_rows`, `from_sequences` or `load`.

    Attributes:
        tokens: uint16 [T], or uint32 where token ids need it: of each row in turn, the tokens that it does not share
            with the row before. Every prefix of an identifier ends at exactly one position of this array.
        shared: [N], how many tokens a row shares with the row before, in the smallest unsigned type that holds them.
        tails: [N], how many tokens of its own a row has, at least 1; same type.
        items: int32 [N], the item index of each row. Ties between items are broken by this number.
    """

    tokens: AnyArray
    shared: AnyArray
    tails: AnyArray
    items: AnyArray

    def __reduce__(self) -> tuple[object, ...]:
        # Only the stored arrays go to another process, not what is derived from them. A mapped file is read whole.
        return type(self), (self.tokens, self.shared, self.tails, self.items)

    @classmethod
    def from_sequences(cls, sequences: Sequence[IntArray], *, vocab_size: int | None = None) -> Self:
        """Sort the identifiers of items 0, 1, ...; see `from_rows`."""
        if not len(sequences):
            raise InputError("an index needs at least one identifier; add an item")
        lengths = np.fromiter((len(sequence) for sequence in sequences), dtype=np.int64, count=len(sequences))
        return cls.from_rows(np.concatenate(sequences), lengths, vocab_size=vocab_size)

    @classmethod
    def from_rows(
        cls,
        tokens: AnyArray,
        lengths: IntArray | None = None,
        *,
        item_indices: IntArray | None = None,
        vocab_size: int | None = None,
    ) -> Self:
        """Sort identifiers, given in any order.

        Args:
            tokens: integers [N, L]; or flat, all identifiers one after the other.
            lengths: int64 [N], if `tokens` is flat.
            item_indices: [N], the item of each identifier; by default 0, 1, ...
            vocab_size: token ids must be below it.

        Raises:
            InputError: there are no identifiers, one is empty, a token is outside the vocabulary, or an identifier is
                equal to another or its prefix (the items are named).
        """
        if lengths is None:
            if tokens.ndim != 2:
                raise InputError(
                    f"tokens have shape {tokens.shape}; pass an array of shape [N, L], or a flat array and lengths"
                )
            lengths = np.full(len(tokens), tokens.shape[1], dtype=np.int64)
            tokens = tokens.reshape(-1)
        item_indices = np.arange(len(lengths), dtype=np.int32) if item_indices is None else np.asarray(item_indices)
        offsets = check_rows(tokens, lengths, item_indices, vocab_size)
        order = sort_rows(select_kernels(), tokens, offsets)
        return cls._from_sorted(tokens, lengths, order, item_indices)

    @classmethod
    def _from_sorted(cls, tokens: AnyArray, lengths: IntArray, order: IntArray, item_indices: IntArray) -> Self:
        """Front-code identifiers that stand one after the other in `tokens`; `order` sorts them."""
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        length_type = np.min_scalar_type(int(lengths.max()))
        shared, tails = np.empty(len(order), dtype=length_type), np.empty(len(order), dtype=length_type)
        stored = np.empty(len(tokens), dtype=np.uint16 if int(tokens.max()) < 1 << 16 else np.uint32)
        filled = select_kernels().front_code(tokens, offsets, order, shared, tails, stored)
        if filled <= 0:
            raise prefix_conflict_error(
                *((lengths[row], item_indices[row]) for row in order[-filled - 1 : 1 - filled or None])
            )
        return cls(stored[:filled], shared, tails, item_indices[order].astype(np.int32))

    def __len__(self) -> int:
        """The number of rows (N)."""
        return len(self.items)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the rows and their items, in hexadecimal; independent of the types of the arrays."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.shared, self.tails, self.items):
            for start in range(0, len(array), _HASH_CHUNK):
                digest.update(np.ascontiguousarray(array[start : start + _HASH_CHUNK], dtype="<u4").tobytes())
        return digest.hexdigest()

    @cached_property
    def max_length(self) -> int:
        """The number of tokens in the longest row."""
        return int(np.add(self.shared, self.tails, dtype=np.int32).max())

    @cached_property
    def lengths(self) -> IntArray:
        """int64 [N], the number of tokens in each row."""
        return self.shared.astype(np.int64) + self.tails

    @cached_property
    def last_positions(self) -> IntArray:
        """int64 [N], the position in `tokens` of each row's last token."""
        return np.cumsum(self.tails, dtype=np.int64) - 1

    @cached_property
    def parents(self) -> IntArray:
        """int64 [T], the position of the previous token on each token's path; -1 for the first token of a path."""
        parents = np.arange(-1, len(self.tokens) - 1)
        shared = self.shared.astype(np.int64)
        begins = self.last_positions + 1 - self.tails
        rows = np.arange(len(self))
        for depth in range(int(shared.max()) + 1):
            here = np.flatnonzero(shared == depth)
            if depth == 0:
                parents[begins[here]] = -1
            elif here.size:
                # The row whose own tokens cover the token above is the last row before this one that shares less.
                above = np.maximum.accumulate(np.where(shared < depth, rows, 0))[here]
                parents[begins[here]] = begins[above] + depth - 1 - shared[above]
        return parents

    @cached_property
    def depths(self) -> IntArray:
        """int64 [T], the number of tokens before each token on its path."""
        begins = self.last_positions + 1 - self.tails
        return np.arange(len(self.tokens)) - np.repeat(begins - self.shared, self.tails)

    @cached_property
    def rows_of_items(self) -> IntArray:
        """int64 [largest item index + 1], the row of each item; -1 for an item without a row."""
        rows = np.full(int(self.items.max()) + 1, -1, dtype=np.int64)
        rows[self.items] = np.arange(len(self))
        return rows

    def row_starts(self, rows: IntArray) -> IntArray:
        """int64 [R], the position in `tokens` where the stored tokens of each of R rows begin."""
        starts: IntArray = self._kernels.row_starts(self.tails, self._block_starts, rows)
        return starts

    def path_positions(self, rows: IntArray) -> IntArray:
        """int64, the positions in `tokens` of every token of the given rows, row after row."""
        lengths = self.lengths[rows]
        stops = np.cumsum(lengths)
        result = np.empty(int(stops[-1]) if len(rows) else 0, dtype=np.int64)
        position, targets = self.last_positions[rows], stops - 1
        while position.size:
            result[targets] = position
            position = self.parents[position]
            is_inside = position >= 0
            position, targets = position[is_inside], targets[is_inside] - 1
        return result

    def save(self, directory: str | Path) -> None:
        """Write a directory, completely or not at all.

        Raises:
            ArtifactError: the directory cannot be written, or holds something else.
        """
        user_data = artifact.UserData("none", "token ids of items", 0)
        with artifact.artifact_writer(
            Path(directory), kind=_KIND, version=_VERSION, user_data=user_data, metadata={"rows": len(self)}
        ) as folder:
            self.write(folder / _FILE)

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Map what `save` wrote into memory after checking its SHA-256; pages are read when they are needed.

        Raises:
            ArtifactError: the file is missing, cut short or altered.
        """
        directory = Path(directory)
        artifact.verify(directory, kind=_KIND, version=_VERSION)
        return cls.read(directory / _FILE)

    def write(self, path: Path) -> None:
        """Write one file, which `read` maps."""
        artifact.write_arrays(path, {name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Map a file that `write` wrote; no checksum is verified.

        Raises:
            ArtifactError: the file does not hold the arrays of a trie.
        """
        arrays = artifact.mmap_arrays(path)
        try:
            rows = cls(**arrays)
        except TypeError:
            raise ArtifactError(f"{path} holds {', '.join(arrays)}, not a trie", remedy="build it again") from None
        if len({len(rows.shared), len(rows.tails), len(rows.items)}) > 1 or not len(rows):
            raise ArtifactError(f"the arrays in {path} have different lengths", remedy="build the trie again")
        return rows

    @cached_property
    def _kernels(self) -> Any:
        return select_kernels()

    @cached_property
    def _block_starts(self) -> IntArray:
        """The position where the tokens of every 64th row begin; short sums of `tails` give the other rows."""
        sums = np.add.reduceat(self.tails, np.arange(0, len(self), START_BLOCK), dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(sums[:-1])])
        return starts.astype(np.uint32 if len(self.tokens) < 1 << 32 else np.int64)
