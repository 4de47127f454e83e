"""The path tree over a table instead of an engine, which leaves out cached rows as vLLM does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from backend_contract import BackendContract
from backend_support import path_tree_bytes

from genrec.backends.base import Backend, Completion, GenerationRequest, OnTokens
from genrec.backends.path_tree import TOKEN_BYTES, PathScoreRequest, PathTree
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError
from genrec.testing import TableBackend
from genrec.types import FloatArray, IntArray


class TableScorer:
    """Scores paths with a `TableBackend`, and leaves out the first rows as if they were cached."""

    token_bytes = TOKEN_BYTES
    provenance = None
    batch_size = 8

    def __init__(self, *, max_logprobs: int = 7, hides_rows: bool = True, scores_path_tokens: bool = True) -> None:
        self.table = TableBackend(97, seed=5)
        self.name, self.vocab_size, self.context_length = self.table.name, 97, 4096
        self.max_logprobs, self.scores_path_tokens = max_logprobs, scores_path_tokens
        self.hides_rows = hides_rows
        self.requests: list[PathScoreRequest] = []

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> PathTree:
        return PathTree(self, prompts, deadline)

    def score(self, requests: Sequence[PathScoreRequest], deadline: Deadline) -> list[FloatArray]:
        self.requests += requests
        return [self._read(request) for request in requests]

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        deadline: Deadline | None = None,
        on_tokens: OnTokens | None = None,
    ) -> list[Completion]:
        return self.table.generate(requests, deadline=deadline, on_tokens=on_tokens)

    def _read(self, request: PathScoreRequest) -> FloatArray:
        assert len(request.next_token_ids) <= self.max_logprobs
        assert bool(request.next_token_ids) != bool(request.num_path_tokens)
        tree = self.table.open([np.array(request.token_ids[: len(request.token_ids) - request.num_path_tokens])])
        if request.next_token_ids:
            return tree.log_probs(
                np.array([0]), np.array(request.next_token_ids), np.array([0, len(request.next_token_ids)])
            )
        rows = np.array(request.token_ids[len(request.token_ids) - request.num_path_tokens :])
        tree.grow(np.arange(len(rows)), rows)
        num_cached = sum(request.token_ids) % (len(rows) + 1) if self.hides_rows else 0
        return tree.log_probs(np.arange(len(rows)), rows, np.arange(len(rows) + 1))[num_cached:]


class TestPathTree(BackendContract):
    @pytest.fixture(params=[(7, True), (128, True), (128, False)], ids=["parts", "rows", "alone"])
    def backend(self, request: pytest.FixtureRequest) -> Backend:
        return TableScorer(max_logprobs=request.param[0], scores_path_tokens=request.param[1])

    def tree_bytes(self, tree: Any) -> int:
        return path_tree_bytes(tree)


def chain_of(tree: PathTree, root: int, tokens: IntArray) -> tuple[IntArray, IntArray]:
    """Grow a chain of tokens except the last; returns the node at which each token is queried, and the tokens."""
    grown = tree.grow(np.append(root, tree.size + np.arange(len(tokens) - 2)), tokens[:-1])
    return np.append(root, grown), tokens


def test_a_chain_needs_one_request() -> None:
    """Titles consist mostly of forced tokens: a request for each would cost ten requests per title."""
    scorer = TableScorer(hides_rows=False)
    tree = scorer.open([np.array([1, 2, 3]), np.array([4])])
    one, other = chain_of(tree, 0, np.array([5, 6, 7, 8])), chain_of(tree, 1, np.array([9, 6, 7]))
    nodes, tokens = np.append(one[0], other[0]), np.append(one[1], other[1])
    found = tree.log_probs(nodes, tokens, np.arange(len(nodes) + 1))
    assert sorted((request.token_ids, request.num_path_tokens) for request in scorer.requests) == [
        ([1, 2, 3, 5, 6, 7, 8], 4), ([4, 9, 6, 7], 3),
    ]  # fmt: skip
    table = scorer.table.open([np.array([1, 2, 3]), np.array([4])])
    chain_of(table, 0, one[1]), chain_of(table, 1, other[1])  # type: ignore[arg-type]
    np.testing.assert_allclose(found, table.log_probs(nodes, tokens, np.arange(len(nodes) + 1)))


def test_cached_rows_are_requested_again_one_by_one() -> None:
    """A prefix cache stores no log-probabilities; what an engine returns for its rows is undefined."""
    scorer = TableScorer()
    tree = scorer.open([np.array([1, 2])])
    nodes, tokens = chain_of(tree, 0, np.array([5, 6, 7, 8, 9]))
    tree.log_probs(nodes, tokens, np.arange(len(nodes) + 1))
    num_cached = sum([1, 2, 5, 6, 7, 8, 9]) % 6
    assert num_cached
    alone = [(request.token_ids, request.next_token_ids) for request in scorer.requests[1:]]
    assert alone == [([1, 2, *tokens[:number].tolist()], [tokens[number]]) for number in range(num_cached)]


def test_many_next_tokens_are_split_into_several_requests() -> None:
    """An engine rejects requests for more tokens than its limit."""
    scorer = TableScorer(max_logprobs=40)
    tree = scorer.open([np.array([1, 2])])
    tree.log_probs(np.array([0]), np.arange(97), np.array([0, 97]))
    assert [len(request.next_token_ids) for request in scorer.requests] == [40, 40, 17]


def test_invalid_tokens_never_reach_the_engine() -> None:
    """An invalid token crashes vLLM's process, with the requests of all other callers."""
    scorer = TableScorer()
    for wrong in (-1, 97):
        with pytest.raises(InputError, match=f"token {wrong} is not in the vocabulary of .*, which has 97 tokens"):
            scorer.open([np.array([1, wrong])])
        with pytest.raises(InputError, match=f"token {wrong} is not in the vocabulary of .*, which has 97 tokens"):
            scorer.open([np.array([1])]).grow(np.array([0]), np.array([wrong]))


@pytest.mark.parametrize(("answer", "error"), [(np.nan, "returned NaN"), (3.0, "--logprobs-mode raw_logprobs")])
def test_invalid_log_probs_are_rejected(answer: float, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that returns logits ranks plausibly, but its proofs are wrong."""
    scorer = TableScorer()
    monkeypatch.setattr(scorer, "_read", lambda request: np.full(len(request.next_token_ids), answer))
    with pytest.raises(EngineError, match=error):
        scorer.open([np.array([1])]).log_probs(np.array([0]), np.array([3]), np.array([0, 1]))
