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
from genrec.data.table import Table, describe, has, read_table, shown
from genrec.errors import InputError, UnknownItemError, UnknownUserError
from genrec.types import BoolArray, FloatArray, History, IntArray, Interaction, ItemId

_Array = TypeVar("_Array", IntArray, FloatArray)

_NEEDED = ("user_id", "item_id", "timestamp")
_OPTIONAL = ("event", "weight")


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
        users: ids of the U users that have an event, in order.
        offsets: int64 [U + 1]; user u's events are rows `offsets[u]` to `offsets[u + 1]`.
        timestamps: float64 [E].
        weights: float64 [E], or None where the source has no weight.
    """

    def __init__(
        self,
        *,
        source: str,
        origin: Mapping[str, str],
        users: Ids,
        offsets: IntArray,
        items: Ids,
        item_codes: IntArray,
        timestamps: FloatArray,
        events: pa.Array | None = None,
        weights: FloatArray | None = None,
    ) -> None:
        self.source = source
        self.users = users
        self.offsets = _frozen(offsets)
        self.timestamps = _frozen(timestamps)
        self.weights = None if weights is None else _frozen(weights)
        self._origin = dict(origin)
        self._items = items
        self._item_codes = _frozen(item_codes)
        self._events = events

    @classmethod
    def from_table(cls, table: Table) -> "Interactions":
        """Check and sort a table with the columns user_id, item_id and timestamp; see `read_interactions`."""
        users, user_codes = _coded(table.ids("user_id"))
        items, item_codes = _coded(table.ids("item_id"))
        timestamps = _seconds(table)
        weights = _weights(table) if "weight" in table.columns else None
        events = _events(table) if "event" in table.columns else None
        order = np.lexsort((timestamps, user_codes))
        counts = np.bincount(user_codes, minlength=len(users))
        return cls(
            source=table.source,
            origin=table.origin,
            users=users,
            offsets=_offsets(counts),
            items=items,
            item_codes=item_codes[order],
            timestamps=timestamps[order],
            events=None if events is None else events.take(pa.array(order)),
            weights=None if weights is None else weights[order],
        )

    def __len__(self) -> int:
        return len(self._item_codes)

    def __iter__(self) -> Iterator[Interaction]:
        for user in range(len(self.users)):
            user_id = self.users[user]
            for row in range(int(self.offsets[user]), int(self.offsets[user + 1])):
                yield Interaction(
                    user_id,
                    self._items[int(self._item_codes[row])],
                    float(self.timestamps[row]),
                    None if self._events is None else self._events[row].as_py(),
                    1.0 if self.weights is None else float(self.weights[row]),
                )

    def __repr__(self) -> str:
        return f"Interactions({len(self):,} events of {len(self.users):,} users, from {self.source})"

    def to_table(self) -> pa.Table:
        """The events as an Arrow table [E], in order, with the columns they have."""
        repeats = np.repeat(np.arange(len(self.users)), np.diff(self.offsets))
        columns = {
            "user_id": self.users.array.take(pa.array(repeats)),
            "item_id": self._items.array.take(pa.array(self._item_codes)),
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
        for ids in (self.users, self._items):
            for piece in ids.keys.to_pylist():
                digest.update(f"{piece}\n".encode())
        return digest.hexdigest()

    @property
    def items(self) -> Ids:
        """The D distinct items that anybody met."""
        return self._items

    def codes_of(self, user_id: object) -> IntArray:
        """What one user met, oldest first, as places in `items`: int64 [H].

        Raises:
            UnknownUserError: the user has no event.
        """
        return self._codes(self._place_of(user_id))

    def history_of(self, user_id: object) -> History:
        """What one user met, oldest first.

        Raises:
            UnknownUserError: the user has no event.
        """
        user = self._place_of(user_id)
        met = self._items.array.take(pa.array(self._codes(user)))
        return History(tuple(met.to_pylist()), user_id=self.users[user])

    def _place_of(self, user_id: object) -> int:
        user = self.users.position(user_id)
        if user < 0:
            raise self._unknown_user(user_id)
        return user

    def _codes(self, user: int) -> IntArray:
        return self._item_codes[self.offsets[user] : self.offsets[user + 1]]

    def histories(self, users: Iterable[object] | None = None) -> list[History]:
        """What users met, oldest first: of all U in order, or of those named, in the order they are named.

        Raises:
            UnknownUserError: a user named has no event.
        """
        values = np.empty(len(self._items), dtype=object)
        values[:] = list(self._items)
        met: list[ItemId] = values[self._item_codes].tolist()
        if users is None:
            places, user_ids = np.arange(len(self.users)), list(self.users)
        else:
            named = users if isinstance(users, Ids | str | bytes) else list(users)
            places = self.users.positions(named)
            if (places < 0).any():
                lacking = zip(named, places, strict=True)
                raise self._unknown_user(next(user_id for user_id, place in lacking if place < 0))
            user_ids = self.users.array.take(pa.array(places)).to_pylist()
        starts, ends = self.offsets[places].tolist(), self.offsets[places + 1].tolist()
        return [
            History(tuple(met[start:end]), user_id=user_id)
            for start, end, user_id in zip(starts, ends, user_ids, strict=True)
        ]

    def as_indices(self, catalog: Catalog, on_unknown: OnUnknown = "raise") -> IndexedHistories:
        """The histories as indices of a catalog, user by user in the order of `users`.

        Args:
            catalog: what the indices point into.
            on_unknown: what to do with events whose item the catalog lacks; "skip" leaves them out, and a user may
                end with none.

        Raises:
            UnknownItemError: an item is not in the catalog, unless skipped.
            InputError: users and items look swapped.
        """
        indices = self._indices(catalog, on_unknown)
        known = indices >= 0
        if known.all():
            return IndexedHistories(self.offsets, indices)
        return IndexedHistories(_offsets(self._per_user(known)), indices[known])

    def item_counts(self, catalog: Catalog, on_unknown: OnUnknown = "raise") -> IntArray:
        """How many events each catalog item has: int64 [N]. Raises as `as_indices`."""
        indices = self._indices(catalog, on_unknown)
        return np.bincount(indices[indices >= 0], minlength=len(catalog)).astype(np.int64)

    def known_to(self, catalog: Catalog) -> "Interactions":
        """These without the events of items that the catalog lacks.

        Raises:
            InputError: users and items look swapped.
        """
        known = self._indices(catalog, "skip") >= 0
        return self if known.all() else self._only(known)

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
        return self._only(~held), self._only(held)

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
        return self._only(kept), found

    def by_time(self, at: float | str | datetime) -> "tuple[Interactions, Interactions]":
        """Split at an instant: (before, after); an event at exactly that instant is in after.

        Args:
            at: seconds (or the order number the log has), a datetime, or ISO 8601 text; without a zone it is UTC.

        Raises:
            InputError: `at` is no instant.
        """
        after = self.timestamps >= _instant(at)
        return self._only(~after), self._only(after)

    def _only(self, mask: BoolArray) -> "Interactions":
        counts = self._per_user(mask)
        kept = np.flatnonzero(counts)
        return Interactions(
            source=self.source,
            origin=self._origin,
            users=self.users if len(kept) == len(self.users) else Ids(self.users.array.take(pa.array(kept))),
            offsets=_offsets(counts[kept]),
            items=self._items,
            item_codes=self._item_codes[mask],
            timestamps=self.timestamps[mask],
            events=None if self._events is None else self._events.filter(pa.array(mask)),
            weights=None if self.weights is None else self.weights[mask],
        )

    def _per_user(self, mask: BoolArray) -> IntArray:
        return np.diff(np.concatenate([[0], np.cumsum(mask)])[self.offsets]).astype(np.int64)

    def _indices(self, catalog: Catalog, on_unknown: OnUnknown) -> IntArray:
        """Catalog index of every event, -1 where the item is unknown and may be skipped."""
        choice = check_on_unknown(on_unknown)
        places = catalog.item_ids.positions(self._items)
        indices = places[self._item_codes]
        unknown = indices < 0
        if unknown.any():
            if unknown.all():
                self._refuse_swapped(catalog)
            if choice == "raise":
                raise self._unknown_item(catalog, unknown)
        return indices

    def _refuse_swapped(self, catalog: Catalog) -> None:
        users = int(np.count_nonzero(catalog.item_ids.positions(self.users) >= 0))
        if users:
            theirs = {name: self._origin.get(name, name) for name in ("user_id", "item_id")}
            mapping = {"user_id": theirs["item_id"], "item_id": theirs["user_id"]}
            raise InputError(
                f"users and items of {self.source} look swapped: no item id but {users:,} of {len(self.users):,} "
                f"user ids are in catalog {catalog.name!r} ({len(catalog):,} items); pass columns={mapping!r}"
            )

    def _unknown_item(self, catalog: Catalog, unknown: BoolArray) -> UnknownItemError:
        row = int(np.argmax(unknown))
        item_id = self._items[int(self._item_codes[row])]
        user_id = self.users[int(np.searchsorted(self.offsets, row, side="right")) - 1]
        others = len(np.unique(self._item_codes[unknown])) - 1
        more = f", nor {'are' if others > 1 else 'is'} {others:,} more" if others else ""
        return UnknownItemError(
            f"item {item_id!r} in the history of user {user_id!r} is not in catalog {catalog.name!r} "
            f'({len(catalog):,} items){more}; pass on_unknown="skip" to drop such events'
        )

    def _unknown_user(self, user_id: object) -> UnknownUserError:
        return UnknownUserError(
            f"user {shown(user_id)} is not among the {len(self.users):,} users of {self.source}; "
            "check the id, or pass a History for somebody new"
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
    names = (*_NEEDED, *_OPTIONAL)
    verbatim = ("user_id", "item_id", "timestamp", "event")
    return Interactions.from_table(
        read_table(source, needed=_NEEDED, optional=names[len(_NEEDED) :], columns=columns, verbatim=verbatim)
    )


def _frozen(array: _Array) -> _Array:
    array.setflags(write=False)
    return array


def _offsets(counts: IntArray) -> IntArray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _coded(ids: Ids) -> tuple[Ids, IntArray]:
    """The distinct ids in order, and each row's place among them."""
    encoded = ids.array.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return Ids(encoded.dictionary.take(pa.array(order))), places[encoded.indices.to_numpy()]


