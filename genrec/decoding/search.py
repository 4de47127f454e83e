"""Search a catalog's token trie for the items an LLM finds likeliest.

Source: De Cao et al., "Autoregressive Entity Retrieval", ICLR 2021, section 3 (beams held to a trie). The radix
nodes, the bounds and the proof are genrec's own.
Letters: U prompts, N rows, T tokens of the trie, F open nodes and C their children, over all prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from genrec.backends.base import TokenTree
from genrec.data.subset import Boost, Subset
from genrec.decoding.bounds import (
    PriorPenalty,
    RangeMax,
    ScoreBound,
    prefix_sums,
    renormalize_over_children,
    renormalize_runs,
)
from genrec.decoding.tree_scoring import score_tries
from genrec.errors import EngineError, InputError, check_count
from genrec.index.kernels.numpy import ragged_ranges
from genrec.index.trie import AllowedBatch, Children, TokenTrie
from genrec.notices import Notice
from genrec.types import BoolArray, FloatArray, IntArray, Ranking

ScoreKind = Literal["model", "catalog"]

_DENSE_BOOST_RATIO = 16  # a boost of one row in so many, or more, is worth a table of its highest in any range


@dataclass(frozen=True)
class SearchRequest:
    """What is asked of the search, for U prompts over N rows.

    The score of a row is the log-probability of its path, less the guide's weighted log-probability of the same path,
    plus its boost.

    Attributes:
        allowed: U subsets of the N rows, that may be recommended; all with the same mask or none.
        k: list length, at least 1.
        score_kind: `model`, path log-probability over the full vocabulary; `catalog`, renormalised at each node over its
            allowed children, which is what sampling under the constraint draws from, so forced tokens cost nothing.
            The guide's is of the same kind.
        prior_penalty: the prior that is subtracted, or None.
        boosts: U boosts of rows, each a `Boost` or None.
    """

    allowed: Sequence[Subset]
    k: int
    score_kind: ScoreKind = "model"
    prior_penalty: PriorPenalty | None = field(default=None, repr=False)
    boosts: Sequence[Boost | None] | None = field(default=None, repr=False)

    def validate(self, tree: TokenTree, trie: TokenTrie) -> None:
        """Refuse terms that do not fit the trie, or the prompts of a tree that was just opened.

        Raises:
            InputError: the value is named.
        """
        if tree.size != len(self.allowed):
            raise InputError(f"{len(self.allowed)} prompts have a subset each, and the tree has {tree.size} nodes")
        check_count("k", self.k)
        if self.score_kind not in get_args(ScoreKind):
            raise InputError(f"score {self.score_kind!r} is none of {', '.join(get_args(ScoreKind))}")
        for subset in self.allowed:
            if subset.universe != len(trie):
                raise InputError(f"allowed is a subset of {subset.universe:,} rows; the trie has {len(trie):,}")
        if self.prior_penalty is not None and self.prior_penalty.trie is not trie:
            raise InputError("the guide is of another trie; make one of this trie")
        if self.boosts is not None and len(self.boosts) != len(self.allowed):
            raise InputError(f"there are {len(self.boosts)} boosts for {len(self.allowed)} prompts; give one for each")
        for boost in self.boosts or ():
            if boost is not None and len(boost) and boost.indices[-1] >= len(trie):
                raise InputError(f"row {boost.indices[-1]} is boosted; the trie has {len(trie):,} rows")


def exhaustive_search(
    tree: TokenTree, trie: TokenTrie, request: SearchRequest, *, max_nodes: int = 512
) -> list[Ranking]:
    """Score every allowed row, in packed passes of at most `max_nodes` nodes a prompt.

    Returns:
        U rankings of min(k, allowed) items, best first, ties in item order; always proven.

    Raises:
        InputError: the terms do not fit the trie.
        EngineError: the model failed, or returned NaN.
    """
    request.validate(tree, trie)
    _check_max_nodes(max_nodes)
    parts = [_restrict(trie, own) for own in request.allowed]
    catalog = request.score_kind == "catalog"
    readings = score_tries(tree, parts, branching_only=catalog, max_nodes=max_nodes)
    rankings = []
    for prompt, (part, reading) in enumerate(zip(parts, readings, strict=True)):
        if part is None or reading is None:
            rankings.append(_make_ranking(trie.items[:0], np.empty(0), request.k, proven=True))
            continue
        rows = np.arange(len(trie)) if part is trie else part.items.astype(np.int64)
        gains = renormalize_over_children(part, reading.log_probs) if catalog else reading.log_probs
        if request.prior_penalty is not None:
            prior = _restrict_prior(trie, part, request.prior_penalty)
            request.prior_penalty.check_finite(prior)
            gains = gains - request.prior_penalty.weight * (
                renormalize_over_children(part, prior) if catalog else prior
            )
        # Token by token, as the beam adds them: paths that tie must tie to the last bit.
        scores = prefix_sums(part, gains)[part.last_positions] + _boost_for(request, prompt).values_at(rows)
        items = trie.items[rows]
        rankings.append(
            _make_ranking(
                items,
                scores,
                request.k,
                proven=True,
                generated_tokens=reading.generated_tokens,
                forward_passes=reading.forward_passes,
            )
        )
    return rankings


def beam_search(
    tree: TokenTree,
    trie: TokenTrie,
    request: SearchRequest,
    *,
    width: int,
    exact: bool = False,
    max_nodes: int = 1 << 20,
) -> list[Ranking]:
    """Rank, for each of U prompts, the k allowed rows of highest score.

    A step opens the children of every open node and keeps, for each prompt, the `width` most promising; forced
    tokens are grown in the same pass. With `exact`, what is not kept waits instead of being dropped, and the search
    goes on until the top k is proven; a prompt that has grown `max_nodes` nodes drops again, and ends.

    Args:
        tree: U open prompts, of the tokenizer the trie was built for.
        trie: every identifier of the catalog.
        request: what is allowed, how many, under which score.
        width: children kept per prompt and step, and never fewer than k; with `width >= len(trie)` nothing is dropped.
            With `exact` it is how much is opened at once, and may be less than k: little means many small steps, and
            few nodes in all.
        exact: go on until proven.
        max_nodes: the limit to `exact`; the list is full even so, but may be unproven.

    Returns:
        U rankings of min(k, allowed) items, best first, ties in item order. `proven` is True where nothing that was
        dropped could still have beaten the k-th item; `nodes` and `passes` say what it cost.

    Raises:
        InputError: the terms do not fit the trie, or `width` or `max_nodes` is too small.
        EngineError: the model failed, or returned NaN.
    """
    request.validate(tree, trie)
    check_count("width", width)
    _check_max_nodes(max_nodes)
    run = _BeamSearch(tree, trie, request, width, max_nodes=max_nodes if exact else 0)
    while run.step():
        pass
    return run.rankings()


def _check_max_nodes(max_nodes: int) -> None:
    if not max_nodes >= 0:
        raise InputError(f"max_nodes is {max_nodes}; it must be at least 0")


@dataclass
class _Frontier:
    """C nodes that may be opened next: parallel arrays."""

    prompt: IntArray
    low: IntArray  # the node's rows
    high: IntArray
    parent_node: IntArray  # the tree node of the parent's path
    parent_depth: IntArray  # tokens on the parent's path
    path_score: FloatArray  # score up to and with the first token of the edge
    priority: FloatArray  # what the beam keeps by
    bound: FloatArray  # no row below scores more

    def select(self, chosen: IntArray | BoolArray) -> "_Frontier":
        return _Frontier(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def concat(self, other: "_Frontier") -> "_Frontier":
        if not len(self.prompt):
            return other
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return _Frontier(*(np.concatenate(pair) for pair in pairs))


class _BeamSearch:
    def __init__(self, tree: TokenTree, trie: TokenTrie, request: SearchRequest, width: int, max_nodes: int) -> None:
        self._tree, self._trie, self._request = tree, trie, request
        # What is not chosen waits until `limit` nodes were grown; from then on k must fit into what is kept.
        self._width, self._max_nodes = width if max_nodes else max(width, request.k), max_nodes
        self._allowed_batch = AllowedBatch.from_subsets(request.allowed) if request.allowed else None
        self._score_bound = (
            None if request.prior_penalty is None else request.prior_penalty.score_bound(request.score_kind)
        )
        self._boosts = [_allowed_boost(_boost_for(request, prompt), own) for prompt, own in enumerate(request.allowed)]
        self._has_boosts = any(len(boost) for boost in self._boosts)
        self._dense_boosts = {
            prompt: self._range_maxima(boost)
            for prompt, boost in enumerate(self._boosts)
            if len(boost) * _DENSE_BOOST_RATIO > len(trie)
        }
        prompts = len(request.allowed)
        self._best_pruned_bound = np.full(prompts, -np.inf)
        self._generated_tokens = np.zeros(prompts, dtype=np.int64)
        self._forward_passes = np.zeros(prompts, dtype=np.int64)
        self._results: list[tuple[IntArray, FloatArray]] = [(np.empty(0, np.int64), np.empty(0))] * prompts
        self._kth_score = np.full(prompts, -np.inf)
        roots = np.flatnonzero([len(own) > 0 for own in request.allowed])
        none, zero = np.zeros_like(roots), np.zeros(len(roots))
        # The root may lie behind forced tokens of its own; a lone row has no branching point at all.
        self._frontier = _Frontier(roots, none, none + len(trie), roots, none, zero, zero, zero + np.inf)
        self._at_root = True

    def step(self) -> bool:
        """Open one layer of nodes; False when nothing is left to open."""
        chosen = self._select_nodes()
        if not len(chosen.low):
            return False
        inner = chosen.high - chosen.low > 1
        children = self._trie.expand(chosen.low[inner], chosen.high[inner], chosen.prompt[inner], self._allowed_batch)
        depths = np.empty(len(inner), dtype=np.int64)
        depths[inner], depths[~inner] = children.depths, self._trie.node_depths(chosen.low[~inner], chosen.high[~inner])
        gain, behind = self._grow_edges(chosen, depths, inner)
        if not inner.all():
            self._record_rows(chosen.prompt[~inner], chosen.low[~inner], gain[~inner])
        if inner.any():
            self._frontier = self._frontier.concat(
                self._expand(chosen.prompt[inner], children, behind[inner], gain[inner])
            )
        return True

    def rankings(self) -> list[Ranking]:
        answers = []
        for prompt, (rows, scores) in enumerate(self._results):
            complete = len(rows) >= min(self._request.k, len(self._request.allowed[prompt]))
            proven = bool(
                complete and self._best_pruned_bound[prompt] < max(self._kth_score[prompt], -np.finfo(float).max)
            )
            nodes, passes = int(self._generated_tokens[prompt]), int(self._forward_passes[prompt])
            items = self._trie.items[rows]
            answers.append(
                _make_ranking(
                    items, scores, self._request.k, proven=proven, generated_tokens=nodes, forward_passes=passes
                )
            )
        return answers

    def _select_nodes(self) -> _Frontier:
        """Take the `width` most promising nodes of each prompt; the rest waits or is dropped."""
        waiting = self._frontier
        waiting = waiting.select(waiting.bound >= self._kth_score[waiting.prompt])
        waiting = waiting.select(np.argsort(waiting.prompt, kind="stable"))
        chosen = self._top_by_priority(waiting.prompt, waiting.priority, waiting.low)
        rest = np.ones(len(waiting.prompt), dtype=np.bool_)
        rest[chosen] = False
        limited = (self._generated_tokens >= self._max_nodes)[waiting.prompt]
        self._prune(waiting.prompt[rest & limited], waiting.bound[rest & limited])
        put_off = (
            self._deferred_leaves(waiting, chosen)
            if self._request.score_kind == "model"
            else np.empty(0, dtype=np.int64)
        )
        chosen = chosen[~np.isin(chosen, put_off)]
        stays = rest & ~limited
        stays[put_off] = True
        self._frontier = waiting.select(stays)
        return waiting.select(chosen)

    def _deferred_leaves(self, frontier: _Frontier, chosen: IntArray) -> IntArray:
        """Leaves that keep their place in a beam that drops, ungrown while it still holds nodes to open.

        Most would be overtaken; their tails are long, and growing one opens nothing.
        """
        prompt, leaf = frontier.prompt[chosen], frontier.high[chosen] - frontier.low[chosen] == 1
        opening = np.zeros(len(self._generated_tokens), dtype=np.bool_)
        opening[prompt[~leaf]] = True
        put_off: IntArray = chosen[leaf & (opening & (self._generated_tokens >= self._max_nodes))[prompt]]
        return put_off

    def _top_by_priority(self, prompt: IntArray, priority: FloatArray, low: IntArray) -> IntArray:
        """Where the nodes that are kept stand: best first for each prompt, ties in row order; `prompt` rises."""
        bounds = np.searchsorted(prompt, np.arange(len(self._generated_tokens) + 1))
        kept = []
        for number, (begin, stop) in enumerate(pairwise(bounds)):
            own, count = priority[begin:stop], self._width
            if self._generated_tokens[number] >= self._max_nodes:
                count = max(count, self._request.k)
            places = np.arange(begin, stop)
            if count < len(own):
                # Everything that ties with the last one kept stays until row order decides.
                places = begin + np.flatnonzero(own >= np.partition(own, len(own) - count)[len(own) - count])
            kept.append(places[np.lexsort((low[places], -priority[places]))][:count])
        return np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)

    def _prune(self, prompt: IntArray, bound: FloatArray) -> None:
        """Remember the best that what is let go could have become; `prompt` rises."""
        if len(prompt):
            begins = np.flatnonzero(np.append(True, prompt[1:] != prompt[:-1]))
            here = prompt[begins]
            self._best_pruned_bound[here] = np.maximum(
                self._best_pruned_bound[here], np.maximum.reduceat(bound, begins)
            )

    def _grow_edges(self, chosen: _Frontier, depths: IntArray, inner: BoolArray) -> tuple[FloatArray, IntArray]:
        """Grow the edge of each chosen node; returns the gain of its path and its last tree node.

        A leaf's last token is read, never grown. Under the `catalog` score a leaf needs nothing at all.
        """
        trie, catalog = self._trie, self._request.score_kind == "catalog"
        begin = trie.positions_at_depth(chosen.low, chosen.parent_depth)
        stop = begin + depths - chosen.parent_depth
        grown, begins = ragged_ranges(begin, np.where(inner, stop, begin if catalog else stop - 1))
        sizes = np.diff(np.append(begins, len(grown)))
        numbers = self._tree.size + np.arange(len(grown))
        parents = numbers - 1
        filled = sizes > 0
        parents[begins[filled]] = chosen.parent_node[filled]
        if len(grown):
            self._tree.grow(parents, trie.tokens[grown].astype(np.int64))
        self._generated_tokens += np.bincount(
            chosen.prompt, weights=sizes, minlength=len(self._generated_tokens)
        ).astype(np.int64)
        self._forward_passes[np.unique(chosen.prompt[filled])] += 1
        behind = chosen.parent_node.copy()
        behind[filled] = numbers[begins[filled] + sizes[filled] - 1]
        gain = chosen.path_score.copy()
        if not catalog:
            # Every token of the edge but its first, which the parent has scored (the root's first: nobody has).
            scored, firsts = ragged_ranges(begin + (0 if self._at_root else 1), stop)
            owner = np.repeat(np.arange(len(begin)), np.diff(np.append(firsts, len(scored))))
            offset = scored - begin[owner]
            asked = np.where(
                offset == 0, chosen.parent_node[owner], self._tree.size - len(grown) + begins[owner] + offset - 1
            )
            places = np.arange(len(scored) + 1)
            steps = _check_no_nan(self._tree.log_probs(asked, trie.tokens[scored].astype(np.int64), places))
            if self._request.prior_penalty is not None:
                steps = steps - self._request.prior_penalty.weight * self._request.prior_penalty.log_probs_at(scored)
            np.add.at(gain, owner, steps)
        self._at_root = False
        return gain, behind

    def _expand(
        self, prompt: IntArray, children: Children, parent_nodes: IntArray, path_scores: FloatArray
    ) -> _Frontier:
        """The allowed children of F open nodes."""
        offsets, guide, catalog = children.offsets, self._request.prior_penalty, self._request.score_kind == "catalog"
        owner = np.repeat(np.arange(len(prompt)), np.diff(offsets))
        low, high = children.low, children.high
        steps = _check_no_nan(self._tree.log_probs(parent_nodes, children.tokens.astype(np.int64), offsets))
        if catalog:
            steps = renormalize_runs(steps, offsets[:-1])
        places = np.empty(0, dtype=np.int64)
        if guide is not None:
            places = self._trie.positions_at_depth(low.astype(np.int64), children.depths[owner])
            prior = guide.log_probs_at(places)
            steps = steps - guide.weight * (renormalize_runs(prior, offsets[:-1]) if catalog else prior)
        reached = path_scores[owner] + steps
        promise = reached
        if self._has_boosts:
            promise = reached + self._max_boosts(prompt[owner], low, high)
        bound = promise
        if self._score_bound is not None:
            bound = self._score_bounds(self._score_bound, prompt[owner], low, high, places, reached, promise)
        kept: IntArray | slice = slice(None)
        if (self._generated_tokens >= self._max_nodes).all():
            # Nothing waits any more: what cannot be chosen in the next step need not be written down.
            kept = self._top_by_priority(prompt[owner], promise, low)
            rest = np.ones(len(owner), dtype=np.bool_)
            rest[kept] = False
            self._prune(prompt[owner[rest]], bound[rest])
        owner = owner[kept]
        return _Frontier(
            prompt[owner], low[kept].astype(np.int64), high[kept].astype(np.int64), parent_nodes[owner],
            children.depths[owner], reached[kept], promise[kept], bound[kept],
        )  # fmt: skip

    def _range_maxima(self, boost: Boost) -> tuple[RangeMax, RangeMax]:
        """Of a boost of many rows: its highest in any range, and the highest of it and what the guide wins together."""
        dense = np.zeros(len(self._trie))
        dense[boost.indices] = boost.values
        return RangeMax(dense), RangeMax(dense if self._score_bound is None else dense + self._score_bound.row_gains)

    def _score_bounds(
        self,
        score_bound: ScoreBound,
        prompt: IntArray,
        low: IntArray,
        high: IntArray,
        positions: IntArray,
        path_scores: FloatArray,
        priority: FloatArray,
    ) -> FloatArray:
        """What no row below each node can exceed, where a guide gives back what a path has not lost yet."""
        low, high = low.astype(np.int64), high.astype(np.int64)
        bounds = priority + score_bound.max_gain(low, high, positions)
        for number, (_, both) in self._dense_boosts.items():
            here = np.flatnonzero(prompt == number)
            # The row that is boosted most is seldom the one that wins most: together they bound closer.
            bounds[here] = (
                path_scores[here] + both.max(low[here], high[here]) - score_bound.prefix_gains[positions[here]]
            )
        return bounds

    def _max_boosts(self, prompt: IntArray, low: IntArray, high: IntArray) -> FloatArray:
        """The highest boost of any row of each node, 0 where one of its rows has none."""
        best = np.zeros(len(prompt))
        for number, boost in enumerate(self._boosts):
            if not len(boost):
                continue
            here = np.flatnonzero(prompt == number)
            if number in self._dense_boosts:
                best[here] = self._dense_boosts[number][0].max(low[here].astype(np.int64), high[here].astype(np.int64))
                continue
            first, last = np.searchsorted(boost.indices, low[here]), np.searchsorted(boost.indices, high[here])
            some = last > first
            spread, begins = ragged_ranges(first[some], last[some])
            if not spread.size:
                continue
            highest = np.maximum.reduceat(boost.values[spread], begins)
            whole = (last - first)[some] == (high - low)[here[some]]
            best[here[some]] = np.where(whole, highest, np.maximum(highest, 0.0))
        return best

    def _record_rows(self, prompt: IntArray, row: IntArray, path_scores: FloatArray) -> None:
        for touched in np.unique(prompt):
            own = prompt == touched
            rows = np.append(self._results[touched][0], row[own])
            scores = np.append(self._results[touched][1], path_scores[own] + self._boosts[touched].values_at(row[own]))
            self._results[touched] = (rows, scores)
            if len(rows) >= self._request.k:
                self._kth_score[touched] = np.partition(scores, len(rows) - self._request.k)[
                    len(rows) - self._request.k
                ]


def _check_no_nan(log_probs: FloatArray) -> FloatArray:
    """Log-probabilities as they are; NaN compares false with every bound and would hide an item."""
    if np.isnan(log_probs).any():
        raise EngineError("the model returned NaN, by which nothing can be ranked; load it in float32")
    return log_probs


def _restrict(trie: TokenTrie, allowed: Subset) -> TokenTrie | None:
    """The trie of the allowed rows; None where there are none."""
    if len(allowed) == len(trie):
        return trie
    return trie.restrict(allowed.to_indices()) if len(allowed) else None


def _restrict_prior(trie: TokenTrie, part: TokenTrie, prior_penalty: PriorPenalty) -> FloatArray:
    """The prior's log-probabilities of the tokens of a restriction of the trie."""
    if part is trie:
        return prior_penalty.log_probs.astype(np.float64)
    carried = np.empty(len(part.tokens))
    carried[part.path_positions(np.arange(len(part)))] = prior_penalty.log_probs_at(
        trie.path_positions(part.items.astype(np.int64))
    )
    return carried


def _boost_for(request: SearchRequest, prompt: int) -> Boost:
    boost = None if request.boosts is None else request.boosts[prompt]
    return Boost(np.empty(0, dtype=np.int64), np.empty(0)) if boost is None else boost


def _allowed_boost(boost: Boost, allowed: Subset) -> Boost:
    """A boost of what cannot be recommended would loosen every bound above it."""
    kept = allowed.contains(boost.indices)
    return boost if kept.all() else Boost(boost.indices[kept], boost.values[kept])


def _make_ranking(
    item_indices: IntArray,
    scores: FloatArray,
    k: int,
    *,
    proven: bool,
    generated_tokens: int = 0,
    forward_passes: int = 0,
) -> Ranking:
    item_indices = item_indices.astype(np.int64)
    best = np.lexsort((item_indices, -scores))[:k]
    notices = () if len(item_indices) else (Notice("nothing_allowed"),)
    return Ranking(
        item_indices[best], scores[best], proven, len(item_indices), notices, generated_tokens, forward_passes
    )
