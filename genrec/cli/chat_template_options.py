"""How the model's chat template is rendered, from command-line options."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genrec.errors import InputError, format_value

if TYPE_CHECKING:
    from genrec.prompting.chat_template import ChatTemplateSettings

CHAT_TEMPLATE_OPTIONS = ("chat_template_arg", "chat_template_date", "chat_template_name")


def chat_template_from_options(options: Mapping[str, Any]) -> "ChatTemplateSettings":
    """The settings of `CHAT_TEMPLATE_OPTIONS`; None and missing ones keep the default.

    Raises:
        InputError: an argument is not NAME=VALUE or is given twice, or the date is none.
    """
    import datetime

    from genrec.prompting.chat_template import ChatTemplateSettings

    chosen: dict[str, Any] = {}
    if arguments := options.get("chat_template_arg"):
        chosen["arguments"] = _parse_arguments(arguments)
    if (date := options.get("chat_template_date")) is not None:
        try:
            chosen["date"] = datetime.date.fromisoformat(date)
        except ValueError as error:
            raise InputError(
                f"--chat-template-date is {format_value(date)}; write a date such as 2025-01-01"
            ) from error
    if (name := options.get("chat_template_name")) is not None:
        chosen["name"] = name
    return ChatTemplateSettings(**chosen)


def canonical_arguments(values: Sequence[str]) -> list[str]:
    """The same arguments in the order of their names, with values as JSON: equal for commands that mean the same.

    Raises:
        InputError: an argument is not NAME=VALUE, or is given twice.
    """
    parsed = _parse_arguments(values)
    return [f"{name}={json.dumps(parsed[name], sort_keys=True)}" for name in sorted(parsed)]


def _parse_arguments(values: Sequence[str]) -> dict[str, Any]:
    """Parse NAME=VALUE; a value is JSON, such as false or 3, and text if it is none."""
    found: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise InputError(
                f"--chat-template-arg {format_value(value)} is not NAME=VALUE; write for example --chat-template-arg "
                "enable_thinking=true"
            )
        if name in found:
            raise InputError(f"--chat-template-arg gives {format_value(name)} twice; give each argument once")
        found[name] = _parse_value(text)
    return found


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_reject, parse_float=_finite)
    except (ValueError, RecursionError):
        return text


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _reject(text)


def _reject(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
