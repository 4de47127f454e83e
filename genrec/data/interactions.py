"""Who met what, and when: an immutable, columnar log of events.

Letters: E events, U users, N items of a catalog, D distinct items of the log. Users stand in the order of their ids,
whole numbers by size and text by code point; a user's events stand oldest first, equal timestamps in the order of the
rows they were read from.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.catalog import Catalog, OnUnknown, check_on_unknown
from genrec.data.ids import Ids
from genrec.data.table import Table, describe_type, format_value, has_or_have, read_table
from genrec.errors import InputError, UnknownItemError, UnknownUserError
from genrec.types import BoolArray, FloatArray, History, IntArray, Interaction, ItemId

_Array = TypeVar("_Array", IntArray, FloatArray)

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
    """What somebody took at one time, and what they had before it, oldest first."""

    history: History
    item_ids: tuple[ItemId, ...]


class Interactions:
    """Events sorted by user, timestamp and the row they came from; immutable.

    Made by `read_interactions`; `len` is the number of events E.

    Attributes:
        source: what messages call the log.
        user_ids: ids of the U users that have an event, in order.
        offsets: int64 [U + 1]; user u's events are rows `offsets[u]` to `offsets[u + 1]`.
        timestamps: float64 [E].
        weights: float64 [E], or None where the source has no weight.
    """

    def __init__(
        self,
        *,
        source: str,
        source_columns: Mapping[str, str],
        user_ids: Ids,
        offsets: IntArray,
        item_ids: Ids,
        item_codes: IntArray,
        timestamps: FloatArray,
        events: pa.Array | None = None,
        weights: FloatArray | None = None,
    ) -> None:
        self.source = source
        self.user_ids = user_ids
        self.offsets = _read_only(offsets)
        self.timestamps = _read_only(timestamps)
        self.weights = None if weights is None else _read_only(weights)
        self._source_columns = dict(source_columns)
        self._item_ids = item_ids
        self._item_codes = _read_only(item_codes)
        self._events = events

    @classmethod
    def from_table(cls, table: Table) -> "Interactions":
        """Check and sort a table with the columns user_id, item_id and timestamp; see `read_interactions`."""
        users, user_codes = _factorize(table.id_column("user_id"))
        items, item_codes = _factorize(table.id_column("item_id"))
        timestamps = _parse_timestamps(table)
        weights = _parse_weights(table) if "weight" in table.columns else None
        events = _parse_events(table) if "event" in table.columns else None
        order = np.lexsort((timestamps, user_codes))
        counts = np.bincount(user_codes, minlength=len(users))
        return cls(
            source=table.source,
            source_columns=table.source_columns,
            user_ids=users,
            offsets=_offsets_from_counts(counts),
            item_ids=items,
            item_codes=item_codes[order],
            timestamps=timestamps[order],
            events=None if events is None else events.take(pa.array(order)),
            weights=None if weights is None else weights[order],
        )

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
                    None if self._events is None else self._events[row].as_py(),
                    1.0 if self.weights is None else float(self.weights[row]),
                )

    def __repr__(self) -> str:
        return f"Interactions({len(self):,} events of {len(self.user_ids):,} users, from {self.source})"

    def to_table(self) -> pa.Table:
        """The events as an Arrow table [E], in order, with the columns they have."""
        repeats = np.repeat(np.arange(len(self.user_ids)), np.diff(self.offsets))
        columns = {
            "user_id": self.user_ids.array.take(pa.array(repeats)),
            "item_id": self._item_ids.array.take(pa.array(self._item_codes)),
            "timestamp": pa.array(self.timestamps),
        }
        if self._events is not None:
            columns["event"] = self._events
        if self.weights is not None:
            columns["weight"] = pa.array(self.weights)
        return pa.table(columns)

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
        """The D distinct items that anybody met."""
        return self._item_ids

    def codes_of(self, user_id: object) -> IntArray:
        """What one user met, oldest first, as places in `items`: int64 [H].

        Raises:
            UnknownUserError: the user has no event.
        """
        return self._user_codes(self._user_index(user_id))

    def history_of(self, user_id: object) -> History:
        """What one user met, oldest first.

        Raises:
            UnknownUserError: the user has no event.
        """
        user = self._user_index(user_id)
        met = self._item_ids.array.take(pa.array(self._user_codes(user)))
        return History(tuple(met.to_pylist()), user_id=self.user_ids[user])

    def _user_index(self, user_id: object) -> int:
        user = self.user_ids.position(user_id)
        if user < 0:
            raise self._unknown_user_error(user_id)
        return user

    def _user_codes(self, user: int) -> IntArray:
        return self._item_codes[self.offsets[user] : self.offsets[user + 1]]

    def histories(self, users: Iterable[object] | None = None) -> list[History]:
        """What users met, oldest first: of all U in order, or of those named, in the order they are named.

        Raises:
            UnknownUserError: a user named has no event.
        """
        values = np.empty(len(self._item_ids), dtype=object)
        values[:] = list(self._item_ids)
        met: list[ItemId] = values[self._item_codes].tolist()
        if users is None:
            places, user_ids = np.arange(len(self.user_ids)), list(self.user_ids)
        else:
            named = users if isinstance(users, Ids | str | bytes) else list(users)
            places = self.user_ids.positions(named)
            if (places < 0).any():
                lacking = zip(named, places, strict=True)
                raise self._unknown_user_error(next(user_id for user_id, place in lacking if place < 0))
            user_ids = self.user_ids.array.take(pa.array(places)).to_pylist()
        starts, ends = self.offsets[places].tolist(), self.offsets[places + 1].tolist()
        return [
            History(tuple(met[start:end]), user_id=user_id)
            for start, end, user_id in zip(starts, ends, user_ids, strict=True)
        ]

    def to_indices(self, catalog: Catalog, on_unknown: OnUnknown = "raise") -> IndexedHistories:
        """The histories as indices of a catalog, user by user in the order of `users`.

        Args:
            catalog: what the indices point into.
            on_unknown: what to do with events whose item the catalog lacks; "skip" leaves them out, and a user may
                end with none.

        Raises:
            UnknownItemError: an item is not in the catalog, unless skipped.
            InputError: users and items look swapped.
        """
        indices = self._event_item_indices(catalog, on_unknown)
        known = indices >= 0
        if known.all():
            return IndexedHistories(self.offsets, indices)
        return IndexedHistories(_offsets_from_counts(self._counts_per_user(known)), indices[known])

    def item_counts(self, catalog: Catalog, on_unknown: OnUnknown = "raise") -> IntArray:
        """How many events each catalog item has: int64 [N]. Raises as `as_indices`."""
        indices = self._event_item_indices(catalog, on_unknown)
        return np.bincount(indices[indices >= 0], minlength=len(catalog)).astype(np.int64)

    def restricted_to(self, catalog: Catalog) -> "Interactions":
        """These without the events of items that the catalog lacks.

        Raises:
            InputError: users and items look swapped.
        """
        known = self._event_item_indices(catalog, "skip") >= 0
        return self if known.all() else self._filtered(known)

    def leave_last_out(self, n: int = 1) -> "tuple[Interactions, Interactions]":
        """Hold out each user's last n events: (train, held_out).

        A user with n events or fewer stays in train whole and is not in held_out, so nobody is held out without a
        history. Every event is in exactly one of the two.

        Raises:
            InputError: n is below 1.
        """
        if n < 1:
            raise InputError(f"n is {n}; hold out at least 1 event of each user")
        counts = np.diff(self.offsets)
        first_held = np.where(counts > n, self.offsets[1:] - n, self.offsets[1:])
        held = np.arange(len(self)) >= np.repeat(first_held, counts)
        return self._filtered(~held), self._filtered(held)

    def leave_last_basket_out(self, n: int = 1) -> "tuple[Interactions, list[Basket]]":
        """Hold out what each user took from their n-th last basket on: (train, baskets), one basket a user.

        A basket is what one user took at one time. Users with three baskets or more have theirs in `baskets`, with what
        they had before it; of users with two the last is held out as well, and those with one stay in train whole.

        Raises:
            InputError: n is neither 1 nor 2.
        """
        if n not in (1, 2):
            raise InputError(f"n is {n}; hold out the last basket (1), or the last but one and what followed (2)")
        kept, asked = np.ones(len(self), dtype=np.bool_), []
        for user, (start, stop) in enumerate(zip(self.offsets[:-1], self.offsets[1:], strict=True)):
            times = self.timestamps[start:stop]
            baskets = np.unique(times)
            if len(baskets) < 2:
                continue
            held = baskets[-n] if len(baskets) >= 3 else baskets[-1]
            before, after = (int(np.searchsorted(times, held, side=side)) for side in ("left", "right"))
            kept[start + before : stop] = False
            if len(baskets) >= 3:
                asked.append((user, before, after))
        histories, found = self.histories(), []
        for user, before, after in asked:
            items = histories[user].item_ids
            found.append(Basket(History(items[:before], user_id=histories[user].user_id), items[before:after]))
        return self._filtered(kept), found

    def split_by_time(self, at: float | str | datetime) -> "tuple[Interactions, Interactions]":
        """Split at an instant: (before, after); an event at exactly that instant is in after.

        Args:
            at: seconds (or the order number the log has), a datetime, or ISO 8601 text; without a zone it is UTC.

        Raises:
            InputError: `at` is no instant.
        """
        after = self.timestamps >= _to_epoch_seconds(at)
        return self._filtered(~after), self._filtered(after)

    def _filtered(self, mask: BoolArray) -> "Interactions":
        counts = self._counts_per_user(mask)
        kept = np.flatnonzero(counts)
        return Interactions(
            source=self.source,
            source_columns=self._source_columns,
            user_ids=self.user_ids
            if len(kept) == len(self.user_ids)
            else Ids(self.user_ids.array.take(pa.array(kept))),
            offsets=_offsets_from_counts(counts[kept]),
            item_ids=self._item_ids,
            item_codes=self._item_codes[mask],
            timestamps=self.timestamps[mask],
            events=None if self._events is None else self._events.filter(pa.array(mask)),
            weights=None if self.weights is None else self.weights[mask],
        )

    def _counts_per_user(self, mask: BoolArray) -> IntArray:
        return np.diff(np.concatenate([[0], np.cumsum(mask)])[self.offsets]).astype(np.int64)

    def _event_item_indices(self, catalog: Catalog, on_unknown: OnUnknown) -> IntArray:
        """Catalog index of every event, -1 where the item is unknown and may be skipped."""
        choice = check_on_unknown(on_unknown)
        places = catalog.item_ids.positions(self._item_ids)
        indices = places[self._item_codes]
        unknown = indices < 0
        if unknown.any():
            if unknown.all():
                self._reject_swapped_columns(catalog)
            if choice == "raise":
                raise self._unknown_item_error(catalog, unknown)
        return indices

    def _reject_swapped_columns(self, catalog: Catalog) -> None:
        users = int(np.count_nonzero(catalog.item_ids.positions(self.user_ids) >= 0))
        if users:
            theirs = {name: self._source_columns.get(name, name) for name in ("user_id", "item_id")}
            mapping = {"user_id": theirs["item_id"], "item_id": theirs["user_id"]}
            raise InputError(
                f"users and items of {self.source} look swapped: no item id but {users:,} of {len(self.user_ids):,} "
                f"user ids are in catalog {catalog.name!r} ({len(catalog):,} items)",
                remedy=f"pass columns={mapping!r}",
                code="swapped_columns",
                columns=mapping,
            )

    def _unknown_item_error(self, catalog: Catalog, unknown: BoolArray) -> UnknownItemError:
        row = int(np.argmax(unknown))
        item_id = self._item_ids[int(self._item_codes[row])]
        user_id = self.user_ids[int(np.searchsorted(self.offsets, row, side="right")) - 1]
        others = len(np.unique(self._item_codes[unknown])) - 1
        more = f", nor {'are' if others > 1 else 'is'} {others:,} more" if others else ""
        return UnknownItemError(
            f"item {item_id!r} in the history of user {user_id!r} is not in catalog {catalog.name!r} "
            f"({len(catalog):,} items){more}",
            remedy='pass on_unknown="skip" to drop such events',
            on_unknown="skip",
        )

    def _unknown_user_error(self, user_id: object) -> UnknownUserError:
        return UnknownUserError(
            f"user {format_value(user_id)} is not among the {len(self.user_ids):,} users of {self.source}",
            remedy="check the id, or pass a History for a new user",
            user_id=user_id,
        )


def read_interactions(source: Any, *, columns: Mapping[str, str] | None = None) -> Interactions:
    """Read events from a file or a data frame.

    Args:
        source: path of a .csv, .tsv, .jsonl, .ndjson or .parquet file, or a data frame (pandas, Polars, Arrow), with
            the columns user_id, item_id and timestamp, and if it likes event (text) and weight (a number). Other
            columns are left out. Numbers in timestamp are kept as they are, seconds or order numbers; dates and
            ISO 8601 text become seconds since 1970, in UTC where no zone is given.
        columns: genrec's name to the name in the source, such as {"user_id": "CustomerID"}.

    Raises:
        InputError: the source cannot be read or lacks a column, or a row has no id or no time, each by its number.
    """
    names = (*_REQUIRED_COLUMNS, *_OPTIONAL_COLUMNS)
    verbatim = ("user_id", "item_id", "timestamp", "event")
    return Interactions.from_table(
        read_table(
            source,
            required=_REQUIRED_COLUMNS,
            optional=names[len(_REQUIRED_COLUMNS) :],
            columns=columns,
            as_text=verbatim,
        )
    )


def _read_only(array: _Array) -> _Array:
    array.setflags(write=False)
    return array


def _offsets_from_counts(counts: IntArray) -> IntArray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _factorize(ids: Ids) -> tuple[Ids, IntArray]:
    """The distinct ids in order, and each row's place among them."""
    encoded = ids.array.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return Ids(encoded.dictionary.take(pa.array(order))), places[encoded.indices.to_numpy()]


