"""Laws of the search on the real model, compared with the plain model on one title at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from genrec import Catalog, CatalogIndex, TitleIdentifiers, open_dataset
from genrec.backends.transformers import TransformersBackend
from genrec.data.subset import Subset
from genrec.deadline import Deadline
from genrec.decoding.search import beam_search, exhaustive_search
from genrec.decoding.search_request import SearchRequest
from genrec.prompting.template import read_template
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.rankers.base import RankRequest
from genrec.rankers.generative import GenerativeRanker
from genrec.rankers.generative_settings import GenerativeSettings, Strategy
from genrec.rankers.popularity import PopularityRanker
from genrec.settings import Settings
from genrec.types import FloatArray, IntArray, Message, Span

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def index(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> CatalogIndex:
    catalog, _ = open_dataset("online-retail", tmp_path_factory.mktemp("cache"))
    some = Catalog.from_items(catalog[index] for index in range(0, 3600, 36))
    return CatalogIndex.build(some, TitleIdentifiers(), HuggingFaceTokenizer.from_directory(smollm2))


@pytest.fixture(scope="module")
def prompts(smollm2: Path) -> list[IntArray]:
    tokenizer = HuggingFaceTokenizer.from_directory(smollm2)
    texts = ("I bought a red lamp. What next?", "Something for a child's birthday, please.")
    return [tokenizer.encode_prompt([Message("user", (Span(text, False),))]) for text in texts]


@pytest.fixture(scope="module")
def truth(smollm2_float32: TransformersBackend, index: CatalogIndex, prompts: list[IntArray]) -> FloatArray:
    """float64 [prompts, items]: each title scored behind the prompt by the plain model, without sharing or packing."""
    scores = np.empty((len(prompts), len(index.trie)))
    for row, prompt in enumerate(prompts):
        for item, trie_row in enumerate(index.trie.rows_of_items):
            title = torch.from_numpy(index.trie.tokens_of_row(int(trie_row)).astype(np.int64))
            with torch.inference_mode():
                logits = smollm2_float32.model(torch.cat([torch.from_numpy(prompt), title])[None]).logits[0]
            log_probs = logits[len(prompt) - 1 : -1].log_softmax(dim=-1)
            scores[row, item] = log_probs[torch.arange(len(title)), title].sum().item()
    return scores


def test_wide_and_exhaustive_search_equal_the_plain_model(
    smollm2_float32: TransformersBackend, index: CatalogIndex, prompts: list[IntArray], truth: FloatArray
) -> None:
    """The tree, the mask, the packing and the beam may change the cost of a ranking, never the ranking."""
    request = SearchRequest([Subset.everything(100)] * len(prompts), 100)
    wide = beam_search(smollm2_float32.open(prompts), index.trie, request, width=100)
    packed = exhaustive_search(smollm2_float32.open(prompts), index.trie, request)
    for row, rankings in enumerate(zip(wide, packed, strict=True)):
        for ranking in rankings:
            assert ranking.proven
            np.testing.assert_allclose(ranking.scores, np.sort(truth[row])[::-1], atol=2e-3)
            np.testing.assert_allclose(truth[row, ranking.item_indices], ranking.scores, atol=2e-3)


def test_proven_narrow_search_equals_the_plain_model(
    smollm2_float32: TransformersBackend, index: CatalogIndex, prompts: list[IntArray], truth: FloatArray
) -> None:
    """A ranking that is proven must be right, always."""
    outcomes = []
    for k, width in ((1, 4), (3, 20)):
        for exact in (False, True):
            request = SearchRequest([Subset.everything(100)] * len(prompts), k)
            found = beam_search(smollm2_float32.open(prompts), index.trie, request, width=width, exact=exact)
            for row, ranking in enumerate(found):
                assert len(ranking.item_indices) == k
                assert ranking.proven or not exact
                best = np.sort(truth[row])[::-1][:k]
                outcomes.append(ranking.proven)
                if ranking.proven:
                    np.testing.assert_allclose(truth[row, ranking.item_indices], best, atol=2e-3)
    assert any(outcomes)


@pytest.mark.parametrize("strategy", ["candidates", "beam"])
def test_a_list_does_not_depend_on_the_batch(
    smollm2: Path, smollm2_float32: TransformersBackend, index: CatalogIndex, strategy: Strategy
) -> None:
    """Padding and the size of matrix products change the rounding of scores, and so the order of close items."""
    settings = Settings()
    ranker = GenerativeRanker(
        index,
        smollm2_float32,
        HuggingFaceTokenizer.from_directory(smollm2),
        template=read_template(settings.template),
        cold_template=read_template(settings.cold_template),
        retriever=PopularityRanker(np.zeros(100, dtype=np.int64)),
        settings=GenerativeSettings(strategy=strategy, candidates=12, width=3, exact=False, prior=0.0),
    )
    histories = ([3], [3, 8, 50, 99, 12], [40, 41, 42, 43, 44, 45, 46, 47, 48])
    requests = [RankRequest(np.array(own), "", Subset.everything(100)) for own in histories]
    together = ranker.rank(requests, 10, deadline=Deadline.never())
    for request, ranking in zip(requests, together, strict=True):
        (alone,) = ranker.rank([request], 10, deadline=Deadline.never())
        assert alone.item_indices.tolist() == ranking.item_indices.tolist()
        assert alone.scores.tolist() == ranking.scores.tolist()
