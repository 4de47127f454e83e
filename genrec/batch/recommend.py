"""Rows of a batch run as people, and their lists as lines of a part."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from genrec.batch.input import Row
from genrec.batch.row import code_of, first_readable, id_kind, id_of, name_of, person_of
from genrec.batch.run import ENGINE, Answers, Failure
from genrec.errors import InputError
from genrec.recommender import Options, Person, Recommender
from genrec.types import RecommendationList

_COLUMNS = ("user_id", "item_id", "rank", "score", "source")


class ListAnswerer:
    """Answers rows with lists.

    Args:
        recommender: who answers. Its first step has to: a row for which that fails is a failed row, and is not handed
            down; one that the step has nothing to go on for is.
        k: list length.
        options: of `Recommender.recommend`, without a deadline.

    Attributes:
        keys: columns that a list's lines take over from their row.

    Raises:
        InputError: k or an option cannot be used.
    """

    keys = ("user_id",)

    def __init__(self, recommender: Recommender, k: int, options: Options) -> None:
        recommender.recommend([], k, **options)
        self._recommender, self._k, self._options = recommender, k, options

    def schema(self, rows: Iterator[Row]) -> pa.Schema:
        """Ids as the caller has them: of users as in the first row that can be read, of items as in the catalog.

        Raises:
            InputError: no row can be read; it says why the first one cannot.
        """
        row, _ = first_readable(rows, _person_of)
        users = id_kind(row, "user_id")
        items = pa.int64() if self._recommender.catalog.item_ids.array.type == pa.int64() else pa.string()
        types = dict(zip(_COLUMNS, (users, items, pa.int64(), pa.float64(), pa.string()), strict=True))
        reason = {"reason": pa.string()} if self._options.get("explain") else {}
        return pa.schema({**types, **reason, "row": pa.int64()})

    def __call__(self, rows: Sequence[Row], schema: pa.Schema) -> Answers:
        """The lists of all rows that can be answered."""
        kind = schema.field("user_id").type
        failures: dict[int, Failure] = {}
        people: dict[int, Person] = {}

        def fail(place: int, code: str, message: object) -> None:
            people.pop(place, None)
            failures[place] = Failure(place, name_of(rows[place], self.keys), code, str(message))

        for place, row in enumerate(rows):
            try:
                id_of(row, "user_id", kind)
                people[place] = _person_of(row)
            except InputError as error:
                fail(place, "unreadable", error)
        unknown = self._options.get("on_unknown", "raise")
        problems = self._recommender.problems(list(people.values()), on_unknown=unknown)
        for place, problem in zip(list(people), problems, strict=True):
            if problem is not None:
                fail(place, code_of(problem), problem)
        lists: dict[int, RecommendationList] = {}
        for place, answer in zip(list(people), self._ask(list(people.values())), strict=True):
            if isinstance(answer, InputError):
                fail(place, code_of(answer), answer)
            elif (first := self._recommender.ladder[0].source) in answer.left_out:
                said = (one for one in answer.notices if one.startswith(f"{first} was left out"))
                fail(place, ENGINE, next(said, f"{first} did not answer"))
            elif not answer.items:
                fail(place, "nothing_allowed", "; ".join(answer.notices))
            else:
                lists[place] = answer
        return Answers(
            _table(lists, schema),
            [failures[place] for place in sorted(failures)],
            Counter(item.source for answer in lists.values() for item in answer.items),
            sum(answer.tokens for answer in lists.values()),
        )

    def _ask(self, people: Sequence[Person]) -> Sequence[RecommendationList | InputError]:
        """Everybody's list; where one cannot be asked, such as by a template that fails on an item, each alone."""
        if not people:
            return []
        try:
            answers: list[RecommendationList] = self._recommender.recommend(people, self._k, **self._options)
            return answers
        except InputError as error:
            if len(people) == 1:
                return [error]
            return [answer for person in people for answer in self._ask([person])]


def _table(lists: Mapping[int, RecommendationList], schema: pa.Schema) -> pa.Table:
    items = [item for answer in lists.values() for item in answer.items]
    columns = {name: [getattr(item, name) for item in items] for name in schema.names if name != "row"}
    columns["row"] = [place for place, answer in lists.items() for _ in answer.items]
    if schema.field("user_id").type == pa.string():
        columns["user_id"] = [None if user is None else str(user) for user in columns["user_id"]]
    return pa.table(columns, schema=schema)


def _person_of(row: Row) -> Person:
    """Who a row is.

    Raises:
        InputError: it says nobody, or something else than a row of people does.
    """
    if "item_id" in row.value:
        raise InputError(
            "a row with item_id is an event; name events with --interactions, and here the people, with user_id or "
            "with history"
        )
    if "body" in row.value or "messages" in row.value:
        raise InputError("a row with messages asks a language model, not for a list; give user_id, history or words")
    return person_of(row)