def _parse_timestamps(table: Table) -> FloatArray:
    values = table.columns["timestamp"]
    kind = values.type
    lacking = np.asarray(pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False), dtype=np.bool_)
    if kind == pa.large_string():
        lacking |= pc.equal(pc.utf8_trim_whitespace(values), "").fill_null(True).to_numpy(zero_copy_only=False)
    if lacking.any():
        raise InputError(
            f"{table.describe_rows(lacking)} {has_or_have(lacking)} no {table.column_label('timestamp')}; "
            "drop such rows or give them a time or an order number"
        )
    if kind == pa.large_string():
        return _parse_timestamp_texts(pc.utf8_trim_whitespace(values), table)
    if describe_type(kind) == "dates":
        return _epoch_seconds(values)
    if describe_type(kind) != "numbers":
        raise InputError(
            f"{table.column_label('timestamp')} of {table.source} holds {describe_type(kind)}; "
            "it must be seconds, order numbers, dates or ISO 8601 text"
        )
    return _require_finite(np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64), "timestamp", table)


def _parse_timestamp_texts(values: pa.Array, table: Table) -> FloatArray:
    """Numbers or ISO 8601 text in seconds; the whole column is one or the other."""
    try:
        return _require_finite(np.array(values.cast(pa.float64()).to_numpy()), "timestamp", table)
    except pa.ArrowInvalid:
        pass
    try:
        return _epoch_seconds(values.cast(pa.timestamp("us")))
    except pa.ArrowInvalid:
        pass
    # Zones and rarer forms of ISO 8601: each distinct text once.
    encoded = values.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    read = np.array([_parse_iso_8601(text) for text in texts], dtype=np.float64)
    seconds: FloatArray = read[encoded.indices.to_numpy()]
    bad = np.isnan(seconds)
    if bad.any():
        value = values[int(np.argmax(bad))].as_py()
        raise InputError(
            f"{table.describe_rows(bad)} {has_or_have(bad)} a {table.column_label('timestamp')} that cannot be read, such as {value!r}; "
            "write seconds, or ISO 8601 such as 2010-12-01T08:26:00"
        )
    return seconds


