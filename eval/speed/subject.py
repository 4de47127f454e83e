"""genrec as these measurements call it: the only module here that knows how its index and its search are called.

Letters: N rows, R nodes looked up at once, C their children, V vocabulary, U prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from eval.speed.catalog import Codes
from genrec.backends.base import Backend
from genrec.search import ScoreKind, Terms, beam_search, exhaustive_search
from genrec.trie import TokenTrie, ragged_ranges
from genrec.types import BoolArray, FloatArray, IntArray, Ranking

NAME = f"genrec {version('genrec')}"


class UnwiredError(Exception):
    """genrec has no such function yet; the row says so instead of a figure."""


@dataclass(frozen=True)
class Places:
    """R nodes. REWIRE: a node becomes a range of rows (low, high)."""

    number: IntArray
    depth: IntArray

    def take(self, chosen: BoolArray) -> "Places":
        """Some of them."""
        return Places(self.number[chosen], self.depth[chosen])


@dataclass(frozen=True)
class Children:
    """The C children of R nodes; those of node r are `offsets[r]` to `offsets[r + 1]`."""

    offsets: IntArray
    tokens: IntArray
    log_probs: FloatArray
    places: Places


@dataclass(frozen=True)
class Filter:
    """What one request allows. REWIRE: whatever the trie takes."""

    alive: IntArray


# REWIRE each of these to the new index.


def build(codes: Codes) -> TokenTrie:
    """From N unsorted identifiers, ready for the first lookup. REWIRE: TokenTrie.from_rows(codes.rows, vocab_size=V);
    for lengths that differ, (codes.tokens, codes.lengths)."""
    trie = TokenTrie.from_sequences(codes.sequences())
    _ = trie.nodes
    return trie


def nbytes(trie: TokenTrie) -> int:
    """Bytes of everything kept, item map included. REWIRE: trie.nbytes."""
    nodes = trie.nodes
    tables = (trie.tokens, trie.offsets, trie.items, trie.shared, trie.lengths)
    nodes_tables = (nodes.low, nodes.high, nodes.depth, nodes.first_child, nodes.parent)
    return sum(table.nbytes for table in (*tables, *nodes_tables))


def root(trie: TokenTrie, count: int) -> Places:
    """The root, `count` times. REWIRE: (0, N)."""
    return Places(np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64))


def children(trie: TokenTrie, places: Places, log_probs: torch.Tensor) -> Children:
    """All children of R nodes with their log-probabilities [R, V], tokens and nodes. REWIRE: trie.open(low, high)."""
    nodes, number, depth = trie.nodes, places.number, places.depth
    branches = (nodes.depth[number] == depth) & (nodes.first_child[number + 1] > nodes.first_child[number])
    start = np.where(branches, nodes.first_child[number], number)
    # On an edge, the one child is the next token of the same radix node; behind a row's last token there is none.
    stop = np.where(branches, nodes.first_child[number + 1], number + (depth < nodes.depth[number]))
    child, begins = ragged_ranges(start, stop)
    owner = np.repeat(np.arange(len(number)), stop - start)
    tokens = trie.tokens[trie.offsets[nodes.low[child]] + depth[owner]].astype(np.int64)
    return Children(
        np.append(begins, len(child)), tokens, log_probs.numpy()[owner, tokens], Places(child, depth[owner] + 1)
    )


def allowed_children(trie: TokenTrie, allowed: Filter, places: Places, log_probs: torch.Tensor) -> Children:
    """The same, without children below which nothing is allowed. REWIRE."""
    nodes, found = trie.nodes, children(trie, places, log_probs)
    number = found.places.number
    keep = allowed.alive[nodes.high[number]] > allowed.alive[nodes.low[number]]
    kept = np.append(0, np.cumsum(keep))
    return Children(
        kept[found.offsets],
        found.tokens[keep],
        found.log_probs[keep],
        found.places.take(keep),
    )


def allow(trie: TokenTrie, items: IntArray) -> Filter:
    """A request that allows these items only. REWIRE."""
    mask = np.zeros(len(trie), dtype=np.bool_)
    mask[items] = True
    return where(trie, mask)


def deny(trie: TokenTrie, items: IntArray) -> Filter:
    """A request that allows all but these items. REWIRE."""
    mask = np.ones(len(trie), dtype=np.bool_)
    mask[items] = False
    return where(trie, mask)


def where(trie: TokenTrie, mask: BoolArray) -> Filter:
    """A request that allows the items of a mask [N]. REWIRE."""
    return Filter(np.concatenate([[0], np.cumsum(mask[trie.items])]).astype(np.int64))


def save(trie: TokenTrie, directory: Path) -> None:
    """REWIRE: trie.save(directory)."""
    raise UnwiredError("a trie cannot be saved by itself yet")


def load(directory: Path) -> TokenTrie:
    """From a folder that `save` wrote, ready for the first lookup. REWIRE: TokenTrie.load(directory)."""
    raise UnwiredError("a trie cannot be loaded by itself yet")


def update(trie: TokenTrie, added: Codes, items: IntArray, withdrawn: IntArray) -> TokenTrie:
    """Add identifiers under the numbers `items` and withdraw items, in one call. REWIRE: trie.merge(...)."""
    raise UnwiredError("a trie cannot be changed yet")


def select(
    trie: TokenTrie, places: Places, logits: torch.Tensor, scores: torch.Tensor, k: int
) -> tuple[FloatArray, IntArray]:
    """One constrained selection: the k best children of R beams from their logits [R, V] and scores [R].

    Returns:
        Scores and numbers of children [k]. REWIRE: the functions that the search itself calls.
    """
    found = children(trie, places, logits)
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
    exact: bool = False,
) -> list[Ranking]:
    """Beams of U prompts; `allowed` and `boost` are [U, N] by item. REWIRE: the new terms."""
    return beam_search(
        backend.open(prompts), trie, _terms(trie, prompts, k, kind, allowed, boost), width=width, exact=exact
    )


def exhaust(
    backend: Backend,
    trie: TokenTrie,
    prompts: Sequence[IntArray],
    *,
    k: int,
    kind: ScoreKind = "model",
    allowed: BoolArray | None = None,
    boost: FloatArray | None = None,
) -> list[Ranking]:
    """The same by scoring every allowed item. REWIRE: the new terms."""
    return exhaustive_search(backend.open(prompts), trie, _terms(trie, prompts, k, kind, allowed, boost))


def _terms(
    trie: TokenTrie,
    prompts: Sequence[IntArray],
    k: int,
    kind: ScoreKind,
    allowed: BoolArray | None,
    boost: FloatArray | None,
) -> Terms:
    everything = np.ones((len(prompts), len(trie)), dtype=np.bool_)
    by_row = everything if allowed is None else allowed[:, trie.items]
    return Terms(by_row, k, kind, boost=None if boost is None else boost[:, trie.items])


# What follows is written with the functions above and stays.


def locate(trie: TokenTrie, prefixes: IntArray) -> Places:
    """The nodes behind prefixes [R, D], by walking."""
    places = root(trie, len(prefixes))
    silent = torch.zeros((1, 1)).expand(len(prefixes), 1 << 20)
    for column in prefixes.T:
        found = children(trie, places, silent)
        match = found.tokens == np.repeat(column, np.diff(found.offsets))
        if match.sum() != len(prefixes):
            raise ValueError("a prefix is not in the trie")
        places = found.places.take(match)
    return places


def flat(found: Children) -> tuple[IntArray, IntArray, FloatArray]:
    """Children as parallel arrays: row, token, log-probability."""
    row = np.repeat(np.arange(len(found.offsets) - 1), np.diff(found.offsets))
    return row, found.tokens, found.log_probs.astype(np.float64)
