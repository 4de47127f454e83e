"""What happened since the files were read: events of users, who is to be forgotten, and changes of the catalog.

It is kept in a database, by SQLAlchemy, and nothing of it in memory: several processes may share one. Ids are kept and
come back as text, so that 17 and "17" are the same here as everywhere.
"""

import hashlib
import math
import numbers
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import sqlalchemy as sa

from genrec.data.catalog import Catalog
from genrec.data.ids import key_of
from genrec.errors import InputError, StoreError
from genrec.store.database import Database
from genrec.store.item_json import item_from_json, item_to_json
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

MAX_ID_LENGTH = 200  # characters
MAX_EVENT_LENGTH = 100
MAX_EVENTS_PER_USER = 10_000  # of a user that are read

_SELECT_EVENTS = (
    sa.select(EVENTS.c.item_id, EVENTS.c.timestamp, EVENTS.c.event, EVENTS.c.weight, EVENTS.c.event_id)
    .where(EVENTS.c.user_id == sa.bindparam("user"))
    .order_by(EVENTS.c.timestamp.desc(), EVENTS.c.number.desc())
    .limit(MAX_EVENTS_PER_USER)
)
_SELECT_FORGOTTEN = sa.select(FORGOTTEN.c.at).where(FORGOTTEN.c.digest == sa.bindparam("hashed"))
_SELECT_REVISIONS = sa.select(REVISIONS.c.item_id, REVISIONS.c.item).order_by(REVISIONS.c.number)
_SELECT_REVISION = sa.select(STORE_METADATA.c.value).where(STORE_METADATA.c.name == "revision")
_UPDATE_REVISION = (
    sa.update(STORE_METADATA).where(STORE_METADATA.c.name == "revision").values(value=sa.bindparam("number"))
)


@dataclass(frozen=True, slots=True)
class Event:
    """A person did something with an item.

    Attributes:
        user_id, item_id: the caller's, up to 200 characters; text where they come out of a store.
        timestamp: seconds since 1970.
        event: what they did, up to 100 characters; it is kept and not read.
        weight: above 0 says that they met the item; 0 or less takes that back, and the item is not recommended to them
            until a later event.
        event_id: the caller's name for it, up to 200 characters: the same one again, of the same user, is not a second
            event. None for an event that is never sent twice.
    """

    user_id: UserId
    item_id: ItemId
    timestamp: float
    event: str | None = None
    weight: float = 1.0
    event_id: str | None = None


