"""A token tree on vLLM: growing only writes down, and reading sends paths whose beginnings the engine has cached.

One call of `log_probs` is one batch. A node is one request, which computes what of its path is not cached and returns
the log-probabilities of the tokens that were asked for. Nodes that follow one another, each asked for the token of the
next, are one request for the last of them: the engine scores them as tokens of a prompt.
Letters as in `genrec.backends.base`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from genrec.backends.tree_arrays import prompts_and_positions
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError
from genrec.types import FloatArray, IntArray

TOKEN_BYTES = 32  # of this process: four numbers a node; keys and values lie in a pool that the engine owns
_ROUNDING_TOLERANCE = 1e-4  # how far above 0 a log-probability may come out


@dataclass(frozen=True)
class PathScoreRequest:
    """What is read at the end of one path.

    Attributes:
        token_ids: a prompt and the tokens behind it.
        next_token_ids: next tokens whose log-probabilities are asked for; none if rows are.
        num_path_tokens: how many of the path's own last tokens are asked for, each behind those before it; 0 if tokens are.
    """

    token_ids: list[int]
    next_token_ids: list[int]
    num_path_tokens: int = 0


class PathScorer(Protocol):
    """What a tree needs of its backend.

    Attributes:
        max_logprobs: next tokens that one request may ask for.
        scores_path_tokens: whether it scores a path's own tokens; else every node is a request.
    """

    name: str
    vocab_size: int
    context_length: int
    max_logprobs: int
    scores_path_tokens: bool

    def score(self, requests: Sequence[PathScoreRequest], deadline: Deadline) -> list[FloatArray]:
        """Log-probabilities for each request, over the full vocabulary: of its tokens, or of its rows.

        Of rows only the last may come: those before were in the engine's cache, which keeps no log-probabilities.

        Raises:
            EngineError: the engine could not answer.
            DeadlineExceededError: the deadline passed before it did.
        """
        ...


class PathTree:
    """Nodes behind U prompts as parents, tokens, prompts and lengths; the engine holds no more than its cache."""

    def __init__(self, scorer: PathScorer, prompts: Sequence[IntArray], deadline: Deadline | None = None) -> None:
        self._deadline = deadline or Deadline.never()
        self._deadline.check()
        for number, prompt in enumerate(prompts):
            if not 0 < len(prompt) < scorer.context_length:
                raise EngineError(
                    f"prompt {number} has {len(prompt)} tokens; {scorer.name} takes 1 to {scorer.context_length - 1}"
                )
            _check_tokens(scorer, prompt)
        self._scorer = scorer
        self._prompts = [np.array(prompt, dtype=np.int64) for prompt in prompts]
        self._num_prompts = len(prompts)
        self._parent = np.full(self._num_prompts, -1)
        self._token = np.full(self._num_prompts, -1)
        self._prompt = np.arange(self._num_prompts)
        self._length = np.array([len(prompt) for prompt in prompts], dtype=np.int64)

    @property
    def size(self) -> int:
        """How many nodes there are, prompt ends included."""
        return len(self._parent)

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Add M nodes; the engine hears of them when they are read."""
        self._deadline.check()
        size = self.size
        nodes = np.arange(size, size + len(parents))
        if (parents >= nodes).any() or (parents < 0).any():
            raise InputError("a node's parent must stand before it")
        _check_tokens(self._scorer, tokens)
        parent = np.append(self._parent, parents)
        prompt, length = prompts_and_positions(parent, size, self._prompt, self._length)
        if len(nodes) and int(length[size:].max()) > self._scorer.context_length:
            raise EngineError(f"a path reaches {int(length[size:].max())} tokens; the context is shorter")
        self._parent, self._prompt, self._length = parent, prompt, length
        self._token = np.append(self._token, tokens)
        return nodes

    def log_probs(self, nodes: IntArray, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Log-probabilities of chosen next tokens, normalised over the full vocabulary."""
        self._deadline.check()
        counts = np.diff(offsets)
        owner = np.repeat(nodes, counts)
        lone = offsets[:-1][counts == 1]
        chains = (
            self._chains(owner, tokens, lone) if self._scorer.scores_path_tokens else [place[None] for place in lone]
        )
        several = [np.arange(offsets[query], offsets[query + 1]) for query in np.flatnonzero(counts > 1)]
        found = np.full(len(tokens), np.nan)
        rest = self._score(owner, tokens, chains + several, found)
        if rest:  # in the cache by now, so that each costs little alone
            self._score(owner, tokens, [place[None] for part in rest for place in part], found)
        if np.isnan(found).any():
            raise EngineError(f"{self._scorer.name} returned NaN; load it in float32 or check its weights")
        if (found > _ROUNDING_TOLERANCE).any():
            raise EngineError(
                f"{self._scorer.name} returned {found.max():.3g} for a log-probability, which is at most 0; "
                "start vLLM with --logprobs-mode raw_logprobs"
            )
        return found.clip(max=0.0)

    def rewind(self, size: int) -> None:
        """Forget every node from number `size` on; the engine's cache lets go of them by itself."""
        if size < self._num_prompts or size > self.size:
            raise InputError(f"cannot rewind to {size}: the tree has {self._num_prompts} prompts and {self.size} nodes")
        self._parent, self._token = self._parent[:size], self._token[:size]
        self._prompt, self._length = self._prompt[:size], self._length[:size]

    def _chains(self, owner: IntArray, tokens: IntArray, single: IntArray) -> list[IntArray]:
        """Places of one token each, as runs in which every node is the child that the one before was asked for."""
        nodes, tokens = owner[single], tokens[single]
        steps = zip(self._parent[nodes].tolist(), self._token[nodes].tolist(), strict=True)
        child = {step: query for query, step in enumerate(steps)}
        follower: dict[int, int] = {}
        led: set[int] = set()
        for query, step in enumerate(zip(nodes.tolist(), tokens.tolist(), strict=True)):
            other = child.get(step)
            if other is not None and other not in led:
                follower[query] = other
                led.add(other)
        chains = []
        for query in range(len(nodes)):
            if query not in led:
                chain = [query]
                while chain[-1] in follower:
                    chain.append(follower[chain[-1]])
                chains.append(single[chain])
        return chains

    def _score(
        self, owner: IntArray, tokens: IntArray, groups: Sequence[IntArray], log_probs: FloatArray
    ) -> list[IntArray]:
        """Ask for groups of places, each of one node or of a chain of them; returns the places that did not come."""
        requests, places = [], []
        for group in groups:
            path = self._path(int(owner[group[-1]]))
            if owner[group[0]] != owner[group[-1]]:
                requests.append(PathScoreRequest([*path, int(tokens[group[-1]])], [], num_path_tokens=len(group)))
                places.append(group)
                continue
            for start in range(0, len(group), self._scorer.max_logprobs):
                chunk = group[start : start + self._scorer.max_logprobs]
                requests.append(PathScoreRequest(path, tokens[chunk].tolist()))
                places.append(chunk)
        rest = []
        for group, answer in zip(places, self._scorer.score(requests, self._deadline) if requests else [], strict=True):
            hidden = len(group) - len(answer)
            log_probs[group[hidden:]] = answer
            if hidden:
                rest.append(group[:hidden])
        return rest

    def _path(self, node: int) -> list[int]:
        behind = []
        while node >= self._num_prompts:
            behind.append(int(self._token[node]))
            node = int(self._parent[node])
        return [*self._prompts[node].tolist(), *reversed(behind)]


def _check_tokens(scorer: PathScorer, tokens: IntArray) -> None:
    """A token that is none ends vLLM's process, and every request in it."""
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < scorer.vocab_size:
        wrong = tokens[(tokens < 0) | (tokens >= scorer.vocab_size)][0]
        raise InputError(f"token {wrong} is none of the {scorer.vocab_size:,} of {scorer.name}; check the tokenizer")
