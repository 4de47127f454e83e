"""The recommender: turns users and options into requests, and serves them through the fallback chain."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, get_args, overload

import narwhals as nw
import numpy as np

from genrec.data.catalog import Catalog
from genrec.data.interactions import Interactions, read_interactions
from genrec.data.subset import Boost, Mask, Subset
from genrec.deadline import Deadline
from genrec.errors import InputError, UnknownItemError, UnknownUserError
from genrec.notices import Notice
from genrec.prompting.template import Template, read_template
from genrec.rankers.base import Ranker, RankRequest
from genrec.rankers.fallback import FallbackChain, PendingRequest
from genrec.types import (
    History,
    IntArray,
    ItemId,
    RecommendationList,
    UserId,
)

UserLike = UserId | History
OnUnknown = Literal["raise", "skip", "fallback"]

_BATCH_SIZE = 256  # users whose requests are in memory at once
_FILTER_CACHE_SIZE = 16  # compiled filters that are kept, the most recently used
_SPARSE_FILTER_RATIO = 64  # a filter that allows less than one item in this many is stored as a list of items


class RecommendOptions(TypedDict, total=False):
    """The keyword arguments of `Recommender.recommend`, documented there."""

    filter_seen: bool
    only: Iterable[ItemId] | None
    exclude: Iterable[ItemId] | None
    where: Any
    boost: Mapping[ItemId, float] | None
    explain: bool
    deadline: float | None
    on_unknown: OnUnknown


class Recommender:
    """Recommends items of a catalog to users, with a fallback chain of rankers; see `genrec.rankers.fallback`.

    Args:
        catalog: the items that can be recommended.
        stages: rankers, best first; the last must rank every request, as `PopularityRanker` does.
        interactions: histories of known users; None if every request has its own history.
        explanation: the template of the reason sentence.
        notices: included in every recommendation list, for example that a model is not installed.
        clock: monotonic seconds.
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
        self._fallback_chain = FallbackChain(tuple(stages))
        self.interactions = interactions
        self._explanation_template = explanation or read_template("explanation")
        self._notices = tuple(notices)
        self._clock = clock
        self._filter_cache: dict[str, Subset] = {}  # oldest first
        self._lock = threading.Lock()
        self._interaction_indices_cache: tuple[Interactions, IntArray] | None = None

    @property
    def notices(self) -> tuple[Notice, ...]:
        """The notices of every recommendation list."""
        return self._notices

    @property
    def stages(self) -> tuple[Ranker, ...]:
        """The rankers of the fallback chain, best first."""
        return self._fallback_chain.stages

    @overload
    def recommend(  # type: ignore[overload-overlap]  # a string is a user id, not a sequence of user ids
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
        """Recommend k items to one user or to each of several users.

        Args:
            users: a user id or a `History`; a sequence of these; or a data frame with a column `user_id` (known
                users), or with `user_id, item_id` and optionally `timestamp` (new histories).
            k: list length.
            filter_seen: exclude the items in the user's history.
            only: recommend only these items.
            exclude: never recommend these items.
            where: a filter on attributes, such as `"price < 5"`; see `Catalog.where`.
            boost: added to the scores of items, on the scale of the ranker that serves them.
            explain: add to each item the history items that drove the recommendation, and a sentence.
            deadline: seconds until the lists must be complete. A model in this process is stopped between two forward
                passes, so it may overrun by one pass; a call to a model in another process, such as vLLM, ends at the
                deadline. Rankers that take milliseconds always finish.
            on_unknown: how to handle an unknown user or history item: `raise` raises an error; `skip` drops the item
                and gives the user an empty list; `fallback` drops the item and treats the user as a new one.

        Returns:
            For one user a `RecommendationList`; for a sequence a list of these, in the same order; for a data frame one
            of the same kind with the columns `user_id, item_id, rank, score, source` and, with `explain`, `reason`.
            Lists have exactly min(k, allowed) items, best first, ties in catalog order.

        Raises:
            InputError: an argument is invalid.
            UnknownUserError, UnknownItemError: a user or a history item is unknown, and `on_unknown` is `raise`.
        """
        start = self._clock()
        options = self._request_options(k, filter_seen, only, exclude, where, boost, deadline, on_unknown, start)
        if isinstance(users, np.integer):
            users = int(users)
        if isinstance(users, str | int | History):
            return self._recommend_batches([users], options, explain)[0]
        if isinstance(users, Sequence):
            return self._recommend_batches(list(users), options, explain)
        frame = nw.from_native(users, eager_only=True, pass_through=True)
        if not isinstance(frame, nw.DataFrame):
            raise InputError(
                f"people is a {type(users).__name__}; pass a user id, a History, a list of these, or a data frame"
            )
        return self._to_frame(self._recommend_batches(_users_from_frame(frame), options, explain), frame, explain)

    def validation_errors(
        self, users: Sequence[UserLike], *, on_unknown: OnUnknown = "raise"
    ) -> list[InputError | None]:
        """Check users without ranking: for each, the error that `recommend` would raise, or None."""
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
        """The history of a user: int64 [H], item indices, oldest first; unknown items are skipped unless they raise.

        Raises:
            UnknownUserError, UnknownItemError: as for `recommend`.
        """
        return self._pending_request(
            self._resolve_users([user], on_unknown)[0], self._default_options(on_unknown)
        ).request.history

    def _default_options(self, on_unknown: OnUnknown) -> "_RequestOptions":
        return self._request_options(1, False, None, None, None, None, None, on_unknown, self._clock())

    def _request_options(
        self,
        k: int,
        filter_seen: bool,
        only: Iterable[ItemId] | None,
        exclude: Iterable[ItemId] | None,
        where: Any,
        boost: Mapping[ItemId, float] | None,
        deadline: float | None,
        on_unknown: str,
        start: float,
    ) -> "_RequestOptions":
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k is {k!r}; ask for a whole number of at least 1")
        if on_unknown not in get_args(OnUnknown):
            raise InputError(f"on_unknown is {on_unknown!r}; choose one of {', '.join(get_args(OnUnknown))}")
        if deadline is not None and not (isinstance(deadline, int | float) and 0 < deadline < np.inf):
            raise InputError(f"deadline is {deadline!r}; give seconds above 0, or None for none")
        for name, ids in (("only", only), ("exclude", exclude)):
            if ids is not None and (isinstance(ids, str | bytes) or not isinstance(ids, Iterable)):
                raise InputError(f"{name} is {ids!r}; pass a list of item ids")
        allowed = Subset.everything(len(self.catalog)) if where is None else self._compile_filter(where)
        if only is not None:
            allowed = allowed.intersect(self._item_indices("only", only))
        if exclude is not None:
            allowed = allowed.without(self._item_indices("exclude", exclude))
        time_limit = Deadline.never() if deadline is None else Deadline(start + deadline, self._clock)
        return _RequestOptions(int(k), filter_seen, allowed, self._compile_boost(boost), time_limit, on_unknown)

    def _compile_filter(self, where: Any) -> Subset:
        """The items that a filter allows; the most recently used text filters are cached."""
        with self._lock:
            cached = self._filter_cache.pop(where, None) if isinstance(where, str) else None
            if cached is not None:
                self._filter_cache[where] = cached
                return cached
        mask = Mask.from_bool(self.catalog.where(where))
        allowed = Subset.from_mask(mask)
        if mask.total * _SPARSE_FILTER_RATIO < len(mask):
            allowed = Subset.from_indices(len(mask), allowed.to_indices())
        if isinstance(where, str):
            with self._lock:
                self._filter_cache[where] = allowed
                while len(self._filter_cache) > _FILTER_CACHE_SIZE:
                    del self._filter_cache[next(iter(self._filter_cache))]
        return allowed

    def _item_indices(self, name: str, item_ids: Iterable[ItemId]) -> IntArray:
        item_ids = list(item_ids)
        item_indices = self.catalog.item_ids.positions(item_ids)
        unknown = np.flatnonzero(item_indices < 0)
        if unknown.size:
            raise UnknownItemError(
                f"{name} holds item {item_ids[int(unknown[0])]!r}, which is not in catalog {self.catalog.name!r} "
                f"({len(self.catalog):,} items); leave it out of {name}"
            )
        return item_indices

    def _compile_boost(self, boost: Mapping[ItemId, float] | None) -> Boost | None:
        if boost is None:
            return None
        if not isinstance(boost, Mapping):
            raise InputError(f"boost is {boost!r}; pass a mapping from item ids to numbers")
        try:
            values = np.array(list(boost.values()), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"a boost is no number: {error}; give a finite number for each item id") from error
        if not np.isfinite(values).all():
            item = list(boost)[int(np.argmin(np.isfinite(values)))]
            raise InputError(f"the boost of item {item!r} is {boost[item]}; give a finite number")
        item_indices = self._item_indices("boost", boost)
        order = np.argsort(item_indices, kind="stable")
        duplicates = np.flatnonzero(np.diff(item_indices[order]) == 0)
        if duplicates.size:
            one, other = (list(boost)[int(order[duplicates[0] + offset])] for offset in (0, 1))
            raise InputError(f"boost holds {one!r} and {other!r}, which are the same item; give it one number")
        return Boost(item_indices[order], values[order])

    def _recommend_batches(
        self, users: Sequence[UserLike], options: "_RequestOptions", explain: bool
    ) -> list[RecommendationList]:
        lists: list[RecommendationList] = []
        for first in range(0, len(users), _BATCH_SIZE):
            start = self._clock()
            batch = self._resolve_users(users[first : first + _BATCH_SIZE], options.on_unknown)
            requests = [self._pending_request(resolved, options) for resolved in batch]
            self._fallback_chain.serve(requests, options.k, options.deadline)
            if explain:
                for request in requests:
                    request.explain(self.catalog, self._explanation_template, options.deadline)
            seconds = (self._clock() - start) / len(requests)
            lists += [request.to_recommendation_list(self.catalog, self._notices, seconds) for request in requests]
        return lists

    def _pending_request(self, resolved: "_ResolvedUser", options: "_RequestOptions") -> PendingRequest:
        """The request of one user, in item indices."""
        notices: list[Notice] = []
        if options.on_unknown == "raise" and (resolved.item_indices < 0).any():
            unknown = resolved.item_ids[int(resolved.id_positions[np.argmin(resolved.item_indices)])]
            raise UnknownItemError(
                f"item {unknown!r} in the history{_of_user(resolved.user_id)} is not in catalog {self.catalog.name!r} "
                f"({len(self.catalog):,} items)",
                remedy='pass on_unknown="skip" to drop such items',
                on_unknown="skip",
            )
        items = resolved.item_indices[resolved.item_indices >= 0]
        if len(items) < len(resolved.item_indices):
            total = len(resolved.item_indices)
            notices.append(Notice("unknown_history_items", {"count": total - len(items), "total": total}))
        allowed = options.allowed.without(items) if options.filter_seen else options.allowed
        if not resolved.known:
            code = "unknown_user" if options.on_unknown == "fallback" else "unknown_user_skipped"
            notices.append(Notice(code, {"user_id": resolved.user_id}))
            if options.on_unknown == "skip":
                allowed = allowed.intersect([])
        count = len(allowed)
        if resolved.known and count < options.k:
            notices.append(Notice("few_allowed", {"allowed": count, "k": options.k}))
        request = RankRequest(items, resolved.words, allowed, options.boost)
        return PendingRequest(resolved.user_id, request, min(options.k, count), notices)

    def _resolve_users(self, users: Sequence[UserLike], on_unknown: str) -> "list[_ResolvedUser]":
        """Resolve users to item indices; the items of all given histories are looked up together."""
        given = [user for user in users if isinstance(user, History)]
        for history in given:
            if not isinstance(history.item_ids, tuple | list) or not isinstance(history.words, str):
                raise InputError(f"{history!r} is no History; item_ids is a tuple of item ids, words a text")
        stops = np.cumsum([len(history.item_ids) for history in given], dtype=np.int64)
        items = self.catalog.item_ids.positions([item_id for history in given for item_id in history.item_ids])
        histories = iter(np.split(items, stops[:-1]))
        return [
            _ResolvedUser(user.user_id, user.words, next(histories), user.item_ids, np.arange(len(user.item_ids)))
            if isinstance(user, History)
            else self._resolve_known_user(user, on_unknown)
            for user in users
        ]

    def _resolve_known_user(self, user_id: UserId, on_unknown: str) -> "_ResolvedUser":
        """Look up the history of a user id in the interactions."""
        if not isinstance(user_id, str | int | np.integer) or isinstance(user_id, bool):
            raise InputError(f"{user_id!r} is no person; pass user ids or History values")
        try:
            if self.interactions is None:
                raise UnknownUserError(f"user {user_id!r} is unknown: no interactions were loaded; pass a History")
            codes = self.interactions.codes_of(user_id)
            return _ResolvedUser(
                user_id, "", self._interaction_indices(self.interactions)[codes], self.interactions.item_ids, codes
            )
        except UnknownUserError:
            if on_unknown == "raise":
                raise
            empty = np.empty(0, dtype=np.int64)
            return _ResolvedUser(user_id, "", empty, (), empty, known=False)

    def _interaction_indices(self, interactions: Interactions) -> IntArray:
        """The item index of each item id of the interactions, -1 for unknown items; computed once."""
        if self._interaction_indices_cache is None or self._interaction_indices_cache[0] is not interactions:
            self._interaction_indices_cache = (interactions, self.catalog.item_ids.positions(interactions.item_ids))
        return self._interaction_indices_cache[1]

    def _to_frame(self, lists: Sequence[RecommendationList], frame: "nw.DataFrame[Any]", explain: bool) -> Any:
        items = [item for result in lists for item in result.items]
        columns: dict[str, list[Any]] = {
            name: [getattr(item, name) for item in items]
            for name in ("user_id", "item_id", "rank", "score", "source", *(["reason"] if explain else []))
        }
        return nw.from_dict(columns, backend=frame.implementation).to_native()


@dataclass(frozen=True)
class _ResolvedUser:
    """A user in item indices.

    Attributes:
        user_id: the caller's id, or None.
        words: the user's query.
        item_indices: int64 [H], the history, oldest first; -1 for items that are not in the catalog.
        item_ids: ids of the items; those of the history are at `id_positions`.
        id_positions: int64 [H].
        known: whether the user has interactions or a given history.
    """

    user_id: UserId | None
    words: str
    item_indices: IntArray
    item_ids: Sequence[ItemId]
    id_positions: IntArray
    known: bool = True


@dataclass(frozen=True)
class _RequestOptions:
    """The validated options of `Recommender.recommend`; `deadline` is a point in time."""

    k: int
    filter_seen: bool
    allowed: Subset
    boost: Boost | None
    deadline: Deadline
    on_unknown: str


def _of_user(user: UserId | None) -> str:
    return "" if user is None else f" of user {user!r}"


def _users_from_frame(frame: "nw.DataFrame[Any]") -> list[UserLike]:
    """The users of a data frame: histories if it has a column `item_id`, otherwise user ids."""
    if "item_id" in frame.columns:
        if "timestamp" not in frame.columns:
            frame = frame.with_row_index("timestamp")
        return list(read_interactions(frame.to_native()).histories())
    if "user_id" not in frame.columns:
        raise InputError(
            f"the data frame has columns {', '.join(frame.columns)}; it needs user_id, and perhaps item_id"
        )
    return list(frame["user_id"].to_list())
