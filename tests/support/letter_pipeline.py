"""A full pipeline over a small catalog, with letter counts in place of an encoder and a table in place of an LLM."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrec import (
    Catalog,
    CatalogIndex,
    EmbeddingRanker,
    GenerativeRanker,
    GenerativeSettings,
    Item,
    TitleIdentifiers,
    read_interactions,
    read_template,
)
from genrec.pipeline import CollaborativeModel, LlmStage, Pipeline
from genrec.rankers.collaborative_counts import CollaborativeCounts
from genrec.rankers.prior_store import PriorSource
from genrec.testing import ByteTokenizer, TableBackend

WEIGHTS = {f"{what} {whose} items": 1.0 for what in ("beside", "after", "near") for whose in ("recent", "all")}
WEIGHTS |= {"like their texts": 1.0, "like their words": 1.0, "popularity": 0.1}


class LetterEncoder:
    """Encodes a text as its letter counts, and records the texts."""

    name = "letters"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        counts = np.array([[text.lower().count(letter) for letter in "abcdefghijklmnopqrst"] for text in texts])
        vectors = counts.astype(np.float32).reshape(len(texts), 20)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1)


def letter_pipeline(
    items: Sequence[Item],
    walks: Mapping[str, Sequence[object]],
    *,
    model: bool,
    prior: Sequence[Sequence[int]] = ((3, 5, 7), (10, 12)),
) -> Pipeline:
    """A pipeline.

    Args:
        items: of the catalog.
        walks: item ids of each user, oldest first.
        model: with an LLM stage.
        prior: histories, as item indices, after which the prior of the LLM is measured.
    """
    rows = [(user, str(item), time) for user, seen in walks.items() for time, item in enumerate(seen)]
    columns = dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True))
    catalog, log, encoder = (
        Catalog.from_items(items, name="shop"),
        read_interactions(pa.table(columns)),
        LetterEncoder(),
    )
    embedding = EmbeddingRanker(encoder.encode(catalog.titles), encoder=encoder)
    pipeline = Pipeline.from_rankers(
        catalog,
        log,
        embedding,
        CollaborativeModel(catalog, CollaborativeCounts.from_interactions(catalog, log), WEIGHTS),
    )
    if not model:
        return pipeline
    identifiers, tokenizer = TitleIdentifiers(), ByteTokenizer()
    index = CatalogIndex.build(catalog, identifiers, tokenizer)
    ranker = GenerativeRanker(
        index,
        TableBackend(ByteTokenizer.vocab_size),
        tokenizer,
        template=read_template("next-item"),
        cold_template=read_template("cold-start"),
        prior=PriorSource([np.array(history) for history in prior]),
        retriever=pipeline.retriever,
        settings=GenerativeSettings(candidates=15, fusion_weight=1.0),
    )
    generating = LlmStage(ranker, index, identifiers, tokenizer, 6)
    return Pipeline(**{name: getattr(pipeline, name) for name in Pipeline.__dataclass_fields__} | {"llm": generating})
