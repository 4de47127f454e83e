"""What is counted for Prometheus; each server has a registry of its own."""

from collections import Counter as Tally
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from genrec.types import RecommendationList

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "genrec_requests",
            "Requests by route and status; status 0 is whoever left before an answer began.",
            ["route", "status"],
            registry=self._registry,
        )
        self._latency = Histogram(
            "genrec_request_seconds",
            "Time to the last byte.",
            ["route"],
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._time_to_first_token = Histogram(
            "genrec_first_words_seconds",
            "Time to a reply's first words.",
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._items = Counter(
            "genrec_items", "Recommended items by the step that served them.", ["step"], registry=self._registry
        )
        self._fallbacks = Counter(
            "genrec_reply_fallbacks", "Replies that a model should have written.", registry=self._registry
        )
        self._queue_length = Gauge("genrec_lists_waiting", "Lists that wait to be ranked.", registry=self._registry)
        self._active_requests = Gauge(
            "genrec_requests_inside", "Requests that are being answered.", registry=self._registry
        )

    def observe_queue(self, queue_length: Callable[[], int]) -> None:
        """Tell how many lists wait, whenever it is asked."""
        self._queue_length.set_function(queue_length)

    def request_started(self) -> None:
        """A request is let in."""
        self._active_requests.inc()

    def request_finished(self) -> None:
        """It is out again."""
        self._active_requests.dec()

    def record_request(self, route: str, status: int, seconds: float | None) -> None:
        """A request was answered; what was refused at the door took no time worth to tell."""
        self._requests.labels(route, str(status)).inc()
        if seconds is not None:
            self._latency.labels(route).observe(seconds)

    def record_list(self, result: RecommendationList) -> None:
        """A list was made."""
        for step, count in Tally(item.stage for item in result.items).items():
            self._items.labels(step).inc(count)

    def record_first_token(self, seconds: float) -> None:
        """A reply began."""
        self._time_to_first_token.observe(seconds)

    def record_fallback(self) -> None:
        """A reply had to be a plain one."""
        self._fallbacks.inc()

    @property
    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
