"""Generation along a token tree, for backends whose trees return the logits of a node.

Letters: U texts, Q of them still active, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from genrec.backends.base import Completion, GenerationRequest, OnTokens
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError
from genrec.types import FloatArray, IntArray


class LogitBackend(Protocol):
    """A backend whose trees return logits, see `genrec.backends.base.Backend`."""

    context_length: int

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> "LogitTree":
        """Open a tree."""
        ...


class LogitTree(Protocol):
    """A token tree that returns logits, see `genrec.backends.base.TokenTree`."""

    @property
    def size(self) -> int:
        """The number of the next node."""
        ...

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Add nodes."""
        ...

    def logits(self, nodes: IntArray) -> FloatArray:
        """Logits of the next tokens at Q nodes: float64 [Q, V], each row up to an additive constant."""
        ...


def check_context_length(requests: Sequence[GenerationRequest], context_length: int) -> None:
    """Check that every prompt and its text fit the context.

    Raises:
        EngineError: one does not fit.
    """
    for number, request in enumerate(requests):
        if request.max_tokens < 1 or len(request.prompt) + request.max_tokens > context_length:
            raise EngineError(
                f"prompt {number} has {len(request.prompt)} tokens, max_tokens is {request.max_tokens}, and the "
                f"context has {context_length} tokens; set max_tokens to at least 1, and shorten what does not fit"
            )


def generate_with_tree(
    backend: LogitBackend, requests: Sequence[GenerationRequest], deadline: Deadline | None, on_tokens: OnTokens | None
) -> list[Completion]:
    """Generate U texts along a tree over their prompts, see `genrec.backends.base.Backend.generate`."""
    check_context_length(requests, backend.context_length)
    if not requests:
        return []
    (deadline or Deadline.never()).check()
    sequences = [_Sequence(request, number) for number, request in enumerate(requests)]
    active = [sequence for sequence in sequences if sequence.append_forced(on_tokens)]
    # Forced tokens at the start are reported before the model runs, and are computed with the prompt.
    prompts = [np.append(sequence.prompt, sequence.take_pending()).astype(np.int64) for sequence in sequences]
    tree = backend.open(prompts, deadline=deadline)
    while active:
        logits = tree.logits(np.array([sequence.node for sequence in active]))
        for sequence, row in zip(active, logits, strict=True):
            sequence.sample(row, on_tokens)
        active = [sequence for sequence in active if sequence.is_active and sequence.append_forced(on_tokens)]
        _grow_tree(tree, active)
    return [Completion(np.array(sequence.token_ids, dtype=np.int64), sequence.stopped) for sequence in sequences]


class ConstraintChecker:
    """Checks the tokens of an engine that applies constraints by itself, before `on_tokens` sees them.

    An engine that does not know a constraint, because a plugin is missing or the server ignores a field, generates
    without it: that must be an error before anyone reads the text.

    Args:
        requests: what was requested.
        on_tokens: called with the tokens that passed the check; None to only check.
    """

    def __init__(self, requests: Sequence[GenerationRequest], on_tokens: OnTokens | None) -> None:
        self._states = [None if request.constraint is None else request.constraint.start() for request in requests]
        self._on_tokens = on_tokens

    def __call__(self, number: int, token_ids: Sequence[int]) -> None:
        """Check new tokens of request `number`.

        Raises:
            EngineError: the constraint does not allow one of them.
        """
        state = self._states[number]
        try:
            if state is not None:
                for token in token_ids:
                    state.advance(int(token))
        except InputError as error:
            raise EngineError(
                f"the engine did not apply a constraint: {error}; start it with the options of "
                "genrec.backends.vllm_protocol.serve_options, and install genrec in its environment"
            ) from error
        if self._on_tokens is not None:
            self._on_tokens(number, token_ids)


def _grow_tree(tree: LogitTree, sequences: "Sequence[_Sequence]") -> None:
    """Add the pending tokens of all active sequences in one pass, each as a chain below its last node."""
    parents: list[int] = []
    tokens: list[int] = []
    for sequence in sequences:
        for token in sequence.take_pending() if sequence.is_active else ():
            parents.append(sequence.node)
            tokens.append(token)
            sequence.node = tree.size + len(tokens) - 1
    if tokens:
        tree.grow(np.array(parents, dtype=np.int64), np.array(tokens, dtype=np.int64))


class _Sequence:
    """One text being generated: its node in the tree, and its tokens so far."""

    def __init__(self, request: GenerationRequest, number: int) -> None:
        self.number = self.node = number  # prompt ends have the numbers of their prompts
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
        """The tokens that the tree does not have yet."""
        new, self._num_in_tree = self.token_ids[self._num_in_tree :], len(self.token_ids)
        return new

    def append_forced(self, on_tokens: OnTokens | None) -> bool:
        """Append the tokens that the constraint forces; returns whether the text goes on."""
        forced = () if self._state is None else self._state.forced_tokens()
        self._append(list(forced)[: self._request.max_tokens - len(self.token_ids)], on_tokens)
        return self.is_active

    def sample(self, logits: FloatArray, on_tokens: OnTokens | None) -> None:
        """Sample one more token, which may end the text: the largest logit, with Gumbel noise above temperature 0."""
        if self._state is not None:
            allowed = self._state.allowed_mask()
            shared = min(len(allowed), len(logits))  # tokenizers and models have tokens that the other lacks
            logits = np.where(allowed[:shared], logits[:shared], -np.inf)
        if self._request.temperature:
            logits = logits / self._request.temperature + self._rng.gumbel(size=len(logits))
        self._append([int(logits.argmax())], on_tokens)

    def _append(self, token_ids: Sequence[int], on_tokens: OnTokens | None) -> None:
        for position, token in enumerate(token_ids):
            if token in self._request.stop_token_ids:
                self.stopped, token_ids = True, token_ids[:position]
                break
            if self._state is not None:
                self._state.advance(token)
        self.token_ids += token_ids
        if token_ids and on_tokens is not None:
            on_tokens(self.number, token_ids)
