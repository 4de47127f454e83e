"""The fallback chain: rankers that serve a request one after the other until its list is full.

A stage that cannot rank a request, fails in whatever way (see `genrec.rankers.failures`), or exceeds its time limit is
skipped; only arguments of the caller raise, before the first stage. If a stage returns fewer items than requested, the
next stage fills the list. The last stage ranks every request.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from genrec.data.catalog import Catalog
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError, InputError
from genrec.notices import Notice
from genrec.prompting.template import Template
from genrec.rankers.base import Ranker, RankRequest
from genrec.rankers.explain import find_drivers, render_reason
from genrec.rankers.failures import FailureLog, PartialFailureError, failure_code, failure_reason, is_failure
from genrec.types import Driver, FloatArray, IntArray, Ranking, Recommendation, RecommendationList, UserId

_STAGE_TIME_SHARE = 0.6  # of the remaining time, for each stage but the last
_MAX_QUOTED_WORDS = 100
_BATCH_SIZE = 32  # requests per call of a ranker; finished batches are kept when the time limit passes


@dataclass(frozen=True)
class FallbackChain:
    """Rankers as stages, best first; the last must rank every request, as `PopularityRanker` does."""

    stages: tuple[Ranker, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("the fallback chain is empty; end it with a PopularityRanker")

    def serve(
        self, requests: "Sequence[PendingRequest]", k: int, deadline: Deadline, *, allow_late: bool = True
    ) -> None:
        """Pass the requests through the stages until their lists are full; the last stage has no time limit.

        Args:
            requests: the requests.
            k: greatest list length.
            deadline: when all stages but the last must stop.
            allow_late: give the first batch to a stage even if its time limit has passed, so that stages that need
                milliseconds rank a late request; a slow one notices the deadline itself.
        """
        for ranker in self.stages[:-1]:
            limit = deadline
            if np.isfinite(deadline.at):
                limit = Deadline(deadline.clock() + _STAGE_TIME_SHARE * deadline.remaining(), deadline.clock)
            _run_stage(ranker, requests, k, limit, allow_late)
        _run_stage(self.stages[-1], requests, k, Deadline.never(), allow_late)
        for request in requests:
            if request.n_missing:
                request.add_notice(Notice("items_missing", {"count": request.n_missing}))
            if request.words_ignored:
                request.add_notice(Notice("words_ignored", {"words": request.request.words[:_MAX_QUOTED_WORDS]}))


@dataclass
class StageResult:
    """What one stage ranked for a request: item indices, scores and main signals, best first."""

    ranker: Ranker
    item_indices: IntArray
    scores: FloatArray
    main_signals: tuple[str, ...]
    explanations: list[tuple[tuple[Driver, ...], str]] | None = None


@dataclass
class PendingRequest:
    """One request on its way through the fallback chain.

    Attributes:
        user_id: the caller's id.
        request: the request.
        k: list length, at most the number of allowed items.
        notices: notices to the caller.
        results: what the stages have ranked so far.
        proven, compared: of the first result; see `RecommendationList`.
        tokens, cost: tokens computed so far, and what they cost.
        failed_stages: the stages that failed or exceeded their time limit.
        failure_log: logs the failures.
    """

    user_id: UserId | None
    request: RankRequest
    k: int
    notices: list[Notice]
    results: list[StageResult] = field(default_factory=list)
    proven: bool = False
    compared: int = 0
    tokens: int = 0
    cost: float = 0.0
    failed_stages: list[str] = field(default_factory=list)
    failure_log: FailureLog = field(default_factory=FailureLog)

    @property
    def n_missing(self) -> int:
        """Number of items that are still missing."""
        return self.k - sum(len(result.item_indices) for result in self.results)

    @property
    def words_ignored(self) -> bool:
        """Whether the user asked for something in words, and no ranker that served the list reads words."""
        readers = [result for result in self.results if _reads_words(result.ranker)]
        return bool(self.request.words.strip() and self.results and not readers)

    @property
    def remaining_request(self) -> RankRequest:
        """The request without the items that have been ranked already."""
        if not self.results:
            return self.request
        served = np.concatenate([result.item_indices for result in self.results])
        return replace(self.request, allowed=self.request.allowed.without(served))

    def add_ranking(self, ranker: Ranker, ranking: Ranking) -> None:
        """Append the items of a ranking until the list is full."""
        self.tokens += ranking.prompt_tokens + ranking.generated_tokens
        self.cost += ranking.cost
        for notice in ranking.notices:
            self.add_notice(notice)
        if not len(ranking.item_indices):
            return
        if not self.results:
            self.proven, self.compared = ranking.proven, ranking.num_scored
        count = self.n_missing
        self.results.append(
            StageResult(ranker, ranking.item_indices[:count], ranking.scores[:count], ranking.main_signals[:count])
        )

    def record_failure(self, ranker: Ranker, error: BaseException) -> None:
        """Record that a stage was skipped, and why."""
        self.failed_stages.append(ranker.source)
        self.add_notice(Notice("stage_skipped", self._log_failure(ranker, error)))

    def add_notice(self, notice: Notice) -> None:
        """Add a notice to the caller, unless it is there already."""
        if notice not in self.notices:
            self.notices.append(notice)

    def _log_failure(self, ranker: Ranker, error: BaseException) -> dict[str, object]:
        """Log a failure, and return the fields of its notice."""
        self.failure_log.log(ranker.source, error)
        return {"stage": ranker.source, "reason": failure_reason(error), "error": failure_code(error)}

    def explain(self, catalog: Catalog, template: Template, deadline: Deadline) -> None:
        """Find the drivers of each item with the ranker that ranked it, and render the reasons.

        A reason mentions the user's words only if the ranker reads them.
        """
        for result in self.results:
            try:
                deadline.check()
                words = self.request.words if _reads_words(result.ranker) else ""
                drivers = find_drivers(result.ranker, self.request, result.item_indices, catalog, deadline=deadline)
                result.explanations = [(of_item, render_reason(template, of_item, words)) for of_item in drivers]
            except BaseException as error:
                if not is_failure(error):
                    raise
                self.add_notice(Notice("explanation_skipped", self._log_failure(result.ranker, error)))

    def to_recommendation_list(self, catalog: Catalog, notices: Sequence[Notice], seconds: float) -> RecommendationList:
        """The recommendations, with further notices and the time that the request took."""
        items: list[Recommendation] = []
        for result in self.results:
            ids, titles = catalog.item_ids.take(result.item_indices), catalog.titles_at(result.item_indices)
            for position, (item_id, title, score) in enumerate(zip(ids, titles, result.scores, strict=True)):
                drivers, reason = result.explanations[position] if result.explanations else ((), None)
                signal = result.main_signals[position] if result.main_signals else None
                stage, rank = result.ranker.source, len(items) + 1
                items.append(
                    Recommendation(self.user_id, item_id, rank, float(score), stage, title, reason, drivers, signal)
                )
        proven = self.proven or not self.k  # if no item is allowed, the empty list is the true top
        all_notices = (*notices, *self.notices)
        failed = tuple(self.failed_stages)
        return RecommendationList(
            tuple(items), proven, self.compared, all_notices, seconds, self.tokens, failed, self.cost
        )


def _reads_words(ranker: Ranker) -> bool:
    """Whether the words of a request change the ranker's scores. A ranker that does not say so reads them."""
    return bool(getattr(ranker, "reads_words", True))


