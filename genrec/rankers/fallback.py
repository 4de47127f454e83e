"""From one ranker to the next until a request has what it asked for.

A step that cannot rank a request, fails, or runs out of time is passed over, and a step that knows fewer items than
were asked for is filled up by the next. The last step always answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from genrec.data.catalog import Catalog
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError, InputError
from genrec.prompting.template import Template
from genrec.rankers.base import Ranker, RankRequest
from genrec.rankers.explain import find_drivers, give_reason
from genrec.types import Driver, FloatArray, IntArray, Ranking, Recommendation, RecommendationList, UserId

_SHARE = 0.6  # of the time that is left, for each step but the last
_BATCH = 32  # tasks asked at once; what has been answered when the time runs out is kept


@dataclass(frozen=True)
class Ladder:
    """Rankers, best first; the last must rank every request, as `PopularityRanker` does."""

    steps: tuple[Ranker, ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise InputError("the ladder is empty; end it with a PopularityRanker")

    def serve(self, tasks: "Sequence[Task]", k: int, deadline: Deadline) -> None:
        """Take every task down the ladder until it is full; the last step is given all the time it needs."""
        for ranker in self.steps[:-1]:
            own = deadline
            if np.isfinite(deadline.at):
                own = Deadline(deadline.clock() + _SHARE * deadline.left(), deadline.clock)
            _ask(ranker, tasks, k, own)
        _ask(self.steps[-1], tasks, k, Deadline.never())
        for task in tasks:
            if task.missing:
                task.note(f"{task.missing} items are missing, no step could rank them; end the ladder with popularity")


@dataclass
class Part:
    """What one ranker gave to a task: item indices, scores and what spoke for each, best first."""

    ranker: Ranker
    items: IntArray
    scores: FloatArray
    evidence: tuple[str, ...]
    reasons: list[tuple[tuple[Driver, ...], str]] | None = None


@dataclass
class Task:
    """One request on its way down the ladder.

    Attributes:
        user_id: the caller's id.
        request: what is asked.
        wanted: items to be found, no more than are allowed.
        notices: what the caller should know.
        parts: what has been found.
        proven, compared: of the first part, see `RecommendationList`.
        tokens: computed on the way so far.
        left_out: the steps that failed or had no time.
    """

    user_id: UserId | None
    request: RankRequest
    wanted: int
    notices: list[str]
    parts: list[Part] = field(default_factory=list)
    proven: bool = False
    compared: int = 0
    tokens: int = 0
    left_out: list[str] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Items still to be found."""
        return self.wanted - sum(len(part.items) for part in self.parts)

    @property
    def rest(self) -> RankRequest:
        """The request without what has been served."""
        if not self.parts:
            return self.request
        served = np.concatenate([part.items for part in self.parts])
        return replace(self.request, allowed=self.request.allowed.without(served))

    def take(self, ranker: Ranker, ranking: Ranking) -> None:
        """Fill up with what a ranker found."""
        self.tokens += ranking.prompt + ranking.nodes
        for notice in ranking.notices:
            self.note(notice)
        if not len(ranking.item_indices):
            return
        if not self.parts:
            self.proven, self.compared = ranking.proven, ranking.compared
        count = self.missing
        self.parts.append(Part(ranker, ranking.item_indices[:count], ranking.scores[:count], ranking.evidence[:count]))

    def leave_out(self, ranker: Ranker, why: object) -> None:
        """Go on without a step."""
        self.left_out.append(ranker.source)
        self.note(f"{ranker.source} was left out: {why}")

    def note(self, notice: str) -> None:
        """Tell the caller, once."""
        if notice not in self.notices:
            self.notices.append(notice)

    def explain(self, catalog: Catalog, template: Template, deadline: Deadline) -> None:
        """Find what drove each item, by the ranker that served it."""
        for part in self.parts:
            try:
                drivers = find_drivers(part.ranker, self.request, part.items, catalog, deadline=deadline)
            except EngineError as error:
                self.note(f"no reasons for the items from {part.ranker.source}: {error}")
                continue
            part.reasons = [(own, give_reason(template, own, self.request.words)) for own in drivers]

    def finish(self, catalog: Catalog, notices: Sequence[str], seconds: float) -> RecommendationList:
        """The answer."""
        items: list[Recommendation] = []
        for part in self.parts:
            ids, titles = catalog.item_ids.take(part.items), catalog.titles_at(part.items)
            for place, (item_id, title, score) in enumerate(zip(ids, titles, part.scores, strict=True)):
                drivers, reason = part.reasons[place] if part.reasons else ((), None)
                source, rank = part.ranker.source, len(items) + 1
                if part.evidence:
                    source = f"{source}: {part.evidence[place]}"
                items.append(Recommendation(self.user_id, item_id, rank, float(score), source, title, reason, drivers))
        proven = self.proven or not self.wanted  # nothing is allowed, and nothing is all of it
        said = (*notices, *self.notices)
        return RecommendationList(tuple(items), proven, self.compared, said, seconds, self.tokens, tuple(self.left_out))


def _ask(ranker: Ranker, tasks: Sequence[Task], k: int, deadline: Deadline) -> None:
    """Let one ranker answer, some tasks at a time."""
    able = [task for task in tasks if task.missing and ranker.can_rank(task.request)]
    for start in range(0, len(able), _BATCH):
        _ask_batch(ranker, able[start : start + _BATCH], k, deadline)


def _ask_batch(ranker: Ranker, tasks: Sequence[Task], k: int, deadline: Deadline) -> None:
    """Where a batch fails, each task is tried alone, so that one spoils no other."""
    try:
        rankings = ranker.rank([task.rest for task in tasks], k, deadline=deadline)
    except DeadlineExceededError:
        for task in tasks:
            task.leave_out(ranker, "no time")
    except EngineError as error:
        if len(tasks) > 1:
            for task in tasks:
                _ask_batch(ranker, [task], k, deadline)
        else:
            tasks[0].leave_out(ranker, error)
    else:
        for task, ranking in zip(tasks, rankings, strict=True):
            task.take(ranker, ranking)
