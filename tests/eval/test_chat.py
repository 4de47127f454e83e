"""Conversation measurements: relevant items, separation of training and test, and checks that detect every fault."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval import chat, dialogue_rankers
from eval import simulate as simulation
from eval.chat import RankerAnswers, cluster_interval, run_turns
from eval.dialogue import Dialogues, folds, interactions_of, read_dialogues, recall
from eval.dialogue_rankers import BLEND, TextVectors, make_fold_rankers, make_recommender
from eval.intent import Intent, item_facts_of
from eval.shopper import KINDS, Shopper
from eval.simulate import (
    FAULTS,
    ParserAccuracy,
    Simulation,
    StrategyResult,
    check_list,
    run_conversation,
    satisfies_filter,
)
from genrec import Catalog, Item, PopularityRanker, Recommender
from genrec.chat.advisor import Advisor
from genrec.chat.conversation import Conversation, Turn
from genrec.chat.preferences import PreferenceFilter, Preferences
from genrec.errors import InputError
from genrec.types import Recommendation, RecommendationList

FILMS = [f"Film {name} ({1980 + place})" for place, name in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ")]


def write(
    folder: Path, part: str, turns: Sequence[tuple[str, list[str], list[str], list[str]]], name: str = "redial"
) -> None:
    rows = [
        {"dialog_id": own, "turn_id": place, "context": context, "response": "", "recommended": told, "entities": met}
        for place, (own, context, told, met) in enumerate(turns)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}_{part}.parquet")


def write_films(folder: Path, titles: Sequence[str] = FILMS, name: str = "redial") -> None:
    rows = [
        {"item_id": f"f{place}", "title": title, "attributes": json.dumps({"genre": ["drama"], "director": ["Nobody"]})}
        for place, title in enumerate(titles)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}_items.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty dialogues, each of which mentions film n and recommends film n + 1."""
    write_films(tmp_path)
    turns = []
    for number in range(40):
        seen, next_one = FILMS[number % 13], FILMS[number % 13 + 1]
        turns.append((f"d{number}", ["", f"I liked {seen}, what else?"], [next_one], [seen]))
    write(tmp_path, "valid", turns)
    return tmp_path


def letters(texts: Sequence[str]) -> np.ndarray:  # type: ignore[type-arg]
    """A vector for each text: the single letters that it contains as words."""
    vectors = np.array([[float(f" {chr(65 + place)} " in f" {text} ") for place in range(26)] for text in texts])
    vectors = np.hstack([vectors, np.ones((len(texts), 1))])
    unit: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)  # type: ignore[type-arg]
    return unit


def test_mentioned_items_are_neither_targets_nor_recommended(tmp_path: Path) -> None:
    """Otherwise repeating mentioned items looks best: ReDial repeats every twelfth recommended title."""
    write_films(tmp_path)
    context = [f"I saw {FILMS[0]} and {FILMS[1]}", "and?"]
    write(tmp_path, "valid", [("d", context, [FILMS[0], FILMS[1], FILMS[2], "Nowhere (1900)"], [FILMS[0]])])
    data = read_dialogues(tmp_path, "redial")
    (turn,) = data.test_turns
    assert turn.targets == ("f2",), "neither annotated nor written mentions, nor items outside the catalog"
    assert turn.mentioned == {"f0", "f1"}
    assert set(turn.history) == {"f0", "f1"}
    found = RankerAnswers()
    popular = PopularityRanker(np.arange(len(FILMS), 0, -1))
    run_turns(data, make_recommender(data, popular, popular), data.test_turns, "popularity", found)
    assert found.lists[0][:2] == ["f2", "f3"]


def test_items_found_only_by_annotators_are_excluded_but_not_history(tmp_path: Path) -> None:
    """An annotation that was made from the answer would leak it to the ranker."""
    write_films(tmp_path)
    write(tmp_path, "valid", [("d", ["what now?"], [FILMS[3]], [FILMS[5]])])
    (turn,) = read_dialogues(tmp_path, "redial").test_turns
    assert turn.history == ()
    assert turn.mentioned == {"f5"}


