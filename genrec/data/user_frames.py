"""Users of a call as lists or data frames, and recommendations as data frames of the same library."""

from collections.abc import Sequence
from typing import Any, cast

import narwhals as nw
import numpy as np

from genrec.data.ids import whole_number
from genrec.data.interactions import read_interactions
from genrec.data.read_errors import first_line
from genrec.data.timestamps import OrderChoice
from genrec.errors import InputError, format_names, format_value
from genrec.types import History, RecommendationList, UserId

UserLike = UserId | History
"""A known user's id, or a history."""


def requested_users(users: Any) -> "tuple[list[UserLike], nw.DataFrame[Any] | None]":
    """The users of a call, and the data frame that holds them, if one does."""
    users = int(users) if isinstance(users, np.integer) else whole_number(users)
    if isinstance(users, str | int | History):
        return [users], None
    if isinstance(users, Sequence):
        return list(users), None
    try:
        frame = nw.from_native(users, eager_only=True, pass_through=True)
        names = list(frame.columns) if isinstance(frame, nw.DataFrame) else []
    except Exception as error:  # every frame library raises its own
        raise InputError(f"the data frame of users cannot be read: {first_line(error)}; repair it first") from error
    if odd := [name for name in names if not isinstance(name, str)]:
        raise InputError(f"the data frame of users has a column {format_value(odd[0])}; name its columns by text")
    if not isinstance(frame, nw.DataFrame):
        raise InputError(
            f"users is a {type(users).__name__}; pass a user id, a History, a list of these, or a data frame"
        )
    return _users_from_frame(frame), frame


def _users_from_frame(frame: "nw.DataFrame[Any]") -> list[UserLike]:
    """The users of a frame: histories if it has the column `item_id`, else user ids."""
    if "item_id" in frame.columns:
        order: OrderChoice = "time" if "timestamp" in frame.columns else "rows"
        return list(read_interactions(frame.to_native(), order=order).histories())
    if "user_id" not in frame.columns:
        columns = format_names(list(map(format_value, frame.columns))) if frame.columns else "none"
        raise InputError(f"the data frame has the columns {columns}; it needs user_id and optionally item_id")
    # A frame with a gap in the column holds its ids as floats.
    return [cast("UserLike", whole_number(user_id)) for user_id in frame["user_id"].to_list()]


def lists_to_frame(answers: Sequence[RecommendationList], frame: "nw.DataFrame[Any]", explain: bool) -> Any:
    """The recommendations as a frame of the same library as `frame`."""
    rows = [item for answer in answers for item in answer.items]
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows]
        for name in ("user_id", "item_id", "rank", "score", "source", *(["reason"] if explain else []))
    }
    return nw.from_dict(columns, backend=frame.implementation).to_native()
