"""The measuring itself."""

import json
from pathlib import Path

import pytest

from eval import rank
from eval.protocol import candidate_lists, next_basket
from genrec import open_dataset


def test_the_next_basket_is_never_in_what_rankers_count(tmp_path: Path) -> None:
    """A leak here would make every figure a lie."""
    catalog, interactions = open_dataset("online-retail", tmp_path)
    for part in ("validation", "test"):
        experiment = next_basket(catalog, interactions, None, part=part, seed=1)
        counted = {history.user_id: set(history.item_ids) for history in experiment.train.histories()}
        for task in experiment.tasks:
            assert not task.targets & counted[task.history.user_id]
            assert counted[task.history.user_id] == set(task.history.item_ids)


def test_popularity_on_the_shop_stays_what_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The published row of popularity is 3.1 Recall@20 on test; another value means another protocol."""
    report = tmp_path / "report.json"
    rank.main(["retail", "--part", "test", "--rankers", "popularity", "--json", str(report)])
    rows = {row["metric"]: row["value"] for row in json.loads(report.read_text())["rows"]}
    assert rows["r@20"] == pytest.approx(3.14, abs=0.5)
    assert "popularity" in capsys.readouterr().out


def test_candidate_lists_hold_the_true_item_last_and_once(tmp_path: Path) -> None:
    """Twenty candidates, one of them right, as the published protocol has it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    items = [str(number) for number in range(40)]
    pq.write_table(pa.table({"item_id": items, "title": [f"Game {one}" for one in items]}), tmp_path / "items.parquet")
    events = {"user_id": ["u"] * 5, "item_id": items[:5], "timestamp": list(range(5))}
    pq.write_table(pa.table(events), tmp_path / "interactions.parquet")
    lists = pa.table({"user_id": ["u"], "candidates": [items[2:38]]})
    pq.write_table(lists, tmp_path / "candidates_random_200.parquet")
    [task] = candidate_lists(tmp_path, 1).tasks
    assert task.candidates is not None
    assert task.candidates[-1] == "4"
    assert len(task.candidates) == len(set(task.candidates)) == 20
    assert task.history.item_ids == ("0", "1", "2", "3")
