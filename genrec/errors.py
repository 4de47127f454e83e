"""The errors that genrec raises.

Each message names the thing, the value, the place and the remedy. `exit_code` is the exit code of the command line.

    GenrecError
    ├── InputError               2  what the caller passed: data, arguments, files
    │   ├── UnknownItemError        an item id that is not in the catalog
    │   ├── UnknownUserError        a user id without any interaction
    │   ├── FilterError             a filter that does not parse or names no attribute
    │   └── TemplateError           a template that does not parse, or lacks an input
    ├── ArtifactError            2  a saved file that is missing, truncated or altered
    ├── MismatchError            4  two artifacts that do not belong together
    │   └── TokenizerMismatchError  an index built for another tokenizer
    ├── EngineError              5  the model or its engine
    │   ├── QueueFullError          the request queue is full
    │   ├── ModelMissingError       weights or packages that are not installed
    │   └── DeadlineExceededError   the deadline of a request has passed
    └── StoreError               5  the event store, or the connection to it
"""

from numbers import Integral
from typing import ClassVar, Self


class GenrecError(Exception):
    """Base class of all genrec errors.

    The message is "<problem>; <remedy>", for people. Programs read `code` and `fields`, never the message.

    Args:
        problem: what is wrong: the thing, its value and its location.
        remedy: how to fix it; omitted if `problem` says so already.
        code: the kind of error, for programs; by default that of the class.
        fields: values named in the message that a program may need.

    Attributes:
        exit_code: exit code of the command line.
    """

    exit_code: ClassVar[int] = 2
    code: str = "error"

    def __init__(self, problem: str = "", *, remedy: str = "", code: str | None = None, **fields: object) -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem, self.remedy, self.fields = problem, remedy, fields
        if code is not None:
            self.code = code

    def revised(self, *, problem: str | None = None, remedy: str | None = None) -> Self:
        """A copy with another problem or remedy, for example one in terms of the caller's options."""
        return type(self)(
            self.problem if problem is None else problem,
            remedy=self.remedy if remedy is None else remedy,
            code=self.code,
            **self.fields,
        )


class InputError(GenrecError, ValueError):
    """An argument, a file or data of the caller is invalid."""

    code = "invalid_value"


class UnknownItemError(InputError):
    """An item id that is not in the catalog."""

    code = "unknown_item"


class UnknownUserError(InputError):
    """A user id without any interaction."""

    code = "unknown_user"


class FilterError(InputError):
    """A filter that does not parse, or names an attribute that the catalog does not have."""

    code = "invalid_filter"


class TemplateError(InputError):
    """A template that does not parse, lacks a header field, or uses an undefined variable."""

    code = "invalid_template"


class ArtifactError(GenrecError):
    """A saved file or folder that is missing, truncated or altered."""

    code = "damaged_artifact"


class MismatchError(GenrecError):
    """Two artifacts that do not belong together, such as an index and a catalog."""

    code = "mismatch"
    exit_code = 4


class TokenizerMismatchError(MismatchError):
    """Token ids of one tokenizer were passed to an object that was built for another."""

    code = "tokenizer_mismatch"


class EngineError(GenrecError):
    """The model or its engine failed."""

    code = "engine_failed"
    exit_code = 5


class QueueFullError(EngineError):
    """The request queue is full."""

    code = "queue_full"


class ModelMissingError(EngineError):
    """Weights, or the packages that run them, are not installed on this machine."""

    code = "model_missing"


class DeadlineExceededError(EngineError):
    """The deadline of a request has passed."""

    code = "deadline_exceeded"


class StoreError(GenrecError):
    """The database of events cannot be opened, reached or used; a password in its URL is never in the message."""

    code = "store_failed"
    exit_code = 5


def check_count(name: str, value: object, minimum: int = 1) -> None:
    """Check that a value is a whole number of at least `minimum`.

    Raises:
        InputError: it is not; the message has the name and the value.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise InputError(f"{name} is {value!r}; give a whole number of at least {minimum}")
