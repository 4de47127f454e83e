"""A check that histories are in order of time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.data.catalog import Catalog
from genrec.data.interactions import Interactions
from genrec.data.timestamps import offer_orders
from genrec.errors import InputError

_MIN_STEPS = 50  # with fewer steps of histories, their order cannot be judged
_SORTED_SHARE = 0.95  # share of steps in one direction from which histories count as sorted


_REMEDY = {"none": "to use no order, or load them in their original order"}


def check_order(catalog: Catalog, interactions: Interactions) -> None:
    """Reject histories that are sorted by title or item id instead of by time, as in two public data sets.

    Histories without an order are not rejected.

    Raises:
        InputError: at least 95 % of the steps between neighbours of a history go up, or down, in that order.
    """
    if interactions.order == "none":
        return
    offsets, items = interactions.to_indices(catalog, on_unknown="skip")
    inside = np.ones(max(len(items) - 1, 0), dtype=np.bool_)
    ends = offsets[1:-1]
    inside[ends[(ends > 0) & (ends < len(items))] - 1] = False
    for name, keys in _suspect_orders(catalog).items():
        _, positions = np.unique(keys, return_inverse=True)
        steps = np.diff(positions[items])[inside]
        steps = steps[steps != 0]
        if len(steps) < _MIN_STEPS:
            continue
        for direction, share in (("up", float((steps > 0).mean())), ("down", float((steps < 0).mean()))):
            if share >= _SORTED_SHARE:
                raise InputError(
                    f"{share:.1%} of {len(steps):,} steps of the histories in {interactions.source} go {direction} in "
                    f"the order of {name}: they are sorted by {name}, not by time",
                    remedy=f"pass {offer_orders(_REMEDY)}",
                    orders=_REMEDY,
                )


def _suspect_orders(catalog: Catalog) -> dict[str, NDArray[Any]]:
    """The item orders by which histories may have been sorted: the keys of each, [N]."""
    ids = [str(one) for one in catalog.item_ids]
    orders = {"titles": np.array(list(catalog.titles), dtype=object).astype(str), "item ids": np.array(ids)}
    if all(one.isdecimal() and len(one) < 19 for one in ids):
        orders["item ids as numbers"] = np.array(ids, dtype=np.int64)
    return orders
