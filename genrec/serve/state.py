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
from genrec.pipeline import Parts
from genrec.recommender import Person, Recommender
from genrec.store.event_store import Event, Store
from genrec.types import History, Item, ItemId, UserId

_AGE = 1.0  # seconds for which nobody looks whether another server revised the catalog
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """What one request is answered from; whatever is revised meanwhile, its parts fit each other.

    Attributes:
        recommender: of the moment when it was asked.
        person: for `Recommender.recommend`: a history or, of a user whom nobody knows, the bare id, so that
            `on_unknown` says what becomes of them.
        unwanted: items of the catalog that the person does not like, to be excluded from what is recommended.
    """

    recommender: Recommender
    person: Person
    unwanted: tuple[ItemId, ...] = ()

    @property
    def met(self) -> tuple[ItemId, ...]:
        """What the person met, oldest first; nothing of a user whom nobody knows."""
        return self.person.item_ids if isinstance(self.person, History) else ()


class Live:
    """The current recommender, and what is known of people now; threads may share it.

    Args:
        parts: of the files, see `genrec.loading.open_parts`; the store's revisions are laid over them.
        store: what happened since; other servers may revise it, too.
        clock: seconds, rising, by which `ask` looks once a second at most what others revised.

    Raises:
        StoreError: the store cannot be read.
        InputError: its revisions do not fit the catalog.
    """

    def __init__(self, parts: Parts, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._lock = threading.Lock()  # one revision at a time; answers do not wait for it
        self._number, self._looked = store.revision(), clock()
        self._now = self._with_revisions(parts)

    @property
    def recommender(self) -> Recommender:
        """The current one; it knows no user by their id alone, and what other servers revised by `ask` alone."""
        return self._now[1]

    @property
    def catalog(self) -> Catalog:
        """The current one."""
        return self._now[0].catalog

    def ask(self, user_id: UserId | None = None, history: Sequence[ItemId] = (), words: str = "") -> Asked:
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
        self._look()
        parts, recommender = self._now
        if user_id is None:
            return Asked(recommender, History(tuple(history), words))
        filed, known = self._filed(parts, user_id)
        events = self._store.events_of(user_id)
        if not (known or events or history or words.strip()):
            return Asked(recommender, user_id)
        liked, unwanted = _met(filed, events)
        named = {key_of(item_id) for item_id in history}
        unwanted = [item_id for item_id in unwanted if key_of(item_id) not in named]
        told, unwanted = _in(parts.catalog, liked), _in(parts.catalog, unwanted)
        return Asked(recommender, History((*told, *history), words, user_id), tuple(unwanted))

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
        items = [] if put is None else [_present(item) for item in put]
        with self._lock:
            number = None
            while number is None:  # another server may have revised the store since it was looked at
                self._catch_up()
                parts = self._now[0].revised(put, gone)
                recommender = parts.recommender(known=False)
                number = self._store.revise(items, list(dict.fromkeys(gone)), after=self._number)
            self._number, self._now = number, (parts, recommender)

    def _look(self) -> None:
        """Catch up where it is time to, unless somebody is at it: answers wait for no revision but their own."""
        if self._clock() - self._looked < _AGE or not self._lock.acquire(blocking=False):
            return
        try:
            self._catch_up()
        except GenrecError as error:
            _LOGGER.warning("what other servers revised cannot be taken over: %s", error)
        finally:
            self._looked = self._clock()
            self._lock.release()

    def _catch_up(self) -> None:
        """Take over what others revised; under the lock."""
        number = (
            self._store.revision()
        )  # before the revisions: what is newer than it comes once more, and changes nothing
        if number != self._number:
            self._number, self._now = number, self._with_revisions(self._now[0])

    def _with_revisions(self, parts: Parts) -> tuple[Parts, Recommender]:
        """With all that the store knows laid over it."""
        put, withdrawn = self._store.revisions()
        gone = [item_id for item_id in withdrawn if item_id in parts.catalog]
        if put or gone:
            parts = parts.revised(Catalog.from_items(put) if put else None, gone)
        return parts, parts.recommender(known=False)

    def _filed(self, parts: Parts, user_id: UserId) -> tuple[Sequence[ItemId], bool]:
        """What the interactions file says of a user, and whether it may be used."""
        if parts.interactions is None:
            return (), False
        try:
            history = parts.interactions.history_of(user_id).item_ids
        except UnknownUserError:
            return (), False
        return ((), False) if self._store.is_forgotten(user_id) else (history, True)


def _met(filed: Sequence[ItemId], events: Sequence[Event]) -> tuple[list[ItemId], list[ItemId]]:
    """What was met, oldest first, and what is not liked."""
    met = [(key_of(item_id), item_id) for item_id in filed]
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


def _in(catalog: Catalog, item_ids: Sequence[ItemId]) -> list[ItemId]:
    """Those that are in a catalog."""
    if not item_ids:
        return []
    there = catalog.item_ids.positions(item_ids) >= 0
    return [item_id for item_id, known in zip(item_ids, there, strict=True) if known]


def _present(item: Item) -> Item:
    """Without attributes that are missing."""
    return Item(item.item_id, item.title, {name: value for name, value in item.attributes.items() if value is not None})
