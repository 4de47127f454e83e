"""Texts written along a token tree, for backends that show all of a node's logits.

Letters: U texts, Q of them still under way, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from genrec.backends.base import Completion, GenerationRequest, OnTokens
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError
from genrec.types import FloatArray, IntArray


class LogitBackend(Protocol):
    """A backend whose trees show logits, see `genrec.backends.base.Backend`."""

    context_length: int

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> "LogitTree":
        """Open a tree."""
        ...


class LogitTree(Protocol):
    """A token tree, see `genrec.backends.base.TokenTree`, that shows logits."""

    @property
    def size(self) -> int:
        """The number of the next node."""
        ...

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Add nodes."""
        ...

    def logits(self, nodes: IntArray) -> FloatArray:
        """Of the tokens behind Q nodes: float64 [Q, V], each row up to one number that is the same for all of it."""
        ...


def check_context_length(requests: Sequence[GenerationRequest], context_length: int) -> None:
    """See that every text has room.

    Raises:
        EngineError: one has none.
    """
    for number, request in enumerate(requests):
        if request.max_tokens < 1 or len(request.prompt) + request.max_tokens > context_length:
            raise EngineError(
                f"prompt {number} has {len(request.prompt)} tokens and may be followed by {request.max_tokens}; the context "
                f"has {context_length}: ask for 1 or more that fit"
            )


def generate_with_tree(
    backend: LogitBackend, requests: Sequence[GenerationRequest], deadline: Deadline | None, on_tokens: OnTokens | None
) -> list[Completion]:
    """Write U texts along a tree behind their U prompts, see `genrec.backends.base.Backend.generate`."""
    check_context_length(requests, backend.context_length)
    if not requests:
        return []
    (deadline or Deadline.never()).check()
    pens = [_ActiveSequence(request, number) for number, request in enumerate(requests)]
    open_ = [pen for pen in pens if pen.append_forced(on_tokens)]
    # What a text begins with in any case is told before the model is asked, and computed with the prompt.
    prompts = [np.append(pen.prompt, pen.take_pending()).astype(np.int64) for pen in pens]
    tree = backend.open(prompts, deadline=deadline)
    while open_:
        for pen, logits in zip(open_, tree.logits(np.array([pen.node for pen in open_])), strict=True):
            pen.sample(logits, on_tokens)
        open_ = [pen for pen in open_ if pen.is_active and pen.append_forced(on_tokens)]
        _grow_tree(tree, open_)
    return [Completion(np.array(pen.token_ids, dtype=np.int64), pen.stopped) for pen in pens]


def constraint_checker(requests: Sequence[GenerationRequest], on_tokens: OnTokens | None) -> "_ConstraintChecker":
    """A witness of what an engine writes that constrains by itself; it tells `on_tokens` of nothing that may not be.

    One that does not know the constraint, because a plugin is missing or a server ignores a field, writes as if there
    were none: that must be an error, and before anybody has read it.
    """
    return _ConstraintChecker(requests, on_tokens)


class _ConstraintChecker:
    """See `hold`."""

    def __init__(self, requests: Sequence[GenerationRequest], on_tokens: OnTokens | None) -> None:
        self._states = [None if own.constraint is None else own.constraint.start() for own in requests]
        self._on_tokens = on_tokens

    def __call__(self, number: int, token_ids: Sequence[int]) -> None:
        """See some tokens of a text.

        Raises:
            EngineError: one of them may not stand there.
        """
        state = self._states[number]
        try:
            if state is not None:
                for token in token_ids:
                    state.advance(int(token))
        except InputError as error:
            raise EngineError(
                f"the engine did not hold a text to its constraint: {error}; start it as genrec.backends.vllm_protocol "
                "names, with genrec's plugin beside it"
            ) from error
        if self._on_tokens is not None:
            self._on_tokens(number, token_ids)


def _grow_tree(tree: LogitTree, sequences: "Sequence[_ActiveSequence]") -> None:
    """One pass for all that was written since: of each pen a chain of nodes behind where it stands."""
    parents: list[int] = []
    tokens: list[int] = []
    for pen in sequences:
        for token in pen.take_pending() if pen.is_active else ():
            parents.append(pen.node)
            tokens.append(token)
            pen.node = tree.size + len(tokens) - 1
    if tokens:
        tree.grow(np.array(parents, dtype=np.int64), np.array(tokens, dtype=np.int64))


class _ActiveSequence:
    """One text under way: where it stands in the tree, and what is written so far."""

    def __init__(self, request: GenerationRequest, number: int) -> None:
        self.number = self.node = number  # the end of the prompt is the node of its number
        self.stopped = False
        self.token_ids: list[int] = []
        self._num_in_tree = 0
        self._request = request
        self._state = None if request.constraint is None else request.constraint.start()
        self._rng = np.random.default_rng(request.seed)

    @property
    def prompt(self) -> IntArray:
        return self._request.prompt

    @property
    def is_active(self) -> bool:
        return not self.stopped and len(self.token_ids) < self._request.max_tokens

    def take_pending(self) -> list[int]:
        """What was written since the tree grew."""
        new, self._num_in_tree = self.token_ids[self._num_in_tree :], len(self.token_ids)
        return new

    def append_forced(self, on_tokens: OnTokens | None) -> bool:
        """Write what follows in any case; whether the text goes on."""
        forced = () if self._state is None else self._state.forced_tokens()
        self._append(list(forced)[: self._request.max_tokens - len(self.token_ids)], on_tokens)
        return self.is_active

    def sample(self, logits: FloatArray, on_tokens: OnTokens | None) -> None:
        """Write one more token, or end. What is drawn is the largest of logits with Gumbel noise."""
        if self._state is not None:
            allowed = self._state.allowed_mask()
            logits = np.where(allowed, logits[: len(allowed)], -np.inf)
        if self._request.temperature:
            logits = logits / self._request.temperature + self._rng.gumbel(size=len(logits))
        self._append([int(logits.argmax())], on_tokens)

    def _append(self, token_ids: Sequence[int], on_tokens: OnTokens | None) -> None:
        for place, token in enumerate(token_ids):
            if token in self._request.stop_token_ids:
                self.stopped, token_ids = True, token_ids[:place]
                break
            if self._state is not None:
                self._state.advance(token)
        self.token_ids += token_ids
        if token_ids and on_tokens is not None:
            on_tokens(self.number, token_ids)
