"""The embedded shop with its validation users and a language-model ranker, for comparisons of backends."""

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
    """The index of the shop, and the requests of its validation users."""

    index: CatalogIndex
    tokenizer: HuggingFaceTokenizer
    requests: list[RankRequest]
    popularity: PopularityRanker

    def ranker(self, backend: Backend, **settings: Any) -> GenerativeRanker:
        """The language model alone: no prior, no fusion, and beam search without proof."""
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
    """Open the shop for a number of users with their next basket held out, tokenized for the bundled model."""
    catalog, interactions = open_dataset("online-retail", default_cache())
    experiment = next_basket(catalog, interactions, users=users, part="validation", seed=seed)
    tokenizer = HuggingFaceTokenizer.from_directory(find_model_directory(LANGUAGE_MODEL, default_cache()))
    index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
    popular = PopularityRanker(experiment.train.item_counts(catalog, on_unknown="skip"))
    return Shop(index, tokenizer, requests_of(catalog, experiment.cases), popular)
