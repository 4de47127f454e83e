"""The embedded shop, its validation people, and the LLM as their ranker, for what compares backends."""

from dataclasses import dataclass
from typing import Any

from eval.speed.size import requests_of
from genrec import (
    CatalogIndex,
    GenerativeRanker,
    GenerativeSettings,
    PopularityRanker,
    RankRequest,
    TitleIdentifiers,
    open_dataset,
    read_template,
)
from genrec.backends import Backend
from genrec.cache import default_cache
from genrec.evaluation import next_basket
from genrec.loading import find_model_directory
from genrec.prompting import HuggingFaceTokenizer
from genrec.settings import LANGUAGE_MODEL


@dataclass(frozen=True)
class Shop:
    """What is ranked, and for whom."""

    index: CatalogIndex
    tokenizer: HuggingFaceTokenizer
    requests: list[RankRequest]
    popularity: PopularityRanker

    def ranker(self, backend: Backend, **settings: Any) -> GenerativeRanker:
        """The LLM alone: no prior and no evidence, beams that do not go on until they are proven."""
        plain: dict[str, Any] = {"prior": 0.0, "fusion_weight": 0.0, "exact": False, **settings}
        return GenerativeRanker(
            self.index,
            backend,
            self.tokenizer,
            template=read_template("next-item"),
            cold_template=read_template("cold-start"),
            retriever=self.popularity,
            settings=GenerativeSettings(**plain),
        )


def open_shop(users: int, *, seed: int) -> Shop:
    """So many customers with their next basket held back, in the tokens of the bundled model."""
    catalog, interactions = open_dataset("online-retail", default_cache())
    experiment = next_basket(catalog, interactions, users=users, part="validation", seed=seed)
    tokenizer = HuggingFaceTokenizer.from_directory(find_model_directory(LANGUAGE_MODEL, default_cache()))
    index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
    popular = PopularityRanker(experiment.train.item_counts(catalog, on_unknown="skip"))
    return Shop(index, tokenizer, requests_of(catalog, experiment.cases), popular)
