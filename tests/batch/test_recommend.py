"""Each row of a batch is answered, or fails, by itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from genrec import Catalog, Interactions, PopularityRanker, RankRequest, Recommender
from genrec.batch.recommend import RecommendTask
from genrec.batch.row import InputRow
from genrec.batch.run import start_run
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError, TemplateError
from genrec.types import Ranking


def test_a_row_fails_by_itself(shop: tuple[Catalog, Interactions]) -> None:
    """Each with its id, its kind of failure and a sentence; and the engine's failures are not served from below."""
    catalog, interactions = shop
    popularity = PopularityRanker(interactions.item_counts(catalog))
    known, item = interactions.user_ids[0], catalog.item_ids[0]
    rows = [
        InputRow({"user_id": known}),
        InputRow({"user_id": "nobody"}),
        InputRow({"history": [item], "user_id": 7}),
        InputRow({"history": json.dumps([item])}),
        InputRow({"history": f"{item} no-such-item"}),
        InputRow({}, "line 3 of a.csv is not UTF-8"),
        InputRow({"words": "a mug"}),
        InputRow({"name": "x"}),
        InputRow({"user_id": True}),
        InputRow({"history": 5}),
        InputRow({"history": "[1,"}),
        InputRow({"history": "[" * 99_000}),
        InputRow({"user_id": "\ud800"}),
        InputRow({"user_id": 2**64, "history": [item]}),
        InputRow({"user_id": known, "history": []}),
    ]
    lines = {"item_id": pa.string(), "rank": pa.int64(), "score": pa.float64(), "source": pa.string()}
    lines |= {"row": pa.int64()}
    texts, numbers = (pa.schema({"user_id": kind, **lines}) for kind in (pa.string(), pa.int64()))
    recommender = Recommender(catalog, [popularity], interactions=interactions)
    answers = RecommendTask(recommender, 3, {})(rows, texts)
    codes = {one.row: (one.id, one.code) for one in answers.failures}
    assert codes == {
        1: ("nobody", "unknown_user"),
        4: (None, "unknown_item"),
        **dict.fromkeys((5, 7, 8, 9, 10, 11, 12, 13), (None, "unreadable")),
    }
    lists = answers.table.to_pylist()
    assert [line["rank"] for line in lists] == [1, 2, 3] * 5
    assert [line["user_id"] for line in lists[::3]] == [str(known), "7", None, None, str(known)]
    assert [line["item_id"] for line in lists[-3:]] == [line["item_id"] for line in lists[:3]]
    alone = RecommendTask(recommender, 3, {})([InputRow({"user_id": int(known)}), InputRow({"user_id": "x"})], numbers)
    assert alone.table["user_id"].to_pylist() == [int(known)] * 3
    assert "is 'x', but the first row has an integer" in alone.failures[0].message
    with pytest.raises(InputError, match="a row with item_id is an interaction"):
        RecommendTask(recommender, 3, {}).schema(iter([InputRow({"user_id": 1, "item_id": 2})]))
    assert RecommendTask(recommender, 3, {}).schema(iter([rows[5], rows[7], rows[2]])) == numbers
    with pytest.raises(InputError, match="k is 0"):
        RecommendTask(recommender, 0, {})

    class Broken:
        source = "broken"

        def can_rank(self, request: RankRequest) -> bool:
            return len(request.history) > 0

        def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
            raise EngineError("the engine is gone")

        def score(self, requests: Any, items: Any, *, deadline: Deadline) -> Any:
            raise EngineError("the engine is gone")

    fallen = RecommendTask(Recommender(catalog, [Broken(), popularity], interactions=interactions), 3, {})
    answers = fallen([rows[0], rows[6]], texts)
    assert [(one.row, one.code, one.message) for one in answers.failures] == [
        (0, "engine", "broken was skipped: the engine is gone")
    ]
    assert answers.sources == {"popularity": 3}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_run_of_ids_written_as_floats_verifies(
    suffix: str, shop: tuple[Catalog, Interactions], tmp_path: Path
) -> None:
    """A data frame with a gap writes user 7 as 7.0; a run that serves this user must not be told to be damaged."""
    catalog, interactions = shop
    known = [float(user_id) for user_id in interactions.user_ids[:3]]
    source = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pa.table({"user_id": [*known, None]}), source)
    else:
        source.write_text("".join(f'{{"user_id": {user_id}}}\n' for user_id in known), encoding="utf-8")
    recommender = Recommender(catalog, [PopularityRanker(interactions.item_counts(catalog))], interactions=interactions)
    task = RecommendTask(recommender, 2, {})
    run = start_run(source, tmp_path / "out", {"k": 2}, task.schema, part_rows=2)
    assert run.run(task).rows_done >= 3
    assert run.verify() == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TemplateError("item has no price"), "unreadable"),
        (InputError("it exceeds the memory budget"), "unreadable"),
        (EngineError("the engine is gone"), "engine"),
        (MemoryError(), "engine"),
        (RuntimeError("CUDA error"), "engine"),
    ],
)
def test_only_what_a_retry_may_mend_counts_as_an_engine_that_is_down(
    shop: tuple[Catalog, Interactions], error: Exception, code: str
) -> None:
    """A run waits for its engine; a part whose rows all break the template would never be finished."""
    catalog, interactions = shop
    popularity = PopularityRanker(interactions.item_counts(catalog))

    class Failing(PopularityRanker):
        source = "failing"

        def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
            raise error

    first = Failing(interactions.item_counts(catalog))
    task = RecommendTask(Recommender(catalog, [first, popularity], interactions=interactions), 3, {})
    rows = [InputRow({"history": [catalog.item_ids[0]]})]
    (failure,) = task(rows, task.schema(iter(rows))).failures
    assert failure.code == code
