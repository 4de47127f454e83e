"""Subsets of catalog items, and boosts of their scores, whose cost does not grow with the catalog.

Items are given by their indices, from 0 to N - 1. Subsets of the rows of a token trie work alike.

Letters: N items, L listed items, B boosted items, Q queried items or ranges.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from genrec.errors import MAX_COUNT, InputError, check_count, check_number, format_value
from genrec.types import BoolArray, FloatArray, IntArray

Indices = IntArray | Sequence[int]

_EMPTY = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Mask:
    """The items that a filter allows; read-only, so that requests can share it.

    Attributes:
        prefix_counts: uint32 [N + 1], the number of allowed items before each index; the range l, ..., h - 1 has
            `prefix_counts[h] - prefix_counts[l]` of them.
    """

    prefix_counts: NDArray[np.uint32] = field(repr=False)

    @classmethod
    def from_bool(cls, allowed: BoolArray) -> "Mask":
        """The mask of bool [N].

        Raises:
            InputError: `allowed` is not a one-dimensional array of booleans.
        """
        if not isinstance(allowed, np.ndarray) or allowed.dtype != np.bool_ or allowed.ndim != 1:
            raise InputError(
                f"a mask is a NumPy array bool [N], not {_describe(allowed)}; for item indices use Subset.from_indices"
            )
        counts = np.zeros(len(allowed) + 1, dtype=np.uint32)
        np.cumsum(allowed, out=counts[1:])
        counts.flags.writeable = False
        return cls(counts)

    def __len__(self) -> int:
        return len(self.prefix_counts) - 1

    @property
    def total(self) -> int:
        """The number of allowed items."""
        return int(self.prefix_counts[-1])

    def contains(self, indices: Indices) -> BoolArray:
        """Whether each of Q items is allowed: bool [Q].

        Raises:
            InputError: an index is not a whole number from 0 to N - 1.
        """
        indices = _validated(indices, len(self))
        allowed: BoolArray = self.prefix_counts[indices + 1] > self.prefix_counts[indices]
        return allowed

    def to_bool(self) -> BoolArray:
        """Whether each item is allowed: bool [N]."""
        allowed: BoolArray = self.prefix_counts[1:] > self.prefix_counts[:-1]
        return allowed


@dataclass(frozen=True, eq=False)
class Subset:
    """Some of N items: all that a mask allows except a few, or only a few (an allowlist). Immutable.

    Make one with `everything`, `from_indices` or `from_mask`, and narrow it. Adding L items to the list costs
    O(L log L), whatever N is; so do all queries but `to_indices` and `to_bool`, which cost O(N).

    Attributes:
        universe: N.
        mask: the items that a filter allows; None if it allows all, and for an allowlist.
        listed: int64 [L], ascending and distinct: the items of an allowlist; otherwise items that the mask allows and
            the subset leaves out.
        is_allowlist: whether `listed` is the subset, rather than what the subset leaves out.
    """

    universe: int
    mask: Mask | None = field(default=None, repr=False)
    listed: IntArray = field(default_factory=_EMPTY.copy, repr=False)
    is_allowlist: bool = False

    def __post_init__(self) -> None:
        listed = _validated(self.listed, self.universe)
        unordered = np.flatnonzero(listed[1:] <= listed[:-1])
        if unordered.size:
            first, second = listed[unordered[0]], listed[unordered[0] + 1]
            raise InputError(f"index {second} is listed after index {first}; use Subset.from_indices, which sorts them")
        object.__setattr__(self, "listed", listed)

    @classmethod
    def everything(cls, universe: int) -> "Subset":
        """All of N items."""
        return cls(_validated_size(universe))

    @classmethod
    def from_indices(cls, universe: int, indices: Indices) -> "Subset":
        """The items with the given indices, in any order and with repeats.

        Raises:
            InputError: an index is not a whole number from 0 to N - 1.
        """
        return cls(_validated_size(universe), None, _sorted_unique(_validated(indices, universe)), is_allowlist=True)

    @classmethod
    def from_mask(cls, mask: Mask) -> "Subset":
        """All items that a mask allows; the mask is shared, not copied."""
        return cls(len(mask), mask)

    def without(self, indices: Indices) -> "Subset":
        """The subset without the given items; items outside the subset are ignored.

        Raises:
            InputError: an index is not a whole number from 0 to N - 1.
        """
        indices = _sorted_unique(_validated(indices, self.universe))
        removed = indices[self.contains(indices)]
        if not removed.size:
            return self
        at = np.searchsorted(self.listed, removed)
        listed = np.delete(self.listed, at) if self.is_allowlist else np.insert(self.listed, at, removed)
        return Subset(self.universe, self.mask, listed, self.is_allowlist)

    def intersect(self, indices: Indices) -> "Subset":
        """The given items that are also in the subset.

        Raises:
            InputError: an index is not a whole number from 0 to N - 1.
        """
        indices = _sorted_unique(_validated(indices, self.universe))
        return Subset(self.universe, None, indices[self.contains(indices)], is_allowlist=True)

    def __len__(self) -> int:
        if self.is_allowlist:
            return len(self.listed)
        return (self.universe if self.mask is None else self.mask.total) - len(self.listed)

    def contains(self, indices: Indices) -> BoolArray:
        """Whether each of Q items is in the subset: bool [Q].

        Raises:
            InputError: an index is not a whole number from 0 to N - 1.
        """
        indices = _validated(indices, self.universe)
        at = np.searchsorted(self.listed, indices)
        listed: BoolArray = np.searchsorted(self.listed, indices, side="right") > at
        if self.is_allowlist:
            return listed
        return ~listed if self.mask is None else self.mask.contains(indices) & ~listed

    def count(self, low: Indices, high: Indices) -> IntArray:
        """The number of items in the subset within each of Q ranges low, ..., high - 1: int64 [Q].

        Raises:
            InputError: a range ends before it begins, or is not within 0 to N.
        """
        low, high = _validated(low, self.universe + 1), _validated(high, self.universe + 1)
        if low.shape != high.shape or (low > high).any():
            raise InputError(
                f"ranges begin at {low.tolist()[:5]} and end at {high.tolist()[:5]}; give pairs with low <= high"
            )
        listed = np.searchsorted(self.listed, high) - np.searchsorted(self.listed, low)
        if self.is_allowlist:
            return listed
        if self.mask is None:
            return high - low - listed
        return (self.mask.prefix_counts[high] - self.mask.prefix_counts[low]).astype(np.int64) - listed

    def to_indices(self) -> IntArray:
        """The indices of the subset, ascending: int64; costs O(N) except for an allowlist."""
        return self.listed.copy() if self.is_allowlist else np.flatnonzero(self.to_bool())

    def to_bool(self) -> BoolArray:
        """Whether each item is in the subset: bool [N]."""
        chosen = np.full(self.universe, not self.is_allowlist) if self.mask is None else self.mask.to_bool()
        chosen[self.listed] = self.is_allowlist
        return chosen


@dataclass(frozen=True, eq=False)
class Boost:
    """Numbers that are added to the scores of B items; other scores stay as they are.

    Attributes:
        indices: int64 [B], ascending and distinct.
        values: float64 [B], finite.
    """

    indices: IntArray = field(repr=False)
    values: FloatArray = field(repr=False)

    def __post_init__(self) -> None:
        if self.indices.shape != self.values.shape or self.indices.ndim != 1:
            raise InputError(
                f"a boost has indices of shape {self.indices.shape} and values of shape {self.values.shape}; "
                "give one value for each index"
            )
        if self.indices.size and self.indices[0] < 0:
            raise InputError(f"boost index {self.indices[0]} is negative; indices start at 0")
        unordered = np.flatnonzero(np.diff(self.indices) <= 0)
        if unordered.size:
            first, second = self.indices[unordered[0]], self.indices[unordered[0] + 1]
            raise InputError(f"index {second} is boosted after index {first}; give each index once, in ascending order")
        wrong = np.flatnonzero(~np.isfinite(self.values))
        if wrong.size:
            raise InputError(
                f"the boost of index {self.indices[wrong[0]]} is {self.values[wrong[0]]}; give a finite number"
            )

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[int, float]]) -> "Boost":
        """The boost of (index, value) pairs, in any order.

        Raises:
            InputError: an index occurs twice or is below 0, or a value is not finite.
        """
        rows = list(pairs)
        invalid = [index for index, _ in rows if isinstance(index, bool) or not isinstance(index, int | np.integer)]
        if invalid:
            raise InputError(f"boost index {format_value(invalid[0])} is not an integer; give integers")
        for index, value in rows:
            check_count("boost index", index, -MAX_COUNT)
            check_number(f"the boost of index {index}", value, "give a finite number")
        values = np.array([value for _, value in rows], dtype=np.float64)
        indices = np.array([index for index, _ in rows], dtype=np.int64)
        order = np.argsort(indices, kind="stable")
        return cls(indices[order], values[order])

    def __len__(self) -> int:
        return len(self.indices)

    def values_at(self, indices: Indices) -> FloatArray:
        """The boost of each of Q items: float64 [Q], 0 for items without one."""
        queried = np.asarray(indices, dtype=np.int64)
        if not len(self):
            return np.zeros(queried.shape)
        at = np.minimum(np.searchsorted(self.indices, queried), len(self) - 1)
        return np.where(self.indices[at] == queried, self.values[at], 0.0)

    def add(self, other: "Boost") -> "Boost":
        """The sum of two boosts.

        Raises:
            InputError: a sum is not finite.
        """
        indices = np.union1d(self.indices, other.indices)
        with np.errstate(over="ignore"):  # the constructor refuses an infinite sum
            return Boost(indices, self.values_at(indices) + other.values_at(indices))


def concat_ragged(arrays: Sequence[IntArray]) -> tuple[IntArray, IntArray]:
    """Concatenate one or more arrays of indices.

    Returns:
        values: int64 [L], all indices.
        offsets: int64 [arrays + 1]; array a is `values[offsets[a]:offsets[a + 1]]`.
    """
    offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    return np.concatenate(arrays).astype(np.int64, copy=False), offsets


def _validated_size(universe: int) -> int:
    if isinstance(universe, bool) or not isinstance(universe, int | np.integer) or universe < 0:
        raise InputError(f"universe is {format_value(universe)}; give a whole number of at least 0")
    return int(universe)


def _validated(indices: Indices, universe: int) -> IntArray:
    """Indices as int64 [Q], each from 0 to `universe` - 1."""
    array = np.asarray(indices)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"the indices are {_describe(indices)}; give whole numbers in one dimension")
    if array.size and (array.min() < 0 or array.max() >= universe):
        wrong = array[(array < 0) | (array >= universe)][0]
        raise InputError(f"index {wrong} is not within 0 to {universe - 1:,}; use indices of this catalog")
    return array.astype(np.int64, copy=False)


def _sorted_unique(indices: IntArray) -> IntArray:
    """Ascending and without repeats; always a copy."""
    ordered = np.sort(indices)
    return ordered[np.concatenate([[True], ordered[1:] > ordered[:-1]])] if ordered.size else ordered


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of type {value.dtype} and shape {value.shape}"
    return format_value(value)
