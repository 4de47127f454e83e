"""Errors of interactions: users and items that a log or its catalog does not have."""

from collections.abc import Mapping

from genrec.data.catalog import Catalog
from genrec.errors import InputError, UnknownItemError, UnknownUserError, format_value
from genrec.types import ItemId, UserId


def swapped_columns_error(
    catalog: Catalog, source: str, source_columns: Mapping[str, str], users: int, swapped: int
) -> InputError:
    """The error for a log without items of the catalog, in which `swapped` of its users are ids of items there."""
    theirs = {name: source_columns.get(name, name) for name in ("user_id", "item_id")}
    mapping = {"user_id": theirs["item_id"], "item_id": theirs["user_id"]}
    return InputError(
        f"users and items of {source} look swapped: no item ids, but {swapped:,} of {users:,} user ids, are in catalog "
        f"{catalog.name!r} ({len(catalog):,} items)",
        remedy=f"pass columns={mapping!r}",
        code="swapped_columns",
        columns=mapping,
    )


def unknown_item_error(catalog: Catalog, item_id: ItemId, user_id: UserId, others: int) -> UnknownItemError:
    """The error for an item of a user's history that the catalog lacks, as it lacks so many others."""
    more = f", and {others:,} more {'items are' if others > 1 else 'item is'} missing too" if others else ""
    return UnknownItemError(
        f"item {item_id!r} in the history of user {user_id!r} is not in catalog {catalog.name!r} "
        f"({len(catalog):,} items){more}",
        remedy='pass on_unknown="skip" to drop such events',
        on_unknown="skip",
    )


def unknown_user_error(user_id: object, source: str, users: int) -> UnknownUserError:
    """The error for a user without events in a log of so many users."""
    return UnknownUserError(
        f"user {format_value(user_id)} is not among the {users:,} users of {source}",
        remedy="check the id, or pass a History for a new user",
        user_id=user_id,
    )
