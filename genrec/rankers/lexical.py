"""Ranking by the letters of a query: BM25 over words and character n-grams of the items' texts.

The counts are those of SciPy's sparse matrices: items times words, multiplied by words times terms. So a term is made
once for each distinct word, and a change of the catalog counts only the new texts.

Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", FnTIR 3(4), 2009, section 3.
Letters: N items, T terms, U requests.
"""

from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from genrec.rankers.base import DenseRanker, RankRequest
from genrec.rankers.lexical_terms import Letters, terms_of, words_of
from genrec.types import FloatArray, IntArray

_SATURATION, _LENGTH_WEIGHT = 1.2, 0.75  # k1 and b, as in Lucene
_MAX_COUNT = 255  # of a term in one item; BM25 hardly tells larger ones apart
_MAX_QUERY_TERMS = 256  # the rarest terms of longer queries, which say most

_Arrays = Mapping[str, NDArray[np.generic]]


class LexicalRanker(DenseRanker):
    """Scores an item by the terms that its text shares with the query; ignores histories.

    The score is the sum of the BM25 weights of the query's distinct terms, in nats: about the log-odds that the item is
    relevant. Items that share no term are unknown. The weights of the terms follow from the counts alone, so a ranker
    that was changed by `reindexed` scores as one that is made anew.

    Args:
        terms: T terms, distinct.
        counts: uint8 [N, T], how often the text of each item has each term, by columns.
    """

    source = "lexical"

    def __init__(self, terms: Sequence[str], counts: sparse.csc_array) -> None:
        self._counts = counts
        self._numbers = {term: number for number, term in enumerate(terms)}
        n_items, n_with_term = counts.shape[0], np.diff(counts.indptr)
        self._n_with_term = n_with_term
        self._rarity = np.log1p((n_items - n_with_term + 0.5) / (n_with_term + 0.5))
        lengths = np.bincount(counts.indices, counts.data, minlength=n_items)
        relative = lengths / max(lengths.mean(), 1.0)
        self._saturation = _SATURATION * (1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * relative)

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> "LexicalRanker":
        """Count the terms of N texts."""
        numbers: dict[str, int] = {}
        counts = _count_terms(texts, numbers)
        return cls(list(numbers), counts.tocsc())

    @classmethod
    def from_arrays(cls, arrays: _Arrays) -> "LexicalRanker":
        """The ranker of which `arrays` was saved."""
        terms = list(filter(None, arrays["terms"].tobytes().decode().split("\n")))
        columns = (arrays["counts"], arrays["items"], arrays["offsets"])
        shape = (int(arrays["n_items"][0]), len(terms))
        return cls(terms, sparse.csc_array(columns, shape=shape, copy=False))

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All that it is made of, for `from_arrays`."""
        counts = self._counts
        terms = np.frombuffer("\n".join(self._numbers).encode(), dtype=np.uint8)
        n_items = np.array(counts.shape[:1])
        return {
            "terms": terms,
            "counts": counts.data,
            "items": counts.indices,
            "offsets": counts.indptr,
            "n_items": n_items,
        }

    @property
    def reads_words(self) -> bool:
        """Always: it reads nothing else."""
        return True

    def reindexed(self, new_indices: IntArray, new_texts: Sequence[str]) -> "LexicalRanker":
        """The ranker of another version of the catalog; only new texts are counted.

        Args:
            new_indices: int64 [N], the new index of each item, distinct, -1 for a removed item.
            new_texts: texts of the new items, in the order of the remaining indices.
        """
        kept = np.flatnonzero(new_indices >= 0)
        rows = np.full(len(kept) + len(new_texts), -1, dtype=np.int64)
        rows[new_indices[kept]] = kept
        rows[rows < 0] = len(new_indices) + np.arange(len(new_texts))
        numbers = dict(self._numbers)
        added = _count_terms(new_texts, numbers)
        before = self._counts.tocsr()
        before.resize((before.shape[0], len(numbers)))
        return LexicalRanker(list(numbers), sparse.vstack([before, added], format="csr")[rows].tocsc())

    def can_rank(self, request: RankRequest) -> bool:
        """True if an item has a term of the query."""
        return bool(len(self._terms(request.words)))

    def scores(self, requests: Sequence[RankRequest]) -> FloatArray:
        """float64 [U, N], BM25; minus infinity for items without a term of the query."""
        scores = np.zeros((len(requests), self._counts.shape[0]))
        offsets, items, counts = self._counts.indptr, self._counts.indices, self._counts.data
        for row, request in zip(scores, requests, strict=True):
            for term in self._terms(request.words):
                having, count = (values[offsets[term] : offsets[term + 1]] for values in (items, counts))
                row[having] += self._rarity[term] * count / (count + self._saturation[having])
        scores[scores == 0] = -np.inf  # every weight of a term is above 0
        return scores

    def _terms(self, query: str) -> IntArray:
        """The terms of a query that an item has, at most `_MAX_QUERY_TERMS`, in the order of the query."""
        distinct = dict.fromkeys(term for word in words_of(query, Letters()) for term in terms_of(word))
        known = np.array([self._numbers[term] for term in distinct if term in self._numbers], dtype=np.int64)
        known = known[self._n_with_term[known] > 0]
        rarest = np.argsort(self._n_with_term[known], kind="stable")[:_MAX_QUERY_TERMS]
        terms: IntArray = known[np.sort(rarest)]
        return terms


def _count_terms(texts: Sequence[str], numbers: dict[str, int]) -> sparse.csr_array:
    """How often each text has each term: uint8 [N, T]; new terms are added to `numbers`."""
    word_numbers: dict[str, int] = {}
    found, offsets = array("i"), array("q", [0])
    letters = Letters()
    for text in texts:
        found.extend([word_numbers.setdefault(word, len(word_numbers)) for word in words_of(text, letters)])
        offsets.append(len(found))
    terms, term_offsets = array("i"), array("q", [0])
    for word in word_numbers:
        terms.extend([numbers.setdefault(term, len(numbers)) for term in terms_of(word)])
        term_offsets.append(len(terms))
    by_word = _count_matrix(found, offsets, len(word_numbers))
    counts = sparse.csr_array(by_word @ _count_matrix(terms, term_offsets, len(numbers)))
    counts.data = np.minimum(counts.data, _MAX_COUNT).astype(np.uint8)
    counts.indices = counts.indices.astype(np.int32, copy=False)
    return counts


def _count_matrix(columns: "array[int]", offsets: "array[int]", n_columns: int) -> sparse.csr_array:
    ones = np.ones(len(columns), dtype=np.float32)
    rows = (ones, np.array(columns, dtype=np.int32), np.array(offsets, dtype=np.int64))
    matrix = sparse.csr_array(rows, shape=(len(offsets) - 1, n_columns))
    matrix.sum_duplicates()
    return matrix
