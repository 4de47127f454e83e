"""The tables of the event store, and the list of their columns with user ids."""

import secrets

import sqlalchemy as sa

from genrec.store.database import Database

SCHEMA_VERSION = 1
_METADATA = sa.MetaData()
_SEQUENCE_TYPE = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite increments INTEGER keys only


def _sequence_column() -> sa.Column[int]:
    """A key that numbers the rows in order of arrival."""
    return sa.Column("number", _SEQUENCE_TYPE, sa.Identity(), primary_key=True)


STORE_METADATA = sa.Table(
    "genrec_facts",
    _METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
EVENTS = sa.Table(
    "genrec_events",
    _METADATA,
    _sequence_column(),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("timestamp", sa.Double, nullable=False),
    sa.Column("event", sa.Text),
    sa.Column("weight", sa.Double, nullable=False),
    sa.Column("event_id", sa.Text),
    sa.Index("genrec_events_of_user", "user_id", "timestamp", "number"),
)
sa.Index(
    "genrec_events_once",
    EVENTS.c.user_id,
    EVENTS.c.event_id,
    unique=True,
    sqlite_where=EVENTS.c.event_id.is_not(None),
    postgresql_where=EVENTS.c.event_id.is_not(None),
)
FORGOTTEN = sa.Table(
    "genrec_forgotten",
    _METADATA,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
)
# One row for each item that was put or withdrawn; `item` is NULL for a withdrawn item.
REVISIONS = sa.Table(
    "genrec_revisions",
    _METADATA,
    _sequence_column(),
    sa.Column("item_id", sa.Text, nullable=False, unique=True),
    sa.Column("item", sa.Text),
)

USER_COLUMNS: tuple[sa.Column[str], ...] = (EVENTS.c.user_id,)
"""Every column with user ids. `Store.forget` deletes by each of them, so a new one must be added here."""


def create_tables(connection: sa.Connection, database: Database) -> dict[str, str]:
    """Create the missing tables.

    Returns:
        The rows of STORE_METADATA by name, such as the schema version and the salt.
    """
    database.lock_schema(connection)
    if not sa.inspect(connection).has_table(STORE_METADATA.name):
        _METADATA.create_all(connection)
        metadata = {"version": str(SCHEMA_VERSION), "salt": secrets.token_hex(32)}
        rows = [{"name": name, "value": value} for name, value in metadata.items()]
        connection.execute(sa.insert(STORE_METADATA), rows)
    # A store of an early version has no revision number.
    connection.execute(database.insert(STORE_METADATA).values(name="revision", value="0").on_conflict_do_nothing())
    return {row.name: row.value for row in connection.execute(sa.select(STORE_METADATA.c.name, STORE_METADATA.c.value))}
