"""The cache folder: results that are slow to compute, stored under the fingerprints of their inputs."""

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from genrec.artifact import user_data_kind
from genrec.backends.model_name import model_name, snapshot_digests, snapshot_name
from genrec.datasets.models import MODELS, cache_directory
from genrec.errors import ArtifactError, GenrecError, MismatchError

_PROBE_BYTES = 1 << 16  # bytes that are written to find out whether the cache can be written
_MAX_CACHED_COUNTS = 8  # versions of the interactions whose counts stay in the cache
USER_DATA_FOLDERS = ("counts", "priors")
"""The folders of the cache with results that were computed from interactions."""

_LOGGER = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with a label of the running work, the number of finished steps, and the number of all steps."""


def weights_cache_name(model: str | Path, folder: Path) -> str:
    """A name for a model's weights that is unique within the cache.

    Two folders with the same name, or weights that were changed in place, get different names.

    Args:
        model: the name of a bundled model, the id of a model on the Hub, or a path.
        folder: the folder of its weights.
    """
    if str(model) in MODELS:
        return str(model)
    if snapshot_name(folder) is not None:  # the same commit has the same weights on every machine
        return f"{model_name(folder)}-{cache_key(*snapshot_digests(folder))[:12]}"
    inputs = [str(folder.resolve())]
    for file in sorted(folder.glob("*.safetensors")):
        inputs += [file.name, str(file.stat().st_size), str(file.stat().st_mtime_ns)]
    return f"{folder.name}-{cache_key(*inputs)[:12]}"


def evict_old_counts(folder: Path) -> None:
    """Remove all but the newest interaction counts: interactions change daily, so old counts are seldom used again."""
    kept = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime)
    for path in kept[: max(0, len(kept) - _MAX_CACHED_COUNTS)]:
        shutil.rmtree(path, ignore_errors=True)


def purge_user_data(cache: Path, *, keep: Collection[Path] = ()) -> None:
    """Remove every result that was computed from users, or whose manifest does not say that it was not.

    Args:
        cache: the cache folder.
        keep: folders of results that stay, because the users they were computed from are known.

    Raises:
        ArtifactError: a result cannot be removed (named).
    """
    paths = [path for name in USER_DATA_FOLDERS for path in sorted((cache / name).glob("*"))]
    for path in paths:
        if path in keep or user_data_kind(path) == "none":
            continue
        try:
            shutil.rmtree(path)
        except FileNotFoundError:  # another process removes it, too
            continue
        except OSError as error:
            raise ArtifactError(
                f"{path} was computed from interactions of users who were forgotten and cannot be removed: "
                f"{error.strerror}; remove it"
            ) from error


def default_cache() -> Path:
    """The cache folder of this user: `GENREC_CACHE`, or `genrec` in `XDG_CACHE_HOME` or in `~/.cache`."""
    return cache_directory(os.environ)


@contextmanager
def explain_cache_errors(folder: Path) -> Iterator[None]:
    """Turn errors of reading a cached folder into one whose remedy is to remove that folder.

    Raises:
        ArtifactError: a file in `folder` is damaged or does not fit.
    """
    try:
        yield
    except (ArtifactError, MismatchError, SafetensorError) as error:
        problem = error.problem if isinstance(error, GenrecError) else str(error)
        raise ArtifactError(problem, remedy=f"remove the folder {folder}; its contents are built again") from error


def cache_write_error(cache: Path) -> str | None:
    """Why a cache folder cannot be written; None if it can."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache) as folder:
            (Path(folder) / "probe").write_bytes(bytes(_PROBE_BYTES))  # a full disk has room for folders and no files
        return None
    except OSError as error:
        return error.strerror or str(error)


@contextmanager
def optional_cache_write(folder: Path) -> Iterator[None]:
    """Write a result to the cache if possible. If it cannot be written, log why: the result is used all the same."""
    try:
        yield
    except (OSError, ArtifactError) as error:
        _LOGGER.warning("%s is not cached, and computed again next time: %s", folder, error)


def cache_key(*inputs: str) -> str:
    """The name of the cache folder for a result that was computed from `inputs`."""
    return sha256("\n".join(inputs).encode()).hexdigest()[:24]


def ignore_progress(label: str, done: int, total: int) -> None:
    """Discard progress reports."""
