"""genrec makes any instruction-tuned LLM a recommender that can only name things you really have.

    from genrec import open_default

    recommender = open_default()
    for item in recommender.recommend("12748", k=5, where="price < 5").items:
        print(item.rank, item.title, item.source)

Names load when they are first used, so `import genrec` is quick and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genrec.data.catalog import Catalog, read_catalog
    from genrec.data.interactions import Interactions, read_interactions
    from genrec.data.subset import Boost, Mask, Subset
    from genrec.errors import GenrecError
    from genrec.index.catalog_index import CatalogIndex
    from genrec.index.identifiers import TitleIdentifiers
    from genrec.loading import open_dataset, open_default, open_recommender
    from genrec.prompting.template import Template, read_template
    from genrec.rankers.base import Ranker, RankRequest
    from genrec.rankers.collaborative import CooccurrenceRanker
    from genrec.rankers.embedding import EmbeddingRanker
    from genrec.rankers.ensemble import BlendRanker
    from genrec.rankers.generative import GenerativeRanker
    from genrec.rankers.generative_settings import GenerativeSettings
    from genrec.rankers.popularity import PopularityRanker
    from genrec.recommender import Recommender
    from genrec.settings import Settings
    from genrec.types import History, Interaction, Item, Recommendation, RecommendationList

_HOMES = {
    "loading": ("open_dataset", "open_default", "open_recommender"),
    "settings": ("Settings",),
    "data.catalog": ("Catalog", "read_catalog"),
    "errors": ("GenrecError",),
    "index.identifiers": ("TitleIdentifiers",),
    "index.catalog_index": ("CatalogIndex",),
    "data.interactions": ("Interactions", "read_interactions"),
    "rankers.base": ("Ranker", "RankRequest"),
    "rankers.ensemble": ("BlendRanker",),
    "rankers.collaborative": ("CooccurrenceRanker",),
    "rankers.embedding": ("EmbeddingRanker",),
    "rankers.generative": ("GenerativeRanker",),
    "rankers.generative_settings": ("GenerativeSettings",),
    "rankers.popularity": ("PopularityRanker",),
    "recommender": ("Recommender",),
    "data.subset": ("Boost", "Mask", "Subset"),
    "prompting.template": ("Template", "read_template"),
    "types": ("History", "Interaction", "Item", "Recommendation", "RecommendationList"),
}

__all__ = [
    "BlendRanker",
    "Boost",
    "Catalog",
    "CatalogIndex",
    "CooccurrenceRanker",
    "EmbeddingRanker",
    "GenerativeRanker",
    "GenerativeSettings",
    "GenrecError",
    "History",
    "Interaction",
    "Interactions",
    "Item",
    "Mask",
    "PopularityRanker",
    "RankRequest",
    "Ranker",
    "Recommendation",
    "RecommendationList",
    "Recommender",
    "Settings",
    "Subset",
    "Template",
    "TitleIdentifiers",
    "open_dataset",
    "open_default",
    "open_recommender",
    "read_catalog",
    "read_interactions",
    "read_template",
]


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"genrec.{module}"), name)
    raise AttributeError(f"module 'genrec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