class Store:
    """Events, who is to be forgotten, and changes of the catalog, in a database; threads may share it.

    Made by `Store.open`; a context manager. Every method raises StoreError where the database cannot be reached or
    used, and InputError for an id that is none: blank, longer than 200 characters, or neither text nor a whole number.
    """

    def __init__(self, database: Database, salt: str, clock: Callable[[], float]) -> None:
        self._database, self._salt, self._clock = database, salt, clock
        # ON CONFLICT names nothing: an event without an id conflicts with none.
        self._insert_events = database.insert(EVENTS).on_conflict_do_nothing().execution_options(preserve_rowcount=True)

    @classmethod
    def open(cls, url: str, *, clock: Callable[[], float] = time.time) -> "Store":
        """Open a store, and make its tables where there are none.

        Args:
            url: `sqlite:///PATH`, a file that is made where there is none; or `postgresql://...`, a database that is
                there. Its tables begin with `genrec_`, and others in it are left alone.
            clock: seconds since 1970, for when somebody was forgotten.

        Raises:
            StoreError: the database cannot be reached, written or understood, or is of a newer genrec.
        """
        database = Database.open(url)
        try:
            facts = database.write(lambda connection: create_tables(connection, database))
            if facts["version"] != str(SCHEMA_VERSION):
                raise StoreError(
                    f"the store {database.location} has version {facts['version']!r:.20}, this genrec knows {SCHEMA_VERSION}; "
                    "update genrec, or name another store"
                )
            return cls(database, facts["salt"], clock)
        except KeyError as error:
            database.close()
            raise StoreError(
                f"the store {database.location} was altered ({STORE_METADATA.name} lacks {error}); put back a copy of it"
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

    def close(self) -> None:
        """Let go of the database; may be called again."""
        self._database.close()

    def check(self) -> None:
        """See that the database is there and answers.

        Raises:
            StoreError: it does not.
        """
        self._database.check()

    def add(self, events: Iterable[Event]) -> int:
        """Keep events, all of them or none; when this returns, no end of the process loses them.

        Returns:
            How many were new: an event whose id its user already has is left as it was first sent.

        Raises:
            InputError: an event cannot be kept; its number from 1, and the value, are said.
        """
        rows = [_event_row(event, place) for place, event in enumerate(events, start=1)]
        if not rows:
            return 0
        return self._database.write(lambda connection: int(connection.execute(self._insert_events, rows).rowcount))

    def events_of(self, user_id: UserId) -> list[Event]:
        """A user's events, oldest first, ties in the order of arrival; none for somebody unknown.

        Of more than MOST_EVENTS (10,000) the newest, so that an id that many share, such as "guest", costs no more.
        """
        user = _checked_id("user_id", user_id)
        return [Event(user, *row) for row in reversed(self._database.read(_SELECT_EVENTS, {"user": user}))]

    def forget(self, user_id: UserId) -> dict[str, int]:
        """Remove a user from everywhere, and remember by a hash alone that they are forgotten.

        Returns:
            The number of rows removed, by `table.column` of MANIFEST.

        Raises:
            StoreError: the database cannot be reached or used; or the user is forgotten and SQLite's log still holds
                them, because somebody reads the file. Forgetting again removes them from the log.
        """
        user = _checked_id("user_id", user_id)
        mark = self._database.insert(FORGOTTEN).values(digest=self._digest(user), at=float(self._clock()))
        mark = mark.on_conflict_do_update(index_elements=["digest"], set_={"at": mark.excluded.at})

        def step(connection: sa.Connection) -> dict[str, int]:
            connection.execute(mark)
            return {
                str(column): int(connection.execute(sa.delete(column.table).where(column == user)).rowcount)
                for column in USER_COLUMNS
            }

        removed = self._database.write(step)
        self._database.purge()
        return removed

    def is_forgotten(self, user_id: UserId) -> bool:
        """Whether what was known of a user before `forget` must not be used; what came afterwards is theirs."""
        return bool(self._database.read(_SELECT_FORGOTTEN, {"hashed": self._digest(_checked_id("user_id", user_id))}))

    def revise(
        self, put: Sequence[Item] = (), withdraw: Sequence[ItemId] = (), *, expected_revision: int | None = None
    ) -> int | None:
        """Keep changes of the catalog, all of them or none; of an item the last one counts.

        Args:
            put: items that are new, or take the place of what had their id.
            withdraw: ids of items that are gone; nothing else is kept of them.
            expected_revision: the number of the revision that these changes were made for; None for any.

        Returns:
            The number of this revision; None where another one came behind `expected_revision`, and nothing was changed.

        Raises:
            InputError: an id is there twice, or `Catalog.from_items` or `item_to_json` could not take an item.
        """
        items = [
            replace(item, item_id=_checked_id("item_id", item.item_id, place))
            for place, item in enumerate(put, start=1)
        ]
        gone = [_checked_id("item_id", item_id, place) for place, item_id in enumerate(withdraw, start=1)]
        seen: set[ItemId] = set()
        for item_id in (*(item.item_id for item in items), *gone):
            if item_id in seen:
                raise InputError(f"item {item_id!r} is put or withdrawn twice at once; name it once")
            seen.add(item_id)
        if items:
            Catalog.from_items(items)  # what a catalog cannot hold must not wait for the next start to say so
        rows = [{"item_id": item.item_id, "item": item_to_json(item)} for item in items]
        upsert = self._database.insert(REVISIONS)
        upsert = upsert.on_conflict_do_update(index_elements=["item_id"], set_={"item": upsert.excluded.item})
        delete = sa.delete(REVISIONS).where(REVISIONS.c.item_id == sa.bindparam("named"))
        names = [{"named": item_id} for item_id in gone]

        def step(connection: sa.Connection) -> int | None:
            # Whoever revises locks the number first, so that revisions come one behind the other.
            number = self._parse_revision([row.value for row in connection.execute(_SELECT_REVISION.with_for_update())])
            if expected_revision not in (None, number):
                return None
            number += bool(seen)
            connection.execute(_UPDATE_REVISION, {"number": str(number)})
            if rows:
                # What comes back stands behind what is there, as something new does.
                again = delete.where(REVISIONS.c.item.is_(None))
                connection.execute(again, [{"named": row["item_id"]} for row in rows])
                connection.execute(upsert, rows)
            if names:
                connection.execute(delete, names)
                connection.execute(upsert, [{"item_id": item_id, "item": None} for item_id in gone])
            return number

        return self._database.write(step)

    def revision(self) -> int:
        """The number of the last revision of the catalog; it rises with each, and is 0 before the first."""
        return self._parse_revision([row.value for row in self._database.read(_SELECT_REVISION)])

    def revisions(self) -> tuple[list[Item], list[ItemId]]:
        """All changes of the catalog: items put, in the order of their arrival, and ids withdrawn.

        Raises:
            StoreError: an item is not as it was written.
        """
        rows = self._database.read(_SELECT_REVISIONS)
        try:
            items = [item_from_json(text) for _, text in rows if text is not None]
        except ValueError as error:
            raise StoreError(f"the store {self._database.location} was altered: {error}; put the item again") from error
        return items, [item_id for item_id, text in rows if text is None]

    def _parse_revision(self, values: list[str]) -> int:
        if len(values) != 1 or not values[0].isdecimal():
            raise StoreError(
                f"the store {self._database.location} was altered ({STORE_METADATA.name} has no revision); put back a copy of it"
            )
        return int(values[0])

    def _digest(self, user: str) -> str:
        """What is left of a user who is forgotten: of no use to anybody without the salt."""
        return hashlib.sha256(f"{self._salt} {user}".encode()).hexdigest()


def _event_row(event: Event, position: int) -> dict[str, object]:
    name, event_id = event.event, event.event_id
    return {
        "user_id": _checked_id("user_id", event.user_id, position),
        "item_id": _checked_id("item_id", event.item_id, position),
        "timestamp": _checked_number("timestamp", event.timestamp, position),
        "event": None if name is None else _checked_text("event", name, position, MAX_EVENT_LENGTH),
        "weight": _checked_number("weight", event.weight, position),
        "event_id": None if event_id is None else _checked_id("event_id", event_id, position),
    }


def _checked_id(name: str, value: object, position: int | None = None) -> str:
    """An id as text; raises with its number, from 1, where there are several."""
    key = key_of(value)
    if key is None or not key.strip():
        raise InputError(f"{_label(name, position)} is {value!r:.80}; ids are text or whole numbers, and not blank")
    return _checked_text(name, key, position, MAX_ID_LENGTH)


def _checked_text(name: str, value: object, position: int | None, max_length: int) -> str:
    if not isinstance(value, str) or key_of(value) is None:
        raise InputError(f"{_label(name, position)} is {value!r:.80}; give text")
    if len(value) > max_length:
        raise InputError(
            f"{_label(name, position)} is {value!r:.40}, {len(value):,} characters long; give {max_length} at most"
        )
    if "\0" in value:  # PostgreSQL has no such text
        raise InputError(f"{_label(name, position)} is {value!r:.80}, which holds a zero; leave it out")
    return value


def _checked_number(name: str, value: object, position: int) -> float:
    try:
        if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number beyond every float
        pass
    raise InputError(f"{_label(name, position)} is {value!r:.80}; give a finite number")


def _label(name: str, position: int | None) -> str:
    return name if position is None else f"{name} number {position:,}"
