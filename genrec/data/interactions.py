"""Interactions: an immutable, columnar log of events, each with a user, an item and a time.

Letters: E events, U users, N items of a catalog, D distinct items of the log, H events of one user. Users are in the
order of their ids, whole numbers by size and text by code point. A user's events are oldest first, and events with
equal timestamps in the order of the rows they were read from.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from genrec.data.catalog import Catalog, OnUnknownItem, check_on_unknown
from genrec.data.column_mapping import ColumnMapping
from genrec.data.event_columns import EventColumns, offsets_from_counts, read_only
from genrec.data.file_options import FileFormat
from genrec.data.ids import Ids
from genrec.data.interaction_errors import swapped_columns_error, unknown_item_error, unknown_user_error
from genrec.data.random_order import random_places
from genrec.data.readers import read_table
from genrec.data.table import Table
from genrec.data.timestamps import EventOrder, OrderChoice, needs_timestamp, read_timestamps, to_epoch_seconds
from genrec.errors import InputError, check_count, format_value
from genrec.notices import Notice
from genrec.types import BoolArray, History, IntArray, Interaction, ItemId

_REQUIRED_COLUMNS = ("user_id", "item_id", "timestamp")
_OPTIONAL_COLUMNS = ("event", "weight")


class IndexedHistories(NamedTuple):
    """Histories as catalog indices: user u's are `item_indices[offsets[u]:offsets[u + 1]]`, oldest first.

    Attributes:
        offsets: int64 [U + 1].
        item_indices: int64 [E].
    """

    offsets: IntArray
    item_indices: IntArray


class Basket(NamedTuple):
    """The items of one user's events with the same timestamp.

    Attributes:
        history: the user's earlier events, oldest first.
        item_ids: the items of the basket.
    """

    history: History
    item_ids: tuple[ItemId, ...]


class Interactions:
    """Events sorted by user, timestamp and source row; immutable.

    Made by `read_interactions`. `len` is the number of events E.

    Attributes:
        source: the log's name in messages.
        user_ids: ids of the U users with at least one event, in order.
        offsets: int64 [U + 1]; user u's events are rows `offsets[u]` to `offsets[u + 1]`.
        timestamps: float64 [E].
        order: what the timestamps are: seconds since 1970 ("time"), order "numbers", numbers of "rows", or, for events
            without an order ("none"), the places of the items in a random order, see `in_random_order`.
        weights: float64 [E], or None if the source has no weights.
        notices: what was inferred about the file or the data frame; () for a part of a log.
    """

    def __init__(
        self,
        columns: EventColumns,
        *,
        user_ids: Ids,
        offsets: IntArray,
        item_ids: Ids,
        source: str,
        source_columns: Mapping[str, str],
        order: EventOrder,
        notices: tuple[Notice, ...] = (),
    ) -> None:
        self.source = source
        self.order: EventOrder = order
        self.notices = notices
        self.user_ids = user_ids
        self.offsets = read_only(offsets)
        self.timestamps = read_only(columns.timestamps)
        self.weights = None if columns.weights is None else read_only(columns.weights)
        self._source_columns = dict(source_columns)
        self._item_ids = item_ids
        self._item_codes = read_only(columns.item_codes)
        self._event_names = columns.event_names

    @classmethod
    def from_table(cls, table: Table, order: OrderChoice = "time") -> "Interactions":
        """Check and sort a table with the columns user_id, item_id and timestamp; see `read_interactions`."""
        times = read_timestamps(table, order)
        users, user_codes = table.id_column("user_id").distinct()
        items, item_codes = table.id_column("item_id").distinct()
        columns = EventColumns.from_table(table, item_codes, times.values)
        rows = np.lexsort((columns.timestamps, user_codes))
        counts = np.bincount(user_codes, minlength=len(users))
        log = cls(
            columns.take(rows),
            user_ids=users,
            offsets=offsets_from_counts(counts),
            item_ids=items,
            source=table.source,
            source_columns=table.source_columns,
            order=times.order,
            notices=(*table.notices, *times.notices),
        )
        return log.in_random_order() if times.order == "none" else log

    def __len__(self) -> int:
        return len(self._item_codes)

    def __iter__(self) -> Iterator[Interaction]:
        for user in range(len(self.user_ids)):
            user_id = self.user_ids[user]
            for row in range(int(self.offsets[user]), int(self.offsets[user + 1])):
                yield Interaction(
                    user_id,
                    self._item_ids[int(self._item_codes[row])],
                    float(self.timestamps[row]),
                    None if self._event_names is None else self._event_names[row].as_py(),
                    1.0 if self.weights is None else float(self.weights[row]),
                )

    def __repr__(self) -> str:
        return f"Interactions({len(self):,} events of {len(self.user_ids):,} users, from {self.source})"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over users, items and times, in hexadecimal; ids as text."""
        digest = sha256(self.offsets.tobytes() + self._item_codes.tobytes() + self.timestamps.tobytes())
        for ids in (self.user_ids, self._item_ids):
            for piece in ids.keys.to_pylist():
                digest.update(f"{piece}\n".encode())
        return digest.hexdigest()

    @property
    def item_ids(self) -> Ids:
        """Ids of the D distinct items of the log."""
        return self._item_ids

    def codes_of(self, user_id: object) -> IntArray:
        """One user's items, oldest first, as indices into `item_ids`: int64 [H].

        Raises:
            UnknownUserError: the user has no events.
        """
        return self._user_codes(self._user_index(user_id))

    def history_of(self, user_id: object) -> History:
        """One user's history, oldest first.

        Raises:
            UnknownUserError: the user has no events.
        """
        user = self._user_index(user_id)
        item_ids = self._item_ids.array.take(pa.array(self._user_codes(user)))
        return History(tuple(item_ids.to_pylist()), user_id=self.user_ids[user])

    def _user_index(self, user_id: object) -> int:
        user = self.user_ids.position(user_id)
        if user < 0:
            raise unknown_user_error(user_id, self.source, len(self.user_ids))
        return user

    def _user_codes(self, user: int) -> IntArray:
        return self._item_codes[self.offsets[user] : self.offsets[user + 1]]

    def histories(self, users: Iterable[object] | None = None) -> list[History]:
        """The histories of users, oldest first.

        Args:
            users: ids; None for all U users in order.

        Returns:
            One history for each user, in the order of `users`.

        Raises:
            UnknownUserError: a user has no events.
        """
        distinct = np.empty(len(self._item_ids), dtype=object)
        distinct[:] = list(self._item_ids)
        items: list[ItemId] = distinct[self._item_codes].tolist()
        if users is None:
            rows, user_ids = np.arange(len(self.user_ids)), list(self.user_ids)
        else:
            wanted = users if isinstance(users, Ids | str | bytes) else list(users)
            rows = self.user_ids.positions(wanted)
            if (rows < 0).any():
                unknown = next(user_id for user_id, row in zip(wanted, rows, strict=True) if row < 0)
                raise unknown_user_error(unknown, self.source, len(self.user_ids))
            user_ids = self.user_ids.array.take(pa.array(rows)).to_pylist()
        starts, ends = self.offsets[rows].tolist(), self.offsets[rows + 1].tolist()
        return [
            History(tuple(items[start:end]), user_id=user_id)
            for start, end, user_id in zip(starts, ends, user_ids, strict=True)
        ]

    def to_indices(self, catalog: Catalog, on_unknown: OnUnknownItem = "raise") -> IndexedHistories:
        """All histories as item indices of a catalog, in the order of `user_ids`.

        Args:
            catalog: the catalog whose item indices are returned.
            on_unknown: "raise", or "skip" to drop events of items that the catalog lacks; a history may then be empty.

        Raises:
            UnknownItemError: an item is not in the catalog, unless skipped.
            InputError: users and items look swapped.
        """
        indices = self._event_item_indices(catalog, on_unknown)
        known = indices >= 0
        if known.all():
            return IndexedHistories(self.offsets, indices)
        return IndexedHistories(offsets_from_counts(self._counts_per_user(known)), indices[known])

    def item_counts(self, catalog: Catalog, on_unknown: OnUnknownItem = "raise") -> IntArray:
        """Count the events of each catalog item: int64 [N]. Arguments and errors as in `to_indices`."""
        indices = self._event_item_indices(catalog, on_unknown)
        return np.bincount(indices[indices >= 0], minlength=len(catalog)).astype(np.int64)

    def restricted_to(self, catalog: Catalog) -> "Interactions":
        """The log without events of items that the catalog lacks.

        Raises:
            InputError: users and items look swapped.
        """
        known = self._event_item_indices(catalog, "skip") >= 0
        return self if known.all() else self._filtered(known)

    def without_users(self, user_ids: Iterable[object]) -> "Interactions":
        """The log as if it had been read without the rows of some users; unknown ids are ignored."""
        kept = ~np.isin(np.arange(len(self.user_ids)), self.user_ids.positions(user_ids))
        if kept.all():
            return self
        remaining = self._filtered(np.repeat(kept, np.diff(self.offsets)))
        used, codes = np.unique(remaining._item_codes, return_inverse=True)
        remaining._item_ids = Ids(self._item_ids.array.take(pa.array(used)))  # an item may be theirs alone
        remaining._item_codes = read_only(codes.astype(np.int64))
        return remaining

    def leave_last_out(self, n: int = 1) -> "tuple[Interactions, Interactions]":
        """Hold out the last n events of each user.

        Users with n events or fewer are not held out, so every held-out user has a history.

        Returns:
            (train, held_out); every event is in exactly one of the two.

        Raises:
            InputError: n is below 1.
        """
        check_count("n", n)
        counts = np.diff(self.offsets)
        first_held = np.where(counts > n, self.offsets[1:] - n, self.offsets[1:])
        held = np.arange(len(self)) >= np.repeat(first_held, counts)
        return self._filtered(~held), self._filtered(held)

    def leave_last_basket_out(self, n: int = 1) -> "tuple[Interactions, list[Basket]]":
        """Hold out each user's n-th last basket and all later ones.

        A basket is a set of events of one user with equal timestamps. Of users with two baskets the last one is removed
        from train but not returned. Users with one basket stay in train completely.

        Returns:
            (train, baskets): the remaining events, and the n-th last basket of each user with three or more baskets,
            in the order of the users.

        Raises:
            InputError: n is neither 1 nor 2.
        """
        if not isinstance(n, int | np.integer) or n not in (1, 2):
            raise InputError(f"n is {format_value(n)}; use 1 for the last basket, or 2 for the last but one")
        kept, held_out = np.ones(len(self), dtype=np.bool_), []
        for user, (start, stop) in enumerate(zip(self.offsets[:-1], self.offsets[1:], strict=True)):
            times = self.timestamps[start:stop]
            baskets = np.unique(times)
            if len(baskets) < 2:
                continue
            held = baskets[-n] if len(baskets) >= 3 else baskets[-1]
            before, after = (int(np.searchsorted(times, held, side=side)) for side in ("left", "right"))
            kept[start + before : stop] = False
            if len(baskets) >= 3:
                held_out.append((user, before, after))
        histories, found = self.histories(), list[Basket]()
        for user, before, after in held_out:
            items = histories[user].item_ids
            found.append(Basket(History(items[:before], user_id=histories[user].user_id), items[before:after]))
        return self._filtered(kept), found

    def split_by_time(self, at: float | str | datetime) -> "tuple[Interactions, Interactions]":
        """Split the log at a time.

        Args:
            at: seconds or an order number, as in `timestamps`; or a datetime or ISO 8601 text, in UTC if it has no
                zone.

        Returns:
            (before, after); events at exactly this time are in `after`.

        Raises:
            InputError: `at` is not a time.
        """
        after = self.timestamps >= to_epoch_seconds(at)
        return self._filtered(~after), self._filtered(after)

    def in_random_order(self, seed: int = 0) -> "Interactions":
        """The same events without their times: the items of each user are in a random order.

        The order depends on ids and the seed only, see `genrec.data.random_order`. The timestamp of an event is the
        place of its item, so events of a user with the same item form a basket.
        """
        users = np.repeat(np.arange(len(self.user_ids)), np.diff(self.offsets))
        places = random_places(self.user_ids, self._item_ids, users, self._item_codes, seed)
        columns = EventColumns(self._item_codes, places, self.weights, self._event_names)
        return Interactions(
            columns.take(np.lexsort((places, users))),
            user_ids=self.user_ids,
            offsets=self.offsets,
            item_ids=self._item_ids,
            source=self.source,
            source_columns=self._source_columns,
            order="none",
            notices=self.notices,
        )

    def _filtered(self, mask: BoolArray) -> "Interactions":
        counts = self._counts_per_user(mask)
        users = np.flatnonzero(counts)
        all_users = len(users) == len(self.user_ids)
        columns = EventColumns(self._item_codes, self.timestamps, self.weights, self._event_names)
        return Interactions(
            columns.take(np.flatnonzero(mask)),
            user_ids=self.user_ids if all_users else Ids(self.user_ids.array.take(pa.array(users))),
            offsets=offsets_from_counts(counts[users]),
            item_ids=self._item_ids,
            source=self.source,
            source_columns=self._source_columns,
            order=self.order,
        )

    def _counts_per_user(self, mask: BoolArray) -> IntArray:
        return np.diff(np.concatenate([[0], np.cumsum(mask)])[self.offsets]).astype(np.int64)

    def _event_item_indices(self, catalog: Catalog, on_unknown: OnUnknownItem) -> IntArray:
        """The catalog index of every event's item: int64 [E], -1 for unknown items if they are skipped."""
        choice = check_on_unknown(on_unknown)
        indices = catalog.item_ids.positions(self._item_ids)[self._item_codes]
        unknown = indices < 0
        if unknown.any():
            swapped = int(np.count_nonzero(catalog.item_ids.positions(self.user_ids) >= 0)) if unknown.all() else 0
            if swapped:
                raise swapped_columns_error(catalog, self.source, self._source_columns, len(self.user_ids), swapped)
            if choice == "raise":
                row = int(np.argmax(unknown))
                user_id = self.user_ids[int(np.searchsorted(self.offsets, row, side="right")) - 1]
                others = len(np.unique(self._item_codes[unknown])) - 1
                raise unknown_item_error(catalog, self._item_ids[int(self._item_codes[row])], user_id, others)
        return indices


