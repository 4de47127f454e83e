"""Synthetic catalogs for benchmarks: uniform codes, Zipf-distributed codes, and titles.

Letters: N items, L tokens in each, T tokens in all, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from genrec.index import ragged_ranges
from genrec.prompting import Tokenizer
from genrec.types import IntArray

Tokens = NDArray[np.uint16]
Rows = TypeVar("Rows", Tokens, IntArray)


@dataclass(frozen=True)
class Identifiers:
    """N distinct identifiers, unsorted.

    Attributes:
        name: name in the report.
        vocab_size: upper bound of the tokens, exclusive.
        tokens: uint16 [T], the concatenated identifiers.
        lengths: int64 [N].
    """

    name: str
    vocab_size: int
    tokens: Tokens
    lengths: IntArray

    @classmethod
    def from_rows(cls, name: str, rows: Tokens, vocab_size: int) -> "Identifiers":
        """Create from identifiers of equal length, uint16 [N, L]."""
        lengths = np.full(len(rows), rows.shape[1], dtype=np.int64)
        return cls(name, vocab_size, np.ascontiguousarray(rows).reshape(-1), lengths)

    @classmethod
    def from_sequences(cls, name: str, sequences: Sequence[IntArray], vocab_size: int) -> "Identifiers":
        """Create from identifiers of any lengths."""
        lengths = np.array([len(one) for one in sequences], dtype=np.int64)
        return cls(name, vocab_size, np.concatenate(sequences).astype(np.uint16), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def rows(self) -> Tokens:
        """uint16 [N, L], if all identifiers have the same length."""
        length = int(self.lengths[0])
        if (self.lengths != length).any():
            raise ValueError(f"the identifiers of {self.name} have lengths of 1 to {self.lengths.max()}")
        return self.tokens.reshape(-1, length)

    @property
    def offsets(self) -> IntArray:
        """int64 [N + 1], the start of each identifier in `tokens`."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def sequences(self) -> list[IntArray]:
        """The identifiers as separate arrays."""
        return np.split(self.tokens.astype(np.int64), np.cumsum(self.lengths)[:-1])

    def prefixes(self, depth: int, count: int, *, seed: int, items: IntArray | None = None) -> IntArray:
        """int64 [count, depth], prefixes of random items (of `items`), distinct if there are enough.

        Items are sampled, not nodes, because beams too are more frequent where there are many items.
        """
        random = np.random.default_rng(seed)
        long = np.flatnonzero(self.lengths > depth) if items is None else items[self.lengths[items] > depth]
        offsets = self.offsets
        chosen = offsets[random.choice(long, 8 * count)][:, None] + np.arange(depth)
        found, first = np.unique(self.tokens[chosen].astype(np.int64), axis=0, return_index=True)
        found = found[np.argsort(first)]
        return found[np.arange(count) % len(found)]

    def most_frequent_first_tokens(self, count: int) -> IntArray:
        """int64 [count, 1], the first tokens that most items share."""
        firsts = np.bincount(self.tokens[self.offsets[:-1]], minlength=self.vocab_size)
        return np.argsort(-firsts, kind="stable")[:count][:, None]


def uniform(count: int, length: int, vocab_size: int, *, seed: int = 1) -> Identifiers:
    """Codes whose tokens are uniformly distributed at every position."""
    random = np.random.default_rng(seed)

    def draw(size: int) -> Tokens:
        return random.integers(0, vocab_size, (size, length), dtype=np.uint16)

    return Identifiers.from_rows(
        f"{_count_label(count)} uniform L{length} V{vocab_size}", _distinct(draw, count), vocab_size
    )


def zipf(count: int, length: int, vocab_size: int, *, seed: int = 1) -> Identifiers:
    """Codes whose token of rank r has probability proportional to 1 / r; each position has its own ranking."""
    random = np.random.default_rng(seed)
    share = np.cumsum(1.0 / np.arange(1, vocab_size + 1))
    ranked = np.stack([random.permutation(vocab_size) for _ in range(length)]).astype(np.uint16)

    def draw(size: int) -> Tokens:
        columns = [own[np.searchsorted(share, random.random(size) * share[-1])] for own in ranked]
        return np.stack(columns, axis=1)

    return Identifiers.from_rows(
        f"{_count_label(count)} zipf L{length} V{vocab_size}", _distinct(draw, count), vocab_size
    )


