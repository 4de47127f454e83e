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
from genrec.decoding.bounds import Guide, Most, RangeMax, catalog_steps, prefix_sums, shares_of
from genrec.decoding.tree_scoring import score_tries
from genrec.errors import EngineError, InputError, check_count
from genrec.index.kernels.numpy import ragged_ranges
from genrec.index.trie import Children, Filter, TokenTrie
from genrec.types import BoolArray, FloatArray, IntArray, Ranking

ScoreKind = Literal["model", "catalog"]

_DENSE = 16  # a boost of one row in so many, or more, is worth a table of its highest in any range


@dataclass(frozen=True)
class Terms:
    """What is asked of the search, for U prompts over N rows.

    The score of a row is the log-probability of its path, less the guide's weighted log-probability of the same path,
    plus its boost.

    Attributes:
        allowed: U subsets of the N rows, that may be recommended; all with the same mask or none.
        k: list length, at least 1.
        kind: `model`, path log-probability over the full vocabulary; `catalog`, renormalised at each node over its
            allowed children, which is what sampling under the constraint draws from, so forced tokens cost nothing.
            The guide's is of the same kind.
        guide: the prior that is subtracted, or None.
        boosts: U boosts of rows, each a `Boost` or None.
    """

    allowed: Sequence[Subset]
    k: int
    kind: ScoreKind = "model"
    guide: Guide | None = field(default=None, repr=False)
    boosts: Sequence[Boost | None] | None = field(default=None, repr=False)

    def check(self, tree: TokenTree, trie: TokenTrie) -> None:
        """Refuse terms that do not fit the trie, or the prompts of a tree that was just opened.

        Raises:
            InputError: the value is named.
        """
        if tree.size != len(self.allowed):
            raise InputError(f"{len(self.allowed)} prompts have a subset each, and the tree has {tree.size} nodes")
        check_count("k", self.k)
        if self.kind not in get_args(ScoreKind):
            raise InputError(f"score {self.kind!r} is none of {', '.join(get_args(ScoreKind))}")
        for subset in self.allowed:
            if subset.universe != len(trie):
                raise InputError(f"allowed is a subset of {subset.universe:,} rows; the trie has {len(trie):,}")
        if self.guide is not None and self.guide.trie is not trie:
            raise InputError("the guide is of another trie; make one of this trie")
        if self.boosts is not None and len(self.boosts) != len(self.allowed):
            raise InputError(f"there are {len(self.boosts)} boosts for {len(self.allowed)} prompts; give one for each")
        for boost in self.boosts or ():
            if boost is not None and len(boost) and boost.places[-1] >= len(trie):
                raise InputError(f"row {boost.places[-1]} is boosted; the trie has {len(trie):,} rows")


def exhaustive_search(tree: TokenTree, trie: TokenTrie, terms: Terms, *, max_nodes: int = 512) -> list[Ranking]:
    """Score every allowed row, in packed passes of at most `max_nodes` nodes a prompt.

    Returns:
        U rankings of min(k, allowed) items, best first, ties in item order; always proven.

    Raises:
        InputError: the terms do not fit the trie.
        EngineError: the model failed, or returned NaN.
    """
    terms.check(tree, trie)
    _check_limit(max_nodes)
    parts = [_restrict(trie, own) for own in terms.allowed]
    catalog = terms.kind == "catalog"
    readings = score_tries(tree, parts, branching_only=catalog, max_nodes=max_nodes)
    rankings = []
    for prompt, (part, reading) in enumerate(zip(parts, readings, strict=True)):
        if part is None or reading is None:
            rankings.append(_rank(trie.items[:0], np.empty(0), terms.k, proven=True))
            continue
        rows = np.arange(len(trie)) if part is trie else part.items.astype(np.int64)
        gains = catalog_steps(part, reading.steps) if catalog else reading.steps
        if terms.guide is not None:
            prior = _carried(trie, part, terms.guide)
            terms.guide.check(prior)
            gains = gains - terms.guide.weight * (catalog_steps(part, prior) if catalog else prior)
        # Token by token, as the beam adds them: paths that tie must tie to the last bit.
        scores = prefix_sums(part, gains)[part.last] + _boost_of(terms, prompt).at(rows)
        items = trie.items[rows]
        rankings.append(_rank(items, scores, terms.k, proven=True, nodes=reading.nodes, passes=reading.passes))
    return rankings


