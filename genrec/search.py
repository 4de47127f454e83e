"""Search a catalog's token trie for the items an LLM finds likeliest.

Source: De Cao et al., "Autoregressive Entity Retrieval", ICLR 2021, section 3 (beams held to a trie). The radix
nodes, the bounds and the proof are genrec's own.
Letters: U prompts, N rows, T tokens of the trie, F open nodes and C their children, over all prompts.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from genrec.backends.base import TokenTree
from genrec.errors import InputError
from genrec.trie import TokenTrie, ragged_ranges
from genrec.types import BoolArray, FloatArray, IntArray, Ranking

ScoreKind = Literal["model", "catalog"]


@dataclass(frozen=True)
class Terms:
    """What is asked of the search, for U prompts over N rows.

    The score of a row is the log-probability of its path, plus `guide` at its last token, plus `boost`.

    Attributes:
        allowed: bool [U, N], rows that may be recommended.
        k: list length, at least 1.
        kind: `model`, path log-probability over the full vocabulary; `catalog`, renormalised at each node over its
            allowed children, which is what sampling under the constraint draws from, so forced tokens cost nothing.
        guide: float64 [T] or None, added to a path at each prefix, not summed: minus the weighted prior.
        boost: float64 [U, N] or None, added to a row's score.
    """

    allowed: BoolArray
    k: int
    kind: ScoreKind = "model"
    guide: FloatArray | None = field(default=None, repr=False)
    boost: FloatArray | None = field(default=None, repr=False)

    def check(self, trie: TokenTrie) -> None:
        """Refuse terms that do not fit the trie.

        Raises:
            InputError: the value is named.
        """
        if self.k < 1:
            raise InputError(f"k is {self.k}; ask for at least 1 item")
        if self.kind not in get_args(ScoreKind):
            raise InputError(f"score {self.kind!r} is none of {', '.join(get_args(ScoreKind))}")
        if self.allowed.ndim != 2 or self.allowed.shape[1] != len(trie):
            raise InputError(f"allowed has shape {self.allowed.shape}; the trie wants (prompts, {len(trie)})")
        if self.guide is not None and self.guide.shape != trie.tokens.shape:
            raise InputError(f"guide has shape {self.guide.shape}; the trie has {len(trie.tokens)} tokens")
        if self.boost is not None and (self.boost.shape != self.allowed.shape or not np.isfinite(self.boost).all()):
            raise InputError(f"boost must be finite and of shape {self.allowed.shape}")

    def bonus(self, trie: TokenTrie) -> FloatArray:
        """float64 [U, N], what is added to each row's path score; minus infinity where a row is not allowed."""
        bonus = np.zeros(self.allowed.shape)
        if self.guide is not None:
            bonus += self.guide[trie.offsets[1:] - 1]
        if self.boost is not None:
            bonus += self.boost
        return np.where(self.allowed, bonus, -np.inf)


def exhaustive_search(tree: TokenTree, trie: TokenTrie, terms: Terms, *, max_nodes: int = 512) -> list[Ranking]:
    """Score every allowed row, in packed passes of at most `max_nodes` nodes a prompt.

    Returns:
        U rankings of min(k, allowed) items, best first, ties in item order; always proven.
    """
    terms.check(trie)
    if terms.kind == "catalog":  # one pass over the branching nodes says all; forced tokens cost nothing
        return beam_search(tree, trie, terms, width=len(trie))
    rows = [np.flatnonzero(allowed) for allowed in terms.allowed]
    paths = path_log_probs(tree, trie, rows, max_nodes=max_nodes)
    bonus = terms.bonus(trie)
    rankings = []
    for prompt, own in enumerate(rows):
        scores = np.zeros(len(own))
        # Token by token, as the beam adds them: paths that tie must tie to the last bit.
        np.add.at(scores, np.repeat(np.arange(len(own)), trie.lengths[own]), paths[prompt])
        rankings.append(_rank(trie.items[own], scores + bonus[prompt, own], terms.k, proven=True))
    return rankings


