"""Constraints of a request: filters, item lists and boosts of the caller, compiled to item indices of one catalog."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrec.data.catalog import Catalog
from genrec.data.filter_syntax import Filter
from genrec.data.named_items import look_up_named
from genrec.data.subset import Boost, Mask, Subset
from genrec.deadline import Deadline
from genrec.errors import InputError, check_number, format_value
from genrec.types import IntArray, ItemId

_CACHE_SIZE = 16  # compiled filters, most recently used
_SPARSE_RATIO = 64  # a filter that passes fewer than one item in 64 is kept as a list of indices


@dataclass(frozen=True)
class Constraints:
    """The constraints of a request, in item indices.

    Attributes:
        allowed: the items that may be recommended.
        boost: boosts of scores; None for none.
        withdrawn: ids in the caller's lists whose items were withdrawn. They are ignored, see
            `genrec.data.named_items`: where an allowlist names no other items, nothing is allowed.
    """

    allowed: Subset
    boost: Boost | None
    withdrawn: tuple[ItemId, ...]


class ConstraintCompiler:
    """Compiles the constraints of requests over one catalog; filters are cached, unless they are Arrow expressions."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._filters: dict[str | Filter, Subset] = {}  # oldest first
        self._lock = threading.Lock()

    def compile(
        self,
        *,
        where: Any = None,
        only: Iterable[ItemId] | None = None,
        exclude: Iterable[ItemId] | None = None,
        boost: Mapping[ItemId, float] | None = None,
        deadline: Deadline | None = None,
    ) -> Constraints:
        """The constraints of a request; None for none.

        Args:
            where: a filter that allowed items pass.
            only: ids of the only items that may be allowed.
            exclude: ids of items that are not allowed.
            boost: added to the scores of items.
            deadline: when the filter must be applied; by default never.

        Raises:
            FilterError: the filter does not parse, or names an unknown attribute.
            UnknownItemError: an item id was never in the catalog.
            InputError: `boost` is not a mapping to finite numbers, or has two keys for one item.
            DeadlineExceededError: the deadline passed between two conditions of the filter.
        """
        allowed = Subset.everything(len(self._catalog)) if where is None else self._filter(where, deadline)
        withdrawn: list[ItemId] = []
        if only is not None:
            allowed = allowed.intersect(self._item_indices("only", only, withdrawn))
        if exclude is not None:
            allowed = allowed.without(self._item_indices("exclude", exclude, withdrawn))
        compiled = None if boost is None else self._boost(boost, withdrawn)
        return Constraints(allowed, compiled, tuple(withdrawn))

    def _boost(self, boost: Mapping[ItemId, float], withdrawn: list[ItemId]) -> Boost:
        """Boosts by item index; withdrawn ids are added to `withdrawn`."""
        if not isinstance(boost, Mapping):
            raise InputError(f"boost is {format_value(boost)}; pass a mapping from item ids to numbers")
        values = np.array(
            [
                check_number(f"the boost of item {format_value(item_id)}", value, "give a finite number")
                for item_id, value in boost.items()
            ],
            dtype=np.float64,
        )
        item_ids = list(boost)
        indices = look_up_named(self._catalog, "boost", item_ids)
        kept = np.flatnonzero(indices >= 0)
        withdrawn += [item_ids[position] for position in np.flatnonzero(indices < 0)]
        order = kept[np.argsort(indices[kept], kind="stable")]
        repeated = np.flatnonzero(np.diff(indices[order]) == 0)
        if repeated.size:
            first, second = (format_value(item_ids[int(order[repeated[0] + offset])]) for offset in (0, 1))
            raise InputError(f"boost holds {first} and {second}, which are the same item; give one number for it")
        return Boost(indices[order], values[order])

    def _filter(self, where: Any, deadline: Deadline | None) -> Subset:
        with self._lock:
            cached = self._filters.pop(where, None) if isinstance(where, str | Filter) else None
            if cached is not None:
                self._filters[where] = cached
                return cached
        mask = Mask.from_bool(self._catalog.where(where, deadline=deadline))
        allowed = Subset.from_mask(mask)
        if mask.total * _SPARSE_RATIO < len(mask):
            allowed = Subset.from_indices(len(mask), allowed.to_indices())
        if isinstance(where, str | Filter):
            with self._lock:
                self._filters[where] = allowed
                while len(self._filters) > _CACHE_SIZE:
                    del self._filters[next(iter(self._filters))]
        return allowed

    def _item_indices(self, argument: str, item_ids: Iterable[ItemId], withdrawn: list[ItemId]) -> IntArray:
        """The indices of the items that an argument names; withdrawn ids are added to `withdrawn`."""
        try:
            item_ids = list(item_ids)
        except TypeError as error:  # such as an array without dimensions, which has the method to iterate
            raise InputError(f"{argument} is {format_value(item_ids)}; pass a list of item ids") from error
        indices = look_up_named(self._catalog, argument, item_ids)
        withdrawn += [item_ids[position] for position in np.flatnonzero(indices < 0)]
        return indices[indices >= 0]
