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
from typing import ClassVar, Self


class GenrecError(Exception):
    """Base class of every error genrec raises on purpose.

    The sentence is for people: "<problem>; <remedy>". Programs read `code` and `fields`, never the sentence.

    Args:
        problem: what is wrong: the thing, its value and its place.
        remedy: what to do about it; may be left out where `problem` says so already.
        code: what went wrong, for programs; by default that of the class.
        fields: values that the sentence names and that a caller may want.

    Attributes:
        exit_code: what the command line returns.
    """

    exit_code: ClassVar[int] = 2
    code: str = "error"

    def __init__(self, problem: str = "", *, remedy: str = "", code: str | None = None, **fields: object) -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem, self.remedy, self.fields = problem, remedy, fields
        if code is not None:
            self.code = code

    def revised(self, *, problem: str | None = None, remedy: str | None = None) -> Self:
        """The same error with another problem or remedy, such as one in the caller's own terms."""
        return type(self)(
            self.problem if problem is None else problem,
            remedy=self.remedy if remedy is None else remedy,
            code=self.code,
            **self.fields,
        )


class InputError(GenrecError, ValueError):
    """What the caller passed cannot be used as it is."""

    code = "invalid_value"


class UnknownItemError(InputError):
    """An item id that the catalog does not hold."""

    code = "unknown_item"


class UnknownUserError(InputError):
    """A user id without any interaction."""

    code = "unknown_user"


class FilterError(InputError):
    """A filter that does not parse, or names an attribute the catalog lacks."""

    code = "invalid_filter"


class TemplateError(InputError):
    """A template that does not parse, lacks a header field, or uses an undefined variable."""

    code = "invalid_template"


class ArtifactError(GenrecError):
    """A saved file or folder that is missing, cut short or altered since it was written."""

    code = "damaged_artifact"


class MismatchError(GenrecError):
    """Two parts that were not made for each other, such as an index and a catalog."""

    code = "mismatch"
    exit_code = 4


class TokenizerMismatchError(MismatchError):
    """Token ids of one tokenizer offered to a part built for another."""

    code = "tokenizer_mismatch"


class EngineError(GenrecError):
    """The model, or what runs it, could not answer."""

    code = "engine_failed"
    exit_code = 5


class QueueFullError(EngineError):
    """As many requests wait for an answer as may."""

    code = "queue_full"


class ModelMissingError(EngineError):
    """Weights, or the packages that run them, are not on this machine."""

    code = "model_missing"


class DeadlineExceededError(EngineError):
    """The time a request was given has passed."""

    code = "deadline_exceeded"


class StoreError(GenrecError):
    """The database of events cannot be opened, reached or used; a password in its URL is never in the message."""

    code = "store_failed"
    exit_code = 5


def check_count(name: str, value: object, minimum: int = 1) -> None:
    """Refuse what is no whole number of at least 1, or another.

    Raises:
        InputError: the name and the value are said.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise InputError(f"{name} is {value!r}; give a whole number of at least {minimum}")
