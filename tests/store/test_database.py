"""A database that cannot be used: the error names the cause, and never a password."""

import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import postgres
import pytest

from genrec.errors import StoreError
from genrec.store.database import Database

ROOT = Path(__file__).parents[2]


def open_error(url: str) -> str:
    """The error of opening a database, with its whole traceback."""
    with pytest.raises(StoreError) as caught:
        Database.open(url)
    assert caught.value.exit_code == 5
    assert "sqlalche.me" not in str(caught.value)
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://root:hunter2@host/shop", "unknown scheme 'mysql'"),
        ("root:hunter2@host/shop", "no scheme; write sqlite:///PATH"),
        ("", "no scheme"),
        ("sqlite://hunter2.db", "with three slashes"),
        ("sqlite:///events.db?timeout=hunter2", "no options"),
        ("sqlite://", "in memory is lost"),
        ("sqlite:///:memory:", "in memory is lost"),
        ("sqlite:///file:hunter2?mode=memory", "no options"),
        ("postgresql://u:hunter2/x@127.0.0.1:1/shop", "postgresql://127.0.0.1:1/shop cannot be used: .*refused"),
        ("postgresql://hunter2@secret/x@hunter2/shop", "percent-encode"),
        ("postgresql://u:p@hunter2@host:x/shop", "percent-encode"),
        ("postgresql://u:hunter2@host", "has no database name"),
        ("postgresql+asyncpg://u:hunter2@host/shop", "scheme 'postgresql\\+asyncpg'"),
        ("postgresql://u:hunter2@127.0.0.1:1/shop", "postgresql://127.0.0.1:1/shop cannot be used: .*refused"),
        ("postgresql://u@127.0.0.1:1/shop?password=hunter2", "cannot be used: .*refused"),
        ("postgresql://u@127.0.0.1:1/shop?hunter=x&passfile=hunter2", 'invalid connection option "hunter"'),
        ("postgresql:///shop?host=/hunter2-is-not-here", "No such file"),
    ],
)
def test_unreachable_url_is_reported_without_its_password(url: str, message: str) -> None:
    """Logs are read by more people than databases are."""
    shown = open_error(url)
    assert re.search(message, shown)
    assert "hunter2" not in shown or "host=" in url


def test_path_without_a_store_is_reported(tmp_path: Path) -> None:
    """ "Unable to open database file" does not say which folder is wrong."""
    (tmp_path / "letter.txt").write_text("Dear reader, this is no database. " * 100, encoding="utf-8")
    (tmp_path / "short.txt").write_text("x" * 10, encoding="utf-8")
    assert "is a folder; use a file in it" in open_error(f"sqlite:///{tmp_path}")
    assert "lacking does not exist; create it" in open_error(f"sqlite:///{tmp_path}/lacking/events.db")
    assert "file is not a database; use another file" in open_error(f"sqlite:///{tmp_path}/letter.txt")
    assert "file is not a database; use another file" in open_error(f"sqlite:///{tmp_path}/short.txt")
    assert "does not exist" in open_error(f"sqlite:///{tmp_path}/letter.txt/events.db")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch to another account")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_read_only_path_is_reported_when_it_is_opened(what: str, tmp_path: Path) -> None:
    """Otherwise the first event fails, long after the start of the server."""
    place = tmp_path / "events.db"
    if what == "file":
        Database.open(f"sqlite:///{place}").close()
    account = postgres.unprivileged_account()
    # The other account may not be able to read the checkout or Python, so everything is loaded first.
    script = (
        "import os, sys\nfrom genrec.errors import StoreError\nfrom genrec.store.event_store import Store\n"
        "Store.open(sys.argv[1]).close()\n"
        f"os.setgroups([]); os.setgid({account['group']}); os.setuid({account['user']})\n"
        "try:\n    Store.open(sys.argv[2])\nexcept StoreError as error:\n    print(error)\n"
    )
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    command = [sys.executable, "-c", script, f"sqlite:///{tmp_path}/first.db", f"sqlite:///{place}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "cannot be used: " in done.stdout, done.stderr
    assert "check that this user may write the file and its folder" in done.stdout


def test_a_missing_driver_is_named() -> None:
    """SQLAlchemy names a module, but not the package to install."""
    script = (
        "import sys\nsys.modules['psycopg'] = None\nfrom genrec.store.database import Database\n"
        "from genrec.errors import StoreError\n"
        "try:\n    Database.open('postgresql://u:hunter2@host/shop')\nexcept StoreError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "postgresql://host/shop needs the driver psycopg" in done.stdout
    assert "pip install 'genrec[postgres]'" in done.stdout


@pytest.mark.postgres
def test_postgres_errors_omit_the_password(postgres_server: postgres.PostgresServer) -> None:
    """A wrong password is a secret, too: it is often the password of something else."""
    port = postgres_server.port
    shown = open_error(f"postgresql://{postgres.USER}:hunter2@127.0.0.1:{port}/postgres")
    assert "password authentication failed" in shown
    assert "hunter2" not in shown
    shown = open_error(postgres_server.url("nothing_here"))
    assert 'database "nothing_here" does not exist' in shown
    assert postgres.PASSWORD not in shown
    assert "has the encoding LATIN1, which cannot store every text" in open_error(
        postgres_server.new_database("LATIN1")
    )


@pytest.mark.postgres
def test_postgres_url_schemes_are_equivalent(postgres_url: str) -> None:
    """Providers write postgres://, SQLAlchemy writes postgresql+psycopg://."""
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        database = Database.open(postgres_url.replace("postgresql", scheme, 1))
        database.check()
        assert database.location.startswith("postgresql://127.0.0.1:")
        database.close()