def _seconds(table: Table) -> FloatArray:
    values = table.columns["timestamp"]
    kind = values.type
    lacking = np.asarray(pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False), dtype=np.bool_)
    if kind == pa.large_string():
        lacking |= pc.equal(pc.utf8_trim_whitespace(values), "").fill_null(True).to_numpy(zero_copy_only=False)
    if lacking.any():
        raise InputError(
            f"{table.place(lacking)} {has(lacking)} no {table.called('timestamp')}; "
            "drop such rows or give them a time or an order number"
        )
    if kind == pa.large_string():
        return _written_seconds(pc.utf8_trim_whitespace(values), table)
    if describe(kind) == "dates":
        return _since_1970(values)
    if describe(kind) != "numbers":
        raise InputError(
            f"{table.called('timestamp')} of {table.source} holds {describe(kind)}; "
            "it must be seconds, order numbers, dates or ISO 8601 text"
        )
    return _finite(np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64), "timestamp", table)


def _written_seconds(values: pa.Array, table: Table) -> FloatArray:
    """Numbers or ISO 8601 text in seconds; the whole column is one or the other."""
    try:
        return _finite(np.array(values.cast(pa.float64()).to_numpy()), "timestamp", table)
    except pa.ArrowInvalid:
        pass
    try:
        return _since_1970(values.cast(pa.timestamp("us")))
    except pa.ArrowInvalid:
        pass
    # Zones and rarer forms of ISO 8601: each distinct text once.
    encoded = values.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    read = np.array([_parsed(text) for text in texts], dtype=np.float64)
    seconds: FloatArray = read[encoded.indices.to_numpy()]
    bad = np.isnan(seconds)
    if bad.any():
        value = values[int(np.argmax(bad))].as_py()
        raise InputError(
            f"{table.place(bad)} {has(bad)} a {table.called('timestamp')} that cannot be read, such as {value!r}; "
            "write seconds, or ISO 8601 such as 2010-12-01T08:26:00"
        )
    return seconds


