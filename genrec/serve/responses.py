"""Recommendation lists as JSON responses, and the JSON encoder of all responses."""

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
_LOG_INTERVAL = 60.0  # minimum seconds between log entries of the same failure


def to_json_bytes(value: object) -> bytes:
    """Encode JSON; NaN and infinity become null."""
    return to_json(value, inf_nan_mode="null")


class DriverItem(TypedDict):
    """An item of the history that contributed to a recommendation.

    `drop` is the loss of score without it; null if the recommendation would not be made at all.
    """

    item_id: ItemId
    title: str
    drop: float | None


class RecommendedItem(TypedDict):
    """One recommended item."""

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
    """A list of exactly k items whenever k items are allowed, best first."""

    items: list[RecommendedItem]
    proven: bool
    compared: int
    notices: list[str]
    notice_details: list[NoticeDetail]
    seconds: float


class NoticeFields(TypedDict):
    """Notices for humans and for programs."""

    notices: list[str]
    notice_details: list[NoticeDetail]


def notice_fields(notices: Sequence[Notice]) -> NoticeFields:
    """Notices as the fields of a response."""
    return {
        "notices": [str(notice) for notice in notices],
        "notice_details": [{"code": notice.code, "fields": dict(notice.fields)} for notice in notices],
    }


class NoticeFilter:
    """Notices for callers.

    Callers learn that a stage failed. The reason may contain paths of this machine, so it is logged instead, at a
    limited rate.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged_at: dict[str, float] = {}

    def for_list(self, result: RecommendationList, suppressed: Sequence[Notice]) -> list[Notice]:
        """The notices of a list that its caller may see.

        Args:
            result: the list.
            suppressed: notices of the recommender itself; callers do not get them.
        """
        if not result.notices:  # the common case, on a hot path
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
    """Lists as JSON responses. Items that were withdrawn meanwhile have no attributes.

    Args:
        lists: recommendation lists.
        catalog: the source of attributes.
        notices_for: returns the notices of a list for callers.
    """
    item_ids = [item.item_id for result in lists for item in result.items]
    positions = catalog.item_ids.positions(item_ids)
    items = catalog.items_at(np.unique(positions[positions >= 0]))
    attributes_by_id = {item.item_id: item.attributes for item in items}
    return [_to_response(result, attributes_by_id, notices_for(result)) for result in lists]


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
                {"item_id": driver.item_id, "title": driver.title, "drop": _finite_or_none(driver.drop)}
                for driver in item.drivers
            ],
            "attributes": dict(attributes_by_id.get(item.item_id, {})),
        }
        for item in result.items
    ]
    return {
        "items": items,
        "proven": result.proven,
        "compared": result.compared,
        **notice_fields(notices),
        "seconds": result.seconds,
    }


def _finite_or_none(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
