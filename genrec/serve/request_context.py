"""The recommender and the user of one request: the history of the file and of the store, and what the request says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from genrec.data.catalog import Catalog
from genrec.data.ids import key_of
from genrec.data.user_frames import UserLike
from genrec.recommender import Recommender
from genrec.store.event_store import Event
from genrec.types import History, ItemId


@dataclass(frozen=True)
class RequestContext:
    """A consistent view for one request; later revisions do not change it.

    Attributes:
        recommender: the recommender at the time of the request.
        user: for `Recommender.recommend`: a history, or the bare id of an unknown user, so that `on_unknown` applies.
        excluded_item_ids: items of the catalog that the user dislikes; they must not be recommended.
    """

    recommender: Recommender
    user: UserLike
    excluded_item_ids: tuple[ItemId, ...] = ()

    @property
    def history_item_ids(self) -> tuple[ItemId, ...]:
        """The items in the user's history, oldest first; empty for an unknown user."""
        return self.user.item_ids if isinstance(self.user, History) else ()

    @classmethod
    def from_events(
        cls, recommender: Recommender, file_history: Sequence[ItemId], events: Sequence[Event], requested: History
    ) -> "RequestContext":
        """The context of a known user, whose history ends with the items of the request.

        Items of the file and the store that are not in the catalog are skipped. An event with a weight of 0 or below
        removes its item from the history so far and excludes it, until a later event or the request itself has it
        again.

        Args:
            recommender: the recommender of the request.
            file_history: ids of the items in the interactions file, oldest first.
            events: those of the store, oldest first.
            requested: what the request says, with the user's id; the recommender handles unknown items.
        """
        item_ids = recommender.catalog.item_ids
        event_ids = item_ids.as_written([event.item_id for event in events])
        events = [replace(event, item_id=own) for event, own in zip(events, event_ids, strict=True)]
        seen, disliked = _merge_history(item_ids.as_written(file_history), events)
        in_request = {key_of(item_id) for item_id in item_ids.as_written(requested.item_ids)}
        disliked = [item_id for item_id in disliked if key_of(item_id) not in in_request]
        seen, disliked = (_items_in_catalog(recommender.catalog, ids) for ids in (seen, disliked))
        user = replace(requested, item_ids=(*seen, *requested.item_ids))
        return cls(recommender, user, tuple(disliked))


def _merge_history(file_history: Sequence[ItemId], events: Sequence[Event]) -> tuple[list[ItemId], list[ItemId]]:
    """The seen items, oldest first, and the disliked items."""
    seen = [(key_of(item_id), item_id) for item_id in file_history]
    disliked = dict[str | None, ItemId]()
    removed_before = dict[str | None, int]()  # position in `seen` before which an item was removed
    for event in events:
        key = key_of(event.item_id)
        if event.weight > 0:
            disliked.pop(key, None)
            seen.append((key, event.item_id))
        else:
            disliked[key] = event.item_id
            removed_before[key] = len(seen)
    kept = [item_id for position, (key, item_id) in enumerate(seen) if position >= removed_before.get(key, 0)]
    return kept, list(disliked.values())


def _items_in_catalog(catalog: Catalog, item_ids: Sequence[ItemId]) -> list[ItemId]:
    """The ids that are in a catalog."""
    if not item_ids:
        return []
    is_known = catalog.item_ids.positions(item_ids) >= 0
    return [item_id for item_id, known in zip(item_ids, is_known, strict=True) if known]
