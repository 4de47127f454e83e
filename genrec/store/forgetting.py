"""What is computed from interactions, after users were forgotten: the log without them, and a cache without traces.

A store marks forgotten users. A process applies the marks to the log it has read, before it computes anything from it,
and removes from its cache what was computed before.
"""

import logging
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from genrec.cache import purge_user_data
from genrec.data.interactions import Interactions
from genrec.errors import ArtifactError
from genrec.store.event_store import Store

_LOGGER = logging.getLogger(__name__)
_MARKS = "forgotten"  # folder of the cache; one file per store, with the number of users it was purged of


def remaining_interactions(interactions: Interactions, store: Store, cache: Path | None = None) -> Interactions:
    """The interactions of users whom a store has not marked as forgotten.

    Args:
        interactions: the log of a file, which may still have them.
        store: has the marks.
        cache: the cache folder, which is purged if users were forgotten since it was purged for this store. What
            cannot be removed is logged; it is not used either.

    Raises:
        StoreError: the store cannot be read.
    """
    count = store.forgotten_count()  # before the users: one who is forgotten in between is noticed next time
    forgotten = store.forgotten_among(interactions.user_ids)
    if cache is not None and count != _purged_count(cache, store):
        try:
            purge_cache(cache, store, count)
        except ArtifactError as error:
            _LOGGER.warning("%s", error)
    return interactions.without_users(forgotten)


def purge_cache(cache: Path, store: Store, count: int, *, keep: Collection[Path] = ()) -> None:
    """Remove from a cache what was computed from users, and record there that it was done.

    Args:
        cache: the cache folder.
        store: the store that has forgotten them.
        count: its number of forgotten users.
        keep: folders of results that were computed without them.

    Raises:
        ArtifactError: a result cannot be removed (named).
    """
    purge_user_data(cache, keep=keep)
    mark = _mark_path(cache, store)
    with suppress(OSError):  # without the mark, the cache is purged again at the next start
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(f"{count}\n", encoding="ascii")


def _purged_count(cache: Path, store: Store) -> int:
    """The number of forgotten users at the last purge; 0 if there was none."""
    with suppress(OSError, ValueError):
        return int(_mark_path(cache, store).read_text(encoding="ascii"))
    return 0


def _mark_path(cache: Path, store: Store) -> Path:
    return cache / _MARKS / store.fingerprint
