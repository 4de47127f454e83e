"""One rule at every door: ids of withdrawn items are ignored with a notice, ids that never existed are refused.

A client keeps ids for minutes or months, and cannot know what was withdrawn a moment ago; a mistyped id is an error.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from letter_pipeline import letter_pipeline
from server import error_of, item_ids, running_server, small_pipeline, wait_until

from genrec import Catalog, CatalogIndex, CooccurrenceRanker, History, Item, PopularityRanker, Recommender
from genrec.batch.prompts import TemplateInputs
from genrec.batch.recommend import RecommendTask
from genrec.batch.row import InputRow
from genrec.chat.advisor import Advisor
from genrec.chat.conversation import Conversation, Turn
from genrec.chat.preferences import PreferenceFilter, Preferences
from genrec.chat.turn_request import numbered
from genrec.data.catalog import UNKNOWN, WITHDRAWN
from genrec.data.interactions import read_interactions
from genrec.errors import UnknownItemError
from genrec.index.identifiers import TitleIdentifiers
from genrec.notices import Notice
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.serve.state import ServingState
from genrec.store.event_store import Event, Store
from genrec.types import Recommendation, RecommendationList
from genrec.vllm_plugin.registry import CatalogRegistry

SIZE = 12
TITLES = [f"{colour} {noun}" for colour in ("Red", "Blue", "Green") for noun in ("Mug", "Lamp", "Rug", "Clock")]
ITEMS = [Item(f"i{number}", title, {"price": float(number + 1)}) for number, title in enumerate(TITLES)]
GONE = ["i1", "i4", "i9"]
WALKS = {user: [f"i{(user + step) % SIZE}" for step in (0, 1, 3, 4)] for user in range(SIZE)}


def catalog_without(*withdrawn: str) -> Catalog:
    catalog = Catalog.from_items(ITEMS, name="shop")
    return catalog.revised(remove=catalog.indices_of(withdrawn))


def recommender_over(catalog: Catalog, **options: Any) -> Recommender:
    """Histories and boosts matter to its lists: co-occurrence, then popularity."""
    columns = [(user, item_id, time) for user, walk in WALKS.items() for time, item_id in enumerate(walk)]
    frame = pd.DataFrame(columns, columns=["user_id", "item_id", "timestamp"])
    interactions = read_interactions(frame)
    counting = CooccurrenceRanker(*interactions.to_indices(catalog, on_unknown="skip"), len(catalog))
    popularity = PopularityRanker(np.arange(len(catalog), 0, -1))
    return Recommender(catalog, [counting, popularity], interactions=interactions, **options)


RECOMMENDER = recommender_over(catalog_without(*GONE))


def withdrawn_of(answer: RecommendationList) -> list[object]:
    """The ids in the notice about withdrawn items; there is at most one notice, and its count is right."""
    notices = [notice for notice in answer.notices if notice.code == "withdrawn_items"]
    if not notices:
        return []
    (notice,) = notices
    named = notice.fields["item_ids"]
    assert isinstance(named, list)
    assert notice.fields["count"] == len(named)
    assert all(str(item_id) in str(notice) for item_id in named)
    return named


def others(answer: RecommendationList) -> list[Notice]:
    return [notice for notice in answer.notices if notice.code != "withdrawn_items"]


ids = st.lists(st.sampled_from([item.item_id for item in ITEMS]), max_size=5)
boosts = st.dictionaries(st.sampled_from([item.item_id for item in ITEMS]), st.floats(-5, 5), max_size=4)


@given(ids, ids | st.none(), ids | st.none(), boosts | st.none(), st.booleans(), st.booleans())
def test_the_list_is_that_of_the_same_request_without_the_withdrawn_ids(
    history: list[str],
    only: list[str] | None,
    exclude: list[str] | None,
    boost: dict[str, float] | None,
    filter_seen: bool,
    explain: bool,
) -> None:
    """Ignored means ignored: not refused, not recommended, not counted, and an allowlist does not become "all"."""
    answer = RECOMMENDER.recommend(
        History(tuple(history)),
        5,
        only=only,
        exclude=exclude,
        boost=boost,
        filter_seen=filter_seen,
        explain=explain,
    )
    expected = RECOMMENDER.recommend(
        History(tuple(item_id for item_id in history if item_id not in GONE)),
        5,
        only=None if only is None else [item_id for item_id in only if item_id not in GONE],
        exclude=None if exclude is None else [item_id for item_id in exclude if item_id not in GONE],
        boost=None if boost is None else {item_id: value for item_id, value in boost.items() if item_id not in GONE},
        filter_seen=filter_seen,
        explain=explain,
    )
    assert answer.items == expected.items
    assert others(answer) == others(expected)
    named = [*history, *(only or ()), *(exclude or ()), *(boost or ())]
    assert set(withdrawn_of(answer)) == set(named) & set(GONE)
    assert not withdrawn_of(expected)


@pytest.mark.parametrize("on_unknown", ["raise", "skip", "fallback"])
def test_an_allowlist_of_withdrawn_items_allows_nothing(on_unknown: Any) -> None:
    """A caller who asks for one item must not get all of the others."""
    for options in ({"only": ["i1"]}, {"only": ["i4", "i9"], "filter_seen": False}):
        answer = RECOMMENDER.recommend(History(("i0",)), 3, on_unknown=on_unknown, **options)
        assert answer.items == ()
        assert answer.proven
        assert withdrawn_of(answer) == options["only"]
        assert others(answer) == [Notice("few_allowed", {"allowed": 0, "k": 3})]


@pytest.mark.parametrize("argument", ["only", "exclude", "boost"])
@pytest.mark.parametrize("on_unknown", ["raise", "skip", "fallback"])
def test_an_id_that_never_existed_is_refused_in_an_option(argument: str, on_unknown: Any) -> None:
    """A mistyped `exclude` that is ignored recommends what must not be recommended."""
    options: dict[str, Any] = {argument: {"i1": 1.0, "never": 1.0} if argument == "boost" else ["i1", "never"]}
    with pytest.raises(UnknownItemError, match=f"^{argument} holds item 'never', which is not in catalog 'shop'"):
        RECOMMENDER.recommend(History(), 3, on_unknown=on_unknown, **options)


def test_on_unknown_decides_about_histories_with_ids_that_never_existed() -> None:
    """The withdrawn id before it must not hide it, nor be named as the unknown one."""
    history = History(("i1", "never", "i0"))
    with pytest.raises(UnknownItemError, match="item 'never' in the history is not in catalog"):
        RECOMMENDER.recommend(history, 3)
    for on_unknown in ("skip", "fallback"):
        answer = RECOMMENDER.recommend(history, 3, on_unknown=on_unknown)  # type: ignore[call-overload]
        assert others(answer) == [Notice("unknown_history_items", {"count": 1, "total": 3})]
        assert withdrawn_of(answer) == ["i1"]


def test_the_notice_of_many_items_is_short() -> None:
    """A history of thousands of withdrawn items must not make every answer as long as the history."""
    catalog = Catalog.from_items(Item(number, f"Mug {number}") for number in range(1, 1001))
    catalog = catalog.revised(remove=range(999))
    recommender = Recommender(catalog, [PopularityRanker(np.ones(1))])
    answer = recommender.recommend(History((*range(1, 1000), "7", 7.0)), 1, exclude=["7"])  # type: ignore[arg-type]
    (notice,) = answer.notices
    assert notice.fields["count"] == 999  # 7, "7" and 7.0 are one item
    assert len(str(notice)) < 200
    assert answer.items[0].item_id == 1000


def test_a_batch_is_told_apart_user_by_user() -> None:
    """One user's old history must neither fail the others nor add notices to their lists."""
    users = [History(("i0",)), History(("i1", "i2"), user_id="b"), 3, History(("i5", "i9"))]
    answers = RECOMMENDER.recommend(users, 3)
    assert [withdrawn_of(answer) for answer in answers] == [[], ["i1"], ["i4"], ["i9"]]
    assert [answer.items for answer in answers] == [RECOMMENDER.recommend(user, 3).items for user in users]
    assert RECOMMENDER.validation_errors(users) == [None] * 4
    frame = pa.table({"user_id": ["a", "a", "b"], "item_id": ["i0", "i4", "i5"]})
    assert RECOMMENDER.recommend(frame, 2)["user_id"].to_pylist() == ["a", "a", "b", "b"]


