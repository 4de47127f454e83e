"""Failures of stages: which exceptions are one, a code for programs, and a log entry with the traceback."""

import logging
from collections.abc import Sequence

from genrec.errors import DeadlineExceededError, EngineError, GenrecError
from genrec.types import Ranking

_LOGGER = logging.getLogger(__name__)


class PartialFailureError(EngineError):
    """A ranker failed for some requests of a batch.

    Attributes:
        results: for each request its ranking, or why the ranker failed.
    """

    def __init__(self, results: Sequence[Ranking | EngineError]) -> None:
        failures = [result for result in results if isinstance(result, EngineError)]
        super().__init__(f"{len(failures)} of {len(results)} requests failed, the first because {failures[0]}")
        self.results = results


def is_failure(error: BaseException) -> bool:
    """Whether an exception ends only the stage that raised it; the others ask the whole program to stop.

    A panic of compiled Rust code, such as that of a tokenizer, is a `BaseException` by its class only.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def failure_code(error: BaseException) -> str:
    """The code of a failure: that of a `GenrecError`, "out_of_memory", or "unexpected_error"."""
    if isinstance(error, GenrecError):
        return error.code
    return "out_of_memory" if isinstance(error, MemoryError) else "unexpected_error"


def failure_reason(error: BaseException) -> str:
    """Why a stage failed, for people."""
    if isinstance(error, DeadlineExceededError):
        return "deadline exceeded"
    if isinstance(error, GenrecError):
        return str(error)
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  (a foreign exception whose text fails)
        return type(error).__name__


class FailureLog:
    """Logs each kind of failure once, with its traceback: stages fail for every request while a model is down.

    A kind is a stage, the class of the exception and the line that raised it. Deadlines that pass are not logged.
    """

    def __init__(self) -> None:
        self._logged: set[tuple[str, type[BaseException], str, int]] = set()

    def log(self, stage: str, error: BaseException) -> None:
        """Log a failure, unless one of its kind was logged before."""
        if isinstance(error, DeadlineExceededError):
            return
        file, line = _origin(error)
        kind = (stage, type(error), file, line)
        if kind not in self._logged:
            self._logged.add(kind)
            _LOGGER.error("stage %s failed; further failures of this kind are not logged", stage, exc_info=error)


def _origin(error: BaseException) -> tuple[str, int]:
    """The file and the line that raised an exception."""
    traceback = error.__traceback__
    if traceback is None:
        return "", 0
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
