"""Prometheus metrics. Each server has its own registry."""

from collections import Counter as Tally
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from genrec.types import RecommendationList

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "genrec_requests",
            "Requests by route and status; status 0 means that the client disconnected before the response.",
            ["route", "status"],
            registry=self._registry,
        )
        self._latency = Histogram(
            "genrec_request_seconds",
            "Seconds from the request to the last byte of the response.",
            ["route"],
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._time_to_first_token = Histogram(
            "genrec_first_words_seconds",
            "Seconds from a chat request to the first text of the reply.",
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._items = Counter(
            "genrec_items", "Recommended items by the stage that ranked them.", ["step"], registry=self._registry
        )
        self._fallbacks = Counter(
            "genrec_reply_fallbacks",
            "Replies made from a template because the language model failed.",
            registry=self._registry,
        )
        self._queue_length = Gauge("genrec_lists_waiting", "Requests in the ranking queue.", registry=self._registry)
        self._active_requests = Gauge("genrec_requests_inside", "Requests in progress.", registry=self._registry)

    def observe_queue(self, queue_length: Callable[[], int]) -> None:
        """Report the queue length whenever metrics are read."""
        self._queue_length.set_function(queue_length)

    def request_started(self) -> None:
        """Count a request as in progress."""
        self._active_requests.inc()

    def request_finished(self) -> None:
        """Count a request as finished."""
        self._active_requests.dec()

    def record_request(self, route: str, status: int, seconds: float | None) -> None:
        """Count a response; `seconds` is None for requests rejected before they were processed."""
        self._requests.labels(route, str(status)).inc()
        if seconds is not None:
            self._latency.labels(route).observe(seconds)

    def record_list(self, result: RecommendationList) -> None:
        """Count the items of a list by stage."""
        for stage, count in Tally(item.stage for item in result.items).items():
            self._items.labels(stage).inc(count)

    def record_first_token(self, seconds: float) -> None:
        """Record the time to the first text of a reply."""
        self._time_to_first_token.observe(seconds)

    def record_fallback(self) -> None:
        """Count a reply made from a template."""
        self._fallbacks.inc()

    @property
    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)
