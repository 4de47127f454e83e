"""What the routes call: lists by many at once, and everything that changes what is known."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Any

from genrec.advisor import Advisor
from genrec.catalog import Catalog
from genrec.errors import EngineError
from genrec.lane import Lane
from genrec.live import Live
from genrec.recommender import Recommender
from genrec.serve.metric import Metrics
from genrec.serve.shape import Answer, EventBody, Recommend, answers_of
from genrec.store import Event, Store
from genrec.types import History, Item, ItemId, UserId

Advise = Callable[[Recommender, int], Advisor]
"""Makes an advisor over a recommender, for lists of some length."""

_RANKED = ("/v1/recommend", "/v1/search", "/v1/related")
_FRESH = 10.0  # seconds for which an answer of the first step shows that it works
_PATIENCE = 5.0  # seconds that it may take to show it
_KEPT = 8  # advisors, one for each list length


@dataclass(frozen=True)
class Load:
    """How much is taken on.

    Attributes:
        waiting: lists that may wait to be ranked; more are refused.
        together: lists that are ranked at once.
        talks: conversations that may be answered or wait for it; more are refused.
        deadline: seconds that ranking may take where a request does not say it.
        turn: seconds that a turn of a conversation may take; a reply that is not written by then ends plainly.
    """

    waiting: int = 24
    together: int = 16
    talks: int = 8
    deadline: float = 10.0
    turn: float = 60.0


class Service:
    """One recommender, served.

    Args:
        live: the recommender and what is known of people.
        store: where events are kept.
        advise: makes advisors for conversations.
        load: how much is taken on.
        metrics: count what happens.
        clock: seconds, rising.
    """

    def __init__(
        self,
        live: Live,
        store: Store,
        *,
        advise: Advise,
        load: Load,
        metrics: Metrics,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.live, self.store, self.load, self.metrics, self.clock = live, store, load, metrics, clock
        self._advise = advise
        self._lane = Lane[Recommend, Answer](self._rank, most=load.waiting, together=load.together)
        metrics.watch(self._lane.__len__)
        self._lock = Lock()
        self._advisors: tuple[Recommender | None, dict[int, Advisor]] = (None, {})
        self._worked = -_FRESH

    @property
    def catalog(self) -> Catalog:
        """What can be recommended now."""
        return self.live.recommender.catalog

    def is_full(self, path: str) -> bool:
        """Whether a request to this address would be refused, once it was read."""
        return path in _RANKED and self._lane.is_full

    def rank(self, ask: Recommend) -> "Future[Answer]":
        """A list, once it is ranked.

        Raises:
            FullError: too many wait already.
        """
        return self._lane.put(ask, repr((ask.k, ask.options)))  # with the same options they can be ranked together

    def advisor(self, k: int) -> Advisor:
        """Goes on with conversations over what can be recommended now, k items a turn."""
        recommender = self.live.recommender
        with self._lock:
            known, advisors = self._advisors
            if known is not recommender or len(advisors) >= _KEPT:
                advisors = {}
            if k not in advisors:
                advisors[k] = self._advise(recommender, k)
            self._advisors = (recommender, advisors)
            return advisors[k]

    def check(self, patience: float = _PATIENCE) -> None:
        """See that the store answers and that the first step of the ladder ranks, by a list that it made lately or now.

        Args:
            patience: seconds that it may take.

        Raises:
            StoreError, EngineError: one does not.
        """
        self.store.check()
        if self.clock() - self._worked < _FRESH:
            return
        recommender = self.live.recommender
        somebody = History(words=recommender.catalog[0].title)
        answer = recommender.recommend(somebody, 1, filter_seen=False, deadline=patience)
        if answer.left_out:
            raise EngineError(f"{answer.left_out[0]} does not answer")
        self._worked = self.clock()

    def keep(self, events: Sequence[EventBody], now: float) -> int:
        """Keep events; how many were new. The next list of these people knows of them.

        Raises:
            UnknownItemError: the catalog lacks one of the items.
        """
        self.catalog.indices_of([event.item_id for event in events])
        kept = (
            Event(
                user_id=event.user_id,
                item_id=event.item_id,
                timestamp=now if event.timestamp is None else event.timestamp,
                event=event.event,
                weight=event.weight,
                event_id=event.event_id,
            )
            for event in events
        )
        return self.store.add(list(kept))

    def history_of(self, user_id: UserId) -> list[Item]:
        """What somebody met, oldest first; nothing of somebody unknown."""
        person, catalog = self.live.ask(user_id).person, self.catalog
        met = person.item_ids if isinstance(person, History) else ()
        return catalog.items_at(catalog.indices_of(met, on_unknown="skip"))

    def put(self, items: Sequence[Item]) -> None:
        """Add items, or put them in the place of those of the same ids; the next request sees it."""
        self.live.revise(Catalog.from_items(items))

    def withdraw(self, item_id: ItemId) -> None:
        """Take an item out; the next request sees it.

        Raises:
            UnknownItemError: it is not there.
        """
        self.live.revise(withdraw=[item_id])

    def close(self) -> None:
        """End what works in the background."""
        self._lane.close()

    def _rank(self, _: object, asks: Sequence[Recommend]) -> list[Answer]:
        """Lists of one length under the same options."""
        groups: dict[tuple[Recommender, tuple[ItemId, ...]], list[int]] = {}
        people = []
        for place, ask in enumerate(asks):
            found = self.live.ask(ask.user_id, ask.history, ask.words)
            people.append(found.person)
            groups.setdefault((found.recommender, found.unwanted), []).append(place)
        answers: dict[int, Answer] = {}
        for (recommender, unwanted), places in groups.items():
            options: dict[str, Any] = asks[0].options
            options["deadline"] = options["deadline"] or self.load.deadline
            options["exclude"] = [*(options["exclude"] or ()), *unwanted]
            lists = recommender.recommend([people[place] for place in places], asks[0].k, **options)
            told = answers_of(lists, recommender.catalog)
            for place, own, answer in zip(places, lists, told, strict=True):
                answers[place] = answer
                self.metrics.served(own)
                if not own.left_out:
                    self._worked = self.clock()
        return [answers[place] for place in range(len(asks))]
