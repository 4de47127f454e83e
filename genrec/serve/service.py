"""The service behind the routes: batched ranking, events and catalog changes."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Any

from genrec.chat.advisor import Advisor
from genrec.data.catalog import UNKNOWN, Catalog
from genrec.data.named_items import look_up_named, withdrawn_notices
from genrec.errors import EngineError, UnknownItemError
from genrec.notices import Notice
from genrec.recommender import Recommender
from genrec.serve.batching import DynamicBatcher
from genrec.serve.request_context import RequestContext
from genrec.serve.responses import NoticeFilter, RecommendResponse, to_responses
from genrec.serve.revision_poller import RevisionPoller
from genrec.serve.schemas import EventBody, RecommendBody
from genrec.serve.state import ServingState
from genrec.serve.telemetry import Metrics
from genrec.store.event_store import Event, Store
from genrec.types import History, Item, ItemId, RecommendationList, UserId

BuildAdvisor = Callable[[Recommender, int], Advisor]
"""Builds an advisor for a recommender and a list length."""

_LOGGER = logging.getLogger(__name__)
_RANKING_PATHS = ("/v1/recommend", "/v1/search", "/v1/related")
_READINESS_TTL = 10.0  # seconds for which a successful list of the first stage proves readiness
_READINESS_TIMEOUT = 5.0  # seconds for the list of a readiness check
_MAX_CACHED_ADVISORS = 8  # one for each list length
_MIN_DEADLINE = 1e-6  # seconds; lets only stages that need no time rank


@dataclass(frozen=True)
class ServiceConfig:
    """Capacity and deadlines.

    Attributes:
        max_queue: requests that may wait to be ranked; further ones get status 429.
        max_batch_size: requests that are ranked together.
        max_chats: chat requests in progress, each in its own thread; further ones get status 429.
        deadline: default deadline of a list, in seconds from the request.
        turn_timeout: seconds for a chat reply; one that is late ends with a reply from a template.
    """

    max_queue: int = 48
    max_batch_size: int = 8
    max_chats: int = 8
    deadline: float = 10.0
    turn_timeout: float = 60.0


@dataclass(frozen=True, eq=False)
class _PendingList:
    """A queued request; `deadline` is a time of the service's clock."""

    body: RecommendBody
    context: RequestContext
    deadline: float


@dataclass(frozen=True)
class AddedEvents:
    """The number of new events, and notices for the caller."""

    added: int
    notices: tuple[Notice, ...]


