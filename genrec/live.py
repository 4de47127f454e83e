"""A recommender whose catalog and histories change while it answers."""

from collections.abc import Sequence

from genrec.catalog import Catalog
from genrec.errors import UnknownUserError
from genrec.recommender import Recommender
from genrec.store import Store
from genrec.types import History, ItemId, UserId


class Live:
    """The recommender as it is now, and what is known of people now.

    Args:
        recommender: as it was opened.
        store: what happened since.
    """

    def __init__(self, recommender: Recommender, store: Store) -> None:
        self.recommender, self._store = recommender, store

    def person(self, user_id: UserId | None = None, history: tuple[ItemId, ...] = (), words: str = "") -> History:
        """Somebody by all that is known: the file's history, what happened since, and what the caller says."""
        known: list[ItemId] = []
        if user_id is not None:
            known += self._from_file(user_id)
            known += [event.item_id for event in self._store.events_of(user_id)]
        return History((*known, *history), words, user_id)

    def revise(self, put: Catalog | None, withdraw: Sequence[ItemId]) -> None:
        """Add, change and withdraw items."""
        raise NotImplementedError

    def _from_file(self, user_id: UserId) -> Sequence[ItemId]:
        interactions = self.recommender.interactions
        if interactions is None or self._store.is_forgotten(user_id):
            return ()
        try:
            return interactions.history_of(user_id).item_ids
        except UnknownUserError:
            return ()
