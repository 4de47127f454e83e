"""Lossless conversion of items to and from lines of JSON."""

import json
import math
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np

from genrec.errors import InputError, format_value
from genrec.types import Item

# A value without a JSON type is written as an object with one key; attributes are never objects themselves.
_TAG_PARSERS: dict[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "instant": datetime.fromisoformat,
    "decimal": Decimal,
    "float": float,
}


def item_to_json(item: Item) -> str:
    """An item as one line of ASCII JSON.

    Attributes are booleans, numbers, text, dates, datetimes, or lists of these; None and NaN count as missing and are
    omitted. Numbers keep every digit; datetimes keep their microseconds and their UTC offset.

    Raises:
        InputError: the title is no text, or an attribute has another type; the message names it and the item.
    """
    if not isinstance(item.title, str):
        raise InputError(f"the title of item {format_value(item.item_id)} is {format_value(item.title)}; use text")
    kept = {}
    for name, value in item.attributes.items():
        try:
            plain = _to_json_value(value)
        except TypeError:
            raise InputError(
                f"{name} of item {format_value(item.item_id)} is {format_value(value)}, of type "
                f"{type(value).__name__}; use text, numbers, dates or lists"
            ) from None
        if plain is not None:
            kept[name] = plain
    try:
        return json.dumps([item.item_id, item.title, kept], allow_nan=False, separators=(",", ":"))
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f"item {format_value(item.item_id)} cannot be stored: {error}; use 64-bit integers") from error


def item_from_json(text: str) -> Item:
    """The item of a line that `item_to_json` wrote; tuples become lists.

    Raises:
        ValueError: `item_to_json` did not write this line.
    """
    try:
        item_id, title, attributes = json.loads(text)
        return Item(item_id, title, {name: _from_json_value(plain) for name, plain in attributes.items()})
    except (TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{format_value(text)} is not an item") from error


def _to_json_value(value: object) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, datetime):  # before date, its base class
        return {"instant": value.isoformat(timespec="microseconds")}
    if isinstance(value, date):
        return {"date": value.isoformat()}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, list | tuple):
        return [_to_json_value(element) for element in value]
    raise TypeError


def _from_json_value(value: Any) -> object:
    if isinstance(value, list):
        return [_from_json_value(element) for element in value]
    if isinstance(value, dict):
        ((kind, text),) = value.items()
        return _TAG_PARSERS[kind](text)
    return value
