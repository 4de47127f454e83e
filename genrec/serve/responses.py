"""Lists as they go over the wire, and the one way in which JSON is written."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic_core import to_json
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on

from genrec.data.catalog import Catalog
from genrec.notices import Notice
from genrec.types import ItemId, RecommendationList

_LOGGER = logging.getLogger(__name__)
_LOG_INTERVAL = 60.0  # seconds until the log hears again of what goes on failing


def to_json_bytes(value: object) -> bytes:
    """JSON of what is no text of a caller; numbers that JSON does not know are null, as in its attributes."""
    return to_json(value, inf_nan_mode="null")


class DriverItem(TypedDict):
    """An item of the history that spoke for a recommendation; `drop` is null where nothing would be left without it."""

    item_id: ItemId
    title: str
    drop: float | None


class RecommendedItem(TypedDict):
    """One item of a list."""

    item_id: ItemId
    rank: int
    title: str
    score: float | None
    source: str
    stage: str
    signal: str | None
    reason: str | None
    drivers: list[DriverItem]
    attributes: dict[str, Any]


class NoticeDetail(TypedDict):
    """A notice for programs: its code and fields."""

    code: str
    fields: dict[str, Any]


class RecommendResponse(TypedDict):
    """A list: exactly k items whenever k are allowed, best first."""

    items: list[RecommendedItem]
    proven: bool
    compared: int
    notices: list[str]
    notice_details: list[NoticeDetail]
    seconds: float


class NoticeFilter:
    """What callers are told of how lists were made.

    That a step was left out is theirs to know. Why, which may tell paths of this machine, is for the log, now and then.

    Args:
        clock: seconds, rising.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged_at: dict[str, float] = {}

    def for_list(self, result: RecommendationList, suppressed: Sequence[Notice]) -> list[Notice]:
        """The notices of a list that its caller may see.

        Args:
            result: the list.
            suppressed: notices of the recommender itself, which are not for callers.
        """
        if not result.notices:  # nearly always, and lists are made by the hundred
            return []
        shown = []
        for notice in result.notices:
            if notice in suppressed:
                continue
            public = notice.without_reason()
            if "reason" in notice.fields:
                self._log(str(public), str(notice.fields["reason"]))
            shown.append(public)
        return shown

    def _log(self, sentence: str, reason: str) -> None:
        now = self._clock()
        if now - self._logged_at.get(sentence, -_LOG_INTERVAL) >= _LOG_INTERVAL:
            self._logged_at[sentence] = now
            _LOGGER.warning("%s: %s", sentence, reason)


def to_responses(
    lists: Sequence[RecommendationList], catalog: Catalog, notices_for: Callable[[RecommendationList], Sequence[Notice]]
) -> list[RecommendResponse]:
    """Lists as they go over the wire; of what the catalog lacks by now, the attributes are missing.

    Args:
        lists: that were made.
        catalog: has the attributes.
        notices_for: what is told of how a list was made.
    """
    item_ids = [item.item_id for found in lists for item in found.items]
    places = catalog.item_ids.positions(item_ids)
    there = {item.item_id: item.attributes for item in catalog.items_at(np.unique(places[places >= 0]))}
    return [_to_response(found, there, notices_for(found)) for found in lists]


def _to_response(
    result: RecommendationList, attributes_by_id: Mapping[ItemId, Mapping[str, Any]], notices: Sequence[Notice]
) -> RecommendResponse:
    items: list[RecommendedItem] = [
        {
            "item_id": item.item_id,
            "rank": item.rank,
            "title": item.title,
            "score": _finite_or_none(item.score),
            "source": item.source,
            "stage": item.stage,
            "signal": item.signal,
            "reason": item.reason,
            "drivers": [
                {"item_id": own.item_id, "title": own.title, "drop": _finite_or_none(own.drop)} for own in item.drivers
            ],
            "attributes": dict(attributes_by_id.get(item.item_id, {})),
        }
        for item in result.items
    ]
    return {
        "items": items,
        "proven": result.proven,
        "compared": result.compared,
        "notices": [str(notice) for notice in notices],
        "notice_details": [{"code": notice.code, "fields": dict(notice.fields)} for notice in notices],
        "seconds": result.seconds,
    }


def _finite_or_none(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
