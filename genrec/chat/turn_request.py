"""What a recommender is asked for in a turn of a conversation.

A conversation is a value that clients keep, so its items may have been withdrawn since; see `genrec.data.named_items`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from genrec.chat.conversation import Conversation
from genrec.chat.preferences import Preferences
from genrec.data.catalog import WITHDRAWN, Catalog
from genrec.data.filter_syntax import Filter
from genrec.data.named_items import look_up_named, withdrawn_notices
from genrec.notices import Notice
from genrec.types import History, ItemId, Recommendation, RecommendationList


@dataclass(frozen=True)
class TurnRequest:
    """What a recommender is asked for in a turn; names only items of the catalog.

    Attributes:
        history: the user's history with the liked items and the search phrases.
        excluded: items that must not be recommended.
        shown: items of the lists so far.
        where: the filters of the preferences; None for none.
        notices: about withdrawn items of the conversation or the preferences, which are ignored.
    """

    history: History
    excluded: tuple[ItemId, ...]
    shown: tuple[ItemId, ...]
    where: Filter | None
    notices: tuple[Notice, ...]

    @classmethod
    def from_conversation(cls, conversation: Conversation, preferences: Preferences, catalog: Catalog) -> "TurnRequest":
        """The request for a turn after a conversation, under new preferences.

        Raises:
            UnknownItemError: an item of the conversation or the preferences was never in the catalog.
        """
        withdrawn: list[ItemId] = []

        def present(name: str, item_ids: Sequence[ItemId]) -> tuple[ItemId, ...]:
            is_present = look_up_named(catalog, name, item_ids) >= 0
            withdrawn.extend(item_id for item_id, kept in zip(item_ids, is_present, strict=True) if not kept)
            return tuple(item_id for item_id, kept in zip(item_ids, is_present, strict=True) if kept)

        shown = [item.item_id for turn in conversation.turns for item in turn.recommendations.items]
        item_ids = (*present("history", conversation.history), *present("liked", preferences.liked))
        return cls(
            History(item_ids, "; ".join(preferences.words), conversation.user_id),
            (*present("excluded", conversation.excluded), *present("disliked", preferences.disliked)),
            present("the shown items", shown),
            preferences.condition,
            tuple(withdrawn_notices(withdrawn)),
        )


def split_withdrawn(
    items: Sequence[Recommendation], catalog: Catalog
) -> tuple[list[Recommendation], list[Recommendation]]:
    """The items of an earlier list that are still in the catalog, and those that were withdrawn since."""
    is_withdrawn = catalog.lookup([item.item_id for item in items]) == WITHDRAWN
    return (
        [item for item, gone in zip(items, is_withdrawn, strict=True) if not gone],
        [item for item, gone in zip(items, is_withdrawn, strict=True) if gone],
    )


def without_withdrawn(recommendations: RecommendationList, catalog: Catalog) -> RecommendationList:
    """An earlier list as it can be shown again: without items that were withdrawn since, which a notice lists.

    The other items keep their ranks, to which later messages may refer.
    """
    items, withdrawn = split_withdrawn(recommendations.items, catalog)
    if not withdrawn:
        return recommendations
    others = [notice for notice in recommendations.notices if notice.code != "withdrawn_items"]
    notices = (*others, *withdrawn_notices(item.item_id for item in withdrawn))
    return replace(recommendations, items=tuple(items), notices=notices)


def numbered(items: Iterable[Recommendation]) -> tuple[Recommendation, ...]:
    """Items with ranks from 1, in their order."""
    return tuple(replace(item, rank=rank) for rank, item in enumerate(items, start=1))
