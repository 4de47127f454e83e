"""The cache folder: what is slow to make is kept under the fingerprint of what it was made from."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from genrec.datasets.models import MODELS, cache_directory
from genrec.errors import ArtifactError, GenrecError, MismatchError

_MAX_CACHED_COUNTS = 8  # states of interactions whose counts stay in the cache


Progress = Callable[[str, int, int], None]
"""Called with what is being made, how many of its parts are done, and how many there are."""


def name_of_weights(model: str | Path, folder: Path) -> str:
    """A name for caches: two folders called alike, or weights that changed in place, must not share what is kept."""
    if str(model) in MODELS:
        return str(model)
    facts = [str(folder.resolve())]
    for file in sorted(folder.glob("*.safetensors")):
        facts += [file.name, str(file.stat().st_size), str(file.stat().st_mtime_ns)]
    return f"{folder.name}-{key_of_parts(*facts)[:12]}"


def make_room(folder: Path) -> None:
    """Make room for one more: what people did changes daily, and each state of it is used for a day."""
    kept = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime)
    for path in kept[: max(0, len(kept) - _MAX_CACHED_COUNTS)]:
        shutil.rmtree(path, ignore_errors=True)


def default_cache() -> Path:
    """The cache folder of this user: GENREC_CACHE, else genrec under the platform's cache folder."""
    return cache_directory(os.environ)


@contextmanager
def from_cache(folder: Path) -> Iterator[None]:
    """What is kept under `folder` can be made again, so the remedy is to remove it."""
    try:
        yield
    except (ArtifactError, MismatchError, SafetensorError) as error:
        problem = error.problem if isinstance(error, GenrecError) else str(error)
        raise ArtifactError(problem, remedy=f"remove the folder {folder}; its contents are built again") from error


def cache_write_error(cache: Path) -> str | None:
    """Why nothing can be kept in a cache folder; None where something can."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache):
            return None
    except OSError as error:
        return error.strerror or str(error)


def need_writable(cache: Path) -> None:
    """Refuse before something slow is made that could not be kept."""
    if reason := cache_write_error(cache):
        raise ArtifactError(
            f"the cache {cache} cannot be written: {reason}; make it writable, or name another folder "
            "(the environment variable GENREC_CACHE on the command line)"
        )


def key_of_parts(*parts: str) -> str:
    """A folder's name for what was made from these facts."""
    return sha256("\n".join(parts).encode()).hexdigest()[:24]


def say_nothing(what: str, done: int, total: int) -> None:
    """Progress that nobody is shown."""
