"""Constraints of a request: filters, item lists and boosts of the caller, compiled to item indices of one catalog."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from genrec.data.catalog import Catalog
from genrec.data.filter_syntax import Filter
from genrec.data.subset import Boost, Mask, Subset
from genrec.deadline import Deadline
from genrec.errors import InputError, UnknownItemError, check_number, format_value
from genrec.types import IntArray, ItemId

_CACHE_SIZE = 16  # compiled filters, most recently used
_SPARSE_RATIO = 64  # a filter that passes fewer than one item in 64 is kept as a list of indices


class ConstraintCompiler:
    """Compiles the constraints of requests over one catalog; filters are cached, unless they are Arrow expressions."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._filters: dict[str | Filter, Subset] = {}  # oldest first
        self._lock = threading.Lock()

    def allowed(
        self,
        where: Any,
        only: Iterable[ItemId] | None,
        exclude: Iterable[ItemId] | None,
        deadline: Deadline | None = None,
    ) -> Subset:
        """The items that pass a filter, are in `only` and are not in `exclude`; None for no constraint.

        Raises:
            FilterError: the filter does not parse, or names an unknown attribute.
            UnknownItemError: an item id is not in the catalog.
            DeadlineExceededError: the deadline passed between two conditions of the filter.
        """
        allowed = Subset.everything(len(self._catalog)) if where is None else self._filter(where, deadline)
        if only is not None:
            allowed = allowed.intersect(self._item_indices("only", only))
        if exclude is not None:
            allowed = allowed.without(self._item_indices("exclude", exclude))
        return allowed

    def boost(self, boost: Mapping[ItemId, float] | None) -> Boost | None:
        """Boosts by item index; None for none.

        Raises:
            InputError: `boost` is not a mapping to finite numbers, or has two keys for one item.
            UnknownItemError: an item id is not in the catalog.
        """
        if boost is None:
            return None
        if not isinstance(boost, Mapping):
            raise InputError(f"boost is {format_value(boost)}; pass a mapping from item ids to numbers")
        values = np.array(
            [
                check_number(f"the boost of item {format_value(item_id)}", value, "give a finite number")
                for item_id, value in boost.items()
            ],
            dtype=np.float64,
        )
        indices = self._item_indices("boost", boost)
        order = np.argsort(indices, kind="stable")
        repeated = np.flatnonzero(np.diff(indices[order]) == 0)
        if repeated.size:
            first, second = (format_value(list(boost)[int(order[repeated[0] + offset])]) for offset in (0, 1))
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

    def _item_indices(self, name: str, item_ids: Iterable[ItemId]) -> IntArray:
        item_ids = list(item_ids)
        indices = self._catalog.item_ids.positions(item_ids)
        unknown = np.flatnonzero(indices < 0)
        if unknown.size:
            first = format_value(item_ids[int(unknown[0])])
            raise UnknownItemError(
                f"{name} holds item {first}, which is not in catalog {self._catalog.name!r} "
                f"({len(self._catalog):,} items); remove it from {name}"
            )
        return indices
