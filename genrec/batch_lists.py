"""Rows of a batch run as people, and their lists as lines of a part."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from genrec.batch import Answers, Failure
from genrec.errors import InputError, UnknownItemError, UnknownUserError
from genrec.recommender import Options, Person, Recommender
from genrec.rows import Row
from genrec.types import History, RecommendationList

_COLUMNS = ("user_id", "item_id", "rank", "score", "source")
_SHOWS = ("history", "words", "user_id")
_LARGEST = 2**63


class ListAnswerer:
    """Answers rows with lists.

    Args:
        recommender: who answers. Its first step has to: a row for which that fails is a failed row, and is not handed
            down; one that the step has nothing to go on for is.
        k: list length.
        options: of `Recommender.recommend`, without a deadline.

    Raises:
        InputError: k or an option cannot be used.
    """

    def __init__(self, recommender: Recommender, k: int, options: Options) -> None:
        recommender.recommend([], k, **options)
        self._recommender, self._k, self._options = recommender, k, options

    def schema(self, rows: Iterator[Row]) -> pa.Schema:
        """Ids as the caller has them: of users as in the first row that can be read, of items as in the catalog.

        Raises:
            InputError: no row can be read; it says why the first one cannot.
        """
        refused: InputError | None = None
        for row in rows:
            try:
                _person_of(row)
            except InputError as error:
                refused = refused or error
                continue
            users = pa.int64() if isinstance(row.value.get("user_id"), int) else pa.string()
            items = pa.int64() if self._recommender.catalog.item_ids.array.type == pa.int64() else pa.string()
            types = dict(zip(_COLUMNS, (users, items, pa.int64(), pa.float64(), pa.string()), strict=True))
            reason = {"reason": pa.string()} if self._options.get("explain") else {}
            return pa.schema({**types, **reason, "row": pa.int64()})
        raise InputError(f"no row can be read; of the first: {refused}")

    def __call__(self, rows: Sequence[Row], schema: pa.Schema) -> Answers:
        """The lists of all rows that can be answered."""
        numbers = schema.field("user_id").type == pa.int64()
        failures: dict[int, Failure] = {}
        people: dict[int, Person] = {}

        def fail(place: int, code: str, message: object) -> None:
            people.pop(place, None)
            failures[place] = Failure(place, _id_of(rows[place]), code, str(message))

        for place, row in enumerate(rows):
            try:
                people[place] = _person_of(row)
                if numbers and not isinstance(user := row.value.get("user_id"), int | None):
                    raise InputError(f"user_id is {user!r:.80} where the first row's is a number; write all alike")
            except InputError as error:
                fail(place, "unreadable", error)
        unknown = self._options.get("on_unknown", "raise")
        problems = self._recommender.problems(list(people.values()), on_unknown=unknown)
        for place, problem in zip(list(people), problems, strict=True):
            if problem is not None:
                fail(place, _code(problem), problem)
        lists: dict[int, RecommendationList] = {}
        for place, answer in zip(list(people), self._ask(list(people.values())), strict=True):
            if isinstance(answer, InputError):
                fail(place, _code(answer), answer)
            elif (first := self._recommender.ladder[0].source) in answer.left_out:
                fail(place, "engine", next(one for one in answer.notices if one.startswith(f"{first} was left out")))
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
    """Who a row is: a known user, or somebody with a history or words of their own.

    Raises:
        InputError: it says neither, or something else than a row of people does.
    """
    if row.fault:
        raise InputError(row.fault)
    value = row.value
    if "item_id" in value:
        raise InputError(
            "a row with item_id is an event; name events with --interactions, and here the people, with user_id or "
            "with history"
        )
    if "body" in value or "messages" in value:
        raise InputError("a row with messages asks a language model, not for a list; give user_id, history or words")
    user: Any = value.get("user_id")
    user = None if user == "" else user
    if user is not None and not _is_id(user):
        raise InputError(f"user_id is {user!r:.80}; ids are text or whole numbers of 64 bits, cast the column")
    words = value.get("words") or ""
    if not isinstance(words, str) or not _is_text(words):
        raise InputError(f"words is {words!r:.80}; give text")
    history = value.get("history")
    if history is None or history == "":
        if isinstance(user, str | int) and not words:
            return user
        if not words:
            raise InputError(
                f"there is nothing in {', '.join(_SHOWS)}; the columns are {', '.join(value) or 'none'}: rename or "
                "fill them"
            )
        return History((), words, user)
    if isinstance(history, str):
        history = _listed(history)
    if not isinstance(history, list) or not all(map(_is_id, history)):
        raise InputError(f"history is {history!r:.80}; give a list of item ids, oldest first")
    return History(tuple(history), words, user)


def _listed(text: str) -> Any:
    """A list in a table of text: in JSON, or ids with spaces between them."""
    if not text.lstrip().startswith("["):
        return text.split()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"history is {text!r:.80}, which is no JSON list: {error}") from error


def _is_id(value: object) -> bool:
    """Whether a table can hold it as an id."""
    if isinstance(value, str):
        return _is_text(value)
    return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value < _LARGEST


def _is_text(text: str) -> bool:
    """Whether it can be written: a lone surrogate, which JSON can spell, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _id_of(row: Row) -> str | int | None:
    user = row.value.get("user_id")
    return user if isinstance(user, str | int) and _is_id(user) else None


def _code(problem: InputError) -> str:
    if isinstance(problem, UnknownUserError):
        return "unknown_user"
    return "unknown_item" if isinstance(problem, UnknownItemError) else "unreadable"
