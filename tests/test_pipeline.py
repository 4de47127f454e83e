"""A revised pipeline is the pipeline of its catalog, in what it tells users too."""

from dataclasses import replace

import numpy as np
import pytest

from genrec import (
    Catalog,
    CatalogIndex,
    GenerativeRanker,
    GenerativeSettings,
    History,
    Item,
    TitleIdentifiers,
    read_template,
)
from genrec.backends.provenance import Provenance
from genrec.notices import Notice
from genrec.pipeline import LlmStage, Pipeline
from genrec.rankers.prior_store import PriorSource
from genrec.testing import ByteTokenizer, TableBackend

CATALOG = Catalog.from_items([Item(f"i{number}", f"{'abcde'[number]} lamp") for number in range(5)])
TOKENIZER, IDENTIFIERS = ByteTokenizer(), TitleIdentifiers()


def open_tuned(catalog: Catalog, trained_on: Catalog) -> Pipeline:
    """A pipeline over `catalog` whose model has an adapter that was trained on another catalog."""
    backend, plain = TableBackend(260), TableBackend(260, seed=1)
    warm, cold = read_template("next-item"), read_template("cold-start")
    index, trained = (CatalogIndex.build(one, IDENTIFIERS, TOKENIZER) for one in (catalog, trained_on))
    data = ("e" * 64, None, None, 1)
    backend.provenance = Provenance(
        "Tiny", {}, TOKENIZER.fingerprint, warm.fingerprint, trained_on.fingerprint, trained.fingerprint, *data
    )
    ranker = GenerativeRanker(
        index,
        backend,
        TOKENIZER,
        template=warm,
        cold_template=cold,
        prior=PriorSource([np.array([1, 2])], backend=plain),
        settings=GenerativeSettings(strategy="exhaustive"),
    )
    llm = LlmStage(ranker, index, IDENTIFIERS, TOKENIZER, 3)
    return replace(Pipeline.from_rankers(catalog), llm=llm, loading_notices=(Notice("no_embedding_ranker"),))


@pytest.mark.parametrize("put", [Item("i9", "z lamp"), Item("i1", "z lamp")])
def test_notices_of_an_adapter_follow_the_catalog(put: Item) -> None:
    """A stale notice says that the adapter fits a catalog it was never trained on, or that it does not fit its own."""
    changed = CATALOG.revised(upsert=Catalog.from_items([put]))
    pipeline = open_tuned(CATALOG, trained_on=CATALOG)
    assert [notice.code for notice in pipeline.notices] == ["no_embedding_ranker"]
    revised = pipeline.revised(Catalog.from_items([put]))
    opened = open_tuned(changed, trained_on=CATALOG)
    assert [notice.fields.get("name") for notice in opened.notices] == [None, "catalog", "index"]
    for served in (revised, revised.recommender()):
        assert served.notices == opened.notices
    assert revised.recommender().recommend(History(("i2",)), 2).notices == opened.notices
    back = revised.revised(CATALOG, [put.item_id] if put.item_id not in CATALOG else [])
    assert back.notices == pipeline.notices
