"""The exceptions of genrec.

Each message names the thing, the value, the place and the remedy. `exit_code` is the exit code of the command line.

    GenrecError
    ├── InputError               2  invalid input: data, arguments, files
    │   ├── UnknownItemError        an item id that is not in the catalog
    │   ├── UnknownUserError        a user id without interactions
    │   ├── FilterError             a filter that does not parse, or names an unknown attribute
    │   └── TemplateError           a template that does not parse, or uses an undefined variable
    ├── ArtifactError            2  a saved file that is missing, truncated or altered
    ├── MismatchError            4  two parts that do not belong together
    │   └── TokenizerMismatchError  an index built for another tokenizer
    ├── EngineError              5  the model or the engine that runs it
    │   ├── QueueFullError          the request queue is full
    │   ├── ModelMissingError       weights or packages that are not installed
    │   └── DeadlineExceededError   the deadline of a request has passed
    └── StoreError               5  the event database
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from numbers import Integral, Real
from typing import ClassVar, Self

MAX_COUNT = 2**63 - 1


class GenrecError(Exception):
    """Base class of the exceptions of genrec.

    The message is for humans: "<problem>; <remedy>". Programs read `code` and `fields`, never the message.

    Args:
        problem: what is wrong: the thing, its value and where it was found.
        remedy: how to solve it; optional if `problem` is enough.
        code: the error code for programs; by default that of the class.
        fields: values of the message that a program may need.

    Attributes:
        exit_code: the exit code of the command line.
    """

    exit_code: ClassVar[int] = 2
    code: str = "error"

    def __init__(self, problem: str = "", *, remedy: str = "", code: str | None = None, **fields: object) -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem, self.remedy, self.fields = problem, remedy, fields
        if code is not None:
            self.code = code

    def revised(self, *, problem: str | None = None, remedy: str | None = None) -> Self:
        """A copy with another problem or remedy, such as one in terms of the caller's interface."""
        return type(self)(
            self.problem if problem is None else problem,
            remedy=self.remedy if remedy is None else remedy,
            code=self.code,
            **self.fields,
        )


class InputError(GenrecError, ValueError):
    """The input is invalid."""

    code = "invalid_value"


class UnknownItemError(InputError):
    """An item id that is not in the catalog."""

    code = "unknown_item"


class UnknownUserError(InputError):
    """A user id without interactions."""

    code = "unknown_user"


class FilterError(InputError):
    """A filter that does not parse, or names an attribute that the catalog does not have."""

    code = "invalid_filter"


class TemplateError(InputError):
    """A template that does not parse, lacks a header field, or uses an undefined variable."""

    code = "invalid_template"


class ArtifactError(GenrecError):
    """A saved file or directory that is missing, truncated, or altered since it was written."""

    code = "damaged_artifact"


class MismatchError(GenrecError):
    """Two parts that do not belong together, such as an index and a catalog."""

    code = "mismatch"
    exit_code = 4


class TokenizerMismatchError(MismatchError):
    """Token ids of one tokenizer, passed to a part built for another."""

    code = "tokenizer_mismatch"


class EngineError(GenrecError):
    """The model, or the engine that runs it, failed."""

    code = "engine_failed"
    exit_code = 5


class QueueFullError(EngineError):
    """The request queue is full."""

    code = "queue_full"


class ModelMissingError(EngineError):
    """The weights of a model, or the packages that run it, are not installed."""

    code = "model_missing"


class DeadlineExceededError(EngineError):
    """The deadline of a request has passed."""

    code = "deadline_exceeded"


class StoreError(GenrecError):
    """The event database cannot be opened, reached or used; the message never contains the password of its URL."""

    code = "store_failed"
    exit_code = 5


MODEL_ERRORS = (EngineError, ArtifactError, MismatchError)
"""The errors of a model that cannot be used, whatever the reason: a recommender is opened without it then, unless it is
needed. Other errors are those of invalid arguments."""


@contextmanager
def explain_model_errors(model: object) -> Iterator[None]:
    """Turn every exception of opening a model into one of genrec.

    Raises:
        EngineError: a library failed in a way that nothing else has explained.
    """
    try:
        yield
    except GenrecError:
        raise
    except Exception as error:  # torch, Transformers, PEFT and vLLM have many exceptions of their own
        raise EngineError(
            f"cannot open the model {str(model)!r}: {format_error(error)}",
            remedy="run genrec doctor, or choose another model",
        ) from error


def missing_packages(packages: Iterable[str], modules: Mapping[str, str] | None = None) -> list[str]:
    """The packages that are not installed, for a message that names them.

    Args:
        packages: names in the package index.
        modules: the module of each package whose module is not named like it.
    """
    return [package for package in packages if not _is_installed((modules or {}).get(package, package))]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module.replace("-", "_")) is not None
    except ModuleNotFoundError:  # the package that holds it is missing, too
        return False


def format_value(value: object, max_length: int = 80) -> str:
    """A value of the caller for messages, cut if it is long; NumPy's numbers without their type."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()  # type: ignore[attr-defined]
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  (an integer of thousands of digits, or a value with a broken __repr__)
        return f"a value of type {type(value).__name__} that cannot be printed"
    return text if len(text) <= max_length else f"{text[: max_length - 3]}..."


def format_error(error: BaseException, max_length: int = 300) -> str:
    """The type and the text of an exception of a library for messages, in one line, cut if it is long."""
    text = " ".join(str(error).split())
    shown = text if len(text) <= max_length else f"{text[: max_length - 3]}..."
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def format_names(names: Sequence[str], max_count: int = 30) -> str:
    """Names for messages: "a, b, c", or "a, b and 7 more" if there are more than `max_count`."""
    more = len(names) - max_count
    return ", ".join(names[:max_count]) + (f" and {more:,} more" if more > 0 else "")


def check_count(name: str, value: object, minimum: int = 1) -> None:
    """Check that a value is a whole number of at least `minimum` that an int64 can hold.

    Raises:
        InputError: it is not; the message contains its name and value.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not minimum <= int(value) <= MAX_COUNT:
        most = f" and at most {MAX_COUNT:,}" if isinstance(value, Integral) and int(value) > MAX_COUNT else ""
        raise InputError(f"{name} is {format_value(value)}; give a whole number of at least {minimum}{most}")


def check_number(name: str, value: object, remedy: str, minimum: float = -math.inf, *, above: bool = False) -> float:
    """Check that a value is a finite number of at least `minimum`, or above it.

    Returns:
        The number as a float.

    Raises:
        InputError: it is not; the message contains its name and value, and the remedy.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # an integer beyond the range of floats
            number = float(value)
            if math.isfinite(number) and (number > minimum if above else number >= minimum):
                return number
    raise InputError(f"{name} is {format_value(value)}; {remedy}")
