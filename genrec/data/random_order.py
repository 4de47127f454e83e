"""A random order of the items of each user, which depends on ids and a seed, and on nothing else of a log.

Letters: E events, U users, D distinct items.
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from genrec.data.ids import Ids
from genrec.types import FloatArray, IntArray

_Hashes = NDArray[np.uint64]


def random_places(user_ids: Ids, item_ids: Ids, users: IntArray, items: IntArray, seed: int) -> FloatArray:
    """The place of each event's item in a random order of its user's items.

    The order of two items of a user depends on the three ids and the seed, so it stays when other events come or go.

    Args:
        user_ids, item_ids: ids of the U users and D items.
        users, items: int64 [E], indices into them.
        seed: another seed gives another order.

    Returns:
        float64 [E], from 0 for each user, without gaps; events of a user with the same item share a place.
    """
    if not len(users):
        return np.zeros(0)
    keys = _mixed(_hashes(user_ids, f"{seed} user")[users] ^ _hashes(item_ids, f"{seed} item")[items])
    rows = np.lexsort((items, keys, users))
    new_user = np.diff(users[rows], prepend=-1) != 0
    new_item = new_user | (np.diff(items[rows], prepend=-1) != 0)
    numbers = np.cumsum(new_item)
    first = np.maximum.accumulate(np.where(new_user, numbers, 0))
    places = np.empty(len(users))
    places[rows] = numbers - first
    return places


def _hashes(ids: Ids, salt: str) -> _Hashes:
    """uint64, one for each id."""
    digests = (blake2b(f"{salt} {key}".encode(), digest_size=8).digest() for key in ids.keys.to_pylist())
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _mixed(hashes: _Hashes) -> _Hashes:
    """Hashes of hashes, by the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, section 3)."""
    mixed = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: _Hashes = mixed ^ (mixed >> np.uint64(31))
    return found
