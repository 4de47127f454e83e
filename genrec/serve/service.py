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
from genrec.serve.batching import DynamicBatcher
from genrec.serve.responses import NoticeFilter, RecommendResponse, to_responses
from genrec.serve.schemas import EventBody, RecommendBody
from genrec.serve.state import RequestContext, ServingState
from genrec.serve.telemetry import Metrics
from genrec.store.event_store import Event, Store
from genrec.types import History, Item, ItemId, RecommendationList, UserId

BuildAdvisor = Callable[[Recommender, int], Advisor]
"""Makes an advisor over a recommender, for lists of some length."""

_LOGGER = logging.getLogger(__name__)
_RANKING_PATHS = ("/v1/recommend", "/v1/search", "/v1/related")
_READINESS_TTL = 10.0  # seconds for which an answer of the first step shows that it works
_READINESS_TIMEOUT = 5.0  # seconds that it may take to show it
_MAX_CACHED_ADVISORS = 8  # advisors, one for each list length
_MIN_DEADLINE = 1e-6  # seconds; what takes none answers


@dataclass(frozen=True)
class ServiceConfig:
    """How much is taken on.

    Attributes:
        max_queue: lists that may wait to be ranked; more are refused.
        max_batch_size: lists that are ranked at once.
        max_chats: conversations that may be answered or wait for it; more are refused.
        deadline: seconds that ranking may take where a request does not say it.
        turn_timeout: seconds that a turn of a conversation may take; a reply that is not written by then ends plainly.
    """

    max_queue: int = 48
    max_batch_size: int = 8
    max_chats: int = 8
    deadline: float = 10.0
    turn_timeout: float = 60.0


@dataclass(frozen=True, eq=False)
class _PendingList:
    """A list that is waited for, until a moment of the service's clock."""

    body: RecommendBody
    context: RequestContext
    deadline: float


class Service:
    """One recommender, served.

    Args:
        state: the recommender and what is known of people.
        store: where events are kept.
        build_advisor: makes advisors for conversations.
        config: how much is taken on.
        metrics: count what happens.
        clock: seconds, rising.
    """

    def __init__(
        self,
        state: ServingState,
        store: Store,
        *,
        build_advisor: BuildAdvisor,
        config: ServiceConfig,
        metrics: Metrics,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.state, self.store, self.config, self.metrics, self.clock = state, store, config, metrics, clock
        self._build_advisor = build_advisor
        self._batcher = DynamicBatcher[_PendingList, RecommendResponse](
            self._rank_batch, max_queue=config.max_queue, max_batch_size=config.max_batch_size
        )
        metrics.observe_queue(self._batcher.__len__)
        self._lock = Lock()
        self._advisors: tuple[Recommender | None, dict[int, Advisor]] = (None, {})
        self._last_ranked_at = -_READINESS_TTL
        self._notice_filter = NoticeFilter(clock)
        for notice in state.recommender.notices:
            _LOGGER.info("%s", notice)

    @property
    def catalog(self) -> Catalog:
        """What can be recommended now."""
        return self.state.recommender.catalog

    def is_full(self, path: str) -> bool:
        """Whether a request to this address would be refused, once it was read."""
        return path in _RANKING_PATHS and self._batcher.is_full

    def request_context(self, body: RecommendBody) -> RequestContext:
        """Who asks, as they are known now; of somebody who is known by an id, the store tells.

        Raises:
            StoreError: it cannot be read.
        """
        return self.state.request_context(body.user_id, body.history, body.words)

    def rank(self, body: RecommendBody, context: RequestContext) -> "Future[RecommendResponse]":
        """A list, once it is ranked; its deadline counts from now, so the time that it waits, too.

        Args:
            body: what is wanted.
            context: for whom, see `body`.

        Raises:
            FullError: too many wait already.
        """
        until = self.clock() + (body.deadline or self.config.deadline)
        # With the same options they can be ranked together.
        return self._batcher.submit(_PendingList(body, context, until), repr((body.k, body.options)))

    def list_responses(self, lists: Sequence[RecommendationList], recommender: Recommender) -> list[RecommendResponse]:
        """Lists for those who asked, counted."""
        for own in lists:
            self.metrics.record_list(own)
        return to_responses(
            lists, recommender.catalog, lambda own: self._notice_filter.for_list(own, recommender.notices)
        )

    def advisor(self, recommender: Recommender, k: int) -> Advisor:
        """Goes on with conversations over what a recommender has, k items a turn; those of the last one are kept."""
        with self._lock:
            known, advisors = self._advisors
            if known is not recommender:
                advisors = {}
            if k not in advisors:
                if len(advisors) >= _MAX_CACHED_ADVISORS:
                    advisors.pop(next(iter(advisors)))
                advisors[k] = self._build_advisor(recommender, k)
            self._advisors = (recommender, advisors)
            return advisors[k]

    def check(self, timeout: float = _READINESS_TIMEOUT) -> None:
        """See that the store answers and that the first step of the ladder ranks, by a list that it made lately or now.

        Args:
            timeout: seconds that it may take.

        Raises:
            StoreError, EngineError: one does not.
        """
        self.store.check()
        if self.clock() - self._last_ranked_at < _READINESS_TTL:
            return
        recommender = self.state.request_context().recommender
        somebody = History(words=recommender.catalog[0].title)
        answer = recommender.recommend(somebody, 1, filter_seen=False, deadline=timeout)
        if answer.failed_stages:
            raise EngineError(f"{answer.failed_stages[0]} does not answer")
        self._last_ranked_at = self.clock()

    def add_events(self, events: Sequence[EventBody], now: float) -> int:
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
        met, catalog = self.state.request_context(user_id).history_item_ids, self.catalog
        return catalog.items_at(catalog.indices_of(met, on_unknown="skip"))

    def put_items(self, items: Sequence[Item]) -> None:
        """Add items, or put them in the place of those of the same ids; the next request sees it."""
        self.state.revise(Catalog.from_items(items))

    def withdraw_item(self, item_id: ItemId) -> None:
        """Take an item out; the next request sees it.

        Raises:
            UnknownItemError: it is not there.
        """
        self.state.revise(withdraw=[item_id])

    def close(self) -> None:
        """End what works in the background."""
        self._batcher.close()

    def _rank_batch(self, _: object, batch: Sequence[_PendingList]) -> list[RecommendResponse]:
        """Lists of one length under the same options, until the first of their deadlines."""
        now = self.clock()
        groups: dict[tuple[Recommender, tuple[ItemId, ...], bool], list[int]] = {}
        for place, one in enumerate(batch):
            # Whoever waited too long gets what needs no time, and hurries nobody else.
            key = (one.context.recommender, one.context.excluded_item_ids, one.deadline <= now)
            groups.setdefault(key, []).append(place)
        answers: dict[int, RecommendResponse] = {}
        for (recommender, unwanted, _late), places in groups.items():
            options: dict[str, Any] = batch[0].body.options
            options["deadline"] = max(_MIN_DEADLINE, min(batch[place].deadline for place in places) - self.clock())
            options["exclude"] = [*(options["exclude"] or ()), *unwanted]
            people = [batch[place].context.user for place in places]
            lists = recommender.recommend(people, batch[0].body.k, **options)
            answers |= dict(zip(places, self.list_responses(lists, recommender), strict=True))
            if not all(own.failed_stages for own in lists):
                self._last_ranked_at = self.clock()
        return [answers[place] for place in range(len(batch))]