def beam_search(
    tree: TokenTree, trie: TokenTrie, terms: Terms, *, width: int, exact: bool = False, max_nodes: int = 1 << 20
) -> list[Ranking]:
    """Rank, for each of U prompts, the k allowed rows of highest score.

    A step opens the children of every open node and keeps, for each prompt, the `width` most promising; forced
    tokens are grown in the same pass. With `exact`, what is not kept waits instead of being dropped, and the search
    goes on until the top k is proven; a prompt that has opened `max_nodes` children drops again, and ends.

    Args:
        tree: U open prompts, of the tokenizer the trie was built for.
        trie: every identifier of the catalog.
        terms: what is allowed, how many, under which score.
        width: children kept per prompt and step, at least k; with `width >= len(trie)` nothing is dropped.
        exact: go on until proven.
        max_nodes: the limit to `exact`; the list is full even so, but may be unproven.

    Returns:
        U rankings of min(k, allowed) items, best first, ties in item order. `proven` is True where nothing that was
        dropped could still have beaten the k-th item.
    """
    terms.check(trie)
    if width < 1:
        raise InputError(f"width is {width}; keep at least 1 node a step")
    run = _Beam(tree, trie, terms, max(width, terms.k), limit=max_nodes if exact else 0)
    while run.step():
        pass
    return run.rankings()


