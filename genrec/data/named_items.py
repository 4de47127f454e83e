"""Items that a request names: the one rule for ids that are not in the catalog.

An id that was never in the catalog is an error, because it is probably mistyped. The id of an item that was withdrawn
is ignored with a notice, because the caller could not know of the change. `Catalog.lookup` tells the two apart.
"""

from collections.abc import Iterable

import numpy as np

from genrec.data.catalog import UNKNOWN, Catalog
from genrec.data.ids import key_of
from genrec.errors import UnknownItemError, format_value
from genrec.notices import Notice
from genrec.types import IntArray, ItemId

_MAX_LISTED = 10  # ids in a notice


def look_up_named(catalog: Catalog, argument: str, item_ids: Iterable[ItemId]) -> IntArray:
    """The index of each of the Q items that an argument names: int64 [Q], WITHDRAWN (-2) for a withdrawn one.

    Raises:
        UnknownItemError: an id was never in the catalog; the message contains the argument.
    """
    item_ids = list(item_ids)
    indices = catalog.lookup(item_ids)
    unknown = np.flatnonzero(indices == UNKNOWN)
    if unknown.size:
        raise UnknownItemError(
            f"{argument} holds item {format_value(item_ids[int(unknown[0])])}, which is not in catalog "
            f"{catalog.name!r} ({len(catalog):,} items)",
            remedy=f"remove it from {argument}",
        )
    return indices


def withdrawn_notices(item_ids: Iterable[ItemId]) -> list[Notice]:
    """A notice about the withdrawn items that a request names, in any of its arguments; none if it names none.

    An item counts once. The notice lists the first ten.
    """
    distinct = list({key_of(item_id): item_id for item_id in item_ids}.values())
    return [Notice("withdrawn_items", {"count": len(distinct), "item_ids": distinct[:_MAX_LISTED]})] if distinct else []