def test_rows_of_a_batch_run_are_answered() -> None:
    """A run over millions of users must not lose those who have bought what is sold out."""
    rows = [InputRow({"history": ["i1", "i0"]}), InputRow({"history": ["i1"]}), InputRow({"history": ["never"]})]
    task = RecommendTask(RECOMMENDER, 3, {"exclude": ["i4"]})
    result = task(rows, task.schema(iter(rows)))
    assert result.table["row"].to_pylist() == [0, 0, 0, 1, 1, 1]
    assert [failure.code for failure in result.failures] == ["unknown_item"]
    assert [item["title"] for item in TemplateInputs(RECOMMENDER).history(rows[0])] == ["Red Mug"]


@given(ids, ids, ids, ids, ids)
def test_a_conversation_continues_as_if_withdrawn_items_had_not_been_in_it(
    history: list[str], liked: list[str], disliked: list[str], excluded: list[str], shown: list[str]
) -> None:
    """A client sends the value that it kept; it must get a list, and the same one as without these items."""

    def continued(is_kept: Callable[[str], bool]) -> RecommendationList:
        def kept(item_ids: Sequence[str]) -> tuple[str, ...]:
            return tuple(filter(is_kept, item_ids))

        listed = numbered(Recommendation("u", item_id, 0, 0.0, "named", item_id) for item_id in kept(shown))
        turn = Turn("a mug", Preferences(), RecommendationList(listed, proven=False, compared=0), "")
        conversation = Conversation("u", kept(history), (turn,), excluded=kept(excluded))
        preferences = Preferences(kept(liked), kept(disliked))
        return Advisor(RECOMMENDER, k=4).update_preferences(conversation, preferences).turns[-1].recommendations

    answer, expected = continued(lambda _: True), continued(lambda item_id: item_id not in GONE)
    assert answer.items == expected.items
    assert others(answer) == others(expected)
    assert set(withdrawn_of(answer)) == {*history, *liked, *disliked, *excluded, *shown} & {*GONE}


