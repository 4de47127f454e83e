"""What the routes call: lists by many at once, and everything that changes what is known."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Any

from genrec.chat.advisor import Advisor
from genrec.data.catalog import Catalog
from genrec.errors import EngineError
from genrec.recommender import Recommender
from genrec.serve.batching import Lane
from genrec.serve.responses import Answer, Notices, answers_of
from genrec.serve.schemas import EventBody, Recommend
from genrec.serve.state import Asked, Live
from genrec.serve.telemetry import Metrics
from genrec.store.event_store import Event, Store
from genrec.types import History, Item, ItemId, RecommendationList, UserId

Advise = Callable[[Recommender, int], Advisor]
"""Makes an advisor over a recommender, for lists of some length."""

_LOGGER = logging.getLogger(__name__)
_RANKED = ("/v1/recommend", "/v1/search", "/v1/related")
_FRESH = 10.0  # seconds for which an answer of the first step shows that it works
_PATIENCE = 5.0  # seconds that it may take to show it
_KEPT = 8  # advisors, one for each list length
_NO_TIME = 1e-6  # seconds; what takes none answers


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

    waiting: int = 48
    together: int = 8
    talks: int = 8
    deadline: float = 10.0
    turn: float = 60.0


@dataclass(frozen=True, eq=False)
class _Wanted:
    """A list that is waited for, until a moment of the service's clock."""

    ask: Recommend
    asked: Asked
    until: float


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
        self._lane = Lane[_Wanted, Answer](self._rank, most=load.waiting, together=load.together)
        metrics.watch(self._lane.__len__)
        self._lock = Lock()
        self._advisors: tuple[Recommender | None, dict[int, Advisor]] = (None, {})
        self._worked = -_FRESH
        self._notices = Notices(clock)
        for notice in live.recommender.notices:
            _LOGGER.info(notice)

    @property
    def catalog(self) -> Catalog:
        """What can be recommended now."""
        return self.live.recommender.catalog

    def is_full(self, path: str) -> bool:
        """Whether a request to this address would be refused, once it was read."""
        return path in _RANKED and self._lane.is_full

    def ask(self, ask: Recommend) -> Asked:
        """Who asks, as they are known now; of somebody who is known by an id, the store tells.

        Raises:
            StoreError: it cannot be read.
        """
        return self.live.ask(ask.user_id, ask.history, ask.words)

    def rank(self, ask: Recommend, asked: Asked) -> "Future[Answer]":
        """A list, once it is ranked; its deadline counts from now, so the time that it waits, too.

        Args:
            ask: what is wanted.
            asked: for whom, see `ask`.

        Raises:
            FullError: too many wait already.
        """
        until = self.clock() + (ask.deadline or self.load.deadline)
        # With the same options they can be ranked together.
        return self._lane.put(_Wanted(ask, asked, until), repr((ask.k, ask.options)))

    def told(self, lists: Sequence[RecommendationList], recommender: Recommender) -> list[Answer]:
        """Lists for those who asked, counted."""
        for own in lists:
            self.metrics.served(own)
        return answers_of(lists, recommender.catalog, lambda own: self._notices.of(own, recommender.notices))

    def advisor(self, recommender: Recommender, k: int) -> Advisor:
        """Goes on with conversations over what a recommender has, k items a turn; those of the last one are kept."""
        with self._lock:
            known, advisors = self._advisors
            if known is not recommender:
                advisors = {}
            if k not in advisors:
                if len(advisors) >= _KEPT:
                    advisors.pop(next(iter(advisors)))
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
        recommender = self.live.ask().recommender
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
        met, catalog = self.live.ask(user_id).met, self.catalog
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

    def _rank(self, _: object, wanted: Sequence[_Wanted]) -> list[Answer]:
        """Lists of one length under the same options, until the first of their deadlines."""
        now = self.clock()
        groups: dict[tuple[Recommender, tuple[ItemId, ...], bool], list[int]] = {}
        for place, one in enumerate(wanted):
            # Whoever waited too long gets what needs no time, and hurries nobody else.
            key = (one.asked.recommender, one.asked.unwanted, one.until <= now)
            groups.setdefault(key, []).append(place)
        answers: dict[int, Answer] = {}
        for (recommender, unwanted, _late), places in groups.items():
            options: dict[str, Any] = wanted[0].ask.options
            options["deadline"] = max(_NO_TIME, min(wanted[place].until for place in places) - self.clock())
            options["exclude"] = [*(options["exclude"] or ()), *unwanted]
            people = [wanted[place].asked.person for place in places]
            lists = recommender.recommend(people, wanted[0].ask.k, **options)
            answers |= dict(zip(places, self.told(lists, recommender), strict=True))
            if not all(own.left_out for own in lists):
                self._worked = self.clock()
        return [answers[place] for place in range(len(wanted))]
