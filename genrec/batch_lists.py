"""Rows of a batch run as people, and their lists as lines of a part."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from genrec.batch import Answers, Failure
from genrec.errors import InputError, UnknownItemError, UnknownUserError
from genrec.recommender import Options, Person, Recommender
from genrec.rows import Row
from genrec.types import History, RecommendationList

_COLUMNS = ("user_id", "item_id", "rank", "score", "source")
_SHOWS = ("history", "words", "user_id")


class ListAnswerer:
    """Answers rows with lists.

    Args:
        recommender: who answers. Its first step has to: a row for which that fails is a failed row, and is not handed
            down; one that the step has nothing to go on for is.
        k: list length.
        options: of `Recommender.recommend`, without a deadline.
    """

    def __init__(self, recommender: Recommender, k: int, options: Options) -> None:
        self._recommender, self._k, self._options = recommender, k, options

    def schema(self, first: Row) -> pa.Schema:
        """Ids as the caller has them: of users as in the first row, of items as in the catalog.

        Raises:
            InputError: the rows are events, or of no person at all.
        """
        if not first.fault:
            _person(first.value)
        users = pa.int64() if isinstance(first.value.get("user_id"), int) else pa.string()
        items = pa.int64() if self._recommender.catalog.item_ids.array.type == pa.int64() else pa.string()
        types = dict(zip(_COLUMNS, (users, items, pa.int64(), pa.float64(), pa.string()), strict=True))
        if self._options.get("explain"):
            types["reason"] = pa.string()
        return pa.schema(types)

    def __call__(self, rows: Sequence[Row], schema: pa.Schema) -> Answers:
        """The lists of all rows that can be answered."""
        numbers = schema.field("user_id").type == pa.int64()
        failures: dict[int, Failure] = {}
        people: dict[int, Person] = {}
        for place, row in enumerate(rows):
            try:
                if row.fault:
                    raise InputError(row.fault)
                people[place] = _person(row.value)
                if numbers and not isinstance(user := row.value.get("user_id"), int | None):
                    raise InputError(f"user_id is {user!r:.80} where the first row's is a number; write all alike")
            except InputError as error:
                people.pop(place, None)
                failures[place] = Failure(place, _id_of(row), "unreadable", str(error))
        unknown = self._options.get("on_unknown", "raise")
        problems = self._recommender.problems(list(people.values()), on_unknown=unknown)
        for place, problem in zip(list(people), problems, strict=True):
            if problem is not None:
                failures[place] = Failure(place, _id_of(rows[place]), _code(problem), str(problem))
                del people[place]
        answers = self._recommender.recommend(list(people.values()), self._k, **self._options) if people else []
        first = self._recommender.ladder[0].source
        lists: list[RecommendationList] = []
        for place, answer in zip(people, answers, strict=True):
            if first in answer.left_out:
                why = next(notice for notice in answer.notices if notice.startswith(f"{first} was left out"))
                failures[place] = Failure(place, _id_of(rows[place]), "engine", why)
            elif not answer.items:
                failures[place] = Failure(place, _id_of(rows[place]), "nothing_allowed", "; ".join(answer.notices))
            else:
                lists.append(answer)
        items = [item for answer in lists for item in answer.items]
        columns = {name: [getattr(item, name) for item in items] for name in schema.names}
        if not numbers:
            columns["user_id"] = [None if user is None else str(user) for user in columns["user_id"]]
        return Answers(
            pa.table(columns, schema=schema),
            [failures[place] for place in sorted(failures)],
            Counter(item.source for item in items),
            sum(answer.tokens for answer in answers),
        )


def _person(value: Mapping[str, Any]) -> Person:
    """Who a row is: a known user, or somebody with a history or words of their own.

    Raises:
        InputError: it says neither, or something else than a row of people does.
    """
    if "item_id" in value:
        raise InputError(
            "a row with item_id is an event; name events with --interactions, and here the people, with user_id or "
            "with history"
        )
    if "body" in value or "messages" in value:
        raise InputError("a row with messages asks a language model, not for a list; give user_id, history or words")
    user = value.get("user_id")
    user = None if user == "" else user
    if user is not None and (isinstance(user, bool) or not isinstance(user, str | int)):
        raise InputError(f"user_id is {user!r:.80}; ids are text or whole numbers")
    words = value.get("words") or ""
    if not isinstance(words, str):
        raise InputError(f"words is {words!r:.80}; give text")
    history = value.get("history")
    if history is None or history == "":
        if user is not None and not words:
            return user
        if not words:
            raise InputError(f"the row has columns {', '.join(value) or 'none'}; it needs one of {', '.join(_SHOWS)}")
        return History((), words, user)
    if isinstance(history, str):
        history = _listed(history)
    if not isinstance(history, list) or any(isinstance(one, bool) or not isinstance(one, str | int) for one in history):
        raise InputError(f"history is {history!r:.80}; give a list of item ids, oldest first")
    return History(tuple(history), words, user)


def _listed(text: str) -> Any:
    """A list in a table of text: in JSON, or ids with spaces between them."""
    if not text.lstrip().startswith("["):
        return text.split()
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"history is {text!r:.80}, which is no JSON list: {error}") from error


def _id_of(row: Row) -> str | int | None:
    user = row.value.get("user_id")
    return user if isinstance(user, str | int) and not isinstance(user, bool) else None


def _code(problem: InputError) -> str:
    if isinstance(problem, UnknownUserError):
        return "unknown_user"
    return "unknown_item" if isinstance(problem, UnknownItemError) else "unreadable"
