"""Beam search over a token trie with admissible bounds; `genrec.decoding.search.beam_search` runs it.

Letters: U prompts, F nodes opened in one iteration, E of them with children, C their children, over all prompts.
"""

from itertools import pairwise

import numpy as np

from genrec.backends.base import TokenTree
from genrec.decoding.bounds import renormalize_runs
from genrec.decoding.frontier import Frontier
from genrec.decoding.node_bounds import NodeBounds
from genrec.decoding.search_request import SearchRequest
from genrec.decoding.tree_scoring import check_log_probs
from genrec.index.allowed_batch import AllowedBatch
from genrec.index.kernels.numpy import ragged_ranges
from genrec.index.trie import Children, TokenTrie
from genrec.types import BoolArray, FloatArray, IntArray, Ranking


class BeamSearch:
    """The state of one search for U prompts.

    Args:
        tree: U open prompts.
        trie: every identifier of the catalog.
        request: the allowed rows, list length and score; validated.
        width: nodes kept per prompt and iteration.
        max_nodes: nodes that are not kept are deferred until a prompt has grown this many, and pruned from then on; 0
            to prune from the start.
    """

    def __init__(self, tree: TokenTree, trie: TokenTrie, request: SearchRequest, width: int, max_nodes: int) -> None:
        self._tree, self._trie, self._request = tree, trie, request
        # A beam that prunes must keep at least k nodes.
        self._width, self._max_nodes = width if max_nodes else max(width, request.k), max_nodes
        self._is_catalog = request.score_kind == "catalog"
        self._allowed_batch = AllowedBatch.from_subsets(request.allowed) if request.allowed else None
        self._node_bounds = NodeBounds(trie, request)
        prompts = len(request.allowed)
        self._best_pruned_bound = np.full(prompts, -np.inf)
        self._generated_tokens = np.zeros(prompts, dtype=np.int64)
        self._forward_passes = np.zeros(prompts, dtype=np.int64)
        self._results: list[tuple[IntArray, FloatArray]] = [(np.empty(0, np.int64), np.empty(0))] * prompts
        self._kth_score = np.full(prompts, -np.inf)
        roots = np.flatnonzero([len(subset) > 0 for subset in request.allowed])
        none, zero = np.zeros_like(roots), np.zeros(len(roots))
        # The root's edge is not empty if all rows share a prefix. A lone row has no branching point at all.
        self._frontier = Frontier(roots, none, none + len(trie), roots, none, zero, zero, zero + np.inf)
        self._at_root = True

    def step(self) -> bool:
        """Open the next nodes of each prompt; False if there is nothing left to open."""
        chosen = self._select_nodes()
        if not len(chosen.low):
            return False
        inner = chosen.high - chosen.low > 1
        children = self._trie.expand(chosen.low[inner], chosen.high[inner], chosen.prompt[inner], self._allowed_batch)
        depths = np.empty(len(inner), dtype=np.int64)
        depths[inner], depths[~inner] = children.depths, self._trie.node_depths(chosen.low[~inner], chosen.high[~inner])
        path_scores, last_nodes = self._grow_edges(chosen, depths, inner)
        if not inner.all():
            self._record_rows(chosen.prompt[~inner], chosen.low[~inner], path_scores[~inner])
        if inner.any():
            self._frontier = self._frontier.concat(
                self._expand(chosen.prompt[inner], children, last_nodes[inner], path_scores[inner])
            )
        return True

    def rankings(self) -> list[Ranking]:
        """The rankings found so far, one for each prompt."""
        rankings = []
        for prompt, (rows, scores) in enumerate(self._results):
            complete = len(rows) >= min(self._request.k, len(self._request.allowed[prompt]))
            # Equal bounds prove nothing: ties are broken by item order.
            threshold = max(self._kth_score[prompt], -np.finfo(float).max)
            rankings.append(
                self._request.rank(
                    self._trie.items[rows],
                    scores,
                    proven=bool(complete and self._best_pruned_bound[prompt] < threshold),
                    generated_tokens=int(self._generated_tokens[prompt]),
                    forward_passes=int(self._forward_passes[prompt]),
                )
            )
        return rankings

    def _select_nodes(self) -> Frontier:
        """Take the `width` nodes of highest priority of each prompt; defer or prune the rest."""
        frontier = self._frontier
        frontier = frontier.select(frontier.bound >= self._kth_score[frontier.prompt])
        frontier = frontier.select(np.argsort(frontier.prompt, kind="stable"))
        chosen = self._top_by_priority(frontier.prompt, frontier.priority, frontier.low)
        rest = np.ones(len(frontier.prompt), dtype=np.bool_)
        rest[chosen] = False
        at_limit = (self._generated_tokens >= self._max_nodes)[frontier.prompt]
        self._prune(frontier.prompt[rest & at_limit], frontier.bound[rest & at_limit])
        deferred = np.empty(0, dtype=np.int64) if self._is_catalog else self._deferred_leaves(frontier, chosen)
        chosen = chosen[~np.isin(chosen, deferred)]
        stays = rest & ~at_limit
        stays[deferred] = True
        self._frontier = frontier.select(stays)
        return frontier.select(chosen)

    def _deferred_leaves(self, frontier: Frontier, chosen: IntArray) -> IntArray:
        """Chosen leaves of a beam that prunes, while it still has nodes to open.

        They keep their place in the beam and are grown later: most are overtaken, their tails are long, and growing a
        leaf opens no node.
        """
        prompt, is_leaf = frontier.prompt[chosen], frontier.high[chosen] - frontier.low[chosen] == 1
        has_inner = np.zeros(len(self._generated_tokens), dtype=np.bool_)
        has_inner[prompt[~is_leaf]] = True
        deferred: IntArray = chosen[is_leaf & (has_inner & (self._generated_tokens >= self._max_nodes))[prompt]]
        return deferred

    def _top_by_priority(self, prompt: IntArray, priority: FloatArray, low: IntArray) -> IntArray:
        """The indices of the nodes to keep: best first for each prompt, ties in row order; `prompt` is ascending."""
        offsets = np.searchsorted(prompt, np.arange(len(self._generated_tokens) + 1))
        kept = []
        for number, (begin, stop) in enumerate(pairwise(offsets)):
            priorities, count = priority[begin:stop], self._width
            if self._generated_tokens[number] >= self._max_nodes:
                count = max(count, self._request.k)
            indices = np.arange(begin, stop)
            if count < len(priorities):
                # Everything that ties with the last kept node stays until row order decides.
                indices = begin + np.flatnonzero(
                    priorities >= np.partition(priorities, len(priorities) - count)[len(priorities) - count]
                )
            kept.append(indices[np.lexsort((low[indices], -priority[indices]))][:count])
        return np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)

    def _prune(self, prompt: IntArray, bound: FloatArray) -> None:
        """Record the highest bound of the nodes pruned for each prompt; `prompt` is ascending."""
        if len(prompt):
            begins = np.flatnonzero(np.append(True, prompt[1:] != prompt[:-1]))
            here = prompt[begins]
            self._best_pruned_bound[here] = np.maximum(
                self._best_pruned_bound[here], np.maximum.reduceat(bound, begins)
            )

    def _grow_edges(self, chosen: Frontier, depths: IntArray, inner: BoolArray) -> tuple[FloatArray, IntArray]:
        """Grow the edge of each chosen node.

        A leaf's last token is scored, never grown. Under the `catalog` score a leaf needs no token at all.

        Args:
            chosen: F nodes.
            depths: int64 [F], the number of tokens on the path to the end of each edge.
            inner: bool [F], which nodes have children.

        Returns:
            float64 [F], the score of each path; int64 [F], its last node in the token tree.
        """
        trie = self._trie
        begin = trie.positions_at_depth(chosen.low, chosen.parent_depth)
        stop = begin + depths - chosen.parent_depth
        grown, begins = ragged_ranges(begin, np.where(inner, stop, begin if self._is_catalog else stop - 1))
        sizes = np.diff(np.append(begins, len(grown)))
        first_node = self._tree.size
        nodes = first_node + np.arange(len(grown))
        parents = nodes - 1
        filled = sizes > 0
        parents[begins[filled]] = chosen.parent_node[filled]
        if len(grown):
            self._tree.grow(parents, trie.tokens[grown].astype(np.int64))
        self._generated_tokens += np.bincount(
            chosen.prompt, weights=sizes, minlength=len(self._generated_tokens)
        ).astype(np.int64)
        self._forward_passes[np.unique(chosen.prompt[filled])] += 1
        last_nodes = chosen.parent_node.copy()
        last_nodes[filled] = nodes[begins[filled] + sizes[filled] - 1]
        path_scores = chosen.path_score.copy()
        if not self._is_catalog:
            self._add_edge_scores(path_scores, chosen.parent_node, begin, stop, first_node + begins)
        self._at_root = False
        return path_scores, last_nodes

    def _add_edge_scores(
        self, path_scores: FloatArray, parent_nodes: IntArray, begin: IntArray, stop: IntArray, first_nodes: IntArray
    ) -> None:
        """Add the scores of the tokens at positions `begin` to `stop` of each edge, except the first.

        The parent has scored the first token; only the root's first token is scored here.
        """
        trie, penalty = self._trie, self._request.prior_penalty
        scored, firsts = ragged_ranges(begin + (0 if self._at_root else 1), stop)
        edge = np.repeat(np.arange(len(begin)), np.diff(np.append(firsts, len(scored))))
        offset = scored - begin[edge]
        readers = np.where(offset == 0, parent_nodes[edge], first_nodes[edge] + offset - 1)
        offsets = np.arange(len(scored) + 1)
        scores = check_log_probs(self._tree.log_probs(readers, trie.tokens[scored].astype(np.int64), offsets))
        if penalty is not None:
            scores = scores - penalty.weight * penalty.log_probs_at(scored)
        np.add.at(path_scores, edge, scores)

    def _expand(self, prompt: IntArray, children: Children, last_nodes: IntArray, path_scores: FloatArray) -> Frontier:
        """The allowed children of E opened nodes, as a frontier.

        Args:
            prompt: int64 [E].
            children: of the E nodes.
            last_nodes: int64 [E], the last token-tree node of each path.
            path_scores: float64 [E].
        """
        offsets, penalty = children.offsets, self._request.prior_penalty
        parent = np.repeat(np.arange(len(prompt)), np.diff(offsets))
        low, high = children.low, children.high
        scores = check_log_probs(self._tree.log_probs(last_nodes, children.tokens.astype(np.int64), offsets))
        if self._is_catalog:
            scores = renormalize_runs(scores, offsets[:-1])
        positions = np.empty(0, dtype=np.int64)
        if penalty is not None:
            positions = self._trie.positions_at_depth(low.astype(np.int64), children.depths[parent])
            prior = penalty.log_probs_at(positions)
            scores = scores - penalty.weight * (renormalize_runs(prior, offsets[:-1]) if self._is_catalog else prior)
        child_scores = path_scores[parent] + scores
        priority = self._node_bounds.priorities(prompt[parent], low, high, child_scores)
        bound = self._node_bounds.bounds(prompt[parent], low, high, positions, child_scores, priority)
        kept: IntArray | slice = slice(None)
        if (self._generated_tokens >= self._max_nodes).all():
            # Nothing is deferred any more: children that the next iteration cannot choose need not be stored.
            kept = self._top_by_priority(prompt[parent], priority, low)
            rest = np.ones(len(parent), dtype=np.bool_)
            rest[kept] = False
            self._prune(prompt[parent[rest]], bound[rest])
        parent = parent[kept]
        return Frontier(
            prompt[parent], low[kept].astype(np.int64), high[kept].astype(np.int64), last_nodes[parent],
            children.depths[parent], child_scores[kept], priority[kept], bound[kept],
        )  # fmt: skip

    def _record_rows(self, prompt: IntArray, row: IntArray, path_scores: FloatArray) -> None:
        """Add finished rows to the results, and update the k-th best score of each prompt."""
        k = self._request.k
        for number in np.unique(prompt):
            of_prompt = prompt == number
            rows = np.append(self._results[number][0], row[of_prompt])
            boosts = self._node_bounds.boost_values(number, row[of_prompt])
            scores = np.append(self._results[number][1], path_scores[of_prompt] + boosts)
            self._results[number] = (rows, scores)
            if len(rows) >= k:
                self._kth_score[number] = np.partition(scores, len(rows) - k)[len(rows) - k]
