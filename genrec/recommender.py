"""The front door: people in, exactly k allowed items each out, and every item says which step served it."""

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
from genrec.prompting.template import Template, read_template
from genrec.rankers.base import Ranker, RankRequest
from genrec.rankers.fallback import Ladder, Task
from genrec.types import (
    History,
    IntArray,
    ItemId,
    RecommendationList,
    UserId,
)

Person = UserId | History
OnUnknown = Literal["raise", "skip", "fallback"]

_CHUNK = 256  # people whose requests exist at once
_FILTERS = 16  # filters kept compiled, the newest
_FEW = 64  # a filter that lets through less than one item in so many is kept as a list of them


class Options(TypedDict, total=False):
    """What `Recommender.recommend` takes by name; its docstring explains each."""

    filter_seen: bool
    only: Iterable[ItemId] | None
    exclude: Iterable[ItemId] | None
    where: Any
    boost: Mapping[ItemId, float] | None
    explain: bool
    deadline: float | None
    on_unknown: OnUnknown


class Recommender:
    """A catalog, what is known of people, and a ladder of rankers; see `genrec.rankers.fallback`.

    Args:
        catalog: what can be recommended.
        ladder: rankers, best first; the last must rank every request, as `PopularityRanker` does.
        interactions: histories of known users; None if every request brings its own.
        explanation: the template of the reason sentence.
        notices: what every answer should mention, such as a model that is not installed.
        clock: seconds, rising.
    """

    def __init__(
        self,
        catalog: Catalog,
        ladder: Sequence[Ranker],
        *,
        interactions: Interactions | None = None,
        explanation: Template | None = None,
        notices: Sequence[str] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.catalog = catalog
        self._ladder = Ladder(tuple(ladder))
        self.interactions = interactions
        self._explanation = explanation or read_template("explanation")
        self._notices = tuple(notices)
        self._clock = clock
        self._filters: dict[str, Subset] = {}  # oldest first
        self._lock = threading.Lock()
        self._places_in: tuple[Interactions, IntArray] | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """What every answer mentions."""
        return self._notices

    @property
    def ladder(self) -> tuple[Ranker, ...]:
        """The rankers, best first."""
        return self._ladder.steps

    @overload
    def recommend(  # type: ignore[overload-overlap]  # a text is a user id, not a sequence of them
        self, people: Person, k: int = 10, **options: Unpack[Options]
    ) -> RecommendationList: ...
    @overload
    def recommend(
        self, people: Sequence[Person], k: int = 10, **options: Unpack[Options]
    ) -> list[RecommendationList]: ...
    @overload
    def recommend(self, people: Any, k: int = 10, **options: Unpack[Options]) -> Any: ...

    def recommend(
        self,
        people: Any,
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
        """Recommend k items to one person or to many.

        Args:
            people: a user id or a `History`; a sequence of these; or a data frame with a column `user_id` (known
                users), or `user_id, item_id` and perhaps `timestamp` (histories of their own).
            k: list length.
            filter_seen: leave out what is in the person's history.
            only: recommend nothing but these items.
            exclude: never recommend these items.
            where: a filter on attributes, such as `"price < 5"`; see `Catalog.where`.
            boost: added to the scores of items, on the scale of the ranker that serves them.
            explain: add to each item the history items that drove it and a sentence.
            deadline: seconds the answer may take. A model is asked only within them: one in this process is looked
                after between two of its passes, so one pass may overrun; one that runs elsewhere, as vLLM does, is
                left at once. Rankers that need milliseconds answer in any case.
            on_unknown: a user or history item nobody knows: `raise`; `skip` leaves the item out and gives the user
                an empty list; `fallback` leaves the item out and treats the user as somebody new.

        Returns:
            For one person a `RecommendationList`; for a sequence a list of these, in its order; for a data frame one
            of the same kind with the columns `user_id, item_id, rank, score, source` and, where asked, `reason`.
            Lists hold exactly min(k, allowed) items, ties in catalog order.

        Raises:
            InputError: an argument cannot be used.
            UnknownUserError, UnknownItemError: nobody knows a user or a history item, and `on_unknown` is `raise`.
        """
        start = self._clock()
        limits = self._limits(k, filter_seen, only, exclude, where, boost, deadline, on_unknown, start)
        if isinstance(people, np.integer):
            people = int(people)
        if isinstance(people, str | int | History):
            return self._answer([people], limits, explain)[0]
        if isinstance(people, Sequence):
            return self._answer(list(people), limits, explain)
        frame = nw.from_native(people, eager_only=True, pass_through=True)
        if not isinstance(frame, nw.DataFrame):
            raise InputError(
                f"people is a {type(people).__name__}; pass a user id, a History, a list of these, or a data frame"
            )
        return self._to_frame(self._answer(_people_in(frame), limits, explain), frame, explain)

    def problems(self, people: Sequence[Person], *, on_unknown: OnUnknown = "raise") -> list[InputError | None]:
        """Why `recommend` would refuse each person; None where it would not."""
        limits = self._no_limits(on_unknown)
        found: list[InputError | None] = []
        for person in people:
            try:
                self._task(self._meet([person], on_unknown)[0], limits)
                found.append(None)
            except InputError as error:
                found.append(error)
        return found

    def history_of(self, person: Person, *, on_unknown: OnUnknown = "raise") -> IntArray:
        """What a person met: int64 [H], item indices, oldest first.

        Raises:
            UnknownUserError, UnknownItemError: as for `recommend`.
        """
        return self._task(self._meet([person], on_unknown)[0], self._no_limits(on_unknown)).request.history

    def _no_limits(self, on_unknown: OnUnknown) -> "_Limits":
        return self._limits(1, False, None, None, None, None, None, on_unknown, self._clock())

    def _limits(
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
    ) -> "_Limits":
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k is {k!r}; ask for a whole number of at least 1")
        if on_unknown not in get_args(OnUnknown):
            raise InputError(f"on_unknown is {on_unknown!r}; choose one of {', '.join(get_args(OnUnknown))}")
        if deadline is not None and not (isinstance(deadline, int | float) and 0 < deadline < np.inf):
            raise InputError(f"deadline is {deadline!r}; give seconds above 0, or None for none")
        for name, ids in (("only", only), ("exclude", exclude)):
            if ids is not None and (isinstance(ids, str | bytes) or not isinstance(ids, Iterable)):
                raise InputError(f"{name} is {ids!r}; pass a list of item ids")
        allowed = Subset.everything(len(self.catalog)) if where is None else self._where(where)
        if only is not None:
            allowed = allowed.within(self._places("only", only))
        if exclude is not None:
            allowed = allowed.without(self._places("exclude", exclude))
        time_limit = Deadline.never() if deadline is None else Deadline(start + deadline, self._clock)
        return _Limits(int(k), filter_seen, allowed, self._boosts(boost), time_limit, on_unknown)

    def _where(self, where: Any) -> Subset:
        """What a filter lets through; a text that was compiled lately is not compiled again."""
        with self._lock:
            known = self._filters.pop(where, None) if isinstance(where, str) else None
            if known is not None:
                self._filters[where] = known
                return known
        mask = Mask.from_bool(self.catalog.where(where))
        allowed = Subset.from_mask(mask)
        if mask.total * _FEW < len(mask):
            allowed = Subset.of(len(mask), allowed.places())
        if isinstance(where, str):
            with self._lock:
                self._filters[where] = allowed
                while len(self._filters) > _FILTERS:
                    del self._filters[next(iter(self._filters))]
        return allowed

    def _places(self, name: str, ids: Iterable[ItemId]) -> IntArray:
        ids = list(ids)
        places = self.catalog.item_ids.positions(ids)
        unknown = np.flatnonzero(places < 0)
        if unknown.size:
            raise UnknownItemError(
                f"{name} holds item {ids[int(unknown[0])]!r}, which is not in catalog {self.catalog.name!r} "
                f"({len(self.catalog):,} items); leave it out of {name}"
            )
        return places

    def _boosts(self, boost: Mapping[ItemId, float] | None) -> Boost | None:
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
        places = self._places("boost", boost)
        order = np.argsort(places, kind="stable")
        again = np.flatnonzero(np.diff(places[order]) == 0)
        if again.size:
            one, other = (list(boost)[int(order[again[0] + step])] for step in (0, 1))
            raise InputError(f"boost holds {one!r} and {other!r}, which are the same item; give it one number")
        return Boost(places[order], values[order])

    def _answer(self, people: Sequence[Person], limits: "_Limits", explain: bool) -> list[RecommendationList]:
        answers: list[RecommendationList] = []
        for first in range(0, len(people), _CHUNK):
            start = self._clock()
            some = people[first : first + _CHUNK]
            tasks = [self._task(met, limits) for met in self._meet(some, limits.on_unknown)]
            self._ladder.serve(tasks, limits.k, limits.deadline)
            if explain:
                for task in tasks:
                    task.explain(self.catalog, self._explanation, limits.deadline)
            seconds = (self._clock() - start) / len(tasks)
            answers += [task.finish(self.catalog, self._notices, seconds) for task in tasks]
        return answers

    def _task(self, met: "_Met", limits: "_Limits") -> Task:
        """What one person asks, in item indices."""
        notices: list[str] = []
        if limits.on_unknown == "raise" and (met.items < 0).any():
            unknown = met.ids[int(met.places[np.argmin(met.items)])]
            raise UnknownItemError(
                f"item {unknown!r} in the history{_of(met.user_id)} is not in catalog {self.catalog.name!r} "
                f'({len(self.catalog):,} items); pass on_unknown="skip" to drop such items'
            )
        items = met.items[met.items >= 0]
        if len(items) < len(met.items):
            notices.append(
                f"{len(met.items) - len(items)} of {len(met.items)} history items are not in the catalog and were left "
                "out"
            )
        allowed = limits.allowed.without(items) if limits.filter_seen else limits.allowed
        if not met.known:
            notices.append(
                f"user {met.user_id!r} is unknown" + ("" if limits.on_unknown == "fallback" else "; skipped")
            )
            if limits.on_unknown == "skip":
                allowed = allowed.within([])
        count = len(allowed)
        if met.known and count < limits.k:
            are = "item is" if count == 1 else "items are"
            notices.append(f"only {count} {are} allowed, {limits.k} were asked for")
        request = RankRequest(items, met.words, allowed, limits.boost)
        return Task(met.user_id, request, min(limits.k, count), notices)

    def _meet(self, people: Sequence[Person], on_unknown: str) -> "list[_Met]":
        """What is known of each person; the histories that they bring are looked up together."""
        brought = [person for person in people if isinstance(person, History)]
        for person in brought:
            if not isinstance(person.item_ids, tuple | list) or not isinstance(person.words, str):
                raise InputError(f"{person!r} is no History; item_ids is a tuple of item ids, words a text")
        stops = np.cumsum([len(person.item_ids) for person in brought], dtype=np.int64)
        items = self.catalog.item_ids.positions([item_id for person in brought for item_id in person.item_ids])
        places = iter(np.split(items, stops[:-1]))
        return [
            _Met(person.user_id, person.words, next(places), person.item_ids, np.arange(len(person.item_ids)))
            if isinstance(person, History)
            else self._known(person, on_unknown)
            for person in people
        ]

    def _known(self, person: UserId, on_unknown: str) -> "_Met":
        """What the interactions say of a person."""
        if not isinstance(person, str | int | np.integer) or isinstance(person, bool):
            raise InputError(f"{person!r} is no person; pass user ids or History values")
        try:
            if self.interactions is None:
                raise UnknownUserError(f"user {person!r} is unknown: no interactions were loaded; pass a History")
            places = self.interactions.codes_of(person)
            return _Met(person, "", self._places_of(self.interactions)[places], self.interactions.items, places)
        except UnknownUserError:
            if on_unknown == "raise":
                raise
            nothing = np.empty(0, dtype=np.int64)
            return _Met(person, "", nothing, (), nothing, known=False)

    def _places_of(self, interactions: Interactions) -> IntArray:
        """Where the items of a log stand in the catalog: looked up once, not for every history."""
        if self._places_in is None or self._places_in[0] is not interactions:
            self._places_in = (interactions, self.catalog.item_ids.positions(interactions.items))
        return self._places_in[1]

    def _to_frame(self, answers: Sequence[RecommendationList], frame: "nw.DataFrame[Any]", explain: bool) -> Any:
        rows = [item for answer in answers for item in answer.items]
        columns: dict[str, list[Any]] = {
            name: [getattr(row, name) for row in rows]
            for name in ("user_id", "item_id", "rank", "score", "source", *(["reason"] if explain else []))
        }
        return nw.from_dict(columns, backend=frame.implementation).to_native()


@dataclass(frozen=True)
class _Met:
    """What is known of a person: item indices, -1 for what the catalog lacks, and where among `ids` each item's is."""

    user_id: UserId | None
    words: str
    items: IntArray
    ids: Sequence[ItemId]
    places: IntArray
    known: bool = True


@dataclass(frozen=True)
class _Limits:
    k: int
    filter_seen: bool
    allowed: Subset
    boost: Boost | None
    deadline: Deadline
    on_unknown: str


def _of(user: UserId | None) -> str:
    return "" if user is None else f" of user {user!r}"


def _people_in(frame: "nw.DataFrame[Any]") -> list[Person]:
    """The people of a frame: histories where it has items, else user ids."""
    if "item_id" in frame.columns:
        if "timestamp" not in frame.columns:
            frame = frame.with_row_index("timestamp")
        return list(read_interactions(frame.to_native()).histories())
    if "user_id" not in frame.columns:
        raise InputError(
            f"the data frame has columns {', '.join(frame.columns)}; it needs user_id, and perhaps item_id"
        )
    return list(frame["user_id"].to_list())
