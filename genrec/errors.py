"""Every error genrec raises.

Each message names the thing, the value, the place and the remedy. `exit_code` is what the command line returns.

    GenrecError
    ├── InputError               2  what the caller passed: data, arguments, files
    │   ├── UnknownItemError        an item id that the catalog does not hold
    │   ├── UnknownUserError        a user id without any interaction
    │   ├── FilterError             a filter that does not parse or names no attribute
    │   └── TemplateError           a template that does not parse, or lacks an input
    ├── ArtifactError            2  a saved file that is missing, cut short or altered
    ├── MismatchError            4  two parts that were not made for each other
    │   └── TokenizerMismatchError  an index built for another tokenizer
    ├── EngineError              5  the model or what runs it
    │   ├── FullError               more requests wait than may
    │   ├── ModelMissingError       weights or packages that are not installed
    │   └── DeadlineExceededError   the time a request was given has passed
    └── StoreError               5  the database of events, or what reaches it
"""

from numbers import Integral
from typing import ClassVar


class GenrecError(Exception):
    """Base class of every error genrec raises on purpose."""

    exit_code: ClassVar[int] = 2


class InputError(GenrecError, ValueError):
    """What the caller passed cannot be used as it is."""


class UnknownItemError(InputError):
    """An item id that the catalog does not hold."""


class UnknownUserError(InputError):
    """A user id without any interaction."""


class FilterError(InputError):
    """A filter that does not parse, or names an attribute the catalog lacks."""


class TemplateError(InputError):
    """A template that does not parse, lacks a header field, or uses an undefined variable."""


class ArtifactError(GenrecError):
    """A saved file or folder that is missing, cut short or altered since it was written."""


class MismatchError(GenrecError):
    """Two parts that were not made for each other, such as an index and a catalog."""

    exit_code = 4


class TokenizerMismatchError(MismatchError):
    """Token ids of one tokenizer offered to a part built for another."""


class EngineError(GenrecError):
    """The model, or what runs it, could not answer."""

    exit_code = 5


class QueueFullError(EngineError):
    """As many requests wait for an answer as may."""


class ModelMissingError(EngineError):
    """Weights, or the packages that run them, are not on this machine."""


class DeadlineExceededError(EngineError):
    """The time a request was given has passed."""


class StoreError(GenrecError):
    """The database of events cannot be opened, reached or used; a password in its URL is never in the message."""

    exit_code = 5


def check_count(name: str, value: object, minimum: int = 1) -> None:
    """Refuse what is no whole number of at least 1, or another.

    Raises:
        InputError: the name and the value are said.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise InputError(f"{name} is {value!r}; give a whole number of at least {minimum}")