def beam_search(
    tree: TokenTree, trie: TokenTrie, terms: Terms, *, width: int, exact: bool = False, max_nodes: int = 1 << 20
) -> list[Ranking]:
    """Rank, for each of U prompts, the k allowed rows of highest score.

    A step opens the children of every open node and keeps, for each prompt, the `width` most promising; forced
    tokens are grown in the same pass. With `exact`, what is not kept waits instead of being dropped, and the search
    goes on until the top k is proven; a prompt that has grown `max_nodes` nodes drops again, and ends.

    Args:
        tree: U open prompts, of the tokenizer the trie was built for.
        trie: every identifier of the catalog.
        terms: what is allowed, how many, under which score.
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
    terms.check(tree, trie)
    check_count("width", width)
    _check_limit(max_nodes)
    run = _Beam(tree, trie, terms, width, limit=max_nodes if exact else 0)
    while run.step():
        pass
    return run.rankings()


def _check_limit(max_nodes: int) -> None:
    if not max_nodes >= 0:
        raise InputError(f"max_nodes is {max_nodes}; it must be at least 0")


@dataclass
class _Front:
    """C nodes that may be opened next: parallel arrays."""

    prompt: IntArray
    low: IntArray  # the node's rows
    high: IntArray
    behind: IntArray  # the tree node of the parent's path
    depth: IntArray  # tokens on the parent's path
    gain: FloatArray  # score up to and with the first token of the edge
    promise: FloatArray  # what the beam keeps by
    bound: FloatArray  # no row below scores more

    def take(self, chosen: IntArray | BoolArray) -> "_Front":
        return _Front(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def join(self, other: "_Front") -> "_Front":
        if not len(self.prompt):
            return other
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return _Front(*(np.concatenate(pair) for pair in pairs))


class _Beam:
    def __init__(self, tree: TokenTree, trie: TokenTrie, terms: Terms, width: int, limit: int) -> None:
        self._tree, self._trie, self._terms = tree, trie, terms
        # What is not chosen waits until `limit` nodes were grown; from then on k must fit into what is kept.
        self._width, self._limit = width if limit else max(width, terms.k), limit
        self._filter = Filter.of(terms.allowed) if terms.allowed else None
        self._most = None if terms.guide is None else terms.guide.most(terms.kind)
        self._boosts = [_allowed_boost(_boost_of(terms, prompt), own) for prompt, own in enumerate(terms.allowed)]
        self._boosted = any(len(boost) for boost in self._boosts)
        self._dense = {
            prompt: self._ranges(boost) for prompt, boost in enumerate(self._boosts) if len(boost) * _DENSE > len(trie)
        }
        prompts = len(terms.allowed)
        self._dropped = np.full(prompts, -np.inf)
        self._grown = np.zeros(prompts, dtype=np.int64)
        self._passes = np.zeros(prompts, dtype=np.int64)
        self._found: list[tuple[IntArray, FloatArray]] = [(np.empty(0, np.int64), np.empty(0))] * prompts
        self._kth = np.full(prompts, -np.inf)
        roots = np.flatnonzero([len(own) > 0 for own in terms.allowed])
        none, zero = np.zeros_like(roots), np.zeros(len(roots))
        # The root may lie behind forced tokens of its own; a lone row has no branching point at all.
        self._waiting = _Front(roots, none, none + len(trie), roots, none, zero, zero, zero + np.inf)
        self._start = True

    def step(self) -> bool:
        """Open one layer of nodes; False when nothing is left to open."""
        chosen = self._choose()
        if not len(chosen.low):
            return False
        inner = chosen.high - chosen.low > 1
        children = self._trie.open(chosen.low[inner], chosen.high[inner], chosen.prompt[inner], self._filter)
        depths = np.empty(len(inner), dtype=np.int64)
        depths[inner], depths[~inner] = children.depths, self._trie.measure(chosen.low[~inner], chosen.high[~inner])
        gain, behind = self._follow(chosen, depths, inner)
        if not inner.all():
            self._finish(chosen.prompt[~inner], chosen.low[~inner], gain[~inner])
        if inner.any():
            self._waiting = self._waiting.join(self._open(chosen.prompt[inner], children, behind[inner], gain[inner]))
        return True

    def rankings(self) -> list[Ranking]:
        answers = []
        for prompt, (rows, scores) in enumerate(self._found):
            complete = len(rows) >= min(self._terms.k, len(self._terms.allowed[prompt]))
            proven = bool(complete and self._dropped[prompt] < max(self._kth[prompt], -np.finfo(float).max))
            nodes, passes = int(self._grown[prompt]), int(self._passes[prompt])
            items = self._trie.items[rows]
            answers.append(_rank(items, scores, self._terms.k, proven=proven, nodes=nodes, passes=passes))
        return answers

    def _choose(self) -> _Front:
        """Take the `width` most promising nodes of each prompt; the rest waits or is dropped."""
        waiting = self._waiting
        waiting = waiting.take(waiting.bound >= self._kth[waiting.prompt])
        waiting = waiting.take(np.argsort(waiting.prompt, kind="stable"))
        chosen = self._most_promising(waiting.prompt, waiting.promise, waiting.low)
        rest = np.ones(len(waiting.prompt), dtype=np.bool_)
        rest[chosen] = False
        limited = (self._grown >= self._limit)[waiting.prompt]
        self._drop(waiting.prompt[rest & limited], waiting.bound[rest & limited])
        put_off = self._put_off(waiting, chosen) if self._terms.kind == "model" else np.empty(0, dtype=np.int64)
        chosen = chosen[~np.isin(chosen, put_off)]
        stays = rest & ~limited
        stays[put_off] = True
        self._waiting = waiting.take(stays)
        return waiting.take(chosen)

    def _put_off(self, waiting: _Front, chosen: IntArray) -> IntArray:
        """Leaves that keep their place in a beam that drops, ungrown while it still holds nodes to open.

        Most would be overtaken; their tails are long, and growing one opens nothing.
        """
        prompt, leaf = waiting.prompt[chosen], waiting.high[chosen] - waiting.low[chosen] == 1
        opening = np.zeros(len(self._grown), dtype=np.bool_)
        opening[prompt[~leaf]] = True
        put_off: IntArray = chosen[leaf & (opening & (self._grown >= self._limit))[prompt]]
        return put_off

    def _most_promising(self, prompt: IntArray, promise: FloatArray, low: IntArray) -> IntArray:
        """Where the nodes that are kept stand: best first for each prompt, ties in row order; `prompt` rises."""
        bounds = np.searchsorted(prompt, np.arange(len(self._grown) + 1))
        kept = []
        for number, (begin, stop) in enumerate(pairwise(bounds)):
            own, count = promise[begin:stop], self._width
            if self._grown[number] >= self._limit:
                count = max(count, self._terms.k)
            places = np.arange(begin, stop)
            if count < len(own):
                # Everything that ties with the last one kept stays until row order decides.
                places = begin + np.flatnonzero(own >= np.partition(own, len(own) - count)[len(own) - count])
            kept.append(places[np.lexsort((low[places], -promise[places]))][:count])
        return np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)

    def _drop(self, prompt: IntArray, bound: FloatArray) -> None:
        """Remember the best that what is let go could have become; `prompt` rises."""
        if len(prompt):
            begins = np.flatnonzero(np.append(True, prompt[1:] != prompt[:-1]))
            here = prompt[begins]
            self._dropped[here] = np.maximum(self._dropped[here], np.maximum.reduceat(bound, begins))

    def _follow(self, chosen: _Front, depths: IntArray, inner: BoolArray) -> tuple[FloatArray, IntArray]:
        """Grow the edge of each chosen node; returns the gain of its path and its last tree node.

        A leaf's last token is read, never grown. Under the `catalog` score a leaf needs nothing at all.
        """
        trie, catalog = self._trie, self._terms.kind == "catalog"
        begin = trie.find(chosen.low, chosen.depth)
        stop = begin + depths - chosen.depth
        grown, begins = ragged_ranges(begin, np.where(inner, stop, begin if catalog else stop - 1))
        sizes = np.diff(np.append(begins, len(grown)))
        numbers = self._tree.size + np.arange(len(grown))
        parents = numbers - 1
        filled = sizes > 0
        parents[begins[filled]] = chosen.behind[filled]
        if len(grown):
            self._tree.grow(parents, trie.tokens[grown].astype(np.int64))
        self._grown += np.bincount(chosen.prompt, weights=sizes, minlength=len(self._grown)).astype(np.int64)
        self._passes[np.unique(chosen.prompt[filled])] += 1
        behind = chosen.behind.copy()
        behind[filled] = numbers[begins[filled] + sizes[filled] - 1]
        gain = chosen.gain.copy()
        if not catalog:
            # Every token of the edge but its first, which the parent has scored (the root's first: nobody has).
            scored, firsts = ragged_ranges(begin + (0 if self._start else 1), stop)
            owner = np.repeat(np.arange(len(begin)), np.diff(np.append(firsts, len(scored))))
            offset = scored - begin[owner]
            asked = np.where(
                offset == 0, chosen.behind[owner], self._tree.size - len(grown) + begins[owner] + offset - 1
            )
            places = np.arange(len(scored) + 1)
            steps = _numbers(self._tree.log_probs(asked, trie.tokens[scored].astype(np.int64), places))
            if self._terms.guide is not None:
                steps = steps - self._terms.guide.weight * self._terms.guide.at(scored)
            np.add.at(gain, owner, steps)
        self._start = False
        return gain, behind

    def _open(self, prompt: IntArray, children: Children, behind: IntArray, gain: FloatArray) -> _Front:
        """The allowed children of F open nodes."""
        offsets, guide, catalog = children.offsets, self._terms.guide, self._terms.kind == "catalog"
        owner = np.repeat(np.arange(len(prompt)), np.diff(offsets))
        low, high = children.low, children.high
        steps = _numbers(self._tree.log_probs(behind, children.tokens.astype(np.int64), offsets))
        if catalog:
            steps = shares_of(steps, offsets[:-1])
        places = np.empty(0, dtype=np.int64)
        if guide is not None:
            places = self._trie.find(low.astype(np.int64), children.depths[owner])
            prior = guide.at(places)
            steps = steps - guide.weight * (shares_of(prior, offsets[:-1]) if catalog else prior)
        reached = gain[owner] + steps
        promise = reached
        if self._boosted:
            promise = reached + self._best_boosts(prompt[owner], low, high)
        bound = promise
        if self._most is not None:
            bound = self._bounds(self._most, prompt[owner], low, high, places, reached, promise)
        kept: IntArray | slice = slice(None)
        if (self._grown >= self._limit).all():
            # Nothing waits any more: what cannot be chosen in the next step need not be written down.
            kept = self._most_promising(prompt[owner], promise, low)
            rest = np.ones(len(owner), dtype=np.bool_)
            rest[kept] = False
            self._drop(prompt[owner[rest]], bound[rest])
        owner = owner[kept]
        return _Front(
            prompt[owner], low[kept].astype(np.int64), high[kept].astype(np.int64), behind[owner],
            children.depths[owner], reached[kept], promise[kept], bound[kept],
        )  # fmt: skip

    def _ranges(self, boost: Boost) -> tuple[RangeMax, RangeMax]:
        """Of a boost of many rows: its highest in any range, and the highest of it and what the guide wins together."""
        dense = np.zeros(len(self._trie))
        dense[boost.places] = boost.values
        return RangeMax(dense), RangeMax(dense if self._most is None else dense + self._most.totals)

    def _bounds(
        self,
        most: Most,
        prompt: IntArray,
        low: IntArray,
        high: IntArray,
        places: IntArray,
        reached: FloatArray,
        promise: FloatArray,
    ) -> FloatArray:
        """What no row below each node can exceed, where a guide gives back what a path has not lost yet."""
        low, high = low.astype(np.int64), high.astype(np.int64)
        bounds = promise + most.best(low, high, places)
        for number, (_, both) in self._dense.items():
            here = np.flatnonzero(prompt == number)
            # The row that is boosted most is seldom the one that wins most: together they bound closer.
            bounds[here] = reached[here] + both.best(low[here], high[here]) - most.before[places[here]]
        return bounds

    def _best_boosts(self, prompt: IntArray, low: IntArray, high: IntArray) -> FloatArray:
        """The highest boost of any row of each node, 0 where one of its rows has none."""
        best = np.zeros(len(prompt))
        for number, boost in enumerate(self._boosts):
            if not len(boost):
                continue
            here = np.flatnonzero(prompt == number)
            if number in self._dense:
                best[here] = self._dense[number][0].best(low[here].astype(np.int64), high[here].astype(np.int64))
                continue
            first, last = np.searchsorted(boost.places, low[here]), np.searchsorted(boost.places, high[here])
            some = last > first
            spread, begins = ragged_ranges(first[some], last[some])
            if not spread.size:
                continue
            highest = np.maximum.reduceat(boost.values[spread], begins)
            whole = (last - first)[some] == (high - low)[here[some]]
            best[here[some]] = np.where(whole, highest, np.maximum(highest, 0.0))
        return best

    def _finish(self, prompt: IntArray, row: IntArray, gain: FloatArray) -> None:
        for touched in np.unique(prompt):
            own = prompt == touched
            rows = np.append(self._found[touched][0], row[own])
            scores = np.append(self._found[touched][1], gain[own] + self._boosts[touched].at(row[own]))
            self._found[touched] = (rows, scores)
            if len(rows) >= self._terms.k:
                self._kth[touched] = np.partition(scores, len(rows) - self._terms.k)[len(rows) - self._terms.k]


def _numbers(steps: FloatArray) -> FloatArray:
    """Log-probabilities as they are; NaN compares false with every bound and would hide an item."""
    if np.isnan(steps).any():
        raise EngineError("the model returned NaN, by which nothing can be ranked; load it in float32")
    return steps


def _restrict(trie: TokenTrie, allowed: Subset) -> TokenTrie | None:
    """The trie of the allowed rows; None where there are none."""
    if len(allowed) == len(trie):
        return trie
    return trie.restrict(allowed.places()) if len(allowed) else None


def _carried(trie: TokenTrie, part: TokenTrie, guide: Guide) -> FloatArray:
    """The prior's log-probabilities of the tokens of a restriction of the trie."""
    if part is trie:
        return guide.steps.astype(np.float64)
    carried = np.empty(len(part.tokens))
    carried[part.paths(np.arange(len(part)))] = guide.at(trie.paths(part.items.astype(np.int64)))
    return carried


def _boost_of(terms: Terms, prompt: int) -> Boost:
    boost = None if terms.boosts is None else terms.boosts[prompt]
    return Boost(np.empty(0, dtype=np.int64), np.empty(0)) if boost is None else boost


def _allowed_boost(boost: Boost, allowed: Subset) -> Boost:
    """A boost of what cannot be recommended would loosen every bound above it."""
    kept = allowed.contains(boost.places)
    return boost if kept.all() else Boost(boost.places[kept], boost.values[kept])


def _rank(items: IntArray, scores: FloatArray, k: int, *, proven: bool, nodes: int = 0, passes: int = 0) -> Ranking:
    items = items.astype(np.int64)
    best = np.lexsort((items, -scores))[:k]
    notices = () if len(items) else ("nothing is allowed",)
    return Ranking(items[best], scores[best], proven, len(items), notices, nodes, passes)
