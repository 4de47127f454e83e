"""An item as one line of JSON that brings it back as it was."""

import json
import math
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np

from genrec.errors import InputError
from genrec.types import Item

# What JSON has no word for stands as an object of one key. An attribute is no object, so none can be taken for one.
_TAG_PARSERS: dict[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "instant": datetime.fromisoformat,
    "decimal": Decimal,
    "float": float,
}


def item_to_json(item: Item) -> str:
    """One line of ASCII.

    Attributes are true or false, numbers, text, dates, instants, or lists of these; None and NaN are missing, and left
    out. Numbers keep every digit; an instant keeps its microseconds and its distance from UTC.

    Raises:
        InputError: an attribute is something else; its name and the item are said.
    """
    kept = {}
    for name, value in item.attributes.items():
        try:
            plain = _to_json_value(value)
        except TypeError:
            raise InputError(
                f"{name} of item {item.item_id!r:.80} is {value!r:.80}, of type {type(value).__name__}; "
                "use text, numbers, dates or lists"
            ) from None
        if plain is not None:
            kept[name] = plain
    return json.dumps([item.item_id, item.title, kept], allow_nan=False, separators=(",", ":"))


def item_from_json(text: str) -> Item:
    """The item of a line; a tuple that was written comes back as a list.

    Raises:
        ValueError: the line is none that `item_to_json` wrote.
    """
    try:
        item_id, title, attributes = json.loads(text)
        return Item(item_id, title, {name: _from_json_value(plain) for name, plain in attributes.items()})
    except (TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"no item is written as {text!r:.80}") from error


def _to_json_value(value: object) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, datetime):  # before date: every instant is one
        return {"instant": value.isoformat(timespec="microseconds")}
    if isinstance(value, date):
        return {"date": value.isoformat()}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, list | tuple):
        return [_to_json_value(one) for one in value]
    raise TypeError


def _from_json_value(value: Any) -> object:
    if isinstance(value, list):
        return [_from_json_value(one) for one in value]
    if isinstance(value, dict):
        ((kind, text),) = value.items()
        return _TAG_PARSERS[kind](text)
    return value
