"""Rows of a batch run as people, and their lists as lines of a part."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from genrec.batch.input import InputRow
from genrec.batch.row import failure_code, first_valid_row, id_type_of, parse_id, parse_user, row_key
from genrec.batch.run import ENGINE_ERROR, BatchResult, RowFailure
from genrec.errors import InputError
from genrec.recommender import Recommender, RecommendOptions, UserLike
from genrec.types import RecommendationList

_COLUMNS = ("user_id", "item_id", "rank", "score", "source")


class RecommendTask:
    """Answers rows with lists.

    Args:
        recommender: who answers. Its first step has to: a row for which that fails is a failed row, and is not handed
            down; one that the step has nothing to go on for is.
        k: list length.
        options: of `Recommender.recommend`, without a deadline.

    Attributes:
        key_columns: columns that a list's lines take over from their row.

    Raises:
        InputError: k or an option cannot be used.
    """

    key_columns = ("user_id",)

    def __init__(self, recommender: Recommender, k: int, options: RecommendOptions) -> None:
        recommender.recommend([], k, **options)
        self._recommender, self._k, self._options = recommender, k, options

    def schema(self, rows: Iterator[InputRow]) -> pa.Schema:
        """Ids as the caller has them: of users as in the first row that can be read, of items as in the catalog.

        Raises:
            InputError: no row can be read; it says why the first one cannot.
        """
        row, _ = first_valid_row(rows, _parse_list_user)
        users = id_type_of(row, "user_id")
        items = pa.int64() if self._recommender.catalog.item_ids.array.type == pa.int64() else pa.string()
        types = dict(zip(_COLUMNS, (users, items, pa.int64(), pa.float64(), pa.string()), strict=True))
        reason = {"reason": pa.string()} if self._options.get("explain") else {}
        return pa.schema({**types, **reason, "row": pa.int64()})

    def __call__(self, rows: Sequence[InputRow], schema: pa.Schema) -> BatchResult:
        """The lists of all rows that can be answered."""
        kind = schema.field("user_id").type
        failures: dict[int, RowFailure] = {}
        people: dict[int, UserLike] = {}

        def fail(place: int, code: str, message: object) -> None:
            people.pop(place, None)
            failures[place] = RowFailure(place, row_key(rows[place], self.key_columns), code, str(message))

        for place, row in enumerate(rows):
            try:
                parse_id(row, "user_id", kind)
                people[place] = _parse_list_user(row)
            except InputError as error:
                fail(place, "unreadable", error)
        unknown = self._options.get("on_unknown", "raise")
        problems = self._recommender.validation_errors(list(people.values()), on_unknown=unknown)
        for place, problem in zip(list(people), problems, strict=True):
            if problem is not None:
                fail(place, failure_code(problem), problem)
        lists: dict[int, RecommendationList] = {}
        for place, answer in zip(list(people), self._recommend(list(people.values())), strict=True):
            if isinstance(answer, InputError):
                fail(place, failure_code(answer), answer)
            elif (first := self._recommender.stages[0].source) in answer.failed_stages:
                skipped = (one for one in answer.notices if one.code == "stage_skipped")
                said = (str(one) for one in skipped if one.fields["stage"] == first)
                fail(place, ENGINE_ERROR, next(said, f"{first} did not answer"))
            elif not answer.items:
                fail(place, "nothing_allowed", "; ".join(map(str, answer.notices)))
            else:
                lists[place] = answer
        return BatchResult(
            _table(lists, schema),
            [failures[place] for place in sorted(failures)],
            Counter(item.source for answer in lists.values() for item in answer.items),
            sum(answer.tokens for answer in lists.values()),
        )

    def _recommend(self, users: Sequence[UserLike]) -> Sequence[RecommendationList | InputError]:
        """Everybody's list; where one cannot be asked, such as by a template that fails on an item, each alone."""
        if not users:
            return []
        try:
            answers: list[RecommendationList] = self._recommender.recommend(users, self._k, **self._options)
            return answers
        except InputError as error:
            if len(users) == 1:
                return [error]
            return [answer for person in users for answer in self._recommend([person])]


def _table(lists: Mapping[int, RecommendationList], schema: pa.Schema) -> pa.Table:
    items = [item for answer in lists.values() for item in answer.items]
    columns = {name: [getattr(item, name) for item in items] for name in schema.names if name != "row"}
    columns["row"] = [place for place, answer in lists.items() for _ in answer.items]
    if schema.field("user_id").type == pa.string():
        columns["user_id"] = [None if user is None else str(user) for user in columns["user_id"]]
    return pa.table(columns, schema=schema)


def _parse_list_user(row: InputRow) -> UserLike:
    """Who a row is.

    Raises:
        InputError: it says nobody, or something else than a row of people does.
    """
    if "item_id" in row.columns:
        raise InputError(
            "a row with item_id is an event; name events with --interactions, and here the people, with user_id or "
            "with history"
        )
    if "body" in row.columns or "messages" in row.columns:
        raise InputError("a row with messages asks a language model, not for a list; give user_id, history or words")
    return parse_user(row)