def _epoch_seconds(instants: pa.Array) -> FloatArray:
    if pa.types.is_date(instants.type):
        instants = instants.cast(pa.timestamp("us"))
    return np.asarray(instants.cast(pa.int64()).to_numpy() / 1e6, dtype=np.float64)


def _parse_iso_8601(text: str) -> float:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()


def _to_epoch_seconds(at: object) -> float:
    if isinstance(at, str):
        at = _parse_iso_8601(at.strip())
    elif isinstance(at, datetime):
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if isinstance(at, bool) or not isinstance(at, int | float | np.integer | np.floating) or not math.isfinite(at):
        raise InputError("at is no instant; pass seconds, a datetime, or ISO 8601 text such as '2011-09-01'")
    return float(at)


def _parse_weights(table: Table) -> FloatArray:
    values = table.columns["weight"]
    if describe_type(values.type) not in ("numbers", "nothing"):
        raise InputError(
            f"{table.column_label('weight')} of {table.source} holds {describe_type(values.type)}; use numbers"
        )
    figures = values.cast(pa.float64()).fill_null(math.nan).to_numpy(zero_copy_only=False)
    return _require_finite(np.array(figures, dtype=np.float64), "weight", table)


def _require_finite(values: FloatArray, name: str, table: Table) -> FloatArray:
    bad = ~np.isfinite(values)
    if bad.any():
        raise InputError(
            f"{table.describe_rows(bad)} {has_or_have(bad)} no finite number in {table.column_label(name)}; drop such rows or repair them"
        )
    return values


def _parse_events(table: Table) -> pa.Array:
    values = table.columns["event"]
    if describe_type(values.type) not in ("text", "numbers", "true or false", "nothing"):
        raise InputError(
            f"{table.column_label('event')} of {table.source} holds {describe_type(values.type)}; use text"
        )
    texts = values.cast(pa.large_string())
    return pc.if_else(pc.equal(texts, ""), None, texts)
