"""A database for concurrent threads and processes: a SQLite file, or PostgreSQL.

Everything that differs between the two is in this module, and so are their error messages.
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
_BUSY_TIMEOUT = 10  # seconds that a SQLite writer waits for other writers
_CONNECT_TIMEOUT = 5  # seconds until a PostgreSQL server that does not answer counts as down
_MAX_CONNECTIONS = 16  # connections per process; PostgreSQL allows 100 in total by default
_LOCKED_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_MAX_ATTEMPTS = 20
_RETRYABLE_SQLSTATES = ("40P01", "40001")  # deadlock and serialization failure
_ADVISORY_LOCK_KEY = 0x67656E726563  # "genrec" in ASCII; held while the tables are created


class Database:
    """An open database with a connection pool. Thread-safe.

    Attributes:
        location: the database in messages: a path, or a URL without user and password.
        is_sqlite: whether it is a SQLite file, in WAL mode.
    """

    def __init__(self, engine: sa.Engine, location: str, file: Path | None, secrets: tuple[str, ...]) -> None:
        self.location, self.is_sqlite = location, file is not None
        self._engine, self._file, self._secrets = engine, file, secrets
        self._closed = False
        self._file_identity: tuple[int, int] | None = None
        # SQLite's busy handler backs off and may starve a writer; within a process this lock is fair.
        self._write_lock = threading.Lock() if self.is_sqlite else nullcontext()
        # A single SELECT needs no transaction; autocommit saves PostgreSQL the round trips of BEGIN and COMMIT. SQLite
        # connections are always in autocommit mode: only `write` begins a transaction.
        self._reader = engine if self.is_sqlite else engine.execution_options(isolation_level="AUTOCOMMIT")

    @classmethod
    def open(cls, url: str) -> "Database":
        """Open a database; a missing SQLite file is created.

        Args:
            url: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`. Special characters of a password
                are percent-encoded. libpq options may follow a question mark.

        Raises:
            StoreError: the URL is invalid, the driver is not installed, or the database cannot be reached or written,
                or is not a database.
        """
        parsed = _parse_url(url)
        file = Path(os.path.abspath(parsed.database or "")) if parsed.drivername == "sqlite" else None
        named = sa.URL.create("postgresql", host=parsed.host, port=parsed.port, database=parsed.database)
        location = str(file) if file else named.render_as_string()
        secrets = [parsed.password, *(value for name, value in parsed.query.items() if "pass" in name)]
        try:
            engine = _create_engine(parsed, file)
        except ImportError:
            remedy = "use a Python build with sqlite3" if file else "run: pip install 'genrec[postgres]'"
            raise StoreError(
                f"{location} needs the driver {'sqlite3' if file else 'psycopg'}, which is not installed; {remedy}"
            ) from None
        database = cls(engine, location, file, tuple(str(secret) for secret in secrets if secret))
        try:
            database._prepare()
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Close the idle connections; later calls raise StoreError."""
        self._closed = True
        self._engine.dispose()

    def insert(self, table: sa.Table) -> Any:
        """An INSERT statement with `on_conflict_do_nothing` and `on_conflict_do_update`."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def read(self, statement: sa.Select[Any], values: Mapping[str, object] | None = None) -> list[Any]:
        """The rows of one SELECT statement.

        Raises:
            StoreError: the database cannot be reached or used.
        """
        with self._translated_errors():
            try:
                return self._read_once(statement, values)
            except sa.exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            return self._read_once(statement, values)  # the server was restarted since the last use of this connection

    def _read_once(self, statement: sa.Select[Any], values: Mapping[str, object] | None) -> list[Any]:
        with self._reader.connect() as connection:
            return list(connection.execute(statement, values or {}).fetchall())

    def write(self, transaction: Callable[[sa.Connection], _Result]) -> _Result:
        """Run a transaction. Its changes are durable when this method returns.

        Args:
            transaction: called with a connection; called again after a conflict with another writer.

        Returns:
            The result of `transaction`.

        Raises:
            StoreError: the database cannot be reached or used. Nothing was changed, unless the connection was lost
                during the commit.
        """
        with self._translated_errors():
            attempt = 0
            while True:
                attempt, committing = attempt + 1, False
                try:
                    with self._write_lock, self._engine.connect() as connection:
                        if self.is_sqlite:  # IMMEDIATE: a read transaction that is upgraded cannot wait
                            connection.exec_driver_sql("BEGIN IMMEDIATE")
                        result = transaction(connection)
                        committing = True
                        connection.commit()
                        return result
                except sa.exc.DBAPIError as error:
                    conflict = getattr(error.orig, "sqlstate", None) in _RETRYABLE_SQLSTATES
                    # A connection that is lost before the commit changed nothing; during the commit, it is unknown.
                    lost = error.connection_invalidated and not committing
                    if attempt == _MAX_ATTEMPTS or not (conflict or lost):
                        raise

    def purge(self) -> None:
        """Remove deleted rows from SQLite's write-ahead log; PostgreSQL does so itself when it vacuums.

        Raises:
            StoreError: another program is reading the file, so the log cannot be truncated; or the file cannot be used.
        """
        if not self.is_sqlite:
            return
        with self._translated_errors(), self._reader.connect() as connection:
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # does not raise
        if busy is None or busy[0]:
            raise StoreError(
                f"the rows were deleted, but the log of the store {self.location} still contains them because another "
                "program is reading the file; end that program and forget again"
            )

    def check(self) -> None:
        """Check that the database is reachable.

        Raises:
            StoreError: it cannot be reached, or its file was removed or replaced.
        """
        self.read(sa.select(sa.literal(1)))
        if self._file is not None and self._current_identity() != self._file_identity:
            raise StoreError(
                f"the store {self.location} was removed or replaced while it was in use; restart the process"
            )

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
                    f"the database {self.location} has the encoding {encoding}, which cannot store every text; "
                    "create one with ENCODING 'UTF8'"
                )
            return
        if self._file.is_dir():
            raise StoreError(
                f"{self.location} is a folder; use a file in it, such as sqlite:///{self.location}/events.db"
            )
        if not self._file.parent.is_dir():
            raise StoreError(f"the folder {self._file.parent} does not exist; create it, or use another path")
        sa.event.listen(self._engine, "connect", _configure_sqlite)
        with self._translated_errors():
            self._enable_wal()
        self._file_identity = self._current_identity()

    def _enable_wal(self) -> None:
        """Switch to WAL mode, in which readers never wait; retries, because concurrent attempts may all fail."""
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
                        f"the store {self.location} does not support WAL mode (its mode is {mode}); use another path"
                    )
                return

    def lock_schema(self, connection: sa.Connection) -> None:
        """Within a transaction: wait until no other process is creating the tables."""
        if not self.is_sqlite:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK_KEY})")

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raise errors of the driver as StoreError, without secrets."""
        if self._closed:
            raise StoreError(f"the store {self.location} is closed; open it again")
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0].rstrip(".")
            for secret in self._secrets:
                reason = reason.replace(secret, "***")
            remedy = _remedy(reason, self.is_sqlite)
            # `from None`: the caught error may contain the connection arguments.
            raise StoreError(f"the store {self.location} cannot be used: {reason}; {remedy}") from None


def _remedy(reason: str, is_sqlite: bool) -> str:
    if not is_sqlite:
        return "check that the server is running, and check the host, port, database, user and password in the URL"
    if "locked" in reason or "QueuePool" in reason:
        return "try again; another writer has held the lock for too long"
    if "not a database" in reason or "malformed" in reason:
        return "use another file, or restore a backup"
    if "full" in reason:
        return "free some disk space"
    return "check that this user may write the file and its folder, or use another path"


def _create_engine(url: sa.URL, file: Path | None) -> sa.Engine:
    # The pool lends each connection to one thread at a time.
    arguments: dict[str, Any] = {"timeout": _BUSY_TIMEOUT, "check_same_thread": False}
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
    connection.isolation_level = None  # no implicit transactions
    connection.execute("PRAGMA synchronous=FULL")  # acknowledged writes survive a power failure
    connection.execute("PRAGMA secure_delete=ON")  # deleted bytes are overwritten
    connection.execute("PRAGMA cache_size=-16384")  # KiB


def _parse_url(url: str) -> sa.URL:
    """The URL for SQLAlchemy. Messages quote only its scheme: any other part may contain a misplaced password."""
    scheme, separator, _ = url.partition("://")
    known = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
    known["postgresql+psycopg"] = "postgresql+psycopg"
    if not separator or scheme not in known:
        problem = f"the unknown scheme {scheme!r:.40}" if separator else "no scheme"
        raise StoreError(f"the store URL has {problem}; {_URL_FORMATS}")
    try:
        parsed = sa.make_url(url).set(drivername=known[scheme])
    except (sa.exc.ArgumentError, ValueError):
        parsed = None
    if scheme == "sqlite":
        if parsed is None or parsed.host or parsed.username or parsed.query:
            raise StoreError(
                f"the store URL is not a valid SQLite URL; {_URL_FORMATS}, with three slashes and no options"
            )
        if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
            raise StoreError("a store in memory is lost when the process ends; use a file: sqlite:///PATH")
    elif parsed is None or "@" in f"{parsed.host}{parsed.database}":
        raise StoreError(f"the store URL is invalid; {_URL_FORMATS}, and percent-encode / : @ in a password")
    elif not parsed.database:
        raise StoreError(f"the store URL has no database name; {_URL_FORMATS}")
    return parsed
