"""The recommender: exactly k allowed items for each user, and for each item the stage that served it."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, get_args, overload

import numpy as np

from genrec.data.catalog import UNKNOWN, WITHDRAWN, Catalog
from genrec.data.constraints import ConstraintCompiler, Constraints
from genrec.data.ids import key_of
from genrec.data.interactions import Interactions
from genrec.data.named_items import withdrawn_notices
from genrec.data.user_frames import UserLike, lists_to_frame, requested_users
from genrec.deadline import Deadline
from genrec.errors import (
    InputError,
    UnknownItemError,
    UnknownUserError,
    check_count,
    check_number,
    format_value,
)
from genrec.notices import Notice
from genrec.prompting.template import Template, read_template
from genrec.rankers.base import Ranker, RankRequest
from genrec.rankers.failures import FailureLog
from genrec.rankers.fallback import FallbackChain, PendingRequest
from genrec.types import (
    History,
    IntArray,
    ItemId,
    RecommendationList,
    UserId,
)

OnUnknown = Literal["raise", "skip", "fallback"]

_BATCH_SIZE = 256  # users per batch; limits the memory that their requests take


class RecommendOptions(TypedDict, total=False):
    """The keyword arguments of `Recommender.recommend`; see there."""

    filter_seen: bool
    only: Iterable[ItemId] | None
    exclude: Iterable[ItemId] | None
    where: Any
    boost: Mapping[ItemId, float] | None
    explain: bool
    deadline: float | None
    on_unknown: OnUnknown


class Recommender:
    """A catalog, the histories of its users, and a fallback chain of rankers; see `genrec.rankers.fallback`.

    Args:
        catalog: the items that can be recommended.
        stages: rankers, best first; the last must rank every request, as `PopularityRanker` does.
        interactions: histories of known users; None if every request contains its own.
        explanation: the template of the reason sentence.
        notices: added to every answer, such as that a model is not installed.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        catalog: Catalog,
        stages: Sequence[Ranker],
        *,
        interactions: Interactions | None = None,
        explanation: Template | None = None,
        notices: Sequence[Notice] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.catalog = catalog
        self._fallback_chain, self._failure_log = FallbackChain(tuple(stages)), FailureLog()
        self.interactions = interactions
        self._explanation_template = explanation or read_template("explanation")
        self._notices = tuple(notices)
        self._clock = clock
        self._constraints = ConstraintCompiler(catalog)
        self._interaction_indices_cache: tuple[Interactions, IntArray] | None = None

    @property
    def notices(self) -> tuple[Notice, ...]:
        """The notices that are added to every answer."""
        return self._notices

    @property
    def stages(self) -> tuple[Ranker, ...]:
        """The rankers, best first."""
        return self._fallback_chain.stages

    @overload
    def recommend(  # type: ignore[overload-overlap]  # a text is a user id, not a sequence of them
        self, users: UserLike, k: int = 10, **options: Unpack[RecommendOptions]
    ) -> RecommendationList: ...
    @overload
    def recommend(
        self, users: Sequence[UserLike], k: int = 10, **options: Unpack[RecommendOptions]
    ) -> list[RecommendationList]: ...
    @overload
    def recommend(self, users: Any, k: int = 10, **options: Unpack[RecommendOptions]) -> Any: ...

    def recommend(
        self,
        users: Any,
        k: int = 10,
        *,
        filter_seen: bool = True,
        only: Iterable[ItemId] | None = None,
        exclude: Iterable[ItemId] | None = None,
        where: Any = None,
        boost: Mapping[ItemId, float] | None = None,
        explain: bool = False,
        deadline: float | None = None,
        on_unknown: OnUnknown = "raise",
    ) -> Any:
        """Recommend k items to one user or to many.

        Args:
            users: a user id or a `History`; a sequence of these; or a data frame with the column `user_id` (known
                users), or with `user_id`, `item_id` and optionally `timestamp` (one history per user).
            k: list length.
            filter_seen: exclude the items of the user's history.
            only: recommend only these items.
            exclude: never recommend these items.
            where: a filter on attributes, such as `"price < 5"`, as text or parsed; see `Catalog.where`.
            boost: added to the scores of items, on the scale of the ranker that serves them.
            explain: add to each item the history items that drove it and a sentence.
            deadline: seconds the answer may take. A model in this process checks the deadline between forward passes,
                so one pass may overrun it; a call to a model elsewhere, such as vLLM, is abandoned at the deadline.
                Stages without a model check it between batches of users, and always rank the first batch. Reasons
                that are not found by then are left out. The last stage has no time limit; it takes milliseconds.
            on_unknown: for an unknown user or history item: `raise` raises an error; `skip` ignores the item and
                returns an empty list for the user; `fallback` ignores the item and treats the user as new. Unknown
                items in `only`, `exclude` and `boost` always raise.

        Items that were withdrawn from the catalog are not unknown: whatever `on_unknown` is, their ids are ignored,
        in a history as in an option, and a notice lists them; see `genrec.data.named_items`.

        Returns:
            For one user a `RecommendationList`; for a sequence a list of these, in the same order; for a data frame
            a frame of the same library with the columns `user_id, item_id, rank, score, source` and, if `explain` is
            set, `reason`. Lists contain exactly min(k, allowed) items, ties in catalog order.

        Raises:
            InputError: an argument is invalid.
            UnknownUserError, UnknownItemError: a user or a history item is unknown, and `on_unknown` is `raise`; or an
                item of an option is unknown.
            DeadlineExceededError: the deadline passed while a filter was evaluated, so the allowed items are unknown.
        """
        arguments = _Arguments(k, filter_seen, only, exclude, where, boost, deadline, on_unknown, explain)
        options = self._request_options(arguments, self._clock())
        requested, frame = requested_users(users)
        if len(requested) > _BATCH_SIZE:
            self._check_users(requested, on_unknown)  # before the first batch is ranked
        answers = self._recommend_batches(requested, options, explain)
        if frame is not None:
            return lists_to_frame(answers, frame, explain)
        return answers if isinstance(users, Sequence) and not isinstance(users, str) else answers[0]

    def check(self, users: Any, k: int = 10, **options: Unpack[RecommendOptions]) -> None:
        """Raise the error that `recommend` would raise for these arguments, without ranking.

        It needs no model, so that a program can check a request before it loads one.
        """
        checked = _Arguments(k, **options)
        self._request_options(checked, self._clock())
        self._check_users(requested_users(users)[0], checked.on_unknown)

    def validation_errors(
        self, users: Sequence[UserLike], *, on_unknown: OnUnknown = "raise"
    ) -> list[InputError | None]:
        """The error that `recommend` would raise for each user; None if it would answer."""
        options = self._default_options(on_unknown)
        errors: list[InputError | None] = []
        for user in users:
            try:
                self._pending_request(self._resolve_users([user], on_unknown)[0], options)
                errors.append(None)
            except InputError as error:
                errors.append(error)
        return errors

    def history_indices(self, user: UserLike, *, on_unknown: OnUnknown = "raise") -> IntArray:
        """The history of a user: int64 [H], item indices, oldest first.

        Raises:
            UnknownUserError, UnknownItemError: as for `recommend`.
        """
        return self._pending_request(
            self._resolve_users([user], on_unknown)[0], self._default_options(on_unknown)
        ).request.history

    def _default_options(self, on_unknown: OnUnknown) -> "_RequestOptions":
        return self._request_options(_Arguments(k=1, filter_seen=False, on_unknown=on_unknown), self._clock())

    def _request_options(self, arguments: "_Arguments", start: float) -> "_RequestOptions":
        """Check the arguments of a call that began at `start`, and translate item ids to indices."""
        arguments.check()
        seconds = arguments.deadline
        deadline = Deadline.never() if seconds is None else Deadline(start + seconds, self._clock)
        constraints = self._constraints.compile(
            where=arguments.where,
            only=arguments.only,
            exclude=arguments.exclude,
            boost=arguments.boost,
            deadline=deadline,
        )
        return _RequestOptions(int(arguments.k), arguments.filter_seen, constraints, deadline, arguments.on_unknown)

    def _recommend_batches(
        self, users: Sequence[UserLike], options: "_RequestOptions", explain: bool
    ) -> list[RecommendationList]:
        answers: list[RecommendationList] = []
        for first in range(0, len(users), _BATCH_SIZE):
            start = self._clock()
            resolved = self._resolve_users(users[first : first + _BATCH_SIZE], options.on_unknown)
            requests = [self._pending_request(user, options) for user in resolved]
            is_late = first > 0 and options.deadline.remaining() < 0
            self._fallback_chain.serve(requests, options.k, options.deadline, allow_late=not is_late)
            if explain:
                for request in requests:
                    request.explain(self.catalog, self._explanation_template, options.deadline)
            seconds = (self._clock() - start) / len(requests)
            answers += [request.to_recommendation_list(self.catalog, self._notices, seconds) for request in requests]
        return answers

    def _check_users(self, users: Sequence[UserLike], on_unknown: str) -> None:
        for first in range(0, len(users), _BATCH_SIZE):
            for resolved in self._resolve_users(users[first : first + _BATCH_SIZE], on_unknown):
                self._check_history(resolved, on_unknown)

    def _check_history(self, resolved: "_ResolvedUser", on_unknown: str) -> None:
        """Refuse a history with an unknown item, if `on_unknown` says so."""
        if on_unknown == "raise" and (unknown := resolved.absent_item_ids(UNKNOWN)):
            raise UnknownItemError(
                f"item {format_value(unknown[0])} in the history{_of_user(resolved.user_id)} is not in catalog "
                f"{self.catalog.name!r} ({len(self.catalog):,} items)",
                remedy='pass on_unknown="skip" to drop such items',
                on_unknown="skip",
            )

    def _pending_request(self, resolved: "_ResolvedUser", options: "_RequestOptions") -> PendingRequest:
        """The request of one user, in item indices."""
        notices: list[Notice] = []
        self._check_history(resolved, options.on_unknown)
        items = resolved.item_indices[resolved.item_indices >= 0]
        if count := np.count_nonzero(resolved.item_indices == UNKNOWN):
            total = len(resolved.item_indices)
            notices.append(Notice("unknown_history_items", {"count": int(count), "total": total}))
        constraints = options.constraints
        notices += withdrawn_notices((*resolved.absent_item_ids(WITHDRAWN), *constraints.withdrawn))
        allowed = constraints.allowed.without(items) if options.filter_seen else constraints.allowed
        if not resolved.known:
            code = "unknown_user" if options.on_unknown == "fallback" else "unknown_user_skipped"
            notices.append(Notice(code, {"user_id": resolved.user_id}))
            if options.on_unknown == "skip":
                allowed = allowed.intersect([])
        if resolved.known and len(allowed) < options.k:
            notices.append(Notice("few_allowed", {"allowed": len(allowed), "k": options.k}))
        request = RankRequest(items, resolved.words, allowed, constraints.boost)
        k = min(options.k, len(allowed))
        return PendingRequest(resolved.user_id, request, k, notices, failure_log=self._failure_log)

    def _resolve_users(self, users: Sequence[UserLike], on_unknown: str) -> "list[_ResolvedUser]":
        """The history of each user in item indices; the items of all `History` values are looked up together."""
        histories = [user for user in users if isinstance(user, History)]
        for history in histories:
            if not isinstance(history.item_ids, tuple | list) or not isinstance(history.words, str):
                raise InputError(
                    f"{format_value(history)} is not valid; give item_ids as a tuple of item ids, words as text"
                )
        stops = np.cumsum([len(history.item_ids) for history in histories], dtype=np.int64)
        items = self.catalog.lookup([item_id for history in histories for item_id in history.item_ids])
        indices = iter(np.split(items, stops[:-1]))
        return [
            _ResolvedUser(user.user_id, user.words, next(indices), user.item_ids, np.arange(len(user.item_ids)))
            if isinstance(user, History)
            else self._resolve_known_user(user, on_unknown)
            for user in users
        ]

    def _resolve_known_user(self, user_id: UserId, on_unknown: str) -> "_ResolvedUser":
        """The history of a user id in the interactions."""
        if key_of(user_id) is None:
            raise InputError(f"{format_value(user_id)} is not a user; pass user ids or History values")
        try:
            if self.interactions is None:
                problem = f"user {format_value(user_id)} is unknown: no interactions were loaded"
                raise UnknownUserError(problem, remedy="pass a History")
            codes = self.interactions.codes_of(user_id)
            return _ResolvedUser(
                user_id, "", self._interaction_indices(self.interactions)[codes], self.interactions.item_ids, codes
            )
        except UnknownUserError:
            if on_unknown == "raise":
                raise
            nothing = np.empty(0, dtype=np.int64)
            return _ResolvedUser(user_id, "", nothing, (), nothing, known=False)

    def _interaction_indices(self, interactions: Interactions) -> IntArray:
        """The catalog index of each item of the interactions; computed once, not for every history."""
        if self._interaction_indices_cache is None or self._interaction_indices_cache[0] is not interactions:
            self._interaction_indices_cache = (interactions, self.catalog.lookup(interactions.item_ids))
        return self._interaction_indices_cache[1]


