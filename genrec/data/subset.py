"""Which of N places may be used, and what some of them are worth beside their score, at the cost of what is listed.

Letters: N places, L listed places, B boosted places, Q places or ranges asked about.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from genrec.errors import InputError
from genrec.types import BoolArray, FloatArray, IntArray

Indices = IntArray | Sequence[int]

_EMPTY = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Mask:
    """Which of N places a filter lets through; read-only, so that every request may share it.

    Attributes:
        prefix_counts: uint32 [N + 1], how many places before each are let through; `counts[h] - counts[l]` of l, ..., h - 1.
    """

    prefix_counts: NDArray[np.uint32] = field(repr=False)

    @classmethod
    def from_bool(cls, allowed: BoolArray) -> "Mask":
        """The mask of bool [N].

        Raises:
            InputError: it is no array of truth values in one dimension.
        """
        if not isinstance(allowed, np.ndarray) or allowed.dtype != np.bool_ or allowed.ndim != 1:
            raise InputError(f"a mask is made of bool [N], not of {_describe(allowed)}; list places with Subset.of")
        counts = np.zeros(len(allowed) + 1, dtype=np.uint32)
        np.cumsum(allowed, out=counts[1:])
        counts.flags.writeable = False
        return cls(counts)

    def __len__(self) -> int:
        return len(self.prefix_counts) - 1

    @property
    def total(self) -> int:
        """How many places are let through."""
        return int(self.prefix_counts[-1])

    def contains(self, indices: Indices) -> BoolArray:
        """Whether each of Q places is let through: bool [Q]."""
        indices = _validated(indices, len(self))
        let: BoolArray = self.prefix_counts[indices + 1] > self.prefix_counts[indices]
        return let

    def intersect(self, other: "Mask") -> "Mask":
        """What both let through.

        Raises:
            InputError: they are of different lengths.
        """
        if len(other) != len(self):
            raise InputError(f"a mask of {len(other):,} places meets one of {len(self):,}; use masks of one catalog")
        return Mask.from_bool(self.to_bool() & other.to_bool())

    def to_bool(self) -> BoolArray:
        """Bool [N]."""
        let: BoolArray = self.prefix_counts[1:] > self.prefix_counts[:-1]
        return let


@dataclass(frozen=True, eq=False)
class Subset:
    """Some of N places: all that a mask lets through except a few, or only a few. Immutable.

    Make one with `everything`, `from_indices` or `from_mask`, and narrow it. Taking out or listing L places costs L, whatever N
    is; so does every question but `to_indices` and `to_bool`, which write down the answer.

    Attributes:
        universe: N.
        mask: what a filter lets through; None where all are, and where `is_allowlist` is True.
        listed: int64 [L], rising and distinct; the places that are in where `is_allowlist` is True, and otherwise places that
            the mask lets through and that are taken out.
        is_allowlist: how `listed` is read.
    """

    universe: int
    mask: Mask | None = field(default=None, repr=False)
    listed: IntArray = field(default_factory=_EMPTY.copy, repr=False)
    is_allowlist: bool = False

    def __post_init__(self) -> None:
        listed = _validated(self.listed, self.universe)
        again = np.flatnonzero(listed[1:] <= listed[:-1])
        if again.size:
            first, second = listed[again[0]], listed[again[0] + 1]
            raise InputError(f"place {second} is listed after place {first}; make subsets with Subset.of and the like")
        object.__setattr__(self, "listed", listed)

    @classmethod
    def everything(cls, universe: int) -> "Subset":
        """All of N places."""
        return cls(_validated_size(universe))

    @classmethod
    def from_indices(cls, universe: int, indices: Indices) -> "Subset":
        """The given ones of N places, in any order and as often as they come.

        Raises:
            InputError: a place is no whole number from 0 to N - 1.
        """
        return cls(_validated_size(universe), None, _sorted_unique(_validated(indices, universe)), is_allowlist=True)

    @classmethod
    def from_mask(cls, mask: Mask) -> "Subset":
        """All that a mask lets through; the mask is shared, not copied."""
        return cls(len(mask), mask)

    def without(self, indices: Indices) -> "Subset":
        """This without the given places; those that are not in it change nothing."""
        indices = _sorted_unique(_validated(indices, self.universe))
        gone = indices[self.contains(indices)]
        if not gone.size:
            return self
        at = np.searchsorted(self.listed, gone)
        listed = np.delete(self.listed, at) if self.is_allowlist else np.insert(self.listed, at, gone)
        return Subset(self.universe, self.mask, listed, self.is_allowlist)

    def intersect(self, indices: Indices) -> "Subset":
        """What is both in this and among the given places."""
        indices = _sorted_unique(_validated(indices, self.universe))
        return Subset(self.universe, None, indices[self.contains(indices)], is_allowlist=True)

    def intersect_mask(self, mask: Mask) -> "Subset":
        """What is in this and let through by a mask as well; two masks meet at the cost of N.

        Raises:
            InputError: the mask is of another number of places.
        """
        if len(mask) != self.universe:
            raise InputError(f"a mask of {len(mask):,} places meets {self.universe:,}; use masks of one catalog")
        listed = self.listed[mask.contains(self.listed)]
        if self.is_allowlist:
            return Subset(self.universe, None, listed, is_allowlist=True)
        return Subset(self.universe, mask if self.mask is None else self.mask.intersect(mask), listed)

    def __len__(self) -> int:
        if self.is_allowlist:
            return len(self.listed)
        return (self.universe if self.mask is None else self.mask.total) - len(self.listed)

    def contains(self, indices: Indices) -> BoolArray:
        """Whether each of Q places is in: bool [Q].

        Raises:
            InputError: a place is no whole number from 0 to N - 1.
        """
        indices = _validated(indices, self.universe)
        at = np.searchsorted(self.listed, indices)
        listed: BoolArray = np.searchsorted(self.listed, indices, side="right") > at
        if self.is_allowlist:
            return listed
        return ~listed if self.mask is None else self.mask.contains(indices) & ~listed

    def count(self, low: Indices, high: Indices) -> IntArray:
        """How many of the places low, ..., high - 1 are in, for each of Q ranges: int64 [Q].

        Raises:
            InputError: a range ends before it begins, or does not lie within 0 to N.
        """
        low, high = _validated(low, self.universe + 1), _validated(high, self.universe + 1)
        if low.shape != high.shape or (low > high).any():
            raise InputError(f"ranges begin at {low.tolist()[:5]} and end at {high.tolist()[:5]}; give pairs that rise")
        listed = np.searchsorted(self.listed, high) - np.searchsorted(self.listed, low)
        if self.is_allowlist:
            return listed
        if self.mask is None:
            return high - low - listed
        return (self.mask.prefix_counts[high] - self.mask.prefix_counts[low]).astype(np.int64) - listed

    def to_indices(self) -> IntArray:
        """The places that are in, rising: int64; costs N unless `only` is True."""
        return self.listed.copy() if self.is_allowlist else np.flatnonzero(self.to_bool())

    def to_bool(self) -> BoolArray:
        """Bool [N]."""
        chosen = np.full(self.universe, not self.is_allowlist) if self.mask is None else self.mask.to_bool()
        chosen[self.listed] = self.is_allowlist
        return chosen


@dataclass(frozen=True, eq=False)
class Boost:
    """What is added to the scores of B places; nothing is added to the others.

    Attributes:
        indices: int64 [B], rising and distinct.
        values: float64 [B], finite.
    """

    indices: IntArray = field(repr=False)
    values: FloatArray = field(repr=False)

    def __post_init__(self) -> None:
        if self.indices.shape != self.values.shape or self.indices.ndim != 1:
            raise InputError(
                f"a boost has places of shape {self.indices.shape} and values of shape {self.values.shape}; give pairs"
            )
        if self.indices.size and self.indices[0] < 0:
            raise InputError(f"place {self.indices[0]} is boosted; places count from 0")
        again = np.flatnonzero(np.diff(self.indices) <= 0)
        if again.size:
            first, second = self.indices[again[0]], self.indices[again[0] + 1]
            raise InputError(f"place {second} is boosted after place {first}; give each place once, rising")
        wrong = np.flatnonzero(~np.isfinite(self.values))
        if wrong.size:
            raise InputError(
                f"the boost of place {self.indices[wrong[0]]} is {self.values[wrong[0]]}; give a finite number"
            )

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[int, float]]) -> "Boost":
        """The boost of places and their values, in any order.

        Raises:
            InputError: a place comes twice or is below 0, or a value is not finite.
        """
        rows = list(pairs)
        strange = [place for place, _ in rows if isinstance(place, bool) or not isinstance(place, int | np.integer)]
        if strange:
            raise InputError(f"place {strange[0]!r} is boosted; give whole numbers")
        places = np.array([place for place, _ in rows], dtype=np.int64)
        values = np.array([value for _, value in rows], dtype=np.float64)
        order = np.argsort(places, kind="stable")
        return cls(places[order], values[order])

    def __len__(self) -> int:
        return len(self.indices)

    def values_at(self, indices: Indices) -> FloatArray:
        """What is added at each of Q places: float64 [Q], 0 where nothing is."""
        asked = np.asarray(indices, dtype=np.int64)
        if not len(self):
            return np.zeros(asked.shape)
        at = np.minimum(np.searchsorted(self.indices, asked), len(self) - 1)
        return np.where(self.indices[at] == asked, self.values[at], 0.0)

    def add(self, other: "Boost") -> "Boost":
        """Both together.

        Raises:
            InputError: a sum is too large for a number.
        """
        places = np.union1d(self.indices, other.indices)
        with np.errstate(over="ignore"):  # an infinite sum is refused by name
            return Boost(places, self.values_at(places) + other.values_at(places))


def concat_ragged(arrays: Sequence[IntArray]) -> tuple[IntArray, IntArray]:
    """One or more lists of places, one behind the other, as loops read them.

    Returns:
        int64 [L], and int64 [parts + 1], where each begins and the last one ends.
    """
    bounds = np.zeros(len(arrays) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in arrays], out=bounds[1:])
    return np.concatenate(arrays).astype(np.int64, copy=False), bounds


def _validated_size(universe: int) -> int:
    if isinstance(universe, bool) or not isinstance(universe, int | np.integer) or universe < 0:
        raise InputError(f"a subset of {universe!r} places; give a whole number of at least 0")
    return int(universe)


def _validated(indices: Indices, universe: int) -> IntArray:
    """Places as int64 [Q], each from 0 to `universe` - 1."""
    found = np.asarray(indices)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise InputError(f"places are {_describe(indices)}; give whole numbers in one dimension")
    if found.size and (found.min() < 0 or found.max() >= universe):
        wrong = found[(found < 0) | (found >= universe)][0]
        raise InputError(f"place {wrong} does not lie within 0 to {universe - 1:,}; use places of this catalog")
    return found.astype(np.int64, copy=False)


def _sorted_unique(indices: IntArray) -> IntArray:
    """Rising and without repeats, always a copy."""
    ordered = np.sort(indices)
    return ordered[np.concatenate([[True], ordered[1:] > ordered[:-1]])] if ordered.size else ordered


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of type {value.dtype} and shape {value.shape}"
    return f"{value!r:.60}"
