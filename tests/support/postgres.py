"""A temporary PostgreSQL server on a free local port."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

USER, PASSWORD = "genrec", "not/a:pass@word"


class PostgresServer:
    """A PostgreSQL server that can be stopped and restarted."""

    def __init__(self, programs: Path, folder: Path, port: int, account: dict[str, Any]) -> None:
        self.port = port
        self._account = account
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c deadlock_timeout=50ms"
        self._command = [str(programs / "postgres"), "-D", str(folder / "data"), *options.split()]
        self._log = folder / "log"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(self._command, stdout=log, stderr=log, **self._account)
        for _ in range(600):
            try:
                self._execute("postgres", "SELECT 1")
                return
            except OSError:
                assert self._server.poll() is None, self._log.read_text()
                time.sleep(0.1)
        raise AssertionError(self._log.read_text())

    def stop(self) -> None:
        """Stop immediately, as in a power failure."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait()
            self._server = None

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def new_schema(self) -> str:
        """The URL of a new, empty schema; creating it is faster than creating a database."""
        name = f"test_{secrets.token_hex(6)}"
        self._execute("postgres", f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}?options=-csearch_path%3D{name}"

    def new_database(self, encoding: str = "UTF8") -> str:
        name = f"test_{secrets.token_hex(6)}"
        self._execute("postgres", f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0")
        return self.url(name)

    def _execute(self, database: str, statement: str) -> None:
        import psycopg

        try:
            with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as connection:
                connection.execute(statement.encode())
        except psycopg.OperationalError as error:
            raise OSError(str(error)) from error


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Run a server; if PostgreSQL is not installed, the test is skipped, or fails in CI."""
    programs = find_programs()
    if programs is None:
        message = "PostgreSQL is not installed; on Debian: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    account = unprivileged_account()
    folder = Path(tempfile.mkdtemp(prefix="genrec-postgres-"))
    try:
        (folder / "password").write_text(PASSWORD, encoding="utf-8")
        if account:
            for path in (folder, folder / "password"):
                shutil.chown(path, account["user"], account["group"])
        options = f"-U {USER} --encoding=UTF8 --locale=C --no-sync --auth=scram-sha-256".split()
        command = [programs / "initdb", "-D", folder / "data", f"--pwfile={folder / 'password'}", *options]
        subprocess.run(command, check=True, capture_output=True, **account)
        server = PostgresServer(programs, folder, free_port(), account)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_programs() -> Path | None:
    """The folder of initdb and postgres: from PATH, or Debian's newest version."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in versions), key=lambda path: float(path.parent.name), default=None)


def unprivileged_account() -> dict[str, Any]:
    """The account for PostgreSQL, which refuses to run as root; empty if this process is not root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/"}
    raise AssertionError("no unprivileged account for PostgreSQL; add a user postgres")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