def titles(count: int, real: Sequence[str], tokenizer: Tokenizer, *, seed: int = 1) -> Identifiers:
    """Synthetic titles from the words of real ones, with an end token; some are prefixes of others.

    A word is followed by a word that follows it in a real title, or with probability 0.3 by a random word; a title ends
    where a real one does. Byte-level tokenizers split at spaces first, so the tokens of a title are those of its words.
    """
    random = np.random.default_rng(seed)
    words = [title.split() for title in real if title.split()]
    vocabulary = sorted({word for title in words for word in title})
    number = {word: place for place, word in enumerate(vocabulary)}
    corpus = np.array([place for title in words for place in [*(number[word] for word in title), -1]])
    starts = np.flatnonzero(np.append(True, corpus[:-1] < 0))

    def draw(size: int) -> IntArray:
        return _chains(random, corpus, starts, size)

    chains = _distinct(draw, count)
    pieces = [tokenizer.encode_text(word) for word in vocabulary]
    pieces += [tokenizer.encode_text(f" {word}") for word in vocabulary]
    pieces.append(np.array([tokenizer.eos_token_id]))
    # A title is its first word, the other words with a leading space, and the end token.
    inside = chains >= 0
    chosen = np.where(inside, chains + len(vocabulary) * (np.arange(chains.shape[1]) > 0), -1)
    chosen = np.concatenate([chosen, np.full((count, 1), -1)], axis=1)
    chosen[np.arange(count), inside.sum(axis=1)] = len(pieces) - 1
    sizes = np.array([len(piece) for piece in pieces])
    ends = np.cumsum(sizes)
    flat = chosen[chosen >= 0]
    place, _ = ragged_ranges(ends[flat] - sizes[flat], ends[flat])
    lengths = np.where(chosen >= 0, sizes[chosen], 0).sum(axis=1)
    tokens = np.concatenate(pieces)[place].astype(np.uint16)
    return Identifiers(f"{_count_label(count)} titles V{tokenizer.vocab_size}", tokenizer.vocab_size, tokens, lengths)


_MAX_WORDS = 12


def _chains(random: np.random.Generator, corpus: IntArray, starts: IntArray, size: int) -> IntArray:
    """int64 [size, words], word numbers; -1 after the end."""
    order = np.argsort(corpus, kind="stable")  # the positions of each word
    keys = corpus[order]
    chains = np.full((size, _MAX_WORDS), -1, dtype=np.int64)
    word = corpus[random.choice(starts, size)]
    for step in range(_MAX_WORDS):
        chains[:, step] = word
        low, high = np.searchsorted(keys, word, side="left"), np.searchsorted(keys, word, side="right")
        place = order[low + (random.random(size) * (high - low)).astype(np.int64)]
        jump = random.random(size) < 0.3
        place[jump] = random.integers(0, len(corpus) - 1, int(jump.sum()))
        following = corpus[np.minimum(place + 1, len(corpus) - 1)]
        word = np.where(word < 0, -1, following)
    return chains


def _distinct(draw: Callable[[int], Rows], count: int) -> Rows:
    """Draw until there are `count` distinct rows, in the order of the draws."""
    rows = draw(count)
    while True:
        # If two different rows have the same hash, one is lost, which is harmless.
        _, first = np.unique(hashes(rows), return_index=True)
        rows = rows[np.sort(first)]
        if len(rows) >= count:
            return rows[:count]
        rows = np.concatenate([rows, draw(2 * (count - len(rows)) + 16)])


def hashes(rows: Tokens | IntArray) -> NDArray[np.uint64]:
    """uint64 [N], a hash of each row."""
    state = np.zeros(len(rows), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in rows.T:
            state = (state ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            state ^= state >> np.uint64(29)
    return state


def _count_label(count: int) -> str:
    if count >= 1_000_000:
        return f"{count / 1_000_000:g}M"
    return f"{count / 1_000:g}k" if count >= 1_000 else str(count)