def test_each_relevant_item_is_one_example(tmp_path: Path) -> None:
    """A mean over turns would not be comparable with the published figure."""
    write_films(tmp_path)
    write(tmp_path, "valid", [("d", ["hi"], FILMS[:3], []), ("e", ["hi"], FILMS[4:5], [])])
    data = read_dialogues(tmp_path, "redial")
    found, there = recall(data.test_turns, [["f0", "f1", "f9"], ["f9", "f4"]], 2)
    assert (found.sum(), there.sum()) == (3, 4)
    assert cluster_interval(found, there, ["d", "e"], seed=0).value == 75


def test_no_dialogue_is_ranked_by_a_model_trained_on_it(folder: Path) -> None:
    """A ranker that has counted the answer finds it every time."""
    data = read_dialogues(folder, "redial")
    for inside, outside in folds(data.test_turns, 5, seed=1):
        assert not {turn.dialogue for turn in inside} & {turn.dialogue for turn in outside}
        assert sorted(map(id, [*inside, *outside])) == sorted(map(id, data.test_turns))
    alone = replace(data, test_turns=data.test_turns[:6], train_turns=())  # six dialogues of six different films
    texts = TextVectors.from_dialogues(alone, letters)
    for own in make_fold_rankers(alone, texts, seed=0):
        popular = own.rankers["popularity"].scores([dialogue_rankers._request(alone, turn) for turn in own.turns])
        for row, turn in enumerate(own.turns):
            others = [other for other in alone.test_turns if other not in own.turns]
            counted = sum(turn.targets[0] in (*other.targets, *other.history) for other in others)
            assert popular[row, data.catalog.index_of(turn.targets[0])] == pytest.approx(np.log1p(counted))


def test_training_dialogues_are_used_instead_of_folds(folder: Path) -> None:
    """Folds are needed only without training dialogues."""
    write(folder, "train", [("t", [f"{FILMS[20]}?"], [FILMS[21]], [FILMS[20]])] * 3)
    data = read_dialogues(folder, "redial")
    (own,) = make_fold_rankers(data, TextVectors.from_dialogues(data, letters), seed=0)
    assert own.turns == list(data.test_turns)
    counts = own.rankers["popularity"].scores([dialogue_rankers._request(data, data.test_turns[0])])[0]
    assert np.flatnonzero(counts).tolist() == [20, 21]
    assert interactions_of([]) is None


