"""Hostile values: whatever a caller passes, the answer is a list or an error of genrec; over HTTP, no status 500."""

import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from shop import ITEMS

from genrec import Catalog, History, Interactions, Item, Recommender, read_catalog, read_interactions
from genrec.batch.prompts import ChatPromptBuilder, SamplingParams
from genrec.batch.recommend import RecommendTask
from genrec.batch.row import InputRow
from genrec.chat.advisor import Advisor
from genrec.chat.conversation import Conversation
from genrec.chat.preferences import PreferenceFilter, Preferences
from genrec.data.subset import Boost, Mask, Subset
from genrec.errors import GenrecError, check_count, format_value
from genrec.evaluation.metrics import accuracy, metric_cutoff
from genrec.evaluation.protocols import leave_one_out, temporal_split
from genrec.pipeline import Pipeline
from genrec.rankers.generative_settings import GenerativeSettings
from genrec.settings import Settings

HUGE = 10**5000  # Python refuses to write it out


def written(value: Any) -> str:
    """A value as a caller would write it in a text; Python writes huge integers in base 16 only."""
    if isinstance(value, int) and abs(value) >= 10**4000:
        return hex(value)
    try:
        return str(value)
    except (RuntimeError, ValueError):  # it cannot be printed, or holds what cannot
        return format_value(value)


def frame(column: str, value: Any) -> pd.DataFrame:
    """Two events, one of which has another value in a column."""
    columns: dict[str, list[Any]] = {"user_id": ["ann", "bob"], "item_id": ["i0", "i1"], "timestamp": [1, 2]}
    columns |= {"weight": [1.0, 2.0], "title": ["A", "B"]}
    return pd.DataFrame({**columns, column: [value, columns.get(column, [0, 0])[1]]}, dtype=object)


