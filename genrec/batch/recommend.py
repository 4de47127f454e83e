"""The batch task that recommends: users from rows, and recommendation lists as output lines."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from genrec.batch.result import ENGINE_ERROR, BatchResult, RowFailure
from genrec.batch.row import InputRow, failure_code, first_valid_row, id_type_of, parse_id, parse_user, row_key
from genrec.data.user_frames import UserLike
from genrec.errors import InputError, TemplateError
from genrec.notices import Notice
from genrec.recommender import Recommender, RecommendOptions
from genrec.types import RecommendationList

_COLUMNS = ("user_id", "item_id", "rank", "score", "source")


class RecommendTask:
    """Answers rows with recommendation lists.

    Args:
        recommender: serves the lists. If its first stage fails on a row, the row fails; rows that the first stage
            cannot rank go to the next stage.
        k: list length.
        options: of `Recommender.recommend`, without a deadline.

    Attributes:
        key_columns: columns that are copied from a row to the lines of its list.

    Raises:
        InputError: k or an option is invalid.
    """

    key_columns = ("user_id",)

    def __init__(self, recommender: Recommender, k: int, options: RecommendOptions) -> None:
        recommender.check([], k, **options)
        self._recommender, self._k, self._options = recommender, k, options

    def schema(self, rows: Iterator[InputRow]) -> pa.Schema:
        """The output schema. User ids have the type of the first readable row, item ids that of the catalog.

        Raises:
            InputError: no row can be read; the message gives the reason for the first one.
        """
        row, _ = first_valid_row(rows, parse_list_user)
        users = id_type_of(row, "user_id")
        items = pa.int64() if self._recommender.catalog.item_ids.array.type == pa.int64() else pa.string()
        types = dict(zip(_COLUMNS, (users, items, pa.int64(), pa.float64(), pa.string()), strict=True))
        reason = {"reason": pa.string()} if self._options.get("explain") else {}
        return pa.schema({**types, **reason, "row": pa.int64()})

    def __call__(self, rows: Sequence[InputRow], schema: pa.Schema) -> BatchResult:
        """Recommend to the user of each row; rows that cannot be answered become failures."""
        kind = schema.field("user_id").type
        failures: dict[int, RowFailure] = {}
        users: dict[int, UserLike] = {}

        def fail(position: int, code: str, message: object) -> None:
            users.pop(position, None)
            failures[position] = RowFailure(position, row_key(rows[position], self.key_columns), code, str(message))

        for position, row in enumerate(rows):
            try:
                parse_id(row, "user_id", kind)
                users[position] = parse_list_user(row)
            except InputError as error:
                fail(position, "unreadable", error)
        on_unknown = self._options.get("on_unknown", "raise")
        problems = self._recommender.validation_errors(list(users.values()), on_unknown=on_unknown)
        for position, problem in zip(list(users), problems, strict=True):
            if problem is not None:
                fail(position, failure_code(problem), problem)
        lists: dict[int, RecommendationList] = {}
        for position, result in zip(list(users), self._recommend(list(users.values())), strict=True):
            if isinstance(result, InputError):
                fail(position, failure_code(result), result)
            elif (first := self._recommender.stages[0].source) in result.failed_stages:
                skipped = (notice for notice in result.notices if notice.code == "stage_skipped")
                notice = next(notice for notice in skipped if notice.fields["stage"] == first)
                fail(position, _failure_code_of_stage(notice), notice)
            elif not result.items:
                fail(position, "nothing_allowed", "; ".join(map(str, result.notices)))
            else:
                lists[position] = result
        return BatchResult(
            _table(lists, schema),
            [failures[position] for position in sorted(failures)],
            Counter(item.source for result in lists.values() for item in result.items),
            sum(result.tokens for result in lists.values()),
        )

    def _recommend(self, users: Sequence[UserLike]) -> Sequence[RecommendationList | InputError]:
        """A list for each user; if the whole batch is refused, each user is tried alone."""
        if not users:
            return []
        try:
            results: list[RecommendationList] = self._recommender.recommend(users, self._k, **self._options)
            return results
        except InputError as error:
            if len(users) == 1:
                return [error]
            return [result for user in users for result in self._recommend([user])]


def _failure_code_of_stage(notice: Notice) -> str:
    """The code of a row that a stage skipped: what the row itself caused must not look like an engine that is down."""
    is_input = notice.fields["error"] in (InputError.code, TemplateError.code)
    return "unreadable" if is_input else ENGINE_ERROR


def _table(lists: Mapping[int, RecommendationList], schema: pa.Schema) -> pa.Table:
    items = [item for result in lists.values() for item in result.items]
    columns = {name: [getattr(item, name) for item in items] for name in schema.names if name != "row"}
    columns["row"] = [position for position, result in lists.items() for _ in result.items]
    if schema.field("user_id").type == pa.string():
        columns["user_id"] = [None if user is None else str(user) for user in columns["user_id"]]
    return pa.table(columns, schema=schema)


def parse_list_user(row: InputRow) -> UserLike:
    """The user of a row.

    Raises:
        InputError: the row names no user, or is not meant for recommendations.
    """
    if "item_id" in row.columns:
        raise InputError(
            "a row with item_id is an interaction; pass it with --interactions, and give user_id or history here"
        )
    if "body" in row.columns or "messages" in row.columns:
        raise InputError("a row with messages is a chat request, not a user; give user_id, history or words")
    return parse_user(row)
