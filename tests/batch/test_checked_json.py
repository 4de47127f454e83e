"""A file that several processes create: one of them wins, and nobody ever sees a part of it."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from genrec.batch.checked_json import create_checked_json, read_checked_json, write_checked_json

# A process that is killed between claiming the path and writing the file.
KILLED_CREATOR = """
import os, sys
from pathlib import Path
from genrec.batch import checked_json

checked_json.atomic_writer = lambda path: os._exit(9)
checked_json.create_checked_json(Path(sys.argv[1]), {"by": "the killed one"})
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifest.json"


def test_the_first_creation_wins(path: Path) -> None:
    """Parts of one run would be recorded under the configuration of another."""
    create_checked_json(path, {"by": 1})
    create_checked_json(path, {"by": 2})
    assert read_checked_json(path) == {"by": 1}
    assert os.listdir(path.parent) == [path.name]


def test_concurrent_creators_agree(tmp_path: Path) -> None:
    """Two runs that start at the same moment must not each believe that the folder is theirs."""
    for turn in range(40):
        path, start = tmp_path / f"{turn}.json", threading.Barrier(6)

        def create(name: int, path: Path = path, start: threading.Barrier = start) -> dict[str, object]:
            start.wait()
            create_checked_json(path, {"by": name})
            return read_checked_json(path)

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(create, range(6)))
        assert found == [found[0]] * 6
    assert len(os.listdir(tmp_path)) == 40


def test_creation_needs_no_hard_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network and FUSE file systems refuse hard links; a run on them could not start."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    create_checked_json(path, {"by": 1})
    assert read_checked_json(path) == {"by": 1}


def test_claim_of_a_killed_process_is_completed(path: Path) -> None:
    """A kill between two steps must neither block the folder nor leave a part of a file."""
    killed = subprocess.run([sys.executable, "-c", KILLED_CREATOR, str(path)], check=False)
    assert killed.returncode == 9
    assert not path.exists()
    create_checked_json(path, {"by": "the next one"})
    assert read_checked_json(path) == {"by": "the killed one"}


def test_folder_that_cannot_be_written_raises(path: Path) -> None:
    """Waiting for a claim that nobody can make would never end."""
    path.parent.joinpath(f".{path.name}.claim").write_text("a file", encoding="utf-8")
    with pytest.raises(OSError):
        create_checked_json(path, {"by": 1})
    write_checked_json(path, {"by": 2})
    create_checked_json(path, {"by": 1})
    assert read_checked_json(path) == {"by": 2}