def talk(advisor: Advisor, conversation: Conversation, message: str) -> tuple[Conversation, list[Any]]:
    """The conversation after a message, and the parts of the turn."""
    parts: list[Any] = []
    return advisor.respond(conversation, message, on_event=parts.append), parts


@pytest.fixture
def earlier() -> Conversation:
    """A conversation before the withdrawal, with a list of i0, i1, i2 and an earlier one of i3, i4, i5."""
    advisor = Advisor(recommender_over(Catalog.from_items(ITEMS)), k=3)
    first = advisor.update_preferences(Conversation(), Preferences(disliked=("i0", "i1", "i2")))
    assert [item.item_id for item in first.shown] == ["i3", "i4", "i5"]
    second = advisor.update_preferences(first, Preferences(words=("a mug",)))
    listed = advisor.update_preferences(Conversation(), Preferences()).turns[-1].recommendations
    return replace(second, turns=(first.turns[0], replace(second.turns[1], recommendations=listed)))


def test_every_message_about_a_list_with_withdrawn_items_is_answered(earlier: Conversation) -> None:
    """A question or a critique about the item that was sold out a moment ago is the likeliest of all."""
    advisor = Advisor(RECOMMENDER, k=3)
    messages = ["why the second?", "compare 1 and 2", "tell me about the second", "which one is the cheapest?"]
    messages += ["more like the second", "not the second", "cheaper than the second", "none of these", "a rug", "undo"]
    for message in messages:
        conversation, parts = talk(advisor, earlier, message)
        lists = [part for part in parts if isinstance(part, RecommendationList)]
        assert lists, message
        assert not {item.item_id for shown in lists for item in shown.items} & {*GONE}, message
        assert withdrawn_of(lists[-1]), message
        for part in parts:
            if isinstance(part, Preferences):
                assert [advisor.label_text(part, label) for label in part.labels]
        assert advisor.respond(conversation, "something else").shown
    assert "[Red Lamp](#item=i1) is no longer available." in talk(advisor, earlier, "why the second?")[1]
    compared = talk(advisor, earlier, "compare 1 and 2")[1][-1]
    assert compared == "[Red Lamp](#item=i1) is no longer available.\n[Red Mug](#item=i0): price 1.0"


