"""A database that several threads and processes read and write at once: SQLite in a file, or PostgreSQL.

What differs between the two is here, and so is every way in which one cannot be reached.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from genrec.errors import StoreError

_Result = TypeVar("_Result")
_URL_FORMATS = "write sqlite:///PATH, or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
_BUSY_TIMEOUT = 10  # seconds that a writer of SQLite waits for others
_CONNECT_TIMEOUT = 5  # seconds until a PostgreSQL that says nothing is taken for down
_MAX_CONNECTIONS = 16  # connections that one process holds at most; PostgreSQL allows 100 to all
_LOCKED_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_MAX_ATTEMPTS = 20
_RETRYABLE_SQLSTATES = ("40P01", "40001")  # two writers waited for each other, and PostgreSQL sent this one back
_ADVISORY_LOCK_KEY = 0x67656E726563  # "genrec": who prepares a PostgreSQL database holds it


class Database:
    """An open database; its threads share a pool of connections.

    Attributes:
        location: what messages call it, without user and password.
        is_sqlite: it is a file of SQLite, in WAL.
    """

    def __init__(self, engine: sa.Engine, location: str, file: Path | None, secrets: tuple[str, ...]) -> None:
        self.location, self.is_sqlite = location, file is not None
        self._engine, self._file, self._secrets = engine, file, secrets
        self._closed = False
        self._file_identity: tuple[int, int] | None = None
        # Whoever waits for SQLite sleeps for longer each time, and may wait for ever; within a process there is a turn.
        self._write_lock = threading.Lock() if self.is_sqlite else nullcontext()
        # A single statement needs no transaction around it, and PostgreSQL no round trips to begin and end one. The
        # connections of SQLite are always so: only `write` begins one.
        self._reader = engine if self.is_sqlite else engine.execution_options(isolation_level="AUTOCOMMIT")

    @classmethod
    def open(cls, url: str) -> "Database":
        """Reach a database; a file of SQLite is made where there is none.

        Args:
            url: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`; what is special in a password
                is percent-encoded, and what libpq knows may stand behind a question mark.

        Raises:
            StoreError: the URL is of another kind, the driver is not installed, or the database cannot be reached,
                is none, or cannot be written.
        """
        parsed = _parse_url(url)
        file = Path(os.path.abspath(parsed.database or "")) if parsed.drivername == "sqlite" else None
        named = sa.URL.create("postgresql", host=parsed.host, port=parsed.port, database=parsed.database)
        place = str(file) if file else named.render_as_string()
        secrets = [parsed.password, *(value for name, value in parsed.query.items() if "pass" in name)]
        try:
            engine = _create_engine(parsed, file)
        except ImportError:
            remedy = "use a Python that has it" if file else "run: pip install 'genrec[postgres]'"
            raise StoreError(
                f"{place} needs the driver {'sqlite3' if file else 'psycopg'}, which is not installed; {remedy}"
            ) from None
        database = cls(engine, place, file, tuple(str(secret) for secret in secrets if secret))
        try:
            database._prepare()
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._closed = True
        self._engine.dispose()

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that has `on_conflict_do_nothing` and `on_conflict_do_update`."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def read(self, statement: sa.Select[Any], values: Mapping[str, object] | None = None) -> list[Any]:
        """The rows of one statement.

        Raises:
            StoreError: the database cannot be reached or used.
        """
        with self._translated_errors():
            try:
                return self._read_once(statement, values)
            except sa.exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            return self._read_once(statement, values)  # the server was restarted since the connection was used last

    def _read_once(self, statement: sa.Select[Any], values: Mapping[str, object] | None) -> list[Any]:
        with self._reader.connect() as connection:
            return list(connection.execute(statement, values or {}).fetchall())

    def write(self, transaction: Callable[[sa.Connection], _Result]) -> _Result:
        """Take a step as a whole or not at all; when this returns, no end of the process undoes it.

        Args:
            transaction: is taken again from the start where another writer stood in its way.

        Raises:
            StoreError: the database cannot be reached or used; nothing was changed, unless it was lost on the way back.
        """
        with self._translated_errors():
            attempt = 0
            while True:
                attempt, committing = attempt + 1, False
                try:
                    with self._write_lock, self._engine.connect() as connection:
                        if self.is_sqlite:  # at once: a reader that becomes a writer cannot wait for one
                            connection.exec_driver_sql("BEGIN IMMEDIATE")
                        result = transaction(connection)
                        committing = True
                        connection.commit()
                        return result
                except sa.exc.DBAPIError as error:
                    conflict = getattr(error.orig, "sqlstate", None) in _RETRYABLE_SQLSTATES
                    # A connection that breaks before the end has changed nothing; at the end nobody knows.
                    lost = error.connection_invalidated and not committing
                    if attempt == _MAX_ATTEMPTS or not (conflict or lost):
                        raise

    def purge(self) -> None:
        """Leave nothing of what was deleted in SQLite's log; PostgreSQL does so by itself, when it vacuums.

        Raises:
            StoreError: somebody reads the file, and so the log cannot be emptied; or the file cannot be used.
        """
        if not self.is_sqlite:
            return
        with self._translated_errors(), self._reader.connect() as connection:
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # it raises nothing
        if busy is None or busy[0]:
            raise StoreError(
                f"what was to be forgotten is forgotten, but the log of the store {self.location} still holds it: "
                "somebody reads the file; end that and forget again"
            )

    def check(self) -> None:
        """See that it is there.

        Raises:
            StoreError: it cannot be reached, or its file was removed or replaced.
        """
        self.read(sa.select(sa.literal(1)))
        if self._file is not None and self._current_identity() != self._file_identity:
            raise StoreError(f"the store {self.location} was removed or replaced while it was in use; start again")

    def _current_identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.location)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _prepare(self) -> None:
        if self._file is None:
            with self._translated_errors(), self._reader.connect() as connection:
                encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
            if encoding != "UTF8":
                raise StoreError(
                    f"the database {self.location} is encoded as {encoding}, which cannot hold every text; "
                    "create one with ENCODING 'UTF8'"
                )
            return
        if self._file.is_dir():
            raise StoreError(
                f"{self.location} is a folder; name a file in it, such as sqlite:///{self.location}/events.db"
            )
        if not self._file.parent.is_dir():
            raise StoreError(f"the folder {self._file.parent} is not there; make it, or name another place")
        sa.event.listen(self._engine, "connect", _configure_sqlite)
        with self._translated_errors():
            self._enable_wal()
        self._file_identity = self._current_identity()

    def _enable_wal(self) -> None:
        """Put a file into WAL, where readers never wait; two that try at once may both be told that it is locked."""
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                with self._reader.connect() as connection:
                    mode = connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar_one()
            except sa.exc.OperationalError as error:
                if attempt == _MAX_ATTEMPTS or getattr(error.orig, "sqlite_errorcode", None) not in _LOCKED_CODES:
                    raise
                time.sleep(0.02 * attempt)
            else:
                if mode != "wal":
                    raise StoreError(
                        f"the store {self.location} cannot be in WAL (it is in {mode}); name another place"
                    )
                return

    def lock_schema(self, connection: sa.Connection) -> None:
        """Within a step: nobody else prepares the tables meanwhile."""
        if not self.is_sqlite:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK_KEY})")

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Whatever the driver raises, as a StoreError that holds no secret."""
        if self._closed:
            raise StoreError(f"the store {self.location} is closed; open it again")
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0].rstrip(".")
            for secret in self._secrets:
                reason = reason.replace(secret, "***")
            remedy = _remedy(reason, self.is_sqlite)
            # Of what was caught nothing is shown: it may hold what the connection was made with.
            raise StoreError(f"the store {self.location} cannot be used: {reason}; {remedy}") from None


def _remedy(reason: str, is_sqlite: bool) -> str:
    if not is_sqlite:
        return "check that the server runs, and the URL's host, port, database, user and password"
    if "locked" in reason or "QueuePool" in reason:
        return "try again; somebody else has been writing for long"
    if "not a database" in reason or "malformed" in reason:
        return "name another file, or put back a copy of it"
    if "full" in reason:
        return "free some space"
    return "check that this user may write the file and its folder, or name another place"


def _create_engine(url: sa.URL, file: Path | None) -> sa.Engine:
    arguments: dict[str, Any] = {
        "timeout": _BUSY_TIMEOUT,
        "check_same_thread": False,
    }  # the pool lends to one at a time
    if file is None:
        arguments = {"connect_timeout": _CONNECT_TIMEOUT, "client_encoding": "utf8", **url.query}
    return sa.create_engine(
        url if file is None else url.set(database=str(file)),
        connect_args=arguments,
        hide_parameters=True,
        poolclass=sa.QueuePool,
        max_overflow=_MAX_CONNECTIONS - 5,
        pool_timeout=_BUSY_TIMEOUT,
    )


def _configure_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself
    connection.execute("PRAGMA synchronous=FULL")  # what was acknowledged outlives a power cut, too
    connection.execute("PRAGMA secure_delete=ON")  # what was deleted is overwritten
    connection.execute("PRAGMA cache_size=-16384")  # KiB


def _parse_url(url: str) -> sa.URL:
    """A URL for SQLAlchemy. Messages repeat nothing of it but its scheme: any part may be a password cut wrongly."""
    scheme, separator, _ = url.partition("://")
    known = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
    known["postgresql+psycopg"] = "postgresql+psycopg"
    if not separator or scheme not in known:
        what = f"the scheme {scheme!r:.40}, which genrec does not know" if separator else "no scheme"
        raise StoreError(f"the URL of the store has {what}; {_URL_FORMATS}")
    try:
        parsed = sa.make_url(url).set(drivername=known[scheme])
    except (sa.exc.ArgumentError, ValueError):
        parsed = None
    if scheme == "sqlite":
        if parsed is None or parsed.host or parsed.username or parsed.query:
            raise StoreError(
                f"the URL of the store is none of SQLite; {_URL_FORMATS}, with three slashes and no options"
            )
        if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
            raise StoreError("a store in memory is lost with the process; name a file: sqlite:///PATH")
    elif parsed is None or "@" in f"{parsed.host}{parsed.database}":
        raise StoreError(
            f"the URL of the store cannot be read; {_URL_FORMATS}, with / : @ of a password percent-encoded"
        )
    elif not parsed.database:
        raise StoreError(f"the URL of the store names no database; {_URL_FORMATS}")
    return parsed
