"""A token tree for engines with a prefix cache: growing records nodes, reading sends their paths as requests.

One call of `log_probs` is one batch. Each node is one request: the engine computes the part of its path that is not
cached, and returns the log-probabilities of the queried tokens. Nodes in a chain, each queried for the token of the
next, share one request for the last of them: the engine scores them as tokens of a prompt.
Letters as in `genrec.backends.base`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from genrec.backends.tree_arrays import (
    check_path_lengths,
    check_prompt_lengths,
    check_rewind,
    nan_error,
    new_node_numbers,
    prompts_and_positions,
)
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError
from genrec.types import FloatArray, IntArray

TOKEN_BYTES = 32  # in this process, four integers per node; the engine owns the key-value cache
_ROUNDING_TOLERANCE = 1e-4  # how far above 0 rounding may lift a log-probability


@dataclass(frozen=True)
class PathScoreRequest:
    """A query for log-probabilities along one path: either of next tokens, or of the path's own last tokens.

    Attributes:
        token_ids: the path, a prompt and the tokens after it.
        next_token_ids: next tokens to score at the end of the path; empty if path tokens are scored.
        num_path_tokens: how many of the path's last tokens to score, each given the tokens before it; 0 if next tokens
            are scored.
        prompt: the number of the prompt that the path begins with.
    """

    token_ids: list[int]
    next_token_ids: list[int]
    num_path_tokens: int = 0
    prompt: int = 0


class PathScorer(Protocol):
    """What `PathTree` needs of its backend.

    Attributes:
        name, vocab_size, context_length: as in `Backend`.
        max_logprobs: how many next tokens one request may query.
        scores_path_tokens: whether a request can score the path's own tokens; otherwise every node is a request.
    """

    name: str
    vocab_size: int
    context_length: int
    max_logprobs: int
    scores_path_tokens: bool

    def score(self, requests: Sequence[PathScoreRequest], deadline: Deadline) -> list[FloatArray]:
        """Score requests, normalised over the full vocabulary.

        Args:
            requests: the queries.
            deadline: when the caller stops waiting.

        Returns:
            For each request float64, in nats: of all its next tokens, or of the last ones of its path tokens. The
            first path tokens are missing if they were in the engine's cache, which stores no log-probabilities.

        Raises:
            EngineError: the engine failed.
            DeadlineExceededError: the deadline has passed.
        """
        ...


class PathTree:
    """A token tree that stores parents, tokens, prompts and lengths; the engine has no state but its cache.

    Args:
        scorer: the backend.
        prompts: U arrays of token ids, int64.
        deadline: when the caller stops waiting; by default never.

    Raises:
        EngineError: a prompt is empty or does not fit the context.
        InputError: a token id is not in the vocabulary.
    """

    def __init__(self, scorer: PathScorer, prompts: Sequence[IntArray], deadline: Deadline | None = None) -> None:
        self._deadline = deadline or Deadline.never()
        self._deadline.check()
        check_prompt_lengths(prompts, scorer.name, scorer.context_length)
        for prompt in prompts:
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
        """The number of nodes, prompt ends included."""
        return len(self._parent)

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Add M nodes, without a request to the engine; see `TokenTree.grow`."""
        self._deadline.check()
        size = self.size
        nodes = new_node_numbers(size, parents)
        _check_tokens(self._scorer, tokens)
        parent = np.append(self._parent, parents)
        prompt, length = prompts_and_positions(parent, size, self._prompt, self._length)
        check_path_lengths(length[size:], self._scorer.context_length)
        self._parent, self._prompt, self._length = parent, prompt, length
        self._token = np.append(self._token, tokens)
        return nodes

    def log_probs(self, nodes: IntArray, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Read log-probabilities of chosen next tokens, see `TokenTree.log_probs`."""
        self._deadline.check()
        counts = np.diff(offsets)
        owner = np.repeat(nodes, counts)
        single = offsets[:-1][counts == 1]
        chains = [query[None] for query in single]
        if self._scorer.scores_path_tokens:
            chains = self._chains(owner, tokens, single)
        several = [np.arange(offsets[node], offsets[node + 1]) for node in np.flatnonzero(counts > 1)]
        log_probs = np.full(len(tokens), np.nan)
        missing = self._score(owner, tokens, chains + several, log_probs)
        if missing:  # their paths are cached now, so a request for each costs little
            self._score(owner, tokens, [query[None] for group in missing for query in group], log_probs)
        if np.isnan(log_probs).any():
            raise nan_error(self._scorer.name)
        if (log_probs > _ROUNDING_TOLERANCE).any():
            raise EngineError(
                f"{self._scorer.name} returned the log-probability {log_probs.max():.3g}, which is above 0; "
                "start vLLM with --logprobs-mode raw_logprobs"
            )
        return log_probs.clip(max=0.0)

    def rewind(self, size: int) -> None:
        """Remove every node from number `size` on; the engine's cache evicts them by itself."""
        check_rewind(size, self._num_prompts, self.size)
        self._parent, self._token = self._parent[:size], self._token[:size]
        self._prompt, self._length = self._prompt[:size], self._length[:size]

    def _chains(self, owner: IntArray, tokens: IntArray, single: IntArray) -> list[IntArray]:
        """Join nodes with a single query to chains, in which every node is the child that its predecessor queries.

        Args:
            owner, tokens: int64 [C], the node and the token of each query.
            single: the positions of these queries in `tokens`.

        Returns:
            For each chain, the positions of its queries in `tokens`.
        """
        nodes, tokens = owner[single], tokens[single]
        edges = zip(self._parent[nodes].tolist(), self._token[nodes].tolist(), strict=True)
        child_of_edge = {edge: query for query, edge in enumerate(edges)}
        successor: dict[int, int] = {}
        has_predecessor: set[int] = set()
        for query, edge in enumerate(zip(nodes.tolist(), tokens.tolist(), strict=True)):
            child = child_of_edge.get(edge)
            if child is not None and child not in has_predecessor:
                successor[query] = child
                has_predecessor.add(child)
        chains = []
        for query in range(len(nodes)):
            if query not in has_predecessor:
                chain = [query]
                while chain[-1] in successor:
                    chain.append(successor[chain[-1]])
                chains.append(single[chain])
        return chains

    def _score(
        self, owner: IntArray, tokens: IntArray, groups: Sequence[IntArray], log_probs: FloatArray
    ) -> list[IntArray]:
        """Score groups of queries, each of one node or of a chain, into `log_probs`.

        Returns:
            The queries of each group that the engine did not score, because it had them in its cache.
        """
        requests, sent = [], []
        for group in groups:
            last = int(owner[group[-1]])
            path, prompt = self._path(last), int(self._prompt[last])
            if owner[group[0]] != last:
                requests.append(PathScoreRequest([*path, int(tokens[group[-1]])], [], len(group), prompt))
                sent.append(group)
                continue
            for start in range(0, len(group), self._scorer.max_logprobs):
                chunk = group[start : start + self._scorer.max_logprobs]
                requests.append(PathScoreRequest(path, tokens[chunk].tolist(), prompt=prompt))
                sent.append(chunk)
        missing = []
        scores = self._scorer.score(requests, self._deadline) if requests else []
        for group, group_scores in zip(sent, scores, strict=True):
            num_missing = len(group) - len(group_scores)
            log_probs[group[num_missing:]] = group_scores
            if num_missing:
                missing.append(group[:num_missing])
        return missing

    def _path(self, node: int) -> list[int]:
        tokens = []
        while node >= self._num_prompts:
            tokens.append(int(self._token[node]))
            node = int(self._parent[node])
        return [*self._prompts[node].tolist(), *reversed(tokens)]


def _check_tokens(scorer: PathScorer, tokens: IntArray) -> None:
    """Check token ids here, because an invalid one crashes vLLM's process with every request in it."""
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < scorer.vocab_size:
        wrong = tokens[(tokens < 0) | (tokens >= scorer.vocab_size)][0]
        raise InputError(
            f"token {wrong} is not in the vocabulary of {scorer.name}, which has {scorer.vocab_size:,} tokens; check "
            "the tokenizer"
        )
