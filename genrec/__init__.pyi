from .cache import default_cache as default_cache
from .data.catalog import Catalog as Catalog
from .data.catalog import read_catalog as read_catalog
from .data.file_options import FileFormat as FileFormat
from .data.interactions import Interactions as Interactions
from .data.interactions import read_interactions as read_interactions
from .data.subset import Boost as Boost
from .data.subset import Mask as Mask
from .data.subset import Subset as Subset
from .errors import GenrecError as GenrecError
from .index.catalog_index import CatalogIndex as CatalogIndex
from .index.identifiers import TitleIdentifiers as TitleIdentifiers
from .loading import open_dataset as open_dataset
from .loading import open_default as open_default
from .loading import open_recommender as open_recommender
from .notices import Notice as Notice
from .prompting.chat_template import ChatTemplateSettings as ChatTemplateSettings
from .prompting.template import Template as Template
from .prompting.template import read_template as read_template
from .rankers.base import Ranker as Ranker
from .rankers.base import RankRequest as RankRequest
from .rankers.collaborative import CooccurrenceRanker as CooccurrenceRanker
from .rankers.embedding import EmbeddingRanker as EmbeddingRanker
from .rankers.ensemble import BlendRanker as BlendRanker
from .rankers.generative import GenerativeRanker as GenerativeRanker
from .rankers.generative_settings import GenerativeSettings as GenerativeSettings
from .rankers.popularity import PopularityRanker as PopularityRanker
from .recommender import Recommender as Recommender
from .settings import Settings as Settings
from .types import (
    History as History,
)
from .types import (
    Interaction as Interaction,
)
from .types import (
    Item as Item,
)
from .types import (
    Recommendation as Recommendation,
)
from .types import (
    RecommendationList as RecommendationList,
)
