from .advisor import Advisor as Advisor
from .advisor import PreferenceParser as PreferenceParser
from .conversation import Conversation as Conversation
from .conversation import Turn as Turn
from .item_links import extract_item_ids as extract_item_ids
from .item_links import format_item_link as format_item_link
from .loading import advisor_builder as advisor_builder
from .parsers.lexical import LexicalParser as LexicalParser
from .parsers.model import ModelParser as ModelParser
from .plain_replies import ReplyGenerator as ReplyGenerator
from .preferences import (
    Label as Label,
)
from .preferences import (
    PreferenceFilter as PreferenceFilter,
)
from .preferences import (
    Preferences as Preferences,
)
from .preferences import (
    PriceBound as PriceBound,
)
from .replies import ModelReplyGenerator as ModelReplyGenerator