def test_a_question_keeps_the_positions_of_the_list(earlier: Conversation) -> None:
    """ "Number 3" is the item that the user saw as number 3; else the wrong item is excluded."""
    advisor = Advisor(RECOMMENDER, k=3)
    asked, parts = talk(advisor, earlier, "why the second?")
    shown = next(part for part in parts if isinstance(part, RecommendationList))
    assert [(item.item_id, item.rank) for item in shown.items] == [("i0", 1), ("i2", 3)]
    assert advisor.respond(asked, "not number 3").preferences.disliked == ("i2",)
    undone, parts = talk(advisor, earlier, "undo")
    assert parts[-1] == "Undone. How about: 1. [Red Clock](#item=i3), 2. [Blue Lamp](#item=i5)"
    assert [(item.item_id, item.rank) for item in undone.shown] == [("i3", 1), ("i5", 2)]


def test_a_replay_keeps_withdrawn_items_in_their_places() -> None:
    """The messages of a chat are read again at every turn: "not the third" must not exclude the fourth instead."""
    before = Advisor(recommender_over(Catalog.from_items(ITEMS)), k=4)
    live = before.respond(Conversation(), "something red")
    assert [item.item_id for item in live.shown] == ["i0", "i1", "i2", "i3"]
    first = live.turns[-1].reply
    live = before.respond(live, "not the third")
    messages: list[Any] = [("user", "something red"), ("assistant", first), ("user", "not the third")]
    after = Advisor(RECOMMENDER, k=4)
    again = after.replay(Conversation(), messages)
    assert again.preferences == live.preferences == Preferences(disliked=("i2",), words=("something red",))
    again = after.replay(Conversation(), messages[:2])
    assert [item.item_id for item in again.shown] == ["i0", "i1", "i2", "i3"]
    assert again.shown[1].title == "Red Lamp"
    assert withdrawn_of(after.respond(again, "cheaper").turns[-1].recommendations) == ["i1"]


def test_a_liked_item_that_was_withdrawn_counts_again_when_it_is_back() -> None:
    """It stays among the preferences, so that a client shows it and can remove it."""
    liked = Preferences(liked=("i4",), filters=(PreferenceFilter.from_condition("price to", "price < 9"),))
    advisor = Advisor(RECOMMENDER, k=2)
    conversation = advisor.update_preferences(Conversation(), liked)
    assert conversation.preferences == liked
    assert advisor.label_text(liked, ("likes", "i4")) == "i4 (withdrawn)"
    back = RECOMMENDER.catalog.revised(upsert=Catalog.from_items([ITEMS[4]]))
    again = Advisor(recommender_over(back), k=2)
    turn = again.respond(conversation, "a rug").turns[-1]
    assert not withdrawn_of(turn.recommendations)
    assert again.label_text(turn.preferences, ("likes", "i4")) == "Blue Mug"
    assert "i4" not in [item.item_id for item in turn.recommendations.items]