@dataclass(frozen=True)
class _ResolvedUser:
    """A user's history.

    Attributes:
        item_indices: int64 [H], oldest first, from `Catalog.lookup`.
        item_ids, id_positions: the id of history item h is `item_ids[id_positions[h]]`.
        known: False for a user id without interactions.
    """

    user_id: UserId | None
    words: str
    item_indices: IntArray
    item_ids: Sequence[ItemId]
    id_positions: IntArray
    known: bool = True

    def absent_item_ids(self, absence: int) -> list[ItemId]:
        """The ids in the history that are UNKNOWN or that are WITHDRAWN, oldest first."""
        if len(self.item_indices) == 0 or self.item_indices.min() >= 0:  # the common case, on a hot path
            return []
        return [self.item_ids[position] for position in self.id_positions[self.item_indices == absence].tolist()]


@dataclass(frozen=True)
class _Arguments:
    """The arguments of `Recommender.recommend` as the caller passed them."""

    k: int
    filter_seen: bool = True
    only: Iterable[ItemId] | None = None
    exclude: Iterable[ItemId] | None = None
    where: Any = None
    boost: Mapping[ItemId, float] | None = None
    deadline: float | None = None
    on_unknown: OnUnknown = "raise"
    explain: bool = False

    def check(self) -> None:
        """Check types and ranges.

        Raises:
            InputError: an argument is invalid.
        """
        check_count("k", self.k)
        for name, flag in (("filter_seen", self.filter_seen), ("explain", self.explain)):
            if not isinstance(flag, bool | np.bool_):
                raise InputError(f"{name} is {format_value(flag)}; pass True or False")
        if not isinstance(self.on_unknown, str) or self.on_unknown not in get_args(OnUnknown):
            choices = ", ".join(get_args(OnUnknown))
            raise InputError(f"on_unknown is {format_value(self.on_unknown)}; choose one of {choices}")
        if self.deadline is not None:
            check_number("deadline", self.deadline, "give seconds above 0, or None for no deadline", 0, above=True)
        for name, ids in (("only", self.only), ("exclude", self.exclude)):
            if ids is not None and (isinstance(ids, str | bytes) or not isinstance(ids, Iterable)):
                raise InputError(f"{name} is {format_value(ids)}; pass a list of item ids")


@dataclass(frozen=True)
class _RequestOptions:
    """The options of a call, checked and in item indices."""

    k: int
    filter_seen: bool
    constraints: Constraints
    deadline: Deadline
    on_unknown: str


def _of_user(user: UserId | None) -> str:
    return "" if user is None else f" of user {format_value(user)}"
