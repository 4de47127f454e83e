"""The result of a batch task: output lines for the rows that succeeded, and failures for the others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from genrec.batch.row import InputRow

ENGINE_ERROR = "engine"
"""The code of a row that failed because of the engine, not because of its content."""


@dataclass(frozen=True)
class RowFailure:
    """A row that could not be answered.

    Attributes:
        row: its position among the rows passed to the task, from 0; in files, its number among all rows of the run.
        id: the caller's id of the row, if it could be read.
        code: the kind of failure, such as `unknown_user`.
        message: the problem and its remedy.
    """

    row: int
    id: str | int | None
    code: str
    message: str


@dataclass(frozen=True)
class BatchResult:
    """The result for a sequence of rows.

    Attributes:
        table: one or more lines for each row that did not fail, in row order; the column `row` is the row's position,
            as in `RowFailure`.
        failures: the other rows, in order.
        sources: number of lines served by each source.
        tokens: tokens computed by language models.
    """

    table: pa.Table
    failures: Sequence[RowFailure] = ()
    sources: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0


BatchTask = Callable[[Sequence[InputRow], pa.Schema], BatchResult]
"""Answers rows with a table of the run's schema. The same rows, passed together, must get the same answer."""
