"""Token identifiers of items."""

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

_MAX_SUFFIX_LENGTH = 40  # longer attributes and ids are not used as suffixes


class Identifiers(Protocol):
    """Encodes items as tokens. `fingerprint` identifies the encoding and its settings."""

    fingerprint: str

    def encode(
        self, catalog: Catalog, tokenizer: Tokenizer, *, is_taken: Callable[[IntArray], bool] | None = None
    ) -> list[IntArray]:
        """Token ids of every item, in catalog order; distinct, each closed by the tokenizer's end token.

        Args:
            catalog: the items.
            tokenizer: the tokenizer of the model.
            is_taken: returns whether an identifier conflicts with one of an existing index; None for a new index.
        """
        ...


class TitleIdentifiers:
    """The title on one line and an end token: readable, works zero-shot, and new items need no training.

    Titles with equal tokens get a suffix in brackets: the first attribute in which all of them differ; otherwise the
    item id; otherwise, if ids are too long or equal in tokens, the item's index in the encoded catalog.

    Args:
        max_tokens: longer titles are truncated to this many tokens before suffixes are added.

    Raises:
        InputError: `max_tokens` is below 1.
    """

    def __init__(self, *, max_tokens: int = 48) -> None:
        if max_tokens < 1:
            raise InputError(f"max_tokens is {max_tokens}; it must be at least 1")
        self.max_tokens = max_tokens
        self.fingerprint = hashlib.sha256(f"title 1 {max_tokens}".encode()).hexdigest()

    def encode(
        self, catalog: Catalog, tokenizer: Tokenizer, *, is_taken: Callable[[IntArray], bool] | None = None
    ) -> list[IntArray]:
        """Token ids of every item, in catalog order; distinct, each closed by the tokenizer's end token."""
        end = tokenizer.answer_end

        def clashing() -> list[list[int]]:
            return _conflict_groups(bodies, None if is_taken is None else lambda body: is_taken(_concat(body, end)))

        bodies = [self._encode_title(title, tokenizer) for title in catalog.titles]
        for name in catalog.attribute_names:
            clashes = clashing()
            if not clashes:
                break
            values = catalog.column(name)
            for group in clashes:
                suffixes = [_suffix(values[item].as_py()) for item in group]
                if all(suffixes) and len(set(suffixes)) == len(suffixes):
                    for item, suffix in zip(group, suffixes, strict=True):
                        bodies[item] = _concat(bodies[item], tokenizer.encode_text(f" ({suffix})"))
        for item in chain.from_iterable(clashing()):
            if suffix := _suffix(catalog.item_ids[item]):
                bodies[item] = _concat(bodies[item], tokenizer.encode_text(f" ({suffix})"))
        # Item indices always differ. One round is enough unless a title looks like another title with its suffix; that
        # title gets a suffix in the next round.
        for _ in range(self.max_tokens):
            for item in chain.from_iterable(clashes := clashing()):
                bodies[item] = _concat(bodies[item], tokenizer.encode_text(f" [{item}]"))
            if not clashes:
                break
        return [_concat(body, end) for body in bodies]

    def _encode_title(self, title: str, tokenizer: Tokenizer) -> IntArray:
        # The first tokens never need more characters than this; otherwise a title of 4 MB would be encoded in full.
        return tokenizer.encode_answer(one_line(title[: 64 * self.max_tokens]))[: self.max_tokens]


def _suffix(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    suffix = "" if value is None else one_line(text)
    return suffix if len(suffix) <= _MAX_SUFFIX_LENGTH else ""


def _concat(left: IntArray, right: IntArray) -> IntArray:
    return np.concatenate([left, right])


def _conflict_groups(bodies: Sequence[IntArray], is_taken: Callable[[IntArray], bool] | None) -> list[list[int]]:
    """Groups of items, in catalog order, that have equal tokens, no tokens, or tokens that are taken."""
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for item, body in enumerate(bodies):
        groups[body.tobytes()].append(item)
    return [
        group
        for key, group in groups.items()
        if len(group) > 1 or not key or (is_taken is not None and is_taken(bodies[group[0]]))
    ]
