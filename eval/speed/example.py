"""The worked example of docs/search.md: six titles of the embedded shop, one user, every pass of the search.

    python -m eval.speed.example                             # print it
    python -m eval.speed.example --svg docs/token-tree.svg   # draw it too

Letters: T prefixes of the trie, N rows.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from genrec import (
    Catalog,
    CatalogIndex,
    GenerativeRanker,
    GenerativeSettings,
    RankRequest,
    TitleIdentifiers,
    open_dataset,
    read_template,
)
from genrec.backends import Backend, TokenTree
from genrec.cache import default_cache
from genrec.data import Subset
from genrec.decoding import SearchRequest, beam_search
from genrec.index import TokenTrie
from genrec.loading import find_model_directory
from genrec.prompting import HuggingFaceTokenizer
from genrec.settings import LANGUAGE_MODEL
from genrec.types import BoolArray, FloatArray, IntArray, Ranking

TITLES = (
    "Hand Warmer Owl Design",
    "Hand Warmer Red Love Heart",
    "Set/6 Posies Paper Cups",
    "Set/6 Posies Paper Plates",
    "Set/6 Red Spotty Paper Cups",
    "Set/6 Red Spotty Paper Plates",
)
BOUGHT = 2  # the only title of the history; it is not allowed
K = WIDTH = 2
END = "<end>"


@dataclass
class RecordingTree:
    """Delegates to a tree, and records the nodes grown and the log-probabilities read."""

    tree: TokenTree
    passes: list[tuple[IntArray, IntArray, IntArray]] = field(default_factory=list)
    reads: list[tuple[int, int, int, float]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.tree.size

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        nodes = self.tree.grow(parents, tokens)
        self.passes.append((nodes, parents, tokens))
        return nodes

    def log_probs(self, nodes: IntArray, tokens: IntArray, offsets: IntArray) -> FloatArray:
        found = self.tree.log_probs(nodes, tokens, offsets)
        owners = np.repeat(nodes, np.diff(offsets))
        for node, token, step in zip(owners, tokens, found, strict=True):
            self.reads.append((len(self.passes), int(node), int(token), float(step)))
        return found

    def rewind(self, size: int) -> None:
        self.tree.rewind(size)


@dataclass(frozen=True)
class Example:
    """One search, prefix by prefix; prefix t ends at position t of `trie.tokens`.

    Attributes:
        trie: the six titles.
        words: the text of each token [T].
        prompt: number of prompt tokens.
        allowed: bool [N], whether a row may be recommended.
        grown_pass: int64 [T], the pass that grew the prefix; 0 if none did.
        read_pass: int64 [T], the pass after which its log-probability was read; -1 if it was not.
        log_probs: float64 [T], that log-probability; NaN if it was not read.
        order: prefixes in the order in which they were grown.
        plain: the result of beam search without `exact`.
        ranking: the result with `exact`; the other attributes describe this search.
    """

    trie: TokenTrie
    words: list[str]
    prompt: int
    allowed: BoolArray
    grown_pass: IntArray
    read_pass: IntArray
    log_probs: FloatArray
    order: list[int]
    plain: Ranking
    ranking: Ranking

    @property
    def path_scores(self) -> FloatArray:
        """float64 [T], the score of the path to each prefix, inclusive; NaN if unknown."""
        gains = self.log_probs.copy()
        for place in np.argsort(self.trie.depths, kind="stable"):
            above = self.trie.parents[place]
            gains[place] += gains[above] if above >= 0 else 0.0
        return gains

    def scored_rows(self, passes: int) -> IntArray:
        """Rows whose score is known after a number of passes."""
        read = self.read_pass[self.trie.last_positions]
        return np.flatnonzero((read >= 0) & (read <= passes))

    def path(self, prefix: int) -> str:
        """The text of a prefix."""
        row = np.searchsorted(self.trie.last_positions, [prefix])
        return "".join(self.words[above] for above in self.trie.path_positions(row)[: self.trie.depths[prefix] + 1])

    def open_prefixes(self, passes: int) -> IntArray:
        """Prefixes that are read but not grown after a number of passes."""
        is_open = (
            (self.read_pass >= 0) & (self.read_pass <= passes) & ((self.grown_pass == 0) | (self.grown_pass > passes))
        )
        is_open[self.trie.last_positions] = False
        return np.flatnonzero(is_open)


def run(catalog: Catalog, backend: Backend, tokenizer: HuggingFaceTokenizer) -> Example:
    """Search the six titles for a user who bought one of them."""
    index = CatalogIndex.build(
        Catalog.from_items((item for item in catalog if item.title in TITLES), name="six titles"),
        TitleIdentifiers(),
        tokenizer,
    )
    titles, trie = list(index.catalog.titles), index.trie
    bought = np.array([titles.index(TITLES[BOUGHT])])
    allowed = Subset.everything(len(trie)).without(trie.rows_of_items[bought])
    ranker = GenerativeRanker(
        index, backend, tokenizer, template=read_template("next-item"), cold_template=read_template("cold-start"),
        settings=GenerativeSettings(strategy="beam", prior=0.0),
    )  # fmt: skip
    prompt = ranker.render(RankRequest(bought, "", Subset.everything(len(titles)))).token_ids
    terms = SearchRequest([allowed], K)
    plain = beam_search(backend.open([prompt]), trie, terms, width=WIDTH)[0]
    tree = RecordingTree(backend.open([prompt]))
    ranking = beam_search(tree, trie, terms, width=WIDTH, exact=True)[0]
    words = [END if token == tokenizer.eos_token_id else tokenizer.decode([int(token)]) for token in trie.tokens]
    return Example(trie, words, len(prompt), allowed.to_bool(), *_by_prefix(trie, tree), plain, ranking)


def _by_prefix(trie: TokenTrie, tree: RecordingTree) -> tuple[IntArray, IntArray, FloatArray, list[int]]:
    """The record of a tree by prefix: passes that grew them, passes that read them, log-probabilities, order."""
    edges = zip(trie.parents.tolist(), trie.tokens.tolist(), strict=True)
    behind = {edge: place for place, edge in enumerate(edges)}
    grown, read = np.zeros(len(trie.tokens), dtype=np.int64), np.full(len(trie.tokens), -1)
    steps, order, places = np.full(len(trie.tokens), np.nan), [], {0: -1}
    for number, (nodes, parents, tokens) in enumerate(tree.passes, 1):
        for node, parent, token in zip(nodes, parents, tokens, strict=True):
            place = places[int(node)] = behind[places[int(parent)], int(token)]
            grown[place] = number
            order.append(place)
    for number, node, token, step in tree.reads:
        place = behind[places[node], token]
        read[place], steps[place] = number, step
    return grown, read, steps, order


def describe(example: Example, titles: list[str]) -> Iterator[str]:
    """Lines of text: the rows of the trie, the prefixes read in each pass, and the results."""
    trie, gains = example.trie, example.path_scores
    starts = trie.last_positions + 1 - trie.tails
    yield "row item shared tails  tokens of its own"
    for row, item in enumerate(trie.items):
        own = " ".join(repr(example.words[place]) for place in range(starts[row], trie.last_positions[row] + 1))
        yield f"{row:3} {item:4} {trie.shared[row]:6} {trie.tails[row]:5}  {own}"
    for name in ("tokens", "shared", "tails", "items"):
        array = getattr(trie, name)
        yield f"{name:6} {array.dtype} {array.tolist()}"
    yield f"prompt {example.prompt} tokens; allowed rows {np.flatnonzero(example.allowed).tolist()}"
    for number in range(len(set(example.grown_pass.tolist()) - {0}) + 1):
        grown = [example.words[place] for place in example.order if example.grown_pass[place] == number]
        yield f"pass {number} grows {len(grown)}: {' '.join(map(repr, grown))}" if number else "after the prompt"
        for place in np.flatnonzero(example.read_pass == number):
            yield f"  {example.log_probs[place]:7.2f} {gains[place]:7.2f}  {example.path(int(place))}"
    for name, ranking in (("width 2", example.plain), ("width 2, exact", example.ranking)):
        pairs = zip(ranking.item_indices, ranking.scores, strict=True)
        found = ", ".join(f"{titles[item]} {score:.2f}" for item, score in pairs)
        cost = f"nodes {ranking.generated_tokens}, passes {ranking.forward_passes}"
        yield f"{name}: {found}; proven {ranking.proven}, {cost}"


def main() -> None:
    """Print the example, and draw it with --svg."""
    parser = argparse.ArgumentParser(prog="python -m eval.speed.example", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--svg", type=Path, metavar="FILE", help="draw the token tree to this file, and a PNG beside it"
    )
    options = parser.parse_args()
    import torch

    from genrec.backends import TransformersBackend

    cache = default_cache()
    weights = find_model_directory(LANGUAGE_MODEL, cache)
    backend = TransformersBackend(weights, device="cpu", dtype=torch.float32, name=LANGUAGE_MODEL)
    catalog, _ = open_dataset("online-retail", cache)
    example = run(catalog, backend, HuggingFaceTokenizer.from_directory(weights))
    titles = [title for title in catalog.titles if title in TITLES]
    print("\n".join(describe(example, titles)))
    if options.svg:
        from eval.speed.picture import draw_tree

        draw_tree(example, titles, options.svg)


if __name__ == "__main__":
    main()
