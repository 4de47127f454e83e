"""What a store changes in a catalog. The changed catalog is a function of the file's catalog and of the store's rows.

A server that runs and one that starts call the same function, so both have the same catalog, however it came about.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from genrec.data.catalog import Catalog
from genrec.data.ids import Ids, is_whole_float
from genrec.errors import InputError
from genrec.store.checks import checked_id
from genrec.store.item_json import item_from_json, item_to_json
from genrec.types import Item, ItemId


@dataclass(frozen=True)
class ChangedCatalog:
    """A catalog with the changes of a store.

    Attributes:
        catalog: the changed catalog.
        set_aside: items that were put but do not fit the catalog, by id as text, with the reason.
    """

    catalog: Catalog
    set_aside: Mapping[str, InputError]


@dataclass(frozen=True)
class CatalogChanges:
    """The last change of each item.

    Attributes:
        revision: the number of the latest revision; 0 before the first.
        items: for each item id, as text, the item that was put last; None if the item was withdrawn. In the order in
            which the ids were first changed; later changes do not move them.
    """

    revision: int
    items: Mapping[str, Item | None]

    def updated(self, put: Sequence[Item] = (), withdraw: Sequence[ItemId] = ()) -> "CatalogChanges":
        """The changes after another revision; they equal those that a store returns after `Store.revise`.

        Raises:
            InputError: as for `Store.revise`.
        """
        rows = revision_rows(put, withdraw)
        items = {item_id: None if line is None else item_from_json(line) for item_id, line in rows.items()}
        return CatalogChanges(self.revision + bool(rows), {**self.items, **items})

    def apply(self, catalog: Catalog) -> ChangedCatalog:
        """Apply the changes to the catalog of the file.

        An item that was put replaces the one with its id, in its place; new items follow, in the order of `items`. An
        item is set aside if it fits neither the file nor the items before it: an attribute has another type, or its id
        would change. It is then ignored, so an item of the file with its id stays.

        Raises:
            InputError: no item would be left.
        """
        if not self.items:
            return ChangedCatalog(catalog, {})
        set_aside: dict[str, InputError] = {}
        put = list[Item]()
        for item_id, item in self.items.items():
            if item is None:
                continue
            if is_whole_float(item_id):
                set_aside[item_id] = _float_id(item_id)
            else:
                put.append(item)
        withdrawn = [item_id for item_id, item in self.items.items() if item is None]
        indices = catalog.item_ids.positions(Ids(pa.array(withdrawn, pa.large_string())))
        position = 0
        while True:
            try:
                upsert = Catalog.from_items(put) if put else None
                changed = catalog.revised(upsert=upsert, remove=indices[indices >= 0], withdrawn_ids=withdrawn)
                return ChangedCatalog(changed, set_aside)
            except InputError:
                position = bisect_left(
                    range(len(put)), True, lo=position, key=lambda last: _misfit(catalog, put[: last + 1]) is not None
                )
                if position == len(put):  # all items fit
                    raise
                misfit = _misfit(catalog, put[: position + 1])
                set_aside[str(put.pop(position).item_id)] = misfit or InputError("does not fit the catalog")


def revision_rows(put: Sequence[Item], withdraw: Sequence[ItemId]) -> dict[str, str | None]:
    """The rows of a revision: the line of JSON of each item that is put, None for one that is withdrawn.

    Raises:
        InputError: an id is invalid or occurs twice, or `Catalog.from_items` or `item_to_json` rejects an item. An item
            cannot be put under an id such as "7.0", because files write the id 7 so.
    """
    items = [
        replace(item, item_id=checked_id("item_id", item.item_id, position))
        for position, item in enumerate(put, start=1)
    ]
    if odd := next((item for item in items if is_whole_float(str(item.item_id))), None):
        raise _float_id(str(odd.item_id))
    ids = [checked_id("item_id", item_id, position) for position, item_id in enumerate(withdraw, start=1)]
    rows: dict[str, str | None] = {}
    lines = [(str(item.item_id), item_to_json(item)) for item in items]
    for item_id, line in (*lines, *((item_id, None) for item_id in ids)):
        if item_id in rows:
            raise InputError(f"item {item_id!r} is put or withdrawn twice in one revision; list it once")
        rows[item_id] = line
    if items:
        Catalog.from_items(items)  # raises here instead of at the next start
    return rows


def _float_id(item_id: str) -> InputError:
    return InputError(
        f"item_id {item_id!r} is a whole number that is written as a fraction",
        remedy=f"put the item under the id {item_id.removesuffix('.0')!r}",
    )


def _misfit(catalog: Catalog, put: Sequence[Item]) -> InputError | None:
    """Why items do not fit a catalog; None if they do."""
    try:
        catalog.revised(upsert=Catalog.from_items(put))
    except InputError as error:
        return error
    return None