@dataclass
class _Children:
    """C candidates for the next step: parallel arrays."""

    prompt: IntArray
    node: IntArray  # of the trie
    behind: IntArray  # the tree node of the parent's path
    depth: IntArray  # tokens on the parent's path
    path: FloatArray  # log-probability up to and with the child's first token
    promise: FloatArray  # what the beam keeps by
    bound: FloatArray  # no row below scores more

    def take(self, chosen: IntArray | BoolArray) -> "_Children":
        return _Children(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def join(self, other: "_Children") -> "_Children":
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return _Children(*(np.concatenate(pair) for pair in pairs))


class _Beam:
    def __init__(self, tree: TokenTree, trie: TokenTrie, terms: Terms, width: int, limit: int) -> None:
        self._tree, self._trie, self._terms = tree, trie, terms
        self._width, self._limit = width, limit  # what is not chosen waits until `limit` children were opened
        self._bonus = terms.bonus(trie)
        prompts = len(terms.allowed)
        self._alive = np.zeros((prompts, len(trie) + 1), dtype=np.int64)
        np.cumsum(terms.allowed, axis=1, out=self._alive[:, 1:])
        self._dropped = np.full(prompts, -np.inf)
        self._opened = np.zeros(prompts, dtype=np.int64)
        self._found_prompt = np.empty(0, dtype=np.int64)
        self._found_row = np.empty(0, dtype=np.int64)
        self._found_score = np.empty(0)
        self._kth = np.full(prompts, -np.inf)
        roots = np.flatnonzero(self._alive[:, -1] > 0)
        # The root may lie behind forced tokens of its own; a lone row has no branching point at all.
        empty = np.zeros(len(roots))
        self._waiting = _Children(
            roots, np.zeros_like(roots), roots, np.zeros_like(roots), empty, empty, np.full(len(roots), np.inf)
        )
        self._start = True

    def step(self) -> bool:
        """Open one layer of children; False when nothing is left to open."""
        chosen = self._choose()
        if not len(chosen.node):
            return False
        nodes, leaf = self._trie.nodes, self._is_leaf(chosen.node)
        path, behind = self._follow(chosen, leaf)
        if leaf.any():
            self._finish(chosen.prompt[leaf], nodes.low[chosen.node[leaf]], path[leaf])
        inner = ~leaf
        if inner.any():
            children = self._open(chosen.prompt[inner], chosen.node[inner], behind[inner], path[inner])
            self._waiting = self._waiting.join(children)
        return True

    def rankings(self) -> list[Ranking]:
        order = np.argsort(self._found_prompt, kind="stable")
        counts = np.bincount(self._found_prompt, minlength=len(self._kth))
        answers = []
        for prompt, own in enumerate(np.split(order, np.cumsum(counts))[:-1]):
            complete = len(own) >= min(self._terms.k, self._alive[prompt, -1])
            proven = bool(complete and self._dropped[prompt] < max(self._kth[prompt], -np.finfo(float).max))
            items = self._trie.items[self._found_row[own]]
            answers.append(_rank(items, self._found_score[own], self._terms.k, proven=proven))
        return answers

    def _is_leaf(self, node: IntArray) -> BoolArray:
        leaf: BoolArray = self._trie.nodes.high[node] - self._trie.nodes.low[node] == 1
        return leaf

    def _choose(self) -> _Children:
        """Take the `width` most promising children of each prompt; the rest waits or is dropped."""
        waiting = self._waiting.take(self._waiting.bound >= self._kth[self._waiting.prompt])
        order = np.lexsort((waiting.node, -waiting.promise, waiting.prompt))
        place = np.arange(len(order)) - np.searchsorted(waiting.prompt[order], waiting.prompt[order])
        keep = place < self._width
        chosen, rest = waiting.take(order[keep]), waiting.take(order[~keep])
        np.add.at(self._opened, chosen.prompt, 1)
        spent = self._opened[rest.prompt] >= self._limit
        np.maximum.at(self._dropped, rest.prompt[spent], rest.bound[spent])
        self._waiting = rest.take(~spent)
        return chosen

    def _follow(self, chosen: _Children, leaf: BoolArray) -> tuple[FloatArray, IntArray]:
        """Grow the edge of each chosen child; returns its path's log-probability and last tree node.

        A leaf's last token is read, never grown. Under the `catalog` score a leaf needs nothing at all.
        """
        trie, nodes = self._trie, self._trie.nodes
        begin = trie.offsets[nodes.low[chosen.node]]
        start, stop = begin + chosen.depth, begin + nodes.depth[chosen.node]
        catalog = self._terms.kind == "catalog"
        grown, begins = ragged_ranges(start, np.where(leaf, np.where(catalog, start, stop - 1), stop))
        sizes = np.diff(np.append(begins, len(grown)))
        numbers = self._tree.size + np.arange(len(grown))
        parents = numbers - 1
        filled = sizes > 0
        parents[begins[filled]] = chosen.behind[filled]
        self._tree.grow(parents, trie.tokens[grown].astype(np.int64))
        behind = chosen.behind.copy()
        behind[filled] = numbers[begins[filled] + sizes[filled] - 1]
        path = chosen.path.copy()
        if not catalog:
            # Every token of the edge but its first, which the parent has scored (the root's first: nobody has).
            scored, firsts = ragged_ranges(start + (0 if self._start else 1), stop)
            owner = np.repeat(np.arange(len(start)), np.diff(np.append(firsts, len(scored))))
            offset = scored - start[owner]
            asked = np.where(
                offset == 0, chosen.behind[owner], self._tree.size - len(grown) + begins[owner] + offset - 1
            )
            steps = self._tree.log_probs(asked, trie.tokens[scored].astype(np.int64), np.arange(len(scored) + 1))
            np.add.at(path, owner, steps)
        self._start = False
        return path, behind

    def _open(self, prompt: IntArray, node: IntArray, behind: IntArray, path: FloatArray) -> _Children:
        """The allowed children of F open nodes."""
        trie, nodes = self._trie, self._trie.nodes
        child, begins = ragged_ranges(nodes.first_child[node], nodes.first_child[node + 1])
        owner = np.repeat(np.arange(len(node)), np.diff(np.append(begins, len(child))))
        low, high = nodes.low[child], nodes.high[child]
        alive = self._alive[prompt[owner], high] > self._alive[prompt[owner], low]
        bound = self._best_bonus(prompt, node, owner, child)[alive]
        child, owner, low = child[alive], owner[alive], low[alive]
        place = trie.offsets[low] + nodes.depth[node[owner]]
        offsets = np.append(0, np.cumsum(np.bincount(owner, minlength=len(node))))
        steps = self._tree.log_probs(behind, trie.tokens[place].astype(np.int64), offsets)
        if self._terms.kind == "catalog":
            steps = steps - np.logaddexp.reduceat(steps, offsets[:-1])[owner]
        reached = path[owner] + steps
        promise = reached.copy()
        if self._terms.guide is not None:
            promise += self._terms.guide[place]
        if self._terms.boost is not None:
            promise += bound - (0.0 if self._terms.guide is None else self._terms.guide[trie.offsets[low + 1] - 1])
        return _Children(
            prompt[owner], child, behind[owner], nodes.depth[node[owner]], reached, promise, reached + bound
        )

    def _best_bonus(self, prompt: IntArray, node: IntArray, owner: IntArray, child: IntArray) -> FloatArray:
        """The highest bonus of any row below each child."""
        nodes = self._trie.nodes
        rows, begins = ragged_ranges(nodes.low[node], nodes.high[node])
        spread = self._bonus[np.repeat(prompt, nodes.high[node] - nodes.low[node]), rows]
        best: FloatArray = np.maximum.reduceat(spread, begins[owner] + nodes.low[child] - nodes.low[node][owner])
        return best

    def _finish(self, prompt: IntArray, row: IntArray, path: FloatArray) -> None:
        score = path + self._bonus[prompt, row]
        self._found_prompt = np.append(self._found_prompt, prompt)
        self._found_row = np.append(self._found_row, row)
        self._found_score = np.append(self._found_score, score)
        for touched in np.unique(prompt):
            own = self._found_score[self._found_prompt == touched]
            if len(own) >= self._terms.k:
                self._kth[touched] = np.partition(own, len(own) - self._terms.k)[len(own) - self._terms.k]


def path_log_probs(tree: TokenTree, trie: TokenTrie, rows: list[IntArray], *, max_nodes: int = 512) -> list[FloatArray]:
    """Log-probability of every token of chosen rows, given the tokens before it.

    Rows are packed as one tree a prompt, shared beginnings once, in passes of at most `max_nodes` nodes a prompt
    (a longer row passes alone), so memory does not grow with the catalog.

    Args:
        tree: U open prompts; it is left as it was found.
        trie: the identifiers.
        rows: for each prompt, int64 rows in rising order.

    Returns:
        For each prompt float64 [tokens of its rows], row after row.
    """
    results = [np.zeros(int(trie.lengths[own].sum())) for own in rows]
    size = tree.size
    cuts = [_passes(trie.lengths[own], max_nodes) for own in rows]
    for number in range(max((len(cut) for cut in cuts), default=1) - 1):
        forests = [
            (prompt, _forest(trie, own[cut[number] : cut[number + 1]]), int(trie.lengths[own[: cut[number]]].sum()))
            for prompt, (own, cut) in enumerate(zip(rows, cuts, strict=True))
            if number + 1 < len(cut)
        ]
        _score_forests(tree, forests, results)
        tree.rewind(size)
    return results


@dataclass(frozen=True)
class _Forest:
    """Rows as a tree: entries are the first occurrences of their prefixes, parents before children."""

    tokens: IntArray
    parent: IntArray  # entry number, -1 for the prompt
    ends: BoolArray  # the entry is a row's last token
    entry_of: IntArray  # for every token of every row, the entry that stands for it


def _passes(lengths: IntArray, max_nodes: int) -> list[int]:
    cuts, used = [0], 0
    for row, length in enumerate(lengths.tolist()):
        if used and used + length > max_nodes:
            cuts.append(row)
            used = 0
        used += length
    return [*cuts, len(lengths)] if len(lengths) else cuts


def _forest(trie: TokenTrie, rows: IntArray) -> _Forest:
    lengths = trie.lengths[rows]
    width = int(lengths.max())
    inside = np.arange(width) < lengths[:, None]
    place = np.where(inside, trie.offsets[rows][:, None] + np.arange(width), 0)
    padded = np.where(inside, trie.tokens[place], -1).astype(np.int64)
    same = np.zeros_like(inside)
    same[1:] = np.cumprod((padded[1:] == padded[:-1]) & inside[1:], axis=1).astype(bool)
    fresh = inside & ~same
    # The entry for (row, depth) is the last fresh one at that depth in this row or above.
    numbers = np.cumsum(fresh.ravel()).reshape(fresh.shape) - 1
    entry = np.maximum.accumulate(np.where(fresh, numbers, -1), axis=0)
    parent = np.concatenate([np.full((len(rows), 1), -1), entry[:, :-1]], axis=1)
    ends = np.arange(width) == lengths[:, None] - 1
    return _Forest(padded[fresh], parent[fresh], ends[fresh], entry[inside])


def _score_forests(tree: TokenTree, forests: list[tuple[int, _Forest, int]], results: list[FloatArray]) -> None:
    """One pass: grow every entry that has something behind it, then read every entry at its parent."""
    size, grown = tree.size, 0
    parents, tokens, nodes_of = [], [], []
    for prompt, forest, _ in forests:
        node = np.where(forest.ends, -1, size + grown + np.cumsum(~forest.ends) - 1)
        above = np.where(forest.parent < 0, prompt, node[forest.parent])
        parents.append(above[~forest.ends])
        tokens.append(forest.tokens[~forest.ends])
        nodes_of.append(above)
        grown += int((~forest.ends).sum())
    tree.grow(np.concatenate(parents), np.concatenate(tokens))
    above, asked = np.concatenate(nodes_of), np.concatenate([forest.tokens for _, forest, _ in forests])
    order = np.argsort(above, kind="stable")
    nodes, counts = np.unique(above, return_counts=True)
    steps = np.empty(len(above))
    steps[order] = tree.log_probs(nodes, asked[order], np.append(0, np.cumsum(counts)))
    begin = 0
    for prompt, forest, offset in forests:
        own = steps[begin : begin + len(forest.tokens)]
        results[prompt][offset : offset + len(forest.entry_of)] = own[forest.entry_of]
        begin += len(forest.tokens)


def catalog_steps(trie: TokenTrie, steps: FloatArray) -> FloatArray:
    """From log-probabilities over the vocabulary [T] to those over the children of each node [T]; forced tokens 0."""
    nodes = trie.nodes
    inner = np.flatnonzero(np.diff(nodes.first_child) > 0)
    if not inner.size:
        return np.zeros_like(steps)
    child, begins = ragged_ranges(nodes.first_child[inner], nodes.first_child[inner + 1])
    place = trie.offsets[nodes.low[child]] + nodes.depth[nodes.parent[child]]
    total = np.logaddexp.reduceat(steps[place], begins)
    own = steps[place] - np.repeat(total, np.diff(np.append(begins, len(child))))
    result = np.zeros_like(steps)
    rows, firsts = ragged_ranges(nodes.low[child], nodes.high[child])
    owner = np.repeat(np.arange(len(child)), np.diff(np.append(firsts, len(rows))))
    result[trie.offsets[rows] + nodes.depth[nodes.parent[child]][owner]] = own[owner]
    return result


def prefix_sums(trie: TokenTrie, steps: FloatArray) -> FloatArray:
    """Log-probability of each prefix [T] from that of each token [T]."""
    sums = steps.copy()
    for depth in range(1, int(trie.lengths.max())):
        places = trie.offsets[:-1][trie.lengths > depth] + depth
        sums[places] += sums[places - 1]
    return sums


def _rank(items: IntArray, scores: FloatArray, k: int, *, proven: bool) -> Ranking:
    best = np.lexsort((items, -scores))[:k]
    return Ranking(items[best], scores[best], proven=proven, compared=len(items))
