"""Rankers over a catalog of 20 short titles, shared by the tests of rankers."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from contracts import KnownAnswer, RankerContract
from numpy.typing import NDArray

from genrec.data.catalog import Catalog
from genrec.data.subset import Subset
from genrec.index.catalog_index import CatalogIndex
from genrec.index.identifiers import TitleIdentifiers
from genrec.prompting.template import Template
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.rankers.collaborative import CooccurrenceRanker
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.generative import GenerativeRanker
from genrec.rankers.generative_settings import GenerativeSettings
from genrec.rankers.popularity import PopularityRanker
from genrec.rankers.prior_store import PriorSource
from genrec.testing import ByteTokenizer, TableBackend
from genrec.types import IntArray, Item

N = 20
EVERYTHING = Subset.everything(N)
TITLES = ["".join(letters) for size in (1, 2, 3) for letters in itertools.product("abc", repeat=size)][:N]
CATALOG = Catalog.from_items([Item(f"i{place}", title) for place, title in enumerate(TITLES)], name="letters")
HEADER = '{{#\nname = "{0}"\nversion = 1\ninputs = {1}\noutput = "{2}"\n#}}\n'
WARM = HEADER.format("warm", '["history", "words"]', "item") + (
    "{% block user %}{% for item in history %}{{ item.title }},{% endfor %}{{ words }}?{% endblock %}"
)
COLD = HEADER.format("cold", '["words"]', "item") + "{% block user %}{{ words }}?{% endblock %}"


def only(*items: int) -> Subset:
    return Subset.from_indices(N, items)


def history(*items: int) -> IntArray:
    return np.array(items, dtype=np.int64)


class LetterEncoder:
    """Encodes equal texts as equal random vectors."""

    name = "letters"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [np.random.default_rng(list(text.encode())).normal(size=8) for text in texts]
        vectors = np.array(rows, dtype=np.float32).reshape(-1, 8)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def popularity() -> PopularityRanker:
    return PopularityRanker(np.random.default_rng(4).integers(0, 6, N))


def cooccurrence() -> CooccurrenceRanker:
    """400 random histories, and 100 in which item 7 directly follows item 3."""
    random = np.random.default_rng(5)
    baskets = [random.choice(N, 4, replace=False) for _ in range(400)] + [history(3, 7)] * 100
    offsets = np.concatenate([[0], np.cumsum([len(basket) for basket in baskets])])
    return CooccurrenceRanker(offsets, np.concatenate(baskets), N)


def embedding() -> EmbeddingRanker:
    """The vectors of items 3 and 7 are almost equal."""
    vectors = LetterEncoder().encode(TITLES)
    vectors[7] = vectors[3] + 0.01 * vectors[5]
    return EmbeddingRanker(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), encoder=LetterEncoder())


class FixedRanker(DenseRanker):
    """Gives every user the same scores."""

    source = "fixed"

    def __init__(self, scores: NDArray[Any]) -> None:
        self._scores = scores

    def can_rank(self, request: RankRequest) -> bool:
        return len(request.history) > 0

    def scores(self, requests: Sequence[RankRequest]) -> NDArray[Any]:
        return np.broadcast_to(self._scores, (len(requests), len(self._scores)))


def generative(*, backend: TableBackend | None = None, **options: Any) -> GenerativeRanker:
    """An LLM ranker whose model is a table; options are settings, or `PriorSource` fields with the prefix prior_."""
    tokenizer = ByteTokenizer()
    fields = ("histories", "cache", "backend")
    prior = PriorSource(**{name: options.pop(f"prior_{name}") for name in fields if f"prior_{name}" in options})
    return GenerativeRanker(
        CatalogIndex.build(CATALOG, TitleIdentifiers(), tokenizer),
        backend or TableBackend(tokenizer.vocab_size, seed=9),
        tokenizer,
        template=Template.from_source(WARM),
        cold_template=Template.from_source(COLD),
        retriever=popularity(),
        settings=GenerativeSettings(**options),
        prior=prior,
    )


class DenseRankerContract(RankerContract):
    """The ranker contract over the 20 items of this module; item 7 is the best for a history of item 3."""

    @pytest.fixture
    def items(self) -> int:
        return N

    @pytest.fixture
    def planted(self) -> KnownAnswer:
        return KnownAnswer(RankRequest(history(3), "", EVERYTHING.without([3])), 7)


class CountingBackend(TableBackend):
    """Counts the calls of `open`."""

    opened = 0

    def open(self, prompts: Sequence[IntArray], **options: Any) -> Any:
        self.opened += 1
        return super().open(prompts, **options)
