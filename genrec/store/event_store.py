"""The event store: events of users, forgotten users and catalog revisions since the files were read.

It is kept in a database and nothing of it in memory, so several processes may share one store. Ids are stored and
returned as text, so 17 and "17" are the same id here as everywhere.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

import sqlalchemy as sa

from genrec.data.ids import Ids
from genrec.errors import StoreError
from genrec.store.catalog_changes import CatalogChanges, revision_rows
from genrec.store.checks import checked_id, checked_number, checked_text
from genrec.store.database import Database
from genrec.store.item_json import item_from_json
from genrec.store.tables import (
    EVENTS,
    FORGOTTEN,
    REVISIONS,
    SCHEMA_VERSION,
    STORE_METADATA,
    USER_COLUMNS,
    create_tables,
)
from genrec.types import Item, ItemId, UserId

MAX_EVENT_LENGTH = 100
MAX_EVENTS_PER_USER = 10_000  # the newest events that are read for a user

_SELECT_EVENTS = (
    sa.select(EVENTS.c.item_id, EVENTS.c.timestamp, EVENTS.c.event, EVENTS.c.weight, EVENTS.c.event_id)
    .where(EVENTS.c.user_id == sa.bindparam("user"))
    .order_by(EVENTS.c.timestamp.desc(), EVENTS.c.number.desc())
    .limit(MAX_EVENTS_PER_USER)
)
_SELECT_FORGOTTEN = sa.select(FORGOTTEN.c.at).where(FORGOTTEN.c.digest == sa.bindparam("hashed"))
_SELECT_ALL_FORGOTTEN = sa.select(FORGOTTEN.c.digest)
_COUNT_FORGOTTEN = sa.select(sa.func.count()).select_from(FORGOTTEN).where(FORGOTTEN.c.at >= sa.bindparam("since"))
_SELECT_REVISIONS = sa.select(REVISIONS.c.item_id, REVISIONS.c.item).order_by(REVISIONS.c.number)
_SELECT_REVISION = sa.select(STORE_METADATA.c.value).where(STORE_METADATA.c.name == "revision")
_UPDATE_REVISION = (
    sa.update(STORE_METADATA).where(STORE_METADATA.c.name == "revision").values(value=sa.bindparam("number"))
)


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction of a user with an item.

    Attributes:
        user_id, item_id: the caller's ids, up to 200 characters; text when they are read from a store.
        timestamp: seconds since 1970.
        event: the kind of interaction, such as "buy", up to 100 characters; stored, but not used.
        weight: above 0, the item is added to the history. At 0 or below, it is removed from the history and not
            recommended to the user until a later event.
        event_id: idempotency key of the caller, up to 200 characters: a user's event with a known id is ignored. None
            if the event is never sent twice.
    """

    user_id: UserId
    item_id: ItemId
    timestamp: float
    event: str | None = None
    weight: float = 1.0
    event_id: str | None = None