def read_interactions(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    file_format: FileFormat | None = None,
    id_from: Sequence[str] = (),
    order: OrderChoice = "time",
) -> Interactions:
    """Read events from a file or a data frame.

    Args:
        source: path of a file of text, JSON or Parquet, plain or compressed, or a data frame (pandas, Polars, Arrow),
            with the columns user_id, item_id and timestamp, and optionally event (text) and weight (a number). Other
            columns are ignored. Times become seconds since 1970: dates and ISO 8601 text, in UTC if no zone is
            given, and numbers, whose unit is told by their size; small ones are order numbers.
        columns: genrec's name to the name in the source; common names, such as "userId", are recognised.
        file_format: how a text file is to be read, where its text does not show it.
        id_from: columns of the source whose values make the id of the item, as in `read_catalog`.
        order: what orders a user's events, see `OrderChoice`. With "rows" and "none", no timestamp is read.

    Raises:
        InputError: the source cannot be read or lacks a column, or rows, named by number, have no id or no time.
    """
    required = _REQUIRED_COLUMNS[: 3 if needs_timestamp(order) else 2]
    mapping = ColumnMapping(required, _OPTIONAL_COLUMNS, {} if columns is None else columns, id_from)
    table = read_table(source, mapping, as_text=(*_REQUIRED_COLUMNS, "event"), file_format=file_format)
    return Interactions.from_table(table, order)