class Service:
    """The service behind the routes, for one recommender.

    Args:
        state: the current recommender and the users' histories.
        store: the event store.
        build_advisor: builds advisors for conversations.
        config: capacity and deadlines.
        metrics: counts lists and replies.
        clock: monotonic seconds.
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
        self._poller = RevisionPoller(state)

    @property
    def catalog(self) -> Catalog:
        """The current catalog."""
        return self.state.recommender.catalog

    def is_full(self, path: str) -> bool:
        """Whether requests to this path would be rejected, because the queue is full."""
        return path in _RANKING_PATHS and self._batcher.is_full

    def request_context(self, body: RecommendBody) -> RequestContext:
        """The user of a request and the current recommender; reads the store if the request has a user id.

        Raises:
            StoreError: the store cannot be read.
        """
        return self.state.request_context(body.user_id, body.history, body.words)

    def check_named(self, item_id: ItemId) -> None:
        """Check the item that a request is about; one that was withdrawn is left to `rank`, which ignores it.

        Raises:
            UnknownItemError: the item was never in the catalog.
        """
        if self.catalog.lookup([item_id])[0] == UNKNOWN:
            self.catalog.index_of(item_id)  # raises

    def rank(self, body: RecommendBody, context: RequestContext) -> "Future[RecommendResponse]":
        """Queue a request and return a future for its list. The deadline starts now, so it includes the queue time.

        Args:
            body: the request.
            context: its user, from `request_context`.

        Raises:
            QueueFullError: the queue is full.
        """
        deadline = self.clock() + (body.deadline or self.config.deadline)
        # Requests with equal options share a batch.
        return self._batcher.submit(_PendingList(body, context, deadline), repr((body.k, body.options)))

    def list_responses(self, lists: Sequence[RecommendationList], recommender: Recommender) -> list[RecommendResponse]:
        """The responses of lists; also counts the lists in the metrics."""
        for result in lists:
            self.metrics.record_list(result)
        return to_responses(
            lists, recommender.catalog, lambda result: self._notice_filter.for_list(result, recommender.notices)
        )

    def advisor(self, recommender: Recommender, k: int) -> Advisor:
        """An advisor for lists of k items; advisors of the most recent recommender are cached."""
        with self._lock:
            cached, advisors = self._advisors
            if cached is not recommender:
                advisors = {}
            if k not in advisors:
                if len(advisors) >= _MAX_CACHED_ADVISORS:
                    advisors.pop(next(iter(advisors)))
                advisors[k] = self._build_advisor(recommender, k)
            self._advisors = (recommender, advisors)
            return advisors[k]

    def check(self, timeout: float = _READINESS_TIMEOUT) -> None:
        """Check readiness: the store is reachable, and the first stage of the fallback chain ranks.

        A recent successful list counts; otherwise one is ranked now.

        Args:
            timeout: seconds for that list.

        Raises:
            StoreError: the store is not reachable.
            EngineError: the first stage failed.
        """
        self.store.check()
        if self.clock() - self._last_ranked_at < _READINESS_TTL:
            return
        recommender = self.state.recommender
        probe = History(words=recommender.catalog[0].title)
        result = recommender.recommend(probe, 1, filter_seen=False, deadline=timeout)
        if result.failed_stages:
            raise EngineError(f"stage {result.failed_stages[0]} failed the readiness check")
        self._last_ranked_at = self.clock()

    def add_events(self, events: Sequence[EventBody], now: float) -> AddedEvents:
        """Store events. They affect the next list of their users.

        An event with a withdrawn item is stored too, so that it does not matter which of the two came first: it has no
        effect until the item is put back.

        Args:
            events: the events.
            now: seconds since 1970, the timestamp of events without one.

        Raises:
            UnknownItemError: an item was never in the catalog.
        """
        item_ids = [event.item_id for event in events]
        catalog = self.catalog
        try:
            indices = look_up_named(catalog, "events", item_ids)
        except UnknownItemError as error:
            raise error.revised(remedy="remove its events, or add the item first; nothing was stored") from None
        withdrawn = [item_id for item_id, item_index in zip(item_ids, indices, strict=True) if item_index < 0]
        stored = [
            Event(
                user_id=self.state.own_user_id(event.user_id),
                item_id=item_id,
                timestamp=now if event.timestamp is None else event.timestamp,
                event=event.event,
                weight=event.weight,
                event_id=event.event_id,
            )
            for event, item_id in zip(events, catalog.item_ids.as_written(item_ids), strict=True)
        ]
        return AddedEvents(self.store.add(stored), tuple(withdrawn_notices(withdrawn)))

    def history_of(self, user_id: UserId) -> list[Item]:
        """The items in a user's history, oldest first; empty for an unknown user."""
        item_ids, catalog = self.state.request_context(user_id).history_item_ids, self.catalog
        return catalog.items_at(catalog.indices_of(item_ids, on_unknown="skip"))

    def forget(self, user_id: UserId) -> dict[str, int]:
        """Forget a user, see `ServingState.forget`."""
        try:
            return self.state.forget(user_id)
        finally:
            with self._lock:
                self._advisors = (None, {})  # they hold the earlier recommender

    def put_items(self, items: Sequence[Item]) -> None:
        """Add items, or replace the items with the same ids, from the next request on."""
        self.state.revise(items)

    def withdraw_item(self, item_id: ItemId) -> None:
        """Withdraw an item from the next request on.

        Raises:
            UnknownItemError: the item is not in the catalog.
        """
        self.state.revise(withdraw=[item_id])

    def close(self) -> None:
        """Stop the batcher and the poller."""
        self._poller.close()
        self._batcher.close()

    def _rank_batch(self, _: object, batch: Sequence[_PendingList]) -> list[RecommendResponse]:
        """Rank requests with equal options together, within the earliest of their deadlines."""
        now = self.clock()
        groups: dict[tuple[Recommender, tuple[ItemId, ...], bool], list[int]] = {}
        for position, pending in enumerate(batch):
            # Requests past their deadline form their own group, so that they do not shorten the deadline of others.
            key = (pending.context.recommender, pending.context.excluded_item_ids, pending.deadline <= now)
            groups.setdefault(key, []).append(position)
        responses: dict[int, RecommendResponse] = {}
        for (recommender, excluded_item_ids, _is_late), positions in groups.items():
            options: dict[str, Any] = batch[0].body.options
            earliest = min(batch[position].deadline for position in positions)
            options["deadline"] = max(_MIN_DEADLINE, earliest - self.clock())
            options["exclude"] = [*(options["exclude"] or ()), *excluded_item_ids]
            users = [batch[position].context.user for position in positions]
            lists = recommender.recommend(users, batch[0].body.k, **options)
            responses |= dict(zip(positions, self.list_responses(lists, recommender), strict=True))
            if not all(result.failed_stages for result in lists):
                self._last_ranked_at = self.clock()
        return [responses[position] for position in range(len(batch))]
