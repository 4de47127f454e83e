"""Recorded values: reading them, and comparing them with what genrec returns now."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrec import Notice, Recommendation, RecommendationList

RECORDED = Path(__file__).parents[1] / "recorded"
ANY = "<any>"
"""Recorded in place of values that differ each time: durations, response ids, times, versions."""

FOLDER = "<recorded>"
"""Recorded in place of the path of the folder with the recordings."""

_VARYING = ("seconds", "hours", "memory_bytes", "output_bytes", "bytes", "created", "versions")
_SENTENCES = ("message", "notices")  # fields for people, whose wording may change
_NO_REASON = "Not because of anything that you did or said."
_REWORDED = {
    ("content", "I could not answer this; please ask again."): "Sorry, I could not answer this. Please try again.",
    # Of lists by popularity, which does not read words.
    ("reason", "Because you asked for “a lamp”."): _NO_REASON,
    ("reason", "Because you asked for “a lamp for the desk”."): _NO_REASON,
    ("content", "[Desk Lamp](#item=i1): Because you asked for “a lamp”."): f"[Desk Lamp](#item=i1): {_NO_REASON}",
}
"""Other fields whose sentence was reworded: the field and the recorded sentence, and the sentence now."""


def recorded(name: str) -> Any:
    """A recording in JSON."""
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


def mismatches(before: Any, now: Any, *, place: str = "", tolerance: float = 1e-6) -> list[str]:
    """The differences between a recorded value and the value now; fields that were added are not differences.

    Args:
        before: the recorded JSON value; `ANY` equals every value.
        now: the JSON value now.
        place: the path of both values, for the descriptions.
        tolerance: relative tolerance of floats.
    """
    if isinstance(before, str) and before == ANY:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        found = [f"{place}.{name} is missing" for name in before if name not in now]
        for name in before.keys() & now.keys():
            old, new, field = before[name], now[name], f"{place}.{name}"
            if name in _SENTENCES and isinstance(old, list) and isinstance(new, list):
                new = _without_added_words_notice(old, new)
            if name in _SENTENCES and (kind := _kind_of_sentences(old)) is not None:
                found += [] if kind == _kind_of_sentences(new) else [f"{field} was {old!r:.200}, and is {new!r:.200}"]
            elif not (isinstance(old, str) and (name, old) in _REWORDED and new == _REWORDED[name, old]):
                found += mismatches(old, new, place=field, tolerance=tolerance)
        return found
    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return [f"{place} had {len(before)} values, and has {len(now)}: {before!r:.300}; {now!r:.300}"]
        return [
            found
            for index, (old, new) in enumerate(zip(before, now, strict=True))
            for found in mismatches(old, new, place=f"{place}[{index}]", tolerance=tolerance)
        ]
    if isinstance(before, float) and isinstance(now, int | float) and not isinstance(now, bool):
        same = math.isclose(before, now, rel_tol=tolerance, abs_tol=1e-9) or (math.isnan(before) and math.isnan(now))
    else:
        same = type(before) is type(now) and before == now
    return [] if same else [f"{place} was {before!r:.300}, and is {now!r:.300}"]


def _without_added_words_notice(old: list[Any], new: list[Any]) -> list[Any]:
    """The notices now, without one about ignored words that the recorded release did not have."""
    return [one for one in new if one in old or not str(one).startswith("no stage that served this list reads words")]


def _kind_of_sentences(value: Any) -> bool | int | None:
    """Whether there is a sentence, or how many sentences a list has; None for other values."""
    if isinstance(value, str):
        return bool(value)
    if isinstance(value, list) and all(isinstance(sentence, str) for sentence in value):
        return len(value)
    return None


def as_json(value: Any) -> Any:
    """A value as JSON; dates and decimals become text, and renamed fields of lists have their recorded names."""

    def default(part: Any) -> Any:
        if isinstance(part, Notice):
            return str(part)
        if isinstance(part, np.ndarray | np.generic):
            return part.tolist()
        if isinstance(part, Mapping):
            return dict(part)
        if not is_dataclass(part) or isinstance(part, type):
            return str(part)
        values = {field.name: getattr(part, field.name) for field in fields(part)}
        if isinstance(part, RecommendationList):
            values["left_out"] = part.failed_stages
        if isinstance(part, Recommendation):
            values["source"] = part.source
        return values

    return json.loads(json.dumps(value, default=default))


def masked(value: Any, folder: Path | None = None) -> Any:
    """A JSON value with `ANY` for values that differ each time, and `FOLDER` for the path of the folder."""
    if isinstance(value, dict):
        return {name: ANY if _varies(name, part) else masked(part, folder) for name, part in value.items()}
    if isinstance(value, list):
        return [masked(part, folder) for part in value]
    if isinstance(value, str) and folder is not None:
        return value.replace(str(folder), FOLDER)
    return value


def _varies(name: str, value: Any) -> bool:
    if name == "id":
        return str(value).startswith("chatcmpl-")
    is_zero_time = name == "created" and value == 0  # the model list of OpenAI's API
    return name in _VARYING and value is not None and not isinstance(value, str) and not is_zero_time


def api_of(schema: Any, part: Any = None) -> Any:
    """The routes of an OpenAPI schema with all references resolved, without sentences and names of classes.

    Args:
        schema: the whole schema.
        part: the part to resolve; by default the paths.
    """
    part = schema["paths"] if part is None else part
    if isinstance(part, list):
        return [api_of(schema, one) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return api_of(schema, schema["components"]["schemas"][part["$ref"].rsplit("/", 1)[-1]])
    kept = {
        name: one
        for name, one in part.items()
        if not (name in ("description", "title", "summary") and isinstance(one, str))
    }
    if isinstance(kept.get("required"), list):  # as an object, since fields may be added
        kept["required"] = dict.fromkeys(kept["required"], True)
    return {name: api_of(schema, one) for name, one in kept.items()}