class Store:
    """Events, forgotten users and catalog revisions in a database. Thread-safe.

    Create it with `Store.open`; it is a context manager. Every method raises StoreError if the database cannot be
    reached or used, and InputError for an invalid id: blank, over 200 characters, or neither text nor an integer.
    """

    def __init__(self, database: Database, salt: str, clock: Callable[[], float]) -> None:
        self._database, self._salt, self._clock = database, salt, clock
        # ON CONFLICT names no column: an event without an event id conflicts with no other.
        self._insert_events = database.insert(EVENTS).on_conflict_do_nothing().execution_options(preserve_rowcount=True)

    @classmethod
    def open(cls, url: str, *, clock: Callable[[], float] = time.time) -> "Store":
        """Open a store, and create its tables if they are missing.

        Args:
            url: `sqlite:///PATH`, a file that is created if it is missing; or `postgresql://...`, an existing database.
                The tables of the store begin with `genrec_`; other tables are not touched.
            clock: seconds since 1970, used to record when a user was forgotten.

        Raises:
            StoreError: the database cannot be reached or written, was altered, or belongs to a newer genrec.
        """
        database = Database.open(url)
        try:
            metadata = database.write(lambda connection: create_tables(connection, database))
            if metadata["version"] != str(SCHEMA_VERSION):
                raise StoreError(
                    f"the store {database.location} has schema version {metadata['version']!r:.20}, but this genrec "
                    f"supports version {SCHEMA_VERSION}; update genrec, or use another store"
                )
            return cls(database, metadata["salt"], clock)
        except KeyError as error:
            database.close()
            raise StoreError(
                f"the store {database.location} was altered ({STORE_METADATA.name} lacks {error}); restore a backup"
            ) from None
        except BaseException:
            database.close()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self._database.location!r})"

    @property
    def fingerprint(self) -> str:
        """Identifies the store, wherever it is; its salt cannot be computed from it."""
        return hashlib.sha256(f"genrec store {self._salt}".encode()).hexdigest()[:16]

    def close(self) -> None:
        """Close the database connections; may be called more than once."""
        self._database.close()

    def check(self) -> None:
        """Check that the database is reachable.

        Raises:
            StoreError: the database cannot be reached, or its file was removed or replaced.
        """
        self._database.check()

    def add(self, events: Iterable[Event]) -> int:
        """Store events, all or none. They are durable when this method returns.

        Returns:
            The number of new events. An event with an event id that the user already has is ignored.

        Raises:
            InputError: an event is invalid; the message has its number, from 1, and the value.
        """
        rows = [_event_row(event, position) for position, event in enumerate(events, start=1)]
        if not rows:
            return 0
        return self._database.write(lambda connection: int(connection.execute(self._insert_events, rows).rowcount))

    def events_of(self, user_id: UserId) -> list[Event]:
        """The newest MAX_EVENTS_PER_USER (10,000) events of a user, oldest first, ties in order of arrival.

        The limit bounds the cost of an id that many users share, such as "guest". Empty for an unknown user.
        """
        user = checked_id("user_id", user_id)
        return [Event(user, *row) for row in reversed(self._database.read(_SELECT_EVENTS, {"user": user}))]

    def forget(self, user_id: UserId) -> dict[str, int]:
        """Delete all rows of a user, and keep a salted hash that marks the user as forgotten.

        The mark tells every process that uses the store to leave out what files have about the user, see
        `genrec.store.remaining_interactions`.

        Returns:
            The number of deleted rows by `table.column`, for each of USER_COLUMNS.

        Raises:
            StoreError: the database cannot be reached or used; or the rows are deleted, but SQLite's log still has
                them because another program is reading the file. Calling `forget` again then clears the log.
        """
        user = checked_id("user_id", user_id)
        mark = self._database.insert(FORGOTTEN).values(digest=self._digest(user), at=float(self._clock()))
        mark = mark.on_conflict_do_update(index_elements=["digest"], set_={"at": mark.excluded.at})

        def delete_rows(connection: sa.Connection) -> dict[str, int]:
            connection.execute(mark)
            return {
                str(column): int(connection.execute(sa.delete(column.table).where(column == user)).rowcount)
                for column in USER_COLUMNS
            }

        removed = self._database.write(delete_rows)
        self._database.purge()
        return removed

    def is_forgotten(self, user_id: UserId) -> bool:
        """Whether a user was forgotten, so that data from before must not be used. Later events may be used."""
        return bool(self._database.read(_SELECT_FORGOTTEN, {"hashed": self._digest(checked_id("user_id", user_id))}))

    def forgotten_count(self, *, since: float = -math.inf) -> int:
        """The number of users who were last forgotten at a time, in seconds since 1970, or later.

        Without `since`, it grows whenever a user is forgotten for the first time, and never falls.
        """
        return int(self._database.read(_COUNT_FORGOTTEN, {"since": since})[0][0])

    def forgotten_among(self, user_ids: Ids) -> list[UserId]:
        """Those of U users who were forgotten, in their order."""
        digests = {row.digest for row in self._database.read(_SELECT_ALL_FORGOTTEN)}
        if not digests:
            return []
        keys = user_ids.keys.to_pylist()
        return [user_ids[number] for number, key in enumerate(keys) if self._digest(key) in digests]

    def revise(
        self, put: Sequence[Item] = (), withdraw: Sequence[ItemId] = (), *, expected_revision: int | None = None
    ) -> int | None:
        """Store changes of the catalog, all or none. The last change of an item wins; `CatalogChanges` has the order.

        Args:
            put: new items, and items that replace those with their ids.
            withdraw: ids of items to withdraw; only the id of a withdrawn item is kept.
            expected_revision: the revision number on which these changes are based; None for any.

        Returns:
            The number of this revision; None, with nothing changed, if `expected_revision` is not the current one.

        Raises:
            InputError: an id occurs twice, or `Catalog.from_items` or `item_to_json` rejects an item.
        """
        rows = [{"item_id": item_id, "item": line} for item_id, line in revision_rows(put, withdraw).items()]
        upsert = self._database.insert(REVISIONS)
        upsert = upsert.on_conflict_do_update(index_elements=["item_id"], set_={"item": upsert.excluded.item})

        def apply(connection: sa.Connection) -> int | None:
            # The row lock on the number serialises concurrent revisions.
            number = self._parse_revision([row.value for row in connection.execute(_SELECT_REVISION.with_for_update())])
            if expected_revision not in (None, number):
                return None
            if rows:
                number += 1
                connection.execute(_UPDATE_REVISION, {"number": str(number)})
                connection.execute(upsert, rows)
            return number

        return self._database.write(apply)

    def revision(self) -> int:
        """The number of the latest catalog revision; 0 before the first."""
        return self._parse_revision([row.value for row in self._database.read(_SELECT_REVISION)])

    def changes(self) -> CatalogChanges:
        """All changes of the catalog.

        Raises:
            StoreError: an item in the database was altered.
        """
        number = self.revision()  # before the rows, so that a revision in between is noticed later and applied again
        rows = self._database.read(_SELECT_REVISIONS)
        try:
            items = {item_id: None if line is None else item_from_json(line) for item_id, line in rows}
        except ValueError as error:
            raise StoreError(f"the store {self._database.location} was altered: {error}; put the item again") from error
        return CatalogChanges(number, items)

    def revisions(self) -> tuple[list[Item], list[ItemId]]:
        """The items put and the ids withdrawn, both in the order of `changes`.

        Raises:
            StoreError: an item in the database was altered.
        """
        changes = self.changes().items
        put = [item for item in changes.values() if item is not None]
        return put, [item_id for item_id, item in changes.items() if item is None]

    def _parse_revision(self, values: list[str]) -> int:
        if len(values) != 1 or not values[0].isdecimal():
            raise StoreError(
                f"the store {self._database.location} was altered ({STORE_METADATA.name} has no revision); "
                "restore a backup"
            )
        return int(values[0])

    def _digest(self, user: str) -> str:
        """The hash that marks a forgotten user; useless without the salt."""
        return hashlib.sha256(f"{self._salt} {user}".encode()).hexdigest()


def _event_row(event: Event, position: int) -> dict[str, object]:
    name, event_id = event.event, event.event_id
    return {
        "user_id": checked_id("user_id", event.user_id, position),
        "item_id": checked_id("item_id", event.item_id, position),
        "timestamp": checked_number("timestamp", event.timestamp, position),
        "event": None if name is None else checked_text("event", name, position, MAX_EVENT_LENGTH),
        "weight": checked_number("weight", event.weight, position),
        "event_id": None if event_id is None else checked_id("event_id", event_id, position),
    }
