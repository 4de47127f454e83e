"""The benchmarked operations of genrec: the only module of the benchmarks that calls its index and search directly.

Letters: N rows, R nodes per lookup, C their children, V vocabulary, U prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from eval.speed.catalog import Identifiers
from genrec.backends import Backend
from genrec.data import Boost, Mask, Subset
from genrec.decoding import PriorPenalty, ScoreKind, SearchRequest, beam_search, exhaustive_search
from genrec.index import AllowedBatch, TokenTrie, select_kernels
from genrec.index import Children as TrieChildren
from genrec.types import BoolArray, FloatArray, IntArray, Ranking

NAME = f"genrec {version('genrec')}"


@dataclass(frozen=True)
class Nodes:
    """R nodes: the row range that shares a path, and its depth."""

    low: IntArray
    high: IntArray
    depth: IntArray

    def take(self, chosen: BoolArray) -> "Nodes":
        """The selected nodes."""
        return Nodes(self.low[chosen].astype(np.int64), self.high[chosen].astype(np.int64), self.depth[chosen])


@dataclass(frozen=True)
class Children:
    """The C children of R nodes; those of node r are `offsets[r]` to `offsets[r + 1]`.

    `found` contains the row range of each child.
    """

    offsets: IntArray
    tokens: IntArray
    log_probs: FloatArray
    found: TrieChildren

    @property
    def nodes(self) -> Nodes:
        """The children as nodes, for the next lookup."""
        return Nodes(self.found.low, self.found.high, np.repeat(self.found.depths + 1, np.diff(self.offsets)))


def build(codes: Identifiers) -> TokenTrie:
    """Build from N unsorted identifiers, ready for the first lookup."""
    trie = TokenTrie.from_rows(codes.tokens, codes.lengths, vocab_size=codes.vocab_size)
    _ = trie.nbytes
    return trie


def nbytes(trie: TokenTrie) -> int:
    """Total size in bytes, including the item map."""
    return trie.nbytes


def root(trie: TokenTrie, count: int) -> Nodes:
    """The root, `count` times."""
    nothing = np.zeros(count, dtype=np.int64)
    return Nodes(nothing, nothing + len(trie), nothing)


def children(trie: TokenTrie, nodes: Nodes, log_probs: torch.Tensor, allowed: AllowedBatch | None = None) -> Children:
    """All children of R nodes with their log-probabilities [R, V], tokens and nodes."""
    owner = None if allowed is None else np.zeros(len(nodes.low), dtype=np.int64)
    found = trie.expand(nodes.low, nodes.high, owner, allowed, depths=nodes.depth)
    values = select_kernels().gather(log_probs.numpy(), found.tokens, found.offsets)
    return Children(found.offsets, found.tokens, values, found)


def allow(trie: TokenTrie, items: IntArray) -> AllowedBatch:
    """A request that allows these items only."""
    return _filter(Subset.from_indices(len(trie), trie.rows_of_items[items]))


def deny(trie: TokenTrie, items: IntArray) -> AllowedBatch:
    """A request that allows all but these items."""
    return _filter(Subset.everything(len(trie)).without(trie.rows_of_items[items]))


def allow_mask(trie: TokenTrie, mask: BoolArray) -> AllowedBatch:
    """A request that allows the items of a mask [N]."""
    return _filter(Subset.from_mask(Mask.from_bool(mask[trie.items])))


def _filter(subset: Subset) -> AllowedBatch:
    made = AllowedBatch.from_subsets([subset])
    if made is None:
        raise ValueError("the filter allows all items")
    return made


def save(trie: TokenTrie, directory: Path) -> None:
    """Write to a directory."""
    trie.save(directory)


def load(directory: Path) -> TokenTrie:
    """Read what `save` wrote, ready for the first lookup."""
    trie = TokenTrie.load(directory)
    _ = trie.nbytes
    return trie


def update(trie: TokenTrie, added: Identifiers, items: IntArray, removed: IntArray) -> TokenTrie:
    """Add identifiers with the indices `items` and remove items in one call, ready for the next lookup."""
    other = TokenTrie.from_rows(added.tokens, added.lengths, item_indices=items, vocab_size=added.vocab_size)
    updated = trie.merge(other, removed_rows=np.sort(trie.rows_of_items[removed]))
    _ = updated.nbytes
    return updated


def select(
    trie: TokenTrie,
    nodes: Nodes,
    logits: torch.Tensor,
    scores: torch.Tensor,
    k: int,
    allowed: AllowedBatch | None = None,
) -> tuple[FloatArray, IntArray]:
    """One constrained selection: the k best children of R beams from their logits [R, V] and scores [R].

    Returns:
        Scores and child indices [k].
    """
    found = children(trie, nodes, logits, allowed)
    normaliser = (scores - logits.logsumexp(dim=1)).numpy()
    totals = found.log_probs + np.repeat(normaliser, np.diff(found.offsets))
    best = np.argpartition(-totals, min(k, len(totals)) - 1)[:k]
    best = best[np.argsort(-totals[best], kind="stable")]
    return totals[best], best


def search(
    backend: Backend,
    trie: TokenTrie,
    prompts: Sequence[IntArray],
    *,
    k: int,
    width: int,
    kind: ScoreKind = "model",
    allowed: BoolArray | None = None,
    boost: FloatArray | None = None,
    prior_penalty: PriorPenalty | None = None,
    exact: bool = False,
) -> list[Ranking]:
    """Beam search for U prompts; `allowed` and `boost` are [U, N] by item; `prior_penalty` is subtracted."""
    terms = _search_request(trie, prompts, k, kind, allowed, boost, prior_penalty)
    return beam_search(backend.open(prompts), trie, terms, width=width, exact=exact)


def search_exhaustively(
    backend: Backend,
    trie: TokenTrie,
    prompts: Sequence[IntArray],
    *,
    k: int,
    kind: ScoreKind = "model",
    allowed: BoolArray | None = None,
    boost: FloatArray | None = None,
    prior_penalty: PriorPenalty | None = None,
) -> list[Ranking]:
    """Like `search`, by scoring every allowed item."""
    return exhaustive_search(
        backend.open(prompts), trie, _search_request(trie, prompts, k, kind, allowed, boost, prior_penalty)
    )


def _search_request(
    trie: TokenTrie,
    prompts: Sequence[IntArray],
    k: int,
    kind: ScoreKind,
    allowed: BoolArray | None,
    boost: FloatArray | None,
    prior_penalty: PriorPenalty | None,
) -> SearchRequest:
    subsets = [Subset.everything(len(trie))] * len(prompts)
    if allowed is not None:
        subsets = [Subset.from_indices(len(trie), np.flatnonzero(own[trie.items])) for own in allowed]
    boosts = None
    if boost is not None:
        boosts = [Boost(np.arange(len(trie)), own[trie.items]) for own in boost]
    return SearchRequest(subsets, k, kind, prior_penalty, boosts)


def locate(trie: TokenTrie, prefixes: IntArray) -> Nodes:
    """The nodes after prefixes [R, D]."""
    places = root(trie, len(prefixes))
    silent = torch.zeros((1, 1)).expand(len(prefixes), 1 << 20)
    for column in prefixes.T:
        found = children(trie, places, silent)
        match = found.tokens == np.repeat(column, np.diff(found.offsets))
        if match.sum() != len(prefixes):
            raise ValueError("a prefix is not in the trie")
        places = found.nodes.take(match)
    return places


def flat(found: Children) -> tuple[IntArray, IntArray, FloatArray]:
    """Children as parallel arrays: row, token, log-probability."""
    row = np.repeat(np.arange(len(found.offsets) - 1), np.diff(found.offsets))
    return row, found.tokens.astype(np.int64), found.log_probs.astype(np.float64)