def test_a_conversation_with_an_id_that_never_existed_is_refused_with_the_right_advice() -> None:
    """A conversation has no `on_unknown`, so advice to pass it leads nowhere."""
    advisor = Advisor(RECOMMENDER, k=3)
    asked = [
        (Conversation(history=("i1", "never")), Preferences(), "history"),
        (Conversation(excluded=("i1", "never")), Preferences(), "excluded"),
        (Conversation(), Preferences(liked=("never",)), "liked"),
        (Conversation(), Preferences(disliked=("never",)), "disliked"),
    ]
    for conversation, preferences, place in asked:
        with pytest.raises(
            UnknownItemError, match=f"{place} holds item 'never', .*; remove it from {place}$"
        ) as raised:
            advisor.update_preferences(conversation, preferences)
        assert "on_unknown" not in str(raised.value)
    with pytest.raises(UnknownItemError, match="item 'i1' was withdrawn from catalog 'shop'"):
        advisor.explain(Conversation(), "i1")
    with pytest.raises(UnknownItemError, match="'never', which is not in catalog 'shop'"):
        advisor.explain(Conversation(), "never")


# A server: the same rule over HTTP, across servers and restarts.

CHAT = "/v1/chat/completions"


def message(text: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": text}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, list[dict[str, str]], Any]]:
    """A server from which i1, i3 and a new item were withdrawn, and a chat from before that."""
    with (
        running_server(small_pipeline(), tmp_path_factory.mktemp("withdrawn")) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        asked = [message("something red")]
        answer = client.post(CHAT, json={"messages": asked}).json()
        assert [item["item_id"] for item in answer["genrec"]["items"]][:4] == ["i0", "i1", "i2", "i3"]
        client.put("/v1/catalog/items/new", json={"title": "New Rug"}).raise_for_status()
        for item_id in ("i1", "i3", "new"):
            client.delete(f"/v1/catalog/items/{item_id}").raise_for_status()
        yield client, [*asked, message(answer["choices"][0]["message"]["content"], "assistant")], answer["genrec"]


def details(response: httpx.Response) -> dict[str, Any]:
    """The notices of a list or a chat completion, by code."""
    assert response.status_code == 200, response.text
    body = response.json()
    body = body.get("genrec", body)
    assert len(body["notices"]) == len(body["notice_details"])
    return {notice["code"]: notice["fields"] for notice in body["notice_details"]}


@pytest.mark.parametrize("gone", ["i1", "i3", "new"])
@pytest.mark.parametrize("options", [{}, {"on_unknown": "raise"}, {"explain": True, "filter_seen": False}], ids=str)
def test_a_list_over_http_ignores_what_was_withdrawn(shop: Any, gone: str, options: dict[str, Any]) -> None:
    """A shop front is a few seconds behind its catalog, and must not answer with errors meanwhile."""
    client = shop[0]
    told = {"count": 1, "item_ids": [gone]}
    for asked in ({"exclude": [gone]}, {"boost": {gone: 2.0}}, {"history": [gone, "i0"]}, {"only": [gone, "i5", "i6"]}):
        found = client.post("/v1/recommend", json={"k": 2, **asked, **options})
        kept = {
            name: {} if name == "boost" else [item_id for item_id in value if item_id != gone]
            for name, value in asked.items()
        }
        assert item_ids(found) == item_ids(client.post("/v1/recommend", json={"k": 2, **kept, **options}))
        assert details(found)["withdrawn_items"] == told
    nothing = client.post("/v1/recommend", json={"k": 2, "only": [gone], **options})
    assert item_ids(nothing) == []
    assert details(nothing) == {"withdrawn_items": told, "few_allowed": {"allowed": 0, "k": 2}}
    related = client.post("/v1/related", json={"item_id": gone, "k": 3, **options})
    assert len(item_ids(related)) == 3
    assert details(related)["withdrawn_items"] == told
    searched = client.post("/v1/search", json={"words": "a lamp", "history": [gone], **options})
    assert gone not in item_ids(searched)


def test_an_id_that_never_existed_is_refused_over_http(shop: Any) -> None:
    """As before, and with advice that the route can take."""
    client = shop[0]
    for path, asked in (
        ("recommend", {"exclude": ["i1", "never"]}),
        ("recommend", {"only": ["never"]}),
        ("recommend", {"boost": {"never": 1.0}}),
        ("recommend", {"history": ["i1", "never"], "on_unknown": "raise"}),
        ("related", {"item_id": "never"}),
        ("events", {"events": [{"user_id": "u", "item_id": "never"}]}),
        ("chat/completions", {"messages": [message("a rug")], "genrec": {"history": ["i1", "never"]}}),
    ):
        response = client.post(f"/v1/{path}", json=asked)
        error = error_of(response)
        assert (response.status_code, error["reason"]) == (400, "unknown_item"), asked
        assert "'never'" in error["message"]
        assert ("on_unknown" in error["message"]) == ("on_unknown" in asked)
    history = client.post("/v1/recommend", json={"history": ["i1", "never", "i0"]})
    assert details(history)["unknown_history_items"] == {"count": 1, "total": 3}
    assert details(history)["withdrawn_items"] == {"count": 1, "item_ids": ["i1"]}


def test_an_item_is_looked_up_by_its_id_only_while_it_is_there(shop: Any) -> None:
    """A page of a withdrawn item is a 404, and so is a second withdrawal."""
    client = shop[0]
    for gone in ("i1", "new"):
        for method in ("GET", "DELETE"):
            response = client.request(method, f"/v1/catalog/items/{gone}")
            assert (response.status_code, error_of(response)["code"]) == (404, "item_not_found")
            assert f"item '{gone}' was withdrawn" in error_of(response)["message"]
            assert "on_unknown" not in error_of(response)["message"]
    assert client.get("/v1/catalog/items/never").status_code == 404


def test_events_with_withdrawn_items_are_stored_and_told(tmp_path: Path) -> None:
    """A click that arrives a second after the withdrawal must not fail the events of others, nor be lost."""
    with running_server(small_pipeline(), tmp_path) as address, httpx.Client(base_url=address, timeout=30) as client:
        client.delete("/v1/catalog/items/i7").raise_for_status()
        events = [{"user_id": "eve", "item_id": item_id, "event_id": item_id} for item_id in ("i6", "i7")]
        answer = client.post("/v1/events", json={"events": events})
        assert answer.json()["added"] == 2
        assert details(answer) == {"withdrawn_items": {"count": 1, "item_ids": ["i7"]}}
        assert client.post("/v1/events", json={"events": events}).json()["added"] == 0
        assert [item["item_id"] for item in client.get("/v1/users/eve/history").json()["items"]] == ["i6"]
        assert "i7" not in item_ids(client.post("/v1/recommend", json={"user_id": "eve", "k": 40}))
        client.put("/v1/catalog/items/i7", json={"title": "Back"}).raise_for_status()
        assert [item["item_id"] for item in client.get("/v1/users/eve/history").json()["items"]] == ["i6", "i7"]


def test_a_chat_from_before_the_withdrawal_goes_on(shop: Any) -> None:
    """Every field of a chat may name the item; each alone used to end the conversation with a 400."""
    client, messages, before = shop
    wishes = {**before["wishes"], "liked": ["i1"], "disliked": ["new"]}
    asked = [
        {"genrec": {"history": ["i1", "i0"]}},
        {"genrec": {"wishes": wishes}},
        {"genrec": {"wishes": wishes, "history": ["i3"], "user_id": "ann"}},
        {},
    ]
    for said in ("dearer", "more like the second", "why the second?", "compare 1 and 2", "not the third", "undo"):
        for body in asked:
            response = client.post(CHAT, json={"messages": [*messages, message(said)], **body})
            assert response.status_code == 200, response.text
            extension = response.json()["genrec"]
            found = [item["item_id"] for item in extension["items"]]
            assert not {"i1", "i3", "new"} & {*found}
            if said != "undo":
                assert found
                assert details(response)["withdrawn_items"]["count"] >= 1
                assert len([notice for notice in extension["notice_details"] if "withdrawn" in notice["code"]]) == 1
            later = [
                *messages,
                message(said),
                message(response.json()["choices"][0]["message"]["content"], "assistant"),
            ]
            again = {"messages": [*later, message("a rug")], "genrec": {"wishes": extension["wishes"]}}
            assert client.post(CHAT, json=again).json()["genrec"]["items"]
    edited = client.post(CHAT, json={"messages": messages, "genrec": {"wishes": wishes}}).json()["genrec"]
    assert {(chip["kind"], chip["label"]) for chip in edited["chips"]} >= {
        ("likes", "i1 (withdrawn)"),
        ("dislikes", "new (withdrawn)"),
    }
    third = client.post(CHAT, json={"messages": [*messages, message("not the third")]}).json()["genrec"]
    assert third["wishes"]["disliked"] == ["i2"]


def test_clients_of_openai_go_on(shop: Any) -> None:
    """They send texts only, whole or streamed."""
    client, messages, _ = shop
    chat = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none needed here")
    asked: Any = [*messages, message("more like the second")]
    whole = chat.chat.completions.create(model="genrec", messages=asked)
    chunks = list(chat.chat.completions.create(model="genrec", messages=asked, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert "How about" in text
    for gone in ("i1", "i3", "new"):
        assert f"(#item={gone})" not in text


def test_servers_and_restarts_agree(tmp_path: Path) -> None:
    """What was withdrawn follows from the file and the store, not from what a server has seen."""
    asked: list[dict[str, Any]] = [
        {"exclude": ["i1", "new"]},
        {"only": ["i1", "i5"]},
        {"history": ["new", "i1", "i0"]},
        {"boost": {"new": 1.0}},
        {"only": ["never"]},
        {"exclude": ["back", "i2"]},
        {"history": ["brief"], "only": ["i1"]},
    ]

    def answers(client: httpx.Client) -> list[Any]:
        found = []
        for body in asked:
            response = client.post("/v1/recommend", json={**body, "k": 3})
            answer = response.json()
            found.append((response.status_code, {name: answer[name] for name in answer if name != "seconds"}))
        return found

    pipeline = small_pipeline()  # of the file that all servers have read
    with (
        running_server(pipeline, tmp_path) as first,
        running_server(pipeline, tmp_path) as second,
        httpx.Client(base_url=first, timeout=30) as one,
        httpx.Client(base_url=second, timeout=30) as two,
    ):
        for item_id in ("new", "back", "brief"):
            one.put(f"/v1/catalog/items/{item_id}", json={"title": f"A {item_id} rug"}).raise_for_status()
        for item_id in ("i1", "i2", "new", "back"):
            one.delete(f"/v1/catalog/items/{item_id}").raise_for_status()
        for item_id in ("back", "i2"):
            one.put(f"/v1/catalog/items/{item_id}", json={"title": f"The {item_id}"}).raise_for_status()
        one.delete("/v1/catalog/items/brief").raise_for_status()
        expected = answers(one)
        wait_until(lambda: two.get("/v1/catalog/items/i1").status_code == 404 and answers(two) == expected)
    with running_server(pipeline, tmp_path) as third, httpx.Client(base_url=third, timeout=30) as client:
        assert answers(client) == expected
    assert [status for status, _ in expected] == [200, 200, 200, 200, 400, 200, 200]
    assert not expected[5][1]["notices"]  # an item that was put back is ordinary
    assert expected[6][1]["notice_details"][0]["fields"] == {"count": 2, "item_ids": ["brief", "i1"]}


changes = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(["put", "withdraw", "restart"]), st.integers(0, 6)), max_size=15
)


@hypothesis_settings(deadline=None, max_examples=40)
@given(changes)
def test_withdrawn_is_what_was_there_once(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, str, int]]
) -> None:
    """Whatever the order of changes, servers and restarts: was there and is not, or was never there."""
    url = f"sqlite:///{tmp_path_factory.mktemp('changes') / 'store.db'}"
    items = ITEMS[:4]
    pipeline = letter_pipeline(items, {"u": ["i0", "i1"]}, model=False)
    with Store.open(url) as store:
        states = [ServingState(pipeline, store) for _ in range(2)]
        present, ever = {item.item_id for item in items}, {item.item_id for item in items}
        for server, change, number in changes:
            item = Item(f"i{number}", f"title {number}")
            if change == "put":
                states[server].revise([item])
                present.add(item.item_id)
                ever.add(item.item_id)
            elif change == "withdraw" and item.item_id in present and len(present) > 1:
                states[server].revise(withdraw=[item.item_id])
                present.remove(item.item_id)
            elif change == "restart":
                states[server] = ServingState(pipeline, store)
        for state in (*states, ServingState(pipeline, store)):
            state.poll()
            for item_id in (f"i{number}" for number in range(8)):
                (found,) = state.recommender.catalog.lookup([item_id])
                expected = 0 if item_id in present else WITHDRAWN if item_id in ever else UNKNOWN
                assert min(found, 0) == expected


