"""A recommender whose catalog and histories change while it answers.

The files say what was known when they were read; a store says what happened since. Every request takes one `Asked`: the
recommender of this moment, and the person as that recommender's catalog knows them. A revision makes the next
recommender aside and puts it in the place of the old one, on which answers under way finish. Several servers may share
a store: what one of them revises the others take over within a second.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from genrec.data.catalog import Catalog
from genrec.data.ids import key_of
from genrec.errors import GenrecError, UnknownUserError
from genrec.pipeline import Pipeline
from genrec.recommender import Recommender, UserLike
from genrec.store.event_store import Event, Store
from genrec.types import History, Item, ItemId, UserId

_POLL_INTERVAL = 1.0  # seconds for which nobody looks whether another server revised the catalog
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestContext:
    """What one request is answered from; whatever is revised meanwhile, its parts fit each other.

    Attributes:
        recommender: of the moment when it was asked.
        user: for `Recommender.recommend`: a history or, of a user whom nobody knows, the bare id, so that
            `on_unknown` says what becomes of them.
        excluded_item_ids: items of the catalog that the person does not like, to be excluded from what is recommended.
    """

    recommender: Recommender
    user: UserLike
    excluded_item_ids: tuple[ItemId, ...] = ()

    @property
    def history_item_ids(self) -> tuple[ItemId, ...]:
        """What the person met, oldest first; nothing of a user whom nobody knows."""
        return self.user.item_ids if isinstance(self.user, History) else ()


class ServingState:
    """The current recommender, and what is known of people now; threads may share it.

    Args:
        pipeline: of the files, see `genrec.loading.open_parts`; the store's revisions are laid over them.
        store: what happened since; other servers may revise it, too.
        clock: seconds, rising, by which `request_context` looks once a second at most what others revised.

    Raises:
        StoreError: the store cannot be read.
        InputError: its revisions do not fit the catalog.
    """

    def __init__(self, pipeline: Pipeline, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._lock = threading.Lock()  # one revision at a time; answers do not wait for it
        self._revision, self._polled_at = store.revision(), clock()
        self._current = self._with_revisions(pipeline)

    @property
    def recommender(self) -> Recommender:
        """The current one; it knows no user by their id alone, and what other servers revised by `ask` alone."""
        return self._current[1]

    @property
    def catalog(self) -> Catalog:
        """The current one."""
        return self._current[0].catalog

    def request_context(
        self, user_id: UserId | None = None, history: Sequence[ItemId] = (), words: str = ""
    ) -> RequestContext:
        """What to answer a request from: the file's history, unless the user is forgotten, the events since, and more.

        What another server revised up to a second ago is known. Where that cannot be taken over it is logged and tried
        again a second later, and what is known here answers.

        Of items that are not in the catalog, or no longer, the files and the store may tell; they are left out. Of
        somebody's events the newest count, see `Store.events_of`. One of weight 0 or less takes its item out of what
        was met before it and makes it unwanted, until a later event, or the request's own history, names it again.

        Args:
            user_id: None for somebody unknown.
            history: item ids that the request brings, oldest first; an unknown one is the recommender's to judge.
            words: what they look for.

        Raises:
            StoreError: the store cannot be read.
        """
        self._poll_revisions()
        parts, recommender = self._current
        if user_id is None:
            return RequestContext(recommender, History(tuple(history), words))
        filed, known = self._file_history(parts, user_id)
        events = self._store.events_of(user_id)
        if not (known or events or history or words.strip()):
            return RequestContext(recommender, user_id)
        liked, unwanted = _merge_history(filed, events)
        named = {key_of(item_id) for item_id in history}
        unwanted = [item_id for item_id in unwanted if key_of(item_id) not in named]
        told, unwanted = _items_in_catalog(parts.catalog, liked), _items_in_catalog(parts.catalog, unwanted)
        return RequestContext(recommender, History((*told, *history), words, user_id), tuple(unwanted))

    def revise(self, put: Catalog | None = None, withdraw: Iterable[ItemId] = ()) -> None:
        """Add, change and withdraw items; whoever asks afterwards is answered from the new catalog.

        It is in the store before anybody sees it, so a restart brings it back. What other servers revised is taken over
        first. What fails changes nothing.

        Args:
            put: new items, and others that take the place of those with their ids, attributes and all.
            withdraw: ids.

        Raises:
            UnknownItemError: an id to withdraw is not in the catalog.
            InputError: an item is both put and withdrawn, nothing would be left, or an attribute is of another kind.
            StoreError: the store cannot keep it.
            EngineError: a model failed.
        """
        gone = list(withdraw)
        items = [] if put is None else [_without_missing(item) for item in put]
        with self._lock:
            number = None
            while number is None:  # another server may have revised the store since it was looked at
                self._sync_revisions()
                parts = self._current[0].revised(put, gone)
                recommender = parts.recommender(lookup_users=False)
                number = self._store.revise(items, list(dict.fromkeys(gone)), expected_revision=self._revision)
            self._revision, self._current = number, (parts, recommender)

    def _poll_revisions(self) -> None:
        """Catch up where it is time to, unless somebody is at it: answers wait for no revision but their own."""
        if self._clock() - self._polled_at < _POLL_INTERVAL or not self._lock.acquire(blocking=False):
            return
        try:
            self._sync_revisions()
        except GenrecError as error:
            _LOGGER.warning("what other servers revised cannot be taken over: %s", error)
        finally:
            self._polled_at = self._clock()
            self._lock.release()

    def _sync_revisions(self) -> None:
        """Take over what others revised; under the lock."""
        number = (
            self._store.revision()
        )  # before the revisions: what is newer than it comes once more, and changes nothing
        if number != self._revision:
            self._revision, self._current = number, self._with_revisions(self._current[0])

    def _with_revisions(self, pipeline: Pipeline) -> tuple[Pipeline, Recommender]:
        """With all that the store knows laid over it."""
        put, withdrawn = self._store.revisions()
        gone = [item_id for item_id in withdrawn if item_id in pipeline.catalog]
        if put or gone:
            pipeline = pipeline.revised(Catalog.from_items(put) if put else None, gone)
        return pipeline, pipeline.recommender(lookup_users=False)

    def _file_history(self, pipeline: Pipeline, user_id: UserId) -> tuple[Sequence[ItemId], bool]:
        """What the interactions file says of a user, and whether it may be used."""
        if pipeline.interactions is None:
            return (), False
        try:
            history = pipeline.interactions.history_of(user_id).item_ids
        except UnknownUserError:
            return (), False
        return ((), False) if self._store.is_forgotten(user_id) else (history, True)


def _merge_history(file_history: Sequence[ItemId], events: Sequence[Event]) -> tuple[list[ItemId], list[ItemId]]:
    """What was met, oldest first, and what is not liked."""
    met = [(key_of(item_id), item_id) for item_id in file_history]
    unwanted = dict[str | None, ItemId]()
    ended = dict[str | None, int]()  # the place in what was met before which an item no longer counts
    for event in events:
        key = key_of(event.item_id)
        if event.weight > 0:
            unwanted.pop(key, None)
            met.append((key, event.item_id))
        else:
            unwanted[key] = event.item_id
            ended[key] = len(met)
    counting = [item_id for place, (key, item_id) in enumerate(met) if place >= ended.get(key, 0)]
    return counting, list(unwanted.values())


def _items_in_catalog(catalog: Catalog, item_ids: Sequence[ItemId]) -> list[ItemId]:
    """Those that are in a catalog."""
    if not item_ids:
        return []
    there = catalog.item_ids.positions(item_ids) >= 0
    return [item_id for item_id, known in zip(item_ids, there, strict=True) if known]


def _without_missing(item: Item) -> Item:
    """Without attributes that are missing."""
    return Item(item.item_id, item.title, {name: value for name, value in item.attributes.items() if value is not None})
