"""How an item is written in tokens."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Protocol

import numpy as np

from genrec.data.catalog import Catalog
from genrec.errors import InputError
from genrec.prompting.template import one_line
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import IntArray


class Identifiers(Protocol):
    """A way to write items in tokens. `fingerprint` says which way and with which settings."""

    fingerprint: str

    def encode(
        self, catalog: Catalog, tokenizer: Tokenizer, *, is_taken: Callable[[IntArray], bool] | None = None
    ) -> list[IntArray]:
        """Token ids of every item, in catalog order; distinct, each closed by the tokenizer's end token.

        Args:
            catalog: the items.
            tokenizer: the model's.
            is_taken: whether an identifier is in use already, where these items join others.
        """
        ...


class TitleIdentifiers:
    """The title on one line and an end token: readable, zero-shot, and new items work at once.

    Where titles meet in the same tokens, the first attribute that tells them apart follows in brackets; where none
    does, the item id; where ids are too long or meet too, the item's place in the catalog (among the items that are
    encoded together, where they join others).

    Args:
        max_tokens: a longer title is cut here, then told apart like any other.
    """

    def __init__(self, *, max_tokens: int = 48) -> None:
        if max_tokens < 1:
            raise InputError(f"max_tokens is {max_tokens}; an identifier needs at least 1")
        self.max_tokens = max_tokens
        self.fingerprint = hashlib.sha256(f"title 1 {max_tokens}".encode()).hexdigest()

    def encode(
        self, catalog: Catalog, tokenizer: Tokenizer, *, is_taken: Callable[[IntArray], bool] | None = None
    ) -> list[IntArray]:
        """Token ids of every item, in catalog order; distinct, each closed by the tokenizer's end token."""
        end = np.array([tokenizer.eos_token_id])

        def clashing() -> list[list[int]]:
            return _conflict_groups(bodies, None if is_taken is None else lambda body: is_taken(_concat(body, end)))

        bodies = [self._encode_title(title, tokenizer) for title in catalog.titles]
        for name in catalog.attribute_names:
            clashes = clashing()
            if not clashes:
                break
            values = catalog.column(name)
            for group in clashes:
                marks = [_suffix(values[item].as_py()) for item in group]
                if all(marks) and len(set(marks)) == len(marks):
                    for item, mark in zip(group, marks, strict=True):
                        bodies[item] = _concat(bodies[item], tokenizer.encode_text(f" ({mark})"))
        for item in chain.from_iterable(clashing()):
            if mark := _suffix(catalog.item_ids[item]):
                bodies[item] = _concat(bodies[item], tokenizer.encode_text(f" ({mark})"))
        # Places in the catalog differ whatever a tokenizer does to ids. One round is enough, unless a title was chosen
        # to look like another one with its mark; such a title is marked in the next.
        for _ in range(self.max_tokens):
            for item in chain.from_iterable(clashes := clashing()):
                bodies[item] = _concat(bodies[item], tokenizer.encode_text(f" [{item}]"))
            if not clashes:
                break
        return [_concat(body, end) for body in bodies]

    def _encode_title(self, title: str, tokenizer: Tokenizer) -> IntArray:
        # No title needs more characters than this for its first tokens; a 4 MB one would be encoded whole otherwise.
        return tokenizer.encode_text(one_line(title[: 64 * self.max_tokens]))[: self.max_tokens]


_MAX_SUFFIX_LENGTH = 40  # an attribute or id longer than this is a text, not a mark


def _suffix(value: object) -> str:
    mark = "" if value is None else one_line(str(value))
    return mark if len(mark) <= _MAX_SUFFIX_LENGTH else ""


def _concat(left: IntArray, right: IntArray) -> IntArray:
    return np.concatenate([left, right])


def _conflict_groups(bodies: Sequence[IntArray], is_taken: Callable[[IntArray], bool] | None) -> list[list[int]]:
    """Groups of items whose tokens are equal, or those of others, or none at all, in catalog order."""
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for item, body in enumerate(bodies):
        groups[body.tobytes()].append(item)
    return [
        group
        for key, group in groups.items()
        if len(group) > 1 or not key or (is_taken is not None and is_taken(bodies[group[0]]))
    ]