def _run_stage(
    ranker: Ranker, requests: Sequence[PendingRequest], k: int, deadline: Deadline, allow_late: bool
) -> None:
    """Rank the requests that are not full with one stage, in batches; see `FallbackChain.serve`."""
    able = [pending for pending in requests if pending.n_missing and _can_rank(ranker, pending)]
    for start in range(0, len(able), _BATCH_SIZE):
        batch = able[start : start + _BATCH_SIZE]
        if deadline.remaining() < 0 and (start or not allow_late):
            _record_failure(ranker, batch, DeadlineExceededError("the deadline passed during earlier requests"))
        else:
            _run_batch(ranker, batch, k, deadline)


def _can_rank(ranker: Ranker, pending: PendingRequest) -> bool:
    try:
        return bool(ranker.can_rank(pending.request))  # the truth of what a foreign ranker returns may raise, too
    except BaseException as error:
        if not is_failure(error):
            raise
        pending.record_failure(ranker, error)
        return False


def _run_batch(ranker: Ranker, requests: Sequence[PendingRequest], k: int, deadline: Deadline) -> None:
    """Rank one batch; if it fails, rank each request alone, so that one request cannot fail the others."""
    asked = [pending.remaining_request for pending in requests]
    try:
        rankings = list(ranker.rank(asked, k, deadline=deadline))
        for request, ranking in zip(asked, rankings, strict=True):
            _check_ranking(request, ranking)
    except PartialFailureError as failure:  # one request cannot fail the others, and none is ranked twice
        for pending, result in zip(requests, failure.results, strict=True):
            _add_result(ranker, pending, result)
    except BaseException as error:
        if not is_failure(error):
            raise
        if len(requests) == 1 or isinstance(error, DeadlineExceededError) or deadline.remaining() < 0:
            _record_failure(ranker, requests, error)
            return
        requests[0].failure_log.log(ranker.source, error)
        for pending in requests:
            _run_batch(ranker, [pending], k, deadline)
    else:
        for pending, ranking in zip(requests, rankings, strict=True):
            pending.add_ranking(ranker, ranking)


def _add_result(ranker: Ranker, pending: PendingRequest, result: Ranking | EngineError) -> None:
    if isinstance(result, EngineError):
        pending.record_failure(ranker, result)
        return
    try:
        _check_ranking(pending.remaining_request, result)
    except EngineError as error:
        pending.record_failure(ranker, error)
    else:
        pending.add_ranking(ranker, result)


def _record_failure(ranker: Ranker, requests: Sequence[PendingRequest], error: BaseException) -> None:
    for pending in requests:
        pending.record_failure(ranker, error)


def _check_ranking(request: RankRequest, ranking: Ranking) -> None:
    """Check what a stage returned, because a broken model or a ranker of the caller may return anything.

    Raises:
        EngineError: a score is not finite, an item is not allowed or ranked twice, or some items have no main signal.
    """
    if len(ranking.scores) != len(ranking.item_indices) or not np.isfinite(ranking.scores).all():
        raise EngineError("the scores of its items are missing or not finite; check the model's weights")
    if len(ranking.main_signals) not in (0, len(ranking.item_indices)):
        raise EngineError("it named the main signals of some of its items only; correct the ranker")
    if len(np.unique(ranking.item_indices)) < len(ranking.item_indices):
        raise EngineError("it ranked an item twice; correct the ranker")
    if not np.all(request.allowed.contains(ranking.item_indices)):
        raise EngineError("it ranked an item that is not allowed; correct the ranker")
