"""Messages about text files that cannot be read, with the line where each one breaks."""

import json
import re
import shlex
from collections.abc import Sequence

from genrec.data.byte_source import ByteSource
from genrec.data.dialect import Dialect
from genrec.errors import InputError

PYTHON_DICT = re.compile(r"\s*\[?\s*\{\s*u?'")
"""The beginning of an object that Python printed, which is not JSON."""


def first_line(error: BaseException) -> str:
    """The first line of an error message, without a full stop at its end."""
    return str(error).split("\n", 1)[0].rstrip(".")


def empty_table_error(label: str) -> InputError:
    """The error for a file without content."""
    return InputError(f"{label} is empty; check that it was written completely")


def describe_field_count(row: Sequence[str], dialect: Dialect, number: int, label: str) -> InputError:
    """The error for a line with another number of fields than the header, or than the first line without one."""
    expected = len(dialect.names)
    what = "the header has" if dialect.has_header else "the first line has"
    if len(row) > expected:
        remedy = "quote fields that contain the separator, or repair the line"
        if not any(row[expected:]):
            remedy = "it ends with a separator; end the header with one too, or remove it from every line"
    elif any(dialect.names[len(row) :]):
        remedy = "quote line breaks inside a field, or add the missing fields"
    else:
        remedy = "the header ends with a separator; remove it there, or end every line with one too"
    return InputError(f"line {number:,} of {label} has {len(row)} fields, but {what} {expected}", remedy=remedy)


def json_error(source: ByteSource, number: int, line: str, error: Exception) -> InputError:
    """The error for a text that is not JSON, with what to do about it.

    Args:
        source: the file.
        number: its line number.
        line: the text from there on.
        error: what the JSON parser raised.
    """
    reason = getattr(error, "msg", None) or first_line(error)
    problem = f"line {number:,} of {source.label} is not a JSON object"
    if PYTHON_DICT.match(line):
        code = "import ast, json, sys; [print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]"
        out = shlex.quote(f"{source.path.name.split('.', 1)[0]}-json.jsonl")
        return InputError(
            f"{problem}: it is written as a Python dict; convert the file, for example: "
            f'{source.shell_input} | python -c "{code}" > {out}'
        )
    return InputError(f"{problem}: {reason}; repair the line")


def json_kind(value: object) -> str:
    """What a value of JSON is, in words; "" for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def json_text(value: object, max_length: int = 40) -> str:
    """A value of JSON for messages, cut if it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= max_length else f"{text[: max_length - 3]}..."
