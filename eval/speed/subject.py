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
from genrec.data.subset import Boost, Mask, Subset
from genrec.decoding.bounds import Guide
from genrec.decoding.search import ScoreKind, Terms, beam_search, exhaustive_search
from genrec.index.kernels.dispatch import choose_loops
from genrec.index.trie import Children as TrieChildren
from genrec.index.trie import Filter, TokenTrie
from genrec.types import BoolArray, FloatArray, IntArray, Ranking

NAME = f"genrec {version('genrec')}"


@dataclass(frozen=True)
class Places:
    """R nodes: all rows that share a path of so many tokens."""

    low: IntArray
    high: IntArray
    depth: IntArray

    def take(self, chosen: BoolArray) -> "Places":
        """Some of them."""
        return Places(self.low[chosen].astype(np.int64), self.high[chosen].astype(np.int64), self.depth[chosen])


@dataclass(frozen=True)
class Children:
    """The C children of R nodes; those of node r are `offsets[r]` to `offsets[r + 1]`.

    `found` holds the rows of each child: its node.
    """

    offsets: IntArray
    tokens: IntArray
    log_probs: FloatArray
    found: TrieChildren

    @property
    def places(self) -> Places:
        """The children as nodes to look up next."""
        return Places(self.found.low, self.found.high, np.repeat(self.found.depths + 1, np.diff(self.offsets)))


def build(codes: Codes) -> TokenTrie:
    """From N unsorted identifiers, ready for the first lookup."""
    trie = TokenTrie.from_rows(codes.tokens, codes.lengths, vocab_size=codes.vocab_size)
    _ = trie.nbytes
    return trie


def nbytes(trie: TokenTrie) -> int:
    """Bytes of everything kept, item map included."""
    return trie.nbytes


def root(trie: TokenTrie, count: int) -> Places:
    """The root, `count` times."""
    nothing = np.zeros(count, dtype=np.int64)
    return Places(nothing, nothing + len(trie), nothing)


def children(trie: TokenTrie, places: Places, log_probs: torch.Tensor, allowed: Filter | None = None) -> Children:
    """All children of R nodes with their log-probabilities [R, V], tokens and nodes."""
    owner = None if allowed is None else np.zeros(len(places.low), dtype=np.int64)
    found = trie.open(places.low, places.high, owner, allowed, depths=places.depth)
    values = choose_loops().gather(log_probs.numpy(), found.tokens, found.offsets)
    return Children(found.offsets, found.tokens, values, found)


def allow(trie: TokenTrie, items: IntArray) -> Filter:
    """A request that allows these items only."""
    return _filter(Subset.of(len(trie), trie.rows_of_items[items]))


def deny(trie: TokenTrie, items: IntArray) -> Filter:
    """A request that allows all but these items."""
    return _filter(Subset.everything(len(trie)).without(trie.rows_of_items[items]))


def where(trie: TokenTrie, mask: BoolArray) -> Filter:
    """A request that allows the items of a mask [N]; a mask is turned into rows once for all requests that share it."""
    return _filter(Subset.from_mask(Mask.from_bool(mask[trie.items])))


def _filter(subset: Subset) -> Filter:
    made = Filter.of([subset])
    if made is None:
        raise ValueError("nothing is filtered")
    return made


def save(trie: TokenTrie, directory: Path) -> None:
    """Into a folder."""
    trie.save(directory)


def load(directory: Path) -> TokenTrie:
    """From a folder that `save` wrote, ready for the first lookup."""
    trie = TokenTrie.load(directory)
    _ = trie.nbytes
    return trie


def update(trie: TokenTrie, added: Codes, items: IntArray, withdrawn: IntArray) -> TokenTrie:
    """Add identifiers under the numbers `items` and withdraw items, in one call, ready for the next lookup."""
    other = TokenTrie.from_rows(added.tokens, added.lengths, items=items, vocab_size=added.vocab_size)
    updated = trie.merge(other, gone=np.sort(trie.rows_of_items[withdrawn]))
    _ = updated.nbytes
    return updated


def select(
    trie: TokenTrie, places: Places, logits: torch.Tensor, scores: torch.Tensor, k: int, allowed: Filter | None = None
) -> tuple[FloatArray, IntArray]:
    """One constrained selection: the k best children of R beams from their logits [R, V] and scores [R].

    Returns:
        Scores and numbers of children [k].
    """
    found = children(trie, places, logits, allowed)
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
    guide: Guide | None = None,
    exact: bool = False,
) -> list[Ranking]:
    """Beams of U prompts; `allowed` and `boost` are [U, N] by item; `guide` is subtracted."""
    terms = _terms(trie, prompts, k, kind, allowed, boost, guide)
    return beam_search(backend.open(prompts), trie, terms, width=width, exact=exact)


def exhaust(
    backend: Backend,
    trie: TokenTrie,
    prompts: Sequence[IntArray],
    *,
    k: int,
    kind: ScoreKind = "model",
    allowed: BoolArray | None = None,
    boost: FloatArray | None = None,
    guide: Guide | None = None,
) -> list[Ranking]:
    """The same by scoring every allowed item."""
    return exhaustive_search(backend.open(prompts), trie, _terms(trie, prompts, k, kind, allowed, boost, guide))


def _terms(
    trie: TokenTrie,
    prompts: Sequence[IntArray],
    k: int,
    kind: ScoreKind,
    allowed: BoolArray | None,
    boost: FloatArray | None,
    guide: Guide | None,
) -> Terms:
    subsets = [Subset.everything(len(trie))] * len(prompts)
    if allowed is not None:
        subsets = [Subset.of(len(trie), np.flatnonzero(own[trie.items])) for own in allowed]
    boosts = None
    if boost is not None:
        boosts = [Boost(np.arange(len(trie)), own[trie.items]) for own in boost]
    return Terms(subsets, k, kind, guide, boosts)


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
    return row, found.tokens.astype(np.int64), found.log_probs.astype(np.float64)