def test_histories_of_the_store_skip_withdrawn_items_silently(tmp_path: Path) -> None:
    """The caller named no item, and nearly every user of a shop has bought something that is sold out."""
    with Store.open(f"sqlite:///{tmp_path / 'store.db'}") as store:
        state = ServingState(letter_pipeline(ITEMS, {"u": ["i0", "i1", "i2"]}, model=False), store)
        store.add([Event("u", "i3", 1.0), Event("u", "i4", 2.0, weight=-1.0)])
        state.revise(withdraw=["i1", "i3", "i4"])
        context = state.request_context("u", ["i5", "i1"])
        assert context.user == History(("i0", "i2", "i5", "i1"), user_id="u")
        assert context.excluded_item_ids == ()
        answer = context.recommender.recommend(context.user, 5)
        assert withdrawn_of(answer) == ["i1"]  # which the request named
        assert not context.recommender.recommend(state.request_context("u").user, 5).notices


@pytest.mark.model
def test_an_engine_ignores_what_was_withdrawn_from_its_catalog(
    smollm2: Path, tokenizer: HuggingFaceTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The lists of a request to vLLM come from a client that may be older than the catalog."""
    index = CatalogIndex.build(Catalog.from_items(ITEMS), TitleIdentifiers(), tokenizer)
    index.update(TitleIdentifiers(), tokenizer, withdraw=GONE).save(tmp_path / "shop")
    registry = CatalogRegistry(tmp_path, smollm2)
    with caplog.at_level("INFO"):
        state = registry.start({"genrec_catalog": "shop", "genrec_k": 2, "genrec_allow": ["i0", "i1", "i2", "i9"]})
        assert (len(state.allowed), state.remaining_items) == (2, 2)
    assert "ignored (2): i1, i9" in caplog.text
    denied = registry.start({"genrec_catalog": "shop", "genrec_k": 8, "genrec_deny": ["i0", "i1"]})
    assert len(denied.allowed) == SIZE - len(GONE) - 1
    with pytest.raises(UnknownItemError, match="genrec_deny names item 'never', which is not in catalog 'shop'"):
        registry.start({"genrec_catalog": "shop", "genrec_k": 2, "genrec_deny": ["i1", "never"]})
