"""Lists as they go over the wire, and the one way in which JSON is written."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic_core import to_json
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on

from genrec.data.catalog import Catalog
from genrec.types import ItemId, RecommendationList

_LOGGER = logging.getLogger(__name__)
_QUIET = 60.0  # seconds until the log hears again of what goes on failing


def write_json(value: object) -> bytes:
    """JSON of what is no text of a caller; numbers that JSON does not know are null, as in its attributes."""
    return to_json(value, inf_nan_mode="null")


class Reason(TypedDict):
    """An item of the history that spoke for a recommendation; `drop` is null where nothing would be left without it."""

    item_id: ItemId
    title: str
    drop: float | None


class Recommended(TypedDict):
    """One item of a list."""

    item_id: ItemId
    rank: int
    title: str
    score: float | None
    source: str
    reason: str | None
    drivers: list[Reason]
    attributes: dict[str, Any]


class Answer(TypedDict):
    """A list: exactly k items whenever k are allowed, best first."""

    items: list[Recommended]
    proven: bool
    compared: int
    notices: list[str]
    seconds: float


class Notices:
    """What callers are told of how lists were made.

    That a step was left out is theirs to know. Why, which may tell paths of this machine, is for the log, now and then.

    Args:
        clock: seconds, rising.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged: dict[str, float] = {}

    def of(self, found: RecommendationList, always: Sequence[str]) -> list[str]:
        """The notices of a list.

        Args:
            found: the list.
            always: notices of the recommender itself, which are not for callers.
        """
        if not found.notices:  # nearly always, and lists are made by the hundred
            return []
        failures = {f"{source} was left out" for source in found.left_out}
        failures |= {f"no reasons for the items from {item.source.partition(':')[0]}" for item in found.items}
        told = []
        for notice in found.notices:
            what, _, why = notice.partition(": ")
            if what in failures:
                self._log(what, why)
                told.append(what)
            elif notice not in always:
                told.append(notice)
        return told

    def _log(self, what: str, why: str) -> None:
        now = self._clock()
        if now - self._logged.get(what, -_QUIET) >= _QUIET:
            self._logged[what] = now
            _LOGGER.warning("%s: %s", what, why)


def answers_of(
    lists: Sequence[RecommendationList], catalog: Catalog, notices: Callable[[RecommendationList], list[str]]
) -> list[Answer]:
    """Lists as they go over the wire; of what the catalog lacks by now, the attributes are missing.

    Args:
        lists: that were made.
        catalog: has the attributes.
        notices: what is told of how a list was made.
    """
    item_ids = [item.item_id for found in lists for item in found.items]
    places = catalog.item_ids.positions(item_ids)
    there = {item.item_id: item.attributes for item in catalog.items_at(np.unique(places[places >= 0]))}
    return [_answer_of(found, there, notices(found)) for found in lists]


def _answer_of(found: RecommendationList, there: Mapping[ItemId, Mapping[str, Any]], notices: list[str]) -> Answer:
    items: list[Recommended] = [
        {
            "item_id": item.item_id,
            "rank": item.rank,
            "title": item.title,
            "score": _finite(item.score),
            "source": item.source,
            "reason": item.reason,
            "drivers": [
                {"item_id": own.item_id, "title": own.title, "drop": _finite(own.drop)} for own in item.drivers
            ],
            "attributes": dict(there.get(item.item_id, {})),
        }
        for item in found.items
    ]
    return {
        "items": items,
        "proven": found.proven,
        "compared": found.compared,
        "notices": notices,
        "seconds": found.seconds,
    }


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
