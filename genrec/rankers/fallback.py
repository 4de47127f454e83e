"""The fallback chain: rankers that serve a request one after the other until its list is full.

A stage that cannot rank a request, fails, or exceeds its time limit is skipped. If a stage returns fewer items than
requested, the next stage fills the list. The last stage ranks every request.
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
from genrec.types import Driver, FloatArray, IntArray, Ranking, Recommendation, RecommendationList, UserId

_STAGE_TIME_SHARE = 0.6  # share of the remaining time that each stage but the last may use
_BATCH_SIZE = 32  # requests ranked at once; batches that finish before the deadline are kept


@dataclass(frozen=True)
class FallbackChain:
    """Rankers as stages, best first; the last must rank every request, as `PopularityRanker` does."""

    stages: tuple[Ranker, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("the ladder is empty; end it with a PopularityRanker")

    def serve(self, requests: "Sequence[PendingRequest]", k: int, deadline: Deadline) -> None:
        """Pass the requests through the stages until their lists are full; the last stage has no time limit."""
        for ranker in self.stages[:-1]:
            stage_deadline = deadline
            if np.isfinite(deadline.at):
                stage_deadline = Deadline(deadline.clock() + _STAGE_TIME_SHARE * deadline.remaining(), deadline.clock)
            _run_stage(ranker, requests, k, stage_deadline)
        _run_stage(self.stages[-1], requests, k, Deadline.never())
        for pending in requests:
            if pending.n_missing:
                pending.add_notice(Notice("items_missing", {"count": pending.n_missing}))


@dataclass
class StageResult:
    """The items that one stage ranked for a request, best first.

    Attributes:
        ranker: the stage.
        item_indices: int64 [n].
        scores: float64 [n].
        contributors: the main signal of each item; () for a stage without signals.
        explanations: drivers and reason of each item; None if none were requested.
    """

    ranker: Ranker
    item_indices: IntArray
    scores: FloatArray
    contributors: tuple[str, ...]
    explanations: list[tuple[tuple[Driver, ...], str]] | None = None


@dataclass
class PendingRequest:
    """One request on its way through the fallback chain.

    Attributes:
        user_id: the caller's id.
        request: the request.
        k: list length, no more than are allowed.
        notices: notices to the caller.
        results: what the stages have ranked so far.
        proven, compared: of the first result, see `RecommendationList`.
        tokens: tokens computed so far.
        failed_stages: the stages that failed or exceeded their time limit.
    """

    user_id: UserId | None
    request: RankRequest
    k: int
    notices: list[Notice]
    results: list[StageResult] = field(default_factory=list)
    proven: bool = False
    compared: int = 0
    tokens: int = 0
    failed_stages: list[str] = field(default_factory=list)

    @property
    def n_missing(self) -> int:
        """Number of items that are still missing."""
        return self.k - sum(len(result.item_indices) for result in self.results)

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

    def record_failure(self, ranker: Ranker, error: EngineError) -> None:
        """Record that a stage was skipped, and why."""
        self.failed_stages.append(ranker.source)
        reason = "deadline exceeded" if isinstance(error, DeadlineExceededError) else str(error)
        self.add_notice(Notice("stage_skipped", {"stage": ranker.source, "reason": reason, "error": error.code}))

    def add_notice(self, notice: Notice) -> None:
        """Add a notice to the caller, unless it is there already."""
        if notice not in self.notices:
            self.notices.append(notice)

    def explain(self, catalog: Catalog, template: Template, deadline: Deadline) -> None:
        """Find the drivers of each item with the ranker that ranked it, and render the reasons."""
        for result in self.results:
            try:
                drivers = find_drivers(result.ranker, self.request, result.item_indices, catalog, deadline=deadline)
            except EngineError as error:
                fields = {"stage": result.ranker.source, "reason": str(error), "error": error.code}
                self.add_notice(Notice("explanation_skipped", fields))
                continue
            result.explanations = [
                (item_drivers, render_reason(template, item_drivers, self.request.words)) for item_drivers in drivers
            ]

    def to_recommendation_list(self, catalog: Catalog, notices: Sequence[Notice], seconds: float) -> RecommendationList:
        """The recommendations, with further notices and the time that the request took."""
        items: list[Recommendation] = []
        for result in self.results:
            item_ids, titles = catalog.item_ids.take(result.item_indices), catalog.titles_at(result.item_indices)
            for position, (item_id, title, score) in enumerate(zip(item_ids, titles, result.scores, strict=True)):
                drivers, reason = result.explanations[position] if result.explanations else ((), None)
                signal = result.contributors[position] if result.contributors else None
                stage, rank = result.ranker.source, len(items) + 1
                items.append(
                    Recommendation(self.user_id, item_id, rank, float(score), stage, title, reason, drivers, signal)
                )
        proven = self.proven or not self.k  # with no item allowed, the empty list is the best one
        all_notices = (*notices, *self.notices)
        return RecommendationList(
            tuple(items), proven, self.compared, all_notices, seconds, self.tokens, tuple(self.failed_stages)
        )


def _run_stage(ranker: Ranker, requests: Sequence[PendingRequest], k: int, deadline: Deadline) -> None:
    """Rank the requests that are not full with one stage, in batches."""
    rankable = [pending for pending in requests if pending.n_missing and ranker.can_rank(pending.request)]
    for start in range(0, len(rankable), _BATCH_SIZE):
        _run_batch(ranker, rankable[start : start + _BATCH_SIZE], k, deadline)


def _run_batch(ranker: Ranker, requests: Sequence[PendingRequest], k: int, deadline: Deadline) -> None:
    """Rank one batch; if it fails, rank each request alone, so that one request cannot fail the others."""
    try:
        rankings = ranker.rank([pending.remaining_request for pending in requests], k, deadline=deadline)
    except DeadlineExceededError as error:
        for pending in requests:
            pending.record_failure(ranker, error)
    except EngineError as error:
        if len(requests) > 1:
            for pending in requests:
                _run_batch(ranker, [pending], k, deadline)
        else:
            requests[0].record_failure(ranker, error)
    else:
        for pending, ranking in zip(requests, rankings, strict=True):
            pending.add_ranking(ranker, ranking)