def _since_1970(instants: pa.Array) -> FloatArray:
    if pa.types.is_date(instants.type):
        instants = instants.cast(pa.timestamp("us"))
    return np.asarray(instants.cast(pa.int64()).to_numpy() / 1e6, dtype=np.float64)


def _parsed(text: str) -> float:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()


def _instant(at: object) -> float:
    if isinstance(at, str):
        at = _parsed(at.strip())
    elif isinstance(at, datetime):
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if isinstance(at, bool) or not isinstance(at, int | float | np.integer | np.floating) or not math.isfinite(at):
        raise InputError("at is no instant; pass seconds, a datetime, or ISO 8601 text such as '2011-09-01'")
    return float(at)


def _weights(table: Table) -> FloatArray:
    values = table.columns["weight"]
    if describe(values.type) not in ("numbers", "nothing"):
        raise InputError(f"{table.called('weight')} of {table.source} holds {describe(values.type)}; use numbers")
    figures = values.cast(pa.float64()).fill_null(math.nan).to_numpy(zero_copy_only=False)
    return _finite(np.array(figures, dtype=np.float64), "weight", table)


def _finite(figures: FloatArray, name: str, table: Table) -> FloatArray:
    bad = ~np.isfinite(figures)
    if bad.any():
        raise InputError(
            f"{table.place(bad)} {has(bad)} no finite number in {table.called(name)}; drop such rows or repair them"
        )
    return figures


def _events(table: Table) -> pa.Array:
    values = table.columns["event"]
    if describe(values.type) not in ("text", "numbers", "true or false", "nothing"):
        raise InputError(f"{table.called('event')} of {table.source} holds {describe(values.type)}; use text")
    texts = values.cast(pa.large_string())
    return pc.if_else(pc.equal(texts, ""), None, texts)
