"""Laws of packed scoring: a token has the log-probability it has alone, whatever else is in its pass."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from brute import log_probs

from genrec.data.subset import Subset
from genrec.deadline import Deadline
from genrec.decoding import tree_scoring
from genrec.decoding.search import beam_search
from genrec.decoding.search_request import SearchRequest
from genrec.decoding.tree_scoring import score_tries
from genrec.errors import DeadlineExceededError, EngineError
from genrec.index.trie import TokenTrie
from genrec.testing import TableBackend
from genrec.types import IntArray


def random_trie(random: np.random.Generator, vocab_size: int) -> TokenTrie:
    bodies = {tuple(random.integers(1, vocab_size, random.integers(1, 7)).tolist()) for _ in range(30)}
    return TokenTrie.from_sequences([np.array([*body, 0]) for body in bodies])


@pytest.mark.parametrize("branching_only", [False, True])
@pytest.mark.parametrize("max_nodes", [1, 2, 7, 30, 512])
def test_log_probs_do_not_depend_on_the_token_layout(max_nodes: int, branching_only: bool) -> None:
    """Packing is for speed only; a score that depends on it would depend on the memory of the machine."""
    for seed in range(10):
        random = np.random.default_rng(seed)
        backend = TableBackend(int(random.integers(3, 20)), seed=seed)
        prompts: list[IntArray] = [random.integers(0, backend.vocab_size, 3), np.array([1])]
        tries = [random_trie(random, backend.vocab_size), None if seed % 2 else random_trie(random, backend.vocab_size)]
        tree = backend.open(prompts)
        before = tree.grow(np.array([0]), np.array([1]))
        found = score_tries(tree, tries, branching_only=branching_only, max_nodes=max_nodes)
        assert tree.size == int(before[0]) + 1
        for prompt, trie, scores in zip(prompts, tries, found, strict=True):
            if trie is None or scores is None:
                assert trie is scores
                continue
            rows = [trie.tokens_of_row(row).tolist() for row in range(len(trie))]
            paths = np.split(trie.path_positions(np.arange(len(trie))), np.cumsum(trie.lengths)[:-1])
            num_scored = 0
            for row, path in zip(rows, paths, strict=True):
                for depth, position in enumerate(path):
                    siblings = {other[depth] for other in rows if len(other) > depth and other[:depth] == row[:depth]}
                    if branching_only and len(siblings) == 1:
                        assert scores.log_probs[position] == 0
                        continue
                    expected = log_probs(backend, [*prompt, *row[:depth]], [row[depth]])[0]
                    assert scores.log_probs[position] == pytest.approx(expected, abs=1e-12)
                    num_scored += 1
            assert num_scored
            # A pass has at most `max_nodes` nodes, or a single longer row.
            assert scores.generated_tokens <= scores.forward_passes * max(max_nodes, trie.max_length)


def test_nan_log_probs_raise() -> None:
    """NaN compares false with everything: items would be lost, and the list would still be proven."""
    trie = random_trie(np.random.default_rng(1), 9)
    tree = NanBackend(9).open([np.array([1])])
    with pytest.raises(EngineError, match="returned NaN"):
        score_tries(tree, [trie])
    with pytest.raises(EngineError, match="returned NaN"):
        beam_search(
            NanBackend(9).open([np.array([1])]), trie, SearchRequest([Subset.everything(len(trie))], 3), width=3
        )


class NanBackend(TableBackend):
    """A model whose weights have overflowed."""

    def open(self, prompts: Sequence[IntArray], **options: Any) -> Any:
        tree = super().open(prompts, **options)
        tree.log_probs = lambda nodes, tokens, offsets: np.full(len(tokens), np.nan)  # type: ignore[method-assign]
        return tree


def test_scores_known_from_the_prompt_grow_no_node() -> None:
    """Forced tokens are free under the catalog score, so titles that differ in their first token need no node."""
    trie = TokenTrie.from_sequences([np.array([token, 9, 9, 9, 0]) for token in range(1, 8)])
    tree = TableBackend(10).open([np.array([3])])
    (scores,) = score_tries(tree, [trie], branching_only=True)
    assert scores is not None
    assert (scores.generated_tokens, scores.forward_passes) == (0, 1)


def test_a_passed_deadline_ends_scoring_before_the_next_pass_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large catalog has thousands of passes, and planning them all takes longer than a deadline."""
    trie = random_trie(np.random.default_rng(1), 9)
    planned, clock = [], itertools.count()
    plan_pass = tree_scoring._plan_pass
    monkeypatch.setattr(tree_scoring, "_plan_pass", lambda *arguments: planned.append(0) or plan_pass(*arguments))
    tree = TableBackend(9).open([np.array([1])], deadline=Deadline(6.0, lambda: float(next(clock))))
    with pytest.raises(DeadlineExceededError):
        score_tries(tree, [trie], max_nodes=1)
    assert 1 <= len(planned) <= 4
    complete = score_tries(TableBackend(9).open([np.array([1])]), [trie], max_nodes=1)[0]
    assert complete is not None
    assert complete.forward_passes > 20