class Unprintable:
    """A foreign value whose repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


FILTERS = ("price < {}", "title == '{}'", "year in [{}, 1]", "{} in tags", "'{}' in words(title)", "{}")
VALUES: list[Any] = [
    *(HUGE, -HUGE, 2**63, 2**64, -(2**63) - 1, 2**53 + 1, 0, -1, 1, True, None),
    *(float("inf"), float("-inf"), float("nan"), 1e308, -1e308, 1.5, 1.0, 5e-324, Decimal("1E+400"), Decimal("NaN")),
    *(np.float64("nan"), np.int64(-1), np.uint64(2**64 - 1), np.float32(1e38), np.array([1, 2]), np.bool_(True)),
    *("", " ", "\0", "\ud800", "x" * 100_000, "9" * 5000, "i0", "1e999", "nan", "-1", b"\xff", Unprintable()),
    *(datetime.min, datetime.max, datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59-12:00", "0001-01-01T00:00+14"),
    *([], [HUGE], [Unprintable()], [None], [["i0"]], ["i0", float("nan")], {}, {"i0": HUGE}, {HUGE: 1.0}, {"i0": "x"}),
    *({"i0": float("nan")}, {"i0": 1e308}, {Unprintable(): 1}, object, range(3)),
    *(np.array(1), np.datetime64("NaT"), pd.NaT, pd.NA, Fraction(1, 3), timedelta.max, 1j),
]


def shop() -> tuple[Catalog, Interactions]:
    catalog = Catalog.from_items(ITEMS, name="shop")
    frame = pd.DataFrame({"user_id": ["ann", "ann", "bob"], "item_id": ["i0", "i1", "i2"], "timestamp": [1, 2, 3]})
    return catalog, read_interactions(frame)


def python_entries() -> Mapping[str, Callable[[Any], object]]:
    """Every public entry of the library that takes a value of the caller, with that value left open."""
    catalog, events = shop()
    recommender = Pipeline.from_rankers(catalog, events).recommender()
    advisor = Advisor(recommender, k=2)
    recommend = recommender.recommend
    options = ("filter_seen", "only", "exclude", "where", "boost", "explain", "deadline", "on_unknown")
    return {
        "recommend users": recommend,
        "recommend several users": lambda value: recommend([value, "ann"], on_unknown="fallback"),
        "recommend k": lambda value: recommend("ann", value),
        **{
            f"recommend {name}": lambda value, name=name: recommend("ann", 2, **{name: value})  # type: ignore[misc]
            for name in options
        },
        **{
            f"History {name}": lambda value, name=name: recommend(History(**{name: value}), 2)  # type: ignore[misc]
            for name in ("item_ids", "words", "user_id")
        },
        "History item": lambda value: recommend(History((value,)), 2, on_unknown="skip"),
        "users of a frame": lambda value: recommend(frame("user_id", value)[["user_id"]], on_unknown="skip"),
        "names of the columns of a frame": lambda value: recommend(
            pd.DataFrame([[1]], columns=pd.Index([value], dtype=object))
        ),
        "two names of the columns of a frame": lambda value: recommend(
            pd.DataFrame([["ann", "bob"]], columns=pd.Index(["user_id", value], dtype=object))
        ),
        "repeated columns of a frame": lambda value: recommend(
            pd.DataFrame([["ann", "bob"]], columns=["user_id", "user_id"])
        ),
        "validation_errors": lambda value: recommender.validation_errors([value]),
        "history_indices": recommender.history_indices,
        **{
            f"where {text}": lambda value, text=text: catalog.where(text.format(written(value)))  # type: ignore[misc]
            for text in FILTERS
        },
        "where": catalog.where,
        "index_of": catalog.index_of,
        "indices_of": catalog.indices_of,
        "column": catalog.column,
        "item_id of an item": lambda value: Catalog.from_items([Item(value, "A")]),
        "title of an item": lambda value: Catalog.from_items([Item("a", value)]),
        "attribute of an item": lambda value: [*Catalog.from_items([Item("a", "A", {"x": value})])],
        "attribute of two items": lambda value: [
            *Catalog.from_items([Item("a", "A", {"x": value}), Item("b", "B", {"x": 1})])
        ],
        "name of an attribute": lambda value: Catalog.from_items([Item("a", "A", {written(value): 1})]),
        "attribute of a frame": lambda value: [*read_catalog(frame("x", value), columns={"x": "x"})],
        "attributes of an item": lambda value: Catalog.from_items([Item("a", "A", value)]),
        "read_catalog": read_catalog,
        "columns": lambda value: read_catalog(frame("x", 1), columns=value),
        "a column": lambda value: read_catalog(frame("x", 1), columns={"x": value}),
        "read_interactions": read_interactions,
        **{
            f"{name} of events": lambda value, name=name: [*read_interactions(frame(name, value))]  # type: ignore[misc]
            for name in ("user_id", "item_id", "timestamp", "weight", "event")
        },
        "history_of": events.history_of,
        "histories": lambda value: events.histories([value]),
        "split_by_time": events.split_by_time,
        "leave_last_out": events.leave_last_out,
        "leave_last_basket_out": events.leave_last_basket_out,
        "temporal_split": lambda value: temporal_split(catalog, events, at=value),
        "leave_one_out users": lambda value: leave_one_out(catalog, events, users=value),
        "leave_one_out seed": lambda value: leave_one_out(catalog, events, users=1, seed=value),
        "metric": lambda value: accuracy([], [], [value]),
        "metric cutoff": lambda value: metric_cutoff(f"ndcg@{written(value)}"),
        "check_count": lambda value: check_count("k", value),
        "Subset size": Subset.everything,
        "Subset": lambda value: Subset.from_indices(3, value),
        "Mask": Mask.from_bool,
        "Boost": lambda value: Boost.from_pairs([(value, 1.0)]),
        "Boost value": lambda value: Boost.from_pairs([(1, value)]),
        **{
            f"GenerativeSettings {name}": lambda value, name=name: GenerativeSettings(**{name: value})  # type: ignore[misc]
            for name in GenerativeSettings.__dataclass_fields__
        },
        **{
            f"Settings {name}": lambda value, name=name: Settings(**{name: value})  # type: ignore[misc]
            for name in ("model", "adapter", "encoder", "template", "cold_template")
        },
        "Settings background": lambda value: Settings(background=value),
        **{
            f"SamplingParams {name}": lambda value, name=name: SamplingParams(**{name: value})  # type: ignore[misc]
            for name in ("max_tokens", "temperature", "seed")
        },
        "Advisor k": lambda value: Advisor(recommender, k=value).respond(Conversation(), "a lamp"),
        "price in a message": lambda value: advisor.respond(Conversation(), f"under 1{',000' * 200}, {written(value)}"),
        "message": lambda value: advisor.respond(Conversation(), f"under {written(value)}"),
        "user of a conversation": lambda value: advisor.respond(Conversation(value), "a lamp"),
        "history of a conversation": lambda value: advisor.respond(Conversation("ann", (value,)), "a lamp"),
        "liked": lambda value: advisor.update_preferences(Conversation(), Preferences(liked=(value,))),
        "disliked": lambda value: advisor.update_preferences(Conversation(), Preferences(disliked=(value,))),
        "words of preferences": lambda value: advisor.update_preferences(
            Conversation(), Preferences(words=(written(value),))
        ),
        "filter of preferences": lambda value: advisor.update_preferences(
            Conversation(), Preferences(filters=(PreferenceFilter("a", written(value)),))
        ),
        "batch row": lambda value: batch_rows(recommender, value),
        "batch line": lambda value: batch_lines(value),
    }


def batch_rows(recommender: Recommender, value: Any) -> None:
    """Rows with a value in each column, which fail alone."""
    task = RecommendTask(recommender, 2, {"on_unknown": "fallback"})
    if isinstance(value, np.ndarray) or value is pd.NA:
        return  # no file holds one
    rows = [InputRow({"user_id": "ann"}), *(InputRow({name: value}) for name in ("user_id", "history", "words"))]
    rows += [InputRow({"user_id": "ann", "history": [value]})]
    result = task(rows, task.schema(iter(rows)))
    assert 0 in result.table["row"].to_pylist()


def batch_lines(value: Any) -> None:
    """Lines of OpenAI's batch format with a value in each field."""
    build = ChatPromptBuilder("model")
    message = {"role": "user", "content": "hi"}
    for name in ("messages", "max_tokens", "temperature", "seed", "response_format", "n", "model"):
        with contextlib.suppress(GenrecError):
            row = InputRow({"custom_id": "a", "body": {"messages": [message], name: value}})
            build(row, SamplingParams())
    build(InputRow({"custom_id": value, "body": {"messages": [message]}}), SamplingParams())


ENTRIES = python_entries()


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_answers_or_raises_an_error_of_genrec(name: str) -> None:
    """Any other exception is a traceback for the user, and an internal error of a server."""
    for position, value in enumerate(VALUES):
        message = ""
        try:
            ENTRIES[name](value)
        except GenrecError as error:
            message = str(error)
        except Exception as error:  # noqa: BLE001  (any other exception is the failure that is looked for)
            # Named by its position: some values cannot be printed.
            pytest.fail(f"value {position} of VALUES raises {type(error).__name__}: {str(error)[:200]}")
        assert len(message) < 12_000, f"value {position} of VALUES is copied into the message"
