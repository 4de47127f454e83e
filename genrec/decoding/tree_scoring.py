"""Log-probabilities of all tokens of a trie, in packed forward passes and bounded memory.

Shared prefixes are grown once in a pass.
Letters: U prompts, T tokens of a trie, M nodes grown in a pass, S tokens scored in a pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from genrec.backends.base import TokenTree
from genrec.errors import EngineError
from genrec.index.trie import TokenTrie
from genrec.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class TreeScores:
    """The scores of a trie's tokens after one prompt.

    Attributes:
        log_probs: float64 [T], the log-probability of each token given its path; 0 for tokens that were not scored.
        generated_tokens: the number of tokens grown.
        forward_passes: the number of passes.
    """

    log_probs: FloatArray
    generated_tokens: int
    forward_passes: int


def score_tries(
    tree: TokenTree, tries: Sequence[TokenTrie | None], *, branching_only: bool = False, max_nodes: int = 512
) -> list[TreeScores | None]:
    """Score every token of a trie after each of U prompts.

    Args:
        tree: U open prompts; its size is restored.
        tries: one for each prompt, or None for a prompt without one.
        branching_only: skip tokens without a sibling, and the nodes that only they need.
        max_nodes: the maximum number of nodes grown for a prompt in one pass; a longer row has a pass of its own. So
            memory does not grow with the catalog. A prefix shared by rows of two passes is grown in both.

    Returns:
        The scores for each prompt; None where it has no trie.

    Raises:
        EngineError: the model failed, or returned NaN.
    """
    # Passes are planned one at a time: the tree checks its deadline in each, and a large trie has thousands.
    planners = {id(trie): _plan_passes(trie, branching_only, max_nodes) for trie in tries if trie is not None}
    generated_tokens, forward_passes = dict.fromkeys(planners, 0), dict.fromkeys(planners, 0)
    log_probs = [None if trie is None else np.zeros(len(trie.tokens)) for trie in tries]
    size = tree.size
    while current := {key: planned for key, planner in planners.items() for planned in islice(planner, 1)}:
        prompt_passes = [(prompt, current[id(trie)]) for prompt, trie in enumerate(tries) if id(trie) in current]
        _run_pass(tree, prompt_passes, log_probs)
        tree.rewind(size)
        for key, planned in current.items():
            generated_tokens[key] += len(planned.positions)
            forward_passes[key] += 1
    return [
        None if scores is None else TreeScores(scores, generated_tokens[id(trie)], forward_passes[id(trie)])
        for scores, trie in zip(log_probs, tries, strict=True)
    ]


def check_log_probs(log_probs: FloatArray) -> FloatArray:
    """Log-probabilities as a search can use them: not NaN, and at most 0.

    NaN compares false with every bound and would hide an item. Rounding may lift a log-probability above 0; then a
    score could rise along a path, and exceed its bound.

    Raises:
        EngineError: one of them is NaN.
    """
    if np.isnan(log_probs).any():
        raise EngineError("the model returned NaN log-probabilities; load it in float32 or check its weights")
    return np.minimum(log_probs, 0.0)


@dataclass(frozen=True)
class _ForwardPass:
    """Some rows of a trie as a tree after a prompt; parents come before children.

    Attributes:
        positions: int64 [M], the position in the trie of each node.
        tokens: int64 [M].
        parents: int64 [M], the index in `positions` of each node's parent; -1 for the prompt.
        scored_positions: int64 [S], the positions in the trie of the scored tokens.
        scored_parents: int64 [S], the index in `positions` of the node that scores each; -1 for the prompt.
        scored_tokens: int64 [S].
    """

    positions: IntArray
    tokens: IntArray
    parents: IntArray
    scored_positions: IntArray
    scored_parents: IntArray
    scored_tokens: IntArray


def _plan_passes(trie: TokenTrie, branching_only: bool, max_nodes: int) -> Iterator[_ForwardPass]:
    parents = trie.parents
    is_scored = np.ones(len(parents), dtype=np.bool_)
    if branching_only:
        is_scored = np.bincount(parents + 1)[parents + 1] > 1
    is_grown = _ancestors(parents, np.unique(parents[is_scored]))
    counts = np.concatenate([[0], np.cumsum(is_grown)])
    stops = trie.last_positions + 1
    row = begin = 0
    while row < len(trie):
        # As many rows as need no more nodes than a pass may have, and at least one. The path to the first row counts.
        capacity = max_nodes - int(trie.shared[row])
        row = max(row + 1, int(np.searchsorted(counts[stops], counts[begin] + capacity, side="right")))
        stop = int(stops[row - 1])
        if is_scored[begin:stop].any():
            yield _plan_pass(trie, is_scored, is_grown, begin, stop)
        begin = stop


def _plan_pass(trie: TokenTrie, is_scored: BoolArray, is_grown: BoolArray, begin: int, stop: int) -> _ForwardPass:
    above = []
    position = int(trie.parents[begin])
    while position >= 0:
        above.append(position)
        position = int(trie.parents[position])
    grown = np.concatenate([np.array(above[::-1], dtype=np.int64), begin + np.flatnonzero(is_grown[begin:stop])])
    scored = begin + np.flatnonzero(is_scored[begin:stop])
    return _ForwardPass(
        grown, trie.tokens[grown].astype(np.int64), _index_in(grown, trie.parents[grown]),
        scored, _index_in(grown, trie.parents[scored]), trie.tokens[scored].astype(np.int64),
    )  # fmt: skip


def _index_in(grown: IntArray, positions: IntArray) -> IntArray:
    """The index of each position in `grown`, which is ascending; -1 for the prompt."""
    return np.where(positions < 0, -1, np.searchsorted(grown, positions))


def _ancestors(parents: IntArray, positions: IntArray) -> BoolArray:
    """bool [T], the given positions and all their ancestors."""
    marked = np.zeros(len(parents), dtype=np.bool_)
    positions = positions[positions >= 0]
    while positions.size:
        marked[positions] = True
        positions = np.unique(parents[positions])
        positions = positions[(positions >= 0) & ~marked[positions]]
    return marked


def _run_pass(
    tree: TokenTree, prompt_passes: Sequence[tuple[int, _ForwardPass]], log_probs: Sequence[FloatArray | None]
) -> None:
    """Grow the nodes of one pass, then read the log-probability of every scored token at its parent."""
    size = tree.size
    starts = size + np.cumsum([0, *(len(planned.positions) for _, planned in prompt_passes)])
    if starts[-1] > size:
        parents = [
            np.where(planned.parents < 0, prompt, planned.parents + start)
            for (prompt, planned), start in zip(prompt_passes, starts[:-1], strict=True)
        ]
        tree.grow(np.concatenate(parents), np.concatenate([planned.tokens for _, planned in prompt_passes]))
    readers = np.concatenate([
        np.where(planned.scored_parents < 0, prompt, planned.scored_parents + start)
        for (prompt, planned), start in zip(prompt_passes, starts[:-1], strict=True)
    ])  # fmt: skip
    scored_tokens = np.concatenate([planned.scored_tokens for _, planned in prompt_passes])
    order = np.argsort(readers, kind="stable")
    nodes, counts = np.unique(readers, return_counts=True)
    scores = np.empty(len(readers))
    scores[order] = check_log_probs(tree.log_probs(nodes, scored_tokens[order], np.append(0, np.cumsum(counts))))
    splits = np.cumsum([len(planned.scored_positions) for _, planned in prompt_passes])[:-1]
    for (prompt, planned), pass_scores in zip(prompt_passes, np.split(scores, splits), strict=True):
        target = log_probs[prompt]
        if target is not None:
            target[planned.scored_positions] = pass_scores
