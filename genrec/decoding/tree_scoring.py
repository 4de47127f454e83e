"""Whole tries scored in packed passes: every token of every row, shared beginnings once, in bounded memory.

Letters: U prompts, T tokens of a trie, M nodes grown in a pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrec.backends.base import TokenTree
from genrec.errors import EngineError
from genrec.index.trie import TokenTrie
from genrec.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class TreeScores:
    """What a model says of a trie behind one prompt.

    Attributes:
        log_probs: float64 [T], the log-probability of each token behind its path; 0 where it was not asked for.
        generated_tokens: tokens that were grown.
        forward_passes: how many passes they took.
    """

    log_probs: FloatArray
    generated_tokens: int
    forward_passes: int


def score_tries(
    tree: TokenTree, tries: Sequence[TokenTrie | None], *, branching_only: bool = False, max_nodes: int = 512
) -> list[TreeScores | None]:
    """Read every token of a trie behind each of U prompts.

    Args:
        tree: U open prompts; it is left as it was found.
        tries: one for each prompt, or None where nothing is asked.
        branching_only: leave out tokens without a sibling, and what only they would need.
        max_nodes: nodes grown in a pass for one prompt; a longer row passes alone. So memory does not grow with the
            catalog; tokens that rows of two passes share are grown in both.
    """
    passes = {id(trie): _plan_passes(trie, branching_only, max_nodes) for trie in tries if trie is not None}
    plans = [[] if trie is None else passes[id(trie)] for trie in tries]
    steps = [None if trie is None else np.zeros(len(trie.tokens)) for trie in tries]
    size = tree.size
    for number in range(max(map(len, plans), default=0)):
        parts = [(prompt, plan[number]) for prompt, plan in enumerate(plans) if number < len(plan)]
        _run_pass(tree, parts, steps)
        tree.rewind(size)
    return [
        None if own is None else TreeScores(own, sum(len(one.positions) for one in plan), len(plan))
        for own, plan in zip(steps, plans, strict=True)
    ]


@dataclass(frozen=True)
class _ForwardPass:
    """Some rows of a trie as a forest behind a prompt: parents before children.

    Attributes:
        positions: int64 [M], places in the trie.
        tokens: int64 [M].
        parents: int64 [M], places in `positions`, -1 for the prompt.
        scored_positions: int64, places in the trie that are read.
        scored_parents: int64, where each is read, in `positions`; -1 for the prompt.
        scored_tokens: int64, the tokens read.
    """

    positions: IntArray
    tokens: IntArray
    parents: IntArray
    scored_positions: IntArray
    scored_parents: IntArray
    scored_tokens: IntArray


def _plan_passes(trie: TokenTrie, branching_only: bool, max_nodes: int) -> list[_ForwardPass]:
    parents = trie.parents
    asked = np.ones(len(parents), dtype=np.bool_)
    if branching_only:
        asked = np.bincount(parents + 1)[parents + 1] > 1
    needed = _ancestors(parents, np.unique(parents[asked]))
    counts = np.concatenate([[0], np.cumsum(needed)])
    stops = trie.last_positions + 1
    passes, row = [], 0
    begin = 0
    while row < len(trie):
        # The furthest row up to which no more nodes are needed than a pass may have, and one row at least.
        # The path to its first row is grown too.
        room = max_nodes - (int(trie.shared[row]) if row < len(trie) else 0)
        row = max(row + 1, int(np.searchsorted(counts[stops], counts[begin] + room, side="right")))
        stop = int(stops[row - 1])
        if asked[begin:stop].any():
            passes.append(_plan_pass(trie, asked, needed, begin, stop))
        begin = stop
    return passes


def _plan_pass(trie: TokenTrie, is_scored: BoolArray, is_grown: BoolArray, begin: int, stop: int) -> _ForwardPass:
    above = []
    place = int(trie.parents[begin])
    while place >= 0:
        above.append(place)
        place = int(trie.parents[place])
    grown = np.concatenate([np.array(above[::-1], dtype=np.int64), begin + np.flatnonzero(is_grown[begin:stop])])
    wanted = begin + np.flatnonzero(is_scored[begin:stop])
    return _ForwardPass(
        grown, trie.tokens[grown].astype(np.int64), _index_in(grown, trie.parents[grown]),
        wanted, _index_in(grown, trie.parents[wanted]), trie.tokens[wanted].astype(np.int64),
    )  # fmt: skip


def _index_in(grown: IntArray, positions: IntArray) -> IntArray:
    """Where places stand among the grown ones, which rise; -1 for the prompt."""
    return np.where(positions < 0, -1, np.searchsorted(grown, positions))


def _ancestors(parents: IntArray, positions: IntArray) -> BoolArray:
    """bool [T], the given places and all that stand above them."""
    marked = np.zeros(len(parents), dtype=np.bool_)
    positions = positions[positions >= 0]
    while positions.size:
        marked[positions] = True
        positions = np.unique(parents[positions])
        positions = positions[(positions >= 0) & ~marked[positions]]
    return marked


def _run_pass(
    tree: TokenTree, parts: Sequence[tuple[int, _ForwardPass]], log_probs: Sequence[FloatArray | None]
) -> None:
    """One pass: grow what has something behind it, then read every token at its parent."""
    size = tree.size
    starts = size + np.cumsum([0, *(len(one.positions) for _, one in parts)])
    if starts[-1] > size:
        parents = [
            np.where(one.parents < 0, prompt, one.parents + start)
            for (prompt, one), start in zip(parts, starts[:-1], strict=True)
        ]
        tree.grow(np.concatenate(parents), np.concatenate([one.tokens for _, one in parts]))
    readers = np.concatenate([
        np.where(one.scored_parents < 0, prompt, one.scored_parents + start)
        for (prompt, one), start in zip(parts, starts[:-1], strict=True)
    ])  # fmt: skip
    wanted = np.concatenate([one.scored_tokens for _, one in parts])
    order = np.argsort(readers, kind="stable")
    nodes, counts = np.unique(readers, return_counts=True)
    found = np.empty(len(readers))
    found[order] = tree.log_probs(nodes, wanted[order], np.append(0, np.cumsum(counts)))
    if np.isnan(found).any():
        raise EngineError("the model returned NaN, by which nothing can be ranked; load it in float32")
    for (prompt, one), own in zip(
        parts, np.split(found, np.cumsum([len(one.scored_positions) for _, one in parts])[:-1]), strict=True
    ):
        mine = log_probs[prompt]
        if mine is not None:
            mine[one.scored_positions] = own
