"""Texts written along a token tree, for backends that show all of a node's logits.

Letters: U texts, Q of them still under way, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from genrec.backends.base import OnTokens, Text, TextRequest
from genrec.deadline import Deadline
from genrec.errors import EngineError
from genrec.types import FloatArray, IntArray


class LogitBackend(Protocol):
    """A backend whose trees show logits, see `genrec.backends.base.Backend`."""

    max_tokens: int

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> "LogitTree":
        """Open a tree."""
        ...


class LogitTree(Protocol):
    """A token tree, see `genrec.backends.base.TokenTree`, that shows logits."""

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Add nodes."""
        ...

    def logits(self, nodes: IntArray) -> FloatArray:
        """Of the tokens behind Q nodes: float64 [Q, V], each row up to one number that is the same for all of it."""
        ...


def check_room(requests: Sequence[TextRequest], max_tokens: int) -> None:
    """See that every text has room.

    Raises:
        EngineError: one has none.
    """
    for number, request in enumerate(requests):
        if request.most < 1 or len(request.prompt) + request.most > max_tokens:
            raise EngineError(
                f"prompt {number} has {len(request.prompt)} tokens and may be followed by {request.most}; the context "
                f"has {max_tokens}: ask for 1 or more that fit"
            )


def write_along(
    backend: LogitBackend, requests: Sequence[TextRequest], deadline: Deadline | None, on_tokens: OnTokens | None
) -> list[Text]:
    """Write U texts along a tree behind their U prompts, see `genrec.backends.base.Backend.write`."""
    check_room(requests, backend.max_tokens)
    if not requests:
        return []
    tree = backend.open([request.prompt for request in requests], deadline=deadline)
    pens = [_Pen(request, number) for number, request in enumerate(requests)]
    open_ = pens
    while open_:
        for pen, logits in zip(open_, tree.logits(np.array([pen.node for pen in open_])), strict=True):
            pen.choose(logits)
            if on_tokens is not None and not pen.ended:
                on_tokens(pen.number, pen.token_ids[-1:])
        open_ = [pen for pen in open_ if pen.goes_on]
        if not open_:
            break
        parents = np.array([pen.node for pen in open_], dtype=np.int64)
        tokens = np.array([pen.token_ids[-1] for pen in open_], dtype=np.int64)
        for pen, node in zip(open_, tree.grow(parents, tokens).tolist(), strict=True):
            pen.node = node
    return [Text(np.array(pen.token_ids, dtype=np.int64), pen.ended) for pen in pens]


class _Pen:
    """One text under way: where it stands in the tree, and what is written so far."""

    def __init__(self, request: TextRequest, number: int) -> None:
        self.number = self.node = number  # the end of the prompt is the node of its number
        self.ended = False
        self.token_ids: list[int] = []
        self._request = request
        self._state = None if request.constraint is None else request.constraint.start()
        self._random = np.random.default_rng(request.seed)

    @property
    def goes_on(self) -> bool:
        return not self.ended and len(self.token_ids) < self._request.most

    def choose(self, logits: FloatArray) -> None:
        """Write one more token, or end. What is drawn is the largest of logits with Gumbel noise."""
        if self._state is not None:
            allowed = self._state.allowed()
            logits = np.where(allowed, logits[: len(allowed)], -np.inf)
        if self._request.temperature:
            logits = logits / self._request.temperature + self._random.gumbel(size=len(logits))
        token = int(logits.argmax())
        if token in self._request.stops:
            self.ended = True
            return
        self.token_ids.append(token)
        if self._state is not None:
            self._state.advance(token)
