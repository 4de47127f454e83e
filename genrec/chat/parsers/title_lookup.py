"""Lookup of the item titles that a sentence contains."""

import re
from collections.abc import Sequence

import numpy as np

from genrec.data.catalog import Catalog

_TRAILING_BRACKETS = re.compile(r"\s*\([^()]*\)\s*$")  # such as a year
_MAX_TITLE_WORDS = 24  # longer titles are not found
_MIN_TITLE_LENGTH = 4  # characters of a title of one word: "Jaws" is unambiguous, "It" is not


class TitleLookup:
    """An index of items by the words of their titles, without brackets at the end; 16 bytes an item.

    Args:
        catalog: the items; of equal titles the first item is found.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        keys = [_title_key(title) for title in catalog.titles]
        self._max_words = min(_MAX_TITLE_WORDS, max((key.count(" ") + 1 for key in keys), default=0))
        hashes = np.fromiter(map(hash, keys), dtype=np.int64, count=len(catalog))
        self._sorted_item_indices = np.argsort(hashes, kind="stable")
        self._sorted_hashes = hashes[self._sorted_item_indices]

    def find_items(self, text: str) -> list[int]:
        """Find the titles that a text contains, preferring longer ones; item indices in the order of the text."""
        words = normalize_words(text).split()
        found: dict[int, int] = {}  # position of the first word to item index
        taken = bytearray(len(words))
        for size in range(min(len(words), self._max_words), 0, -1):
            names = [" ".join(words[start : start + size]) for start in range(len(words) - size + 1)]
            for start in self._candidates(names):
                if not any(taken[start : start + size]) and (item_index := self._find_title(names[start])) >= 0:
                    found[start] = item_index
                    taken[start : start + size] = b"\1" * size
        return [found[start] for start in sorted(found)]

    def _candidates(self, names: Sequence[str]) -> list[int]:
        """The positions of the names whose hash is that of a title, ascending."""
        hashes = np.fromiter(map(hash, names), dtype=np.int64, count=len(names))
        positions = np.minimum(np.searchsorted(self._sorted_hashes, hashes), len(self._sorted_hashes) - 1)
        candidates: list[int] = np.flatnonzero(self._sorted_hashes[positions] == hashes).tolist()
        return candidates

    def _find_title(self, name: str) -> int:
        if " " not in name and len(name) < _MIN_TITLE_LENGTH:
            return -1
        position = int(np.searchsorted(self._sorted_hashes, hash(name)))
        while position < len(self._sorted_hashes) and self._sorted_hashes[position] == hash(name):
            item_index = int(self._sorted_item_indices[position])
            if _title_key(self._catalog[item_index].title) == name:
                return item_index
            position += 1
        return -1


def normalize_words(text: str) -> str:
    """The words of a text, case-folded and joined by single spaces."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _title_key(title: str) -> str:
    return normalize_words(_TRAILING_BRACKETS.sub("", title)) or normalize_words(title)
