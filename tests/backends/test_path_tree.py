"""The tree on vLLM without vLLM: over an engine that is a table, and forgets rows as a prefix cache does."""

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


class TableReader:
    """Reads paths from a `TableBackend`, and leaves out first rows as if a cache had held them."""

    token_bytes = TOKEN_BYTES
    provenance = None

    def __init__(self, *, max_logprobs: int = 7, hides: bool = True, scores_path_tokens: bool = True) -> None:
        self.table = TableBackend(97, seed=5)
        self.name, self.vocab_size, self.context_length = self.table.name, 97, 4096
        self.max_logprobs, self.scores_path_tokens = max_logprobs, scores_path_tokens
        self.hides = hides
        self.asked: list[PathScoreRequest] = []

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> PathTree:
        return PathTree(self, prompts, deadline)

    def score(self, requests: Sequence[PathScoreRequest], deadline: Deadline) -> list[FloatArray]:
        self.asked += requests
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
        held = sum(request.token_ids) % (len(rows) + 1) if self.hides else 0
        return tree.log_probs(np.arange(len(rows)), rows, np.arange(len(rows) + 1))[held:]


class TestPathTree(BackendContract):
    @pytest.fixture(params=[(7, True), (128, True), (128, False)], ids=["parts", "rows", "alone"])
    def backend(self, request: pytest.FixtureRequest) -> Backend:
        return TableReader(max_logprobs=request.param[0], scores_path_tokens=request.param[1])

    def tree_bytes(self, tree: Any) -> int:
        return path_tree_bytes(tree)


def chain_of(tree: PathTree, root: int, tokens: IntArray) -> tuple[IntArray, IntArray]:
    """Grow a chain, all but its last token; returns who is asked for each token."""
    grown = tree.grow(np.append(root, tree.size + np.arange(len(tokens) - 2)), tokens[:-1])
    return np.append(root, grown), tokens


def test_a_chain_is_one_request() -> None:
    """Titles are mostly forced tokens: a request for each would cost ten times as many as there are titles."""
    reader = TableReader(hides=False)
    tree = reader.open([np.array([1, 2, 3]), np.array([4])])
    one, other = chain_of(tree, 0, np.array([5, 6, 7, 8])), chain_of(tree, 1, np.array([9, 6, 7]))
    nodes, tokens = np.append(one[0], other[0]), np.append(one[1], other[1])
    found = tree.log_probs(nodes, tokens, np.arange(len(nodes) + 1))
    assert sorted((request.token_ids, request.num_path_tokens) for request in reader.asked) == [
        ([1, 2, 3, 5, 6, 7, 8], 4), ([4, 9, 6, 7], 3),
    ]  # fmt: skip
    table = reader.table.open([np.array([1, 2, 3]), np.array([4])])
    chain_of(table, 0, one[1]), chain_of(table, 1, other[1])  # type: ignore[arg-type]
    np.testing.assert_allclose(found, table.log_probs(nodes, tokens, np.arange(len(nodes) + 1)))


def test_rows_that_the_cache_held_are_asked_for_alone() -> None:
    """A cache keeps no log-probabilities, and what stands in their place may be anything."""
    reader = TableReader()
    tree = reader.open([np.array([1, 2])])
    nodes, tokens = chain_of(tree, 0, np.array([5, 6, 7, 8, 9]))
    tree.log_probs(nodes, tokens, np.arange(len(nodes) + 1))
    held = sum([1, 2, 5, 6, 7, 8, 9]) % 6
    assert held
    alone = [(request.token_ids, request.next_token_ids) for request in reader.asked[1:]]
    assert alone == [([1, 2, *tokens[:place].tolist()], [tokens[place]]) for place in range(held)]


def test_a_node_with_many_children_is_asked_in_parts() -> None:
    """An engine answers for so many tokens and no more; it refuses the others."""
    reader = TableReader(max_logprobs=40)
    tree = reader.open([np.array([1, 2])])
    tree.log_probs(np.array([0]), np.arange(97), np.array([0, 97]))
    assert [len(request.next_token_ids) for request in reader.asked] == [40, 40, 17]


def test_a_token_that_is_none_never_reaches_the_engine() -> None:
    """vLLM's process dies of it, and with it what everybody else asked."""
    reader = TableReader()
    for wrong in (-1, 97):
        with pytest.raises(InputError, match=f"token {wrong} is not in the vocabulary of .*, which has 97 tokens"):
            reader.open([np.array([1, wrong])])
        with pytest.raises(InputError, match=f"token {wrong} is not in the vocabulary of .*, which has 97 tokens"):
            reader.open([np.array([1])]).grow(np.array([0]), np.array([wrong]))


@pytest.mark.parametrize(("answer", "error"), [(np.nan, "returned NaN"), (3.0, "--logprobs-mode raw_logprobs")])
def test_what_is_no_log_probability_is_refused(answer: float, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that returns logits ranks well enough that nobody would notice, and proves what is not so."""
    reader = TableReader()
    monkeypatch.setattr(reader, "_read", lambda request: np.full(len(request.next_token_ids), answer))
    with pytest.raises(EngineError, match=error):
        reader.open([np.array([1])]).log_probs(np.array([0]), np.array([3]), np.array([0, 1]))