def test_the_blend_is_at_least_as_good_as_popularity(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command, with vectors that need no model: no item outside the catalog, repeated or excluded."""
    monkeypatch.setattr(chat, "make_embed", lambda _: letters)
    out = tmp_path / "out.json"
    chat.main(["--data", str(folder), "--sets", "redial", "--model-turns", "0", "--json", str(out)])
    rows = {row["ranker"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows[BLEND]["recall"]["recall@10"]["value"] >= rows["popularity"]["recall"]["recall@10"]["value"]
    assert rows[BLEND]["recall"]["recall@10"]["value"] > 90
    assert all(row["outside"] == row["repeated"] == row["ruled_out"] == 0 for row in rows.values())
    assert all(row["places"] == 400 for row in rows.values())
    assert "GPT-4" in capsys.readouterr().out
    chat.main(["--data", str(folder), "--sets", "redial", "--model-turns", "0", "--json", str(out)])
    again = {row["ranker"]: row for row in json.loads(out.read_text())["rows"]}
    assert {name: row["recall"] for name, row in again.items()} == {name: row["recall"] for name, row in rows.items()}


def test_faults_of_lists_are_counted(folder: Path) -> None:
    """A count of faults that is always 0 proves nothing."""
    data = read_dialogues(folder, "redial")
    turn = data.test_turns[0]
    bad = RankerAnswers([turn], [["f5", "f5", "nowhere", *turn.mentioned]])
    assert chat._count_faults(bad, set(map(str, data.catalog.item_ids))) == (1, 1, 1)


def test_missing_dialogues_are_an_error(tmp_path: Path) -> None:
    """A wrong folder must not count as an empty data set."""
    with pytest.raises(InputError, match=r"redial_items\.parquet is missing"):
        read_dialogues(tmp_path, "redial")
    write_films(tmp_path)
    write(tmp_path, "valid", [("d", ["hi"], ["Nowhere (1900)"], [])])
    with pytest.raises(InputError, match="no turn"):
        read_dialogues(tmp_path, "redial")


COLOURS, THINGS = ("Red", "Blue", "Green", "White", "Black"), ("Mug", "Lamp", "Candle", "Cushion", "Kettle", "Basket")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    items = [
        Item(f"i{place}", f"{colour} {thing} {size}", {"price": 1.0 + place % 11})
        for place, (colour, thing, size) in enumerate(
            (colour, thing, size) for colour in COLOURS for thing in THINGS for size in ("Small", "Large")
        )
    ]
    return Catalog.from_items(items)


@pytest.fixture(scope="module")
def advisor(catalog: Catalog) -> Advisor:
    return Advisor(Recommender(catalog, [PopularityRanker(np.arange(len(catalog), 0, -1))]), k=5)


def converse(
    advisor: Advisor, catalog: Catalog, shoppers: int, strategy: str = "critique"
) -> tuple[StrategyResult, ParserAccuracy]:
    simulation = Simulation(advisor, item_facts_of(catalog), strategy, 10**6, StrategyResult(), ParserAccuracy())
    for number in range(shoppers):
        rng = np.random.default_rng(number)
        shopper = Shopper(catalog, f"i{rng.integers(len(catalog))}", rng)
        run_conversation(simulation, Conversation(history=("i3",)), shopper)
    return simulation.result, simulation.accuracy


def test_shopper_messages_are_parsed_and_exclusions_respected(advisor: Advisor, catalog: Catalog) -> None:
    """Every kind of critique, in unambiguous words, has to be understood."""
    score, reading = converse(advisor, catalog, 150)
    assert sum(score.faults.values()) == 0
    assert set(reading.total) == set(KINDS)
    assert reading.correct == reading.total, dict(reading.errors)
    assert len(score.found_at_turn) == 150


def test_shoppers_are_the_same_every_time(advisor: Advisor, catalog: Catalog) -> None:
    """A figure must be reproducible."""
    first, second = (converse(advisor, catalog, 10)[0] for _ in range(2))
    assert (first.found_at_turn, first.items, first.turns) == (second.found_at_turn, second.items, second.turns)


def test_shoppers_never_exclude_their_target(advisor: Advisor, catalog: Catalog) -> None:
    """A shopper who excludes the target cannot measure whether it is found."""
    for number in range(60):
        random = np.random.default_rng(number)
        target = f"i{random.integers(len(catalog))}"
        shopper, meant, conversation = Shopper(catalog, target, random), Intent(), Conversation()
        for _ in range(8):
            said = shopper.next_utterance(conversation, meant)
            if said.removed_preference is None and said.kind != "undo":
                conversation, meant = advisor.respond(conversation, said.text), said.update_intent(meant)
                assert meant.allows(target, *item_facts_of(catalog)[target]), said.text


def test_paging_states_no_critique(advisor: Advisor, catalog: Catalog) -> None:
    """The baseline of critiques must not contain any."""
    score, reading = converse(advisor, catalog, 5, "words, then pages")
    assert set(reading.total) == {"words"}
    assert sum(score.faults.values()) == 0


def bad_turns() -> list[tuple[str, list[str], Preferences, Intent, list[str]]]:
    """A fault, a list that has it, the preferences, the intent, and the items shown before."""
    cheap = Preferences(filters=(PreferenceFilter.from_condition("price", "price <= 2.0"),))
    plain, good = Preferences(), ["i0", "i1", "i2", "i4", "i5"]
    return [
        ("outside the catalog", [*good[:4], "nowhere"], plain, Intent(), []),
        ("ruled out by the wishes", ["i0", "i1", "i2", "i11", "i12"], cheap, Intent(), []),
        ("ruled out as meant", good, plain, Intent(excluded_words=frozenset({"lamp"})), []),
        ("repeated", [*good[:4], good[0]], plain, Intent(), []),
        ("disliked or had", good, Preferences(disliked=("i0",)), Intent(), []),
        ("disliked or had", ["i3", *good[:4]], plain, Intent(), []),
        ("too few", good[:4], plain, Intent(), []),
        ("shown before", good, plain, Intent(), ["i0"]),
    ]


@pytest.mark.parametrize(("fault", "shown", "preferences", "meant", "before"), bad_turns())
def test_each_fault_is_detected(
    catalog: Catalog, fault: str, shown: list[str], preferences: Preferences, meant: Intent, before: list[str]
) -> None:
    """A check that cannot fail proves nothing about 2,000 turns."""

    def turn(items: list[str], own: Preferences) -> Turn:
        listed = tuple(Recommendation(None, item, rank, 0.0, "test", item) for rank, item in enumerate(items, 1))
        return Turn("", own, RecommendationList(listed, proven=True, compared=5), "")

    earlier = Conversation(history=("i3",), turns=(turn(before, Preferences()),) if before else ())
    score = StrategyResult()
    check_list(
        item_facts_of(catalog),
        earlier,
        replace(earlier, turns=(*earlier.turns, turn(shown, preferences))),
        meant,
        score,
    )
    assert {name for name, count in score.faults.items() if count} == {fault}


def test_check_evaluates_filters_independently() -> None:
    """A check that used the same filters would never disagree with them."""
    assert satisfies_filter("price <= 2.0", "Mug", 2.0)
    assert not satisfies_filter("price < 2.0", "Mug", 2.0)
    assert not satisfies_filter("price > 1.0", "Mug", None)
    one_or_many = "'candle' not in words(title) and 'CANDLES' not in words(title)"
    assert not satisfies_filter(one_or_many, "Scented candles", 1.0)
    assert not satisfies_filter(one_or_many, "Candle", 1.0)
    assert satisfies_filter(one_or_many, "Candlestick", 1.0)
    assert satisfies_filter('"lady\'s" not in words(title)', "Candle", 1.0)
    with pytest.raises(InputError, match="unknown kind"):
        satisfies_filter("year > 1990", "Mug", 1.0)


def test_the_command_runs_on_other_data(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command must not be limited to the embedded shop."""
    monkeypatch.setenv("GENREC_CACHE", str(tmp_path / "cache"))
    items = [{"item_id": item.item_id, "title": item.title, **item.attributes} for item in catalog]
    random = np.random.default_rng(0)
    events = [
        {"user_id": f"u{user}", "item_id": f"i{random.integers(60)}", "timestamp": 1.0 * basket}
        for user in range(20)
        for basket in range(4)
        for _ in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(items), tmp_path / "items.parquet")
    pq.write_table(pa.Table.from_pylist(events), tmp_path / "log.parquet")
    paths = ["--items", str(tmp_path / "items.parquet"), "--interactions", str(tmp_path / "log.parquet")]
    out = tmp_path / "out.json"
    chat.main(["simulate", *paths, "--turns", "60", "--model", "none", "--json", str(out)])
    summary = json.loads(out.read_text())
    for way in simulation.STRATEGIES:
        assert summary["ways"][way]["turns"] == 60
        assert summary["ways"][way]["faults"] == dict.fromkeys(FAULTS, 0)
    assert "read as meant" in capsys.readouterr().out


def test_every_film_has_a_text(folder: Path) -> None:
    """Without cast and genres a film can be found by its title only."""
    data: Dialogues = read_dialogues(folder, "redial")
    assert data.descriptions[0] == "Film A (1980). drama. Nobody"
