"""The demo with the real models: what somebody sees who has cloned the project a minute ago."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from genrec import Catalog, Interactions, Recommender, Settings, open_dataset, open_recommender
from genrec.backends.adapter import inspect_adapter
from genrec.cli import demo, loading
from genrec.cli.app import app
from genrec.datasets.registry import find_adapter

pytestmark = pytest.mark.model


@pytest.fixture(scope="module", autouse=True)
def _loaded_once() -> Any:
    """Models load once for the whole file; what is loaded is the real thing."""
    load, loaded = loading.load_recommender, list[tuple[Any, Recommender]]()

    def remember(*arguments: Any, **named: Any) -> Recommender:
        for known, recommender in loaded:
            if known == arguments:
                return recommender
        loaded.append((arguments, load(*arguments, **named)))
        return loaded[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_recommender", remember)
        yield


@pytest.fixture(scope="module")
def shop(cache: Path) -> tuple[Catalog, Interactions]:
    return open_dataset("online-retail", cache)


@pytest.fixture(scope="module")
def answers(smollm2: Path, minilm: Path) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["demo", "--offline", "--json"])
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_every_item_is_in_the_catalog_and_new(
    answers: list[dict[str, Any]], shop: tuple[Catalog, Interactions]
) -> None:
    """The first promise, on the first thing anybody runs."""
    catalog, _ = shop
    assert len(answers) == 5
    for answer in answers:
        ids = [item["item_id"] for item in answer["items"]]
        assert [item["rank"] for item in answer["items"]] == [1, 2, 3, 4, 5]
        assert len(set(ids)) == 5
        assert all(catalog[catalog.index_of(item["item_id"])].title == item["title"] for item in answer["items"])
        assert not set(ids) & {item["item_id"] for item in answer["history"]}


def test_the_five_users_match_their_description(
    answers: list[dict[str, Any]], shop: tuple[Catalog, Interactions]
) -> None:
    """A long history, a short one, none, words, and a filter; known customers are real ones."""
    _, interactions = shop
    long, short, new, spoken, filtered = answers
    assert len(long["history"]) > 100
    assert 1 < len(short["history"]) < 5
    assert not new["history"]
    assert not new["words"]
    assert spoken["words"]
    assert not spoken["history"]
    assert filtered["limits"] == {"where": "price < 5", "filter_seen": True}
    for answer in (long, short, filtered):
        known = interactions.history_of(answer["user_id"]).item_ids
        assert [item["item_id"] for item in answer["history"]] == list(known)


def test_the_filter_holds(answers: list[dict[str, Any]], shop: tuple[Catalog, Interactions]) -> None:
    """A filter acts inside the ranking: the list is full, and nothing in it costs 5 or more."""
    catalog, _ = shop
    prices = [catalog[catalog.index_of(item["item_id"])].attributes["price"] for item in answers[4]["items"]]
    assert len(prices) == 5
    assert all(isinstance(price, float) and price < 5 for price in prices)


def test_language_model_serves_users_with_history(answers: list[dict[str, Any]]) -> None:
    """If the ladder served everybody from below, the demo would show no language model at all."""
    sources = [{item["source"].partition(":")[0] for item in answer["items"]} for answer in answers]
    assert "generative" in sources[0] | sources[1] | sources[4]
    assert "generative" in sources[3]
    assert sources[2] == {"popularity"}


def test_what_drove_an_item_is_in_the_history(answers: list[dict[str, Any]]) -> None:
    """A driver that the person never met would be invented."""
    for answer in answers:
        known = {item["item_id"] for item in answer["history"]}
        for item in answer["items"]:
            assert {driver["item_id"] for driver in item["drivers"]} <= known
            assert all(driver["drop"] > 0 for driver in item["drivers"])
    assert any(item["drivers"] for item in answers[0]["items"])
    assert any(item["drivers"] for item in answers[1]["items"])


def test_what_tuning_adds_is_shown_and_measured(
    answers: list[dict[str, Any]], shop: tuple[Catalog, Interactions], smollm2: Path, cache: Path
) -> None:
    """Two customers' lists by the adapter that ships, and a gain that somebody measured on that very adapter."""
    catalog, interactions = shop
    for answer in answers[:2]:
        lists = [[item["item_id"] for item in answer[f"alone, {name}"]] for name in ("untrained", "tuned")]
        assert lists[0] != lists[1]
        for ids in lists:
            assert len(set(ids)) == 5
            assert not set(ids) & {item["item_id"] for item in answer["history"]}
            assert all(catalog.index_of(item_id) >= 0 for item_id in ids)
        assert {item["source"] for item in answer["alone, tuned"]} == {"generative"}
    assert not any("alone, tuned" in answer for answer in answers[2:])
    folder = find_adapter("online-retail")
    assert (folder / "adapter_model.safetensors").stat().st_size < 5e6
    measured = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    assert measured["rankers"]["tuned"]["adapter"] == inspect_adapter(folder, base=smollm2).name
    gain = next(row for row in measured["rows"] if row["metric"] == "ndcg@10 over untrained")
    assert gain["low"] > 0
    recommender = open_recommender(catalog, interactions, cache=cache, settings=Settings(adapter="online-retail"))
    assert recommender.notices == ()


def test_output_is_readable(answers: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same five in plain lines of 80 characters, and three commands to go on with."""
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, ["demo", "--offline", "--k", "1"])
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines if "genrec " not in line) <= 80
    for answer in answers:
        assert any(answer["person"] in line for line in lines)
        assert any(answer["items"][0]["title"] in line for line in lines)
    assert sum("proven" in line for line in lines) == 5
    assert len([line for line in lines[-3:] if line.startswith("  ")]) == 3


@pytest.mark.parametrize("arguments", demo.NEXT_COMMANDS, ids=lambda arguments: arguments[0])
def test_the_commands_it_proposes_work(arguments: tuple[str, ...], smollm2: Path, minilm: Path) -> None:
    """A proposal that fails is worse than none."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip()
