"""The page in a real browser against a real server."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser import (
    NetworkProxy,
    OpenPage,
    PageRecorder,
    chromium,
    message_box,
    preference_labels,
    prices,
    send_message,
    titles,
    wait_for_reply,
)
from playwright.sync_api import Browser, Page, Route, expect
from server import running_server, small_pipeline

from genrec import Catalog, Item
from genrec.pipeline import Pipeline

TITLES = ["Red Mug", "Red Lamp", "Red Candle", "Red Rug", "Red Tea Pot"]  # with prices from 1 to 5
KEY = "a-key-for-these-tests"
HOSTILE = (
    "<img src=x onerror=alert(1)><script>alert(2)</script>",
    "](javascript:alert(3)) [x](#item=i2) **bold** `code` <b>",
    '"><svg onload=alert(4)>&lt;i&gt;\u202eevil\u2066',
    "[Red Mug](#item=h9)](https://example.com/a.png) ![p](https://example.com/b.png)",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkProxy]:
    with running_server(small_pipeline(), tmp_path_factory.mktemp("page")) as server:
        network = NetworkProxy(server)
        yield network
        network.close()


@pytest.fixture
def recorder(browser: Browser, network: NetworkProxy) -> Iterator[PageRecorder]:
    """Records problems; a CSP violation, console error, dialog or request to another host fails the test."""
    recorder = PageRecorder(browser)
    yield recorder
    recorder.close()
    network.event_delay, network.disconnect_after, network.pause_after = 0.0, None, None
    assert not recorder.problems


@pytest.fixture
def open_page(recorder: PageRecorder, network: NetworkProxy) -> OpenPage:
    return lambda at=network.address, *, allowed_console="", **options: recorder.open(at, allowed_console, **options)


def test_conversation_fills_cards_labels_and_reply(open_page: OpenPage) -> None:
    """Without this the page is useless: message, preferences, items and reply must appear."""
    page = open_page()
    expect(page.get_by_role("heading", name="Conversation")).to_be_attached()
    send_message(page, "something for the kitchen")
    assert titles(page) == TITLES
    assert preference_labels(page) == ["Looks for something for the kitchen"]
    log = page.get_by_role("log")
    expect(log).to_contain_text("something for the kitchen")
    assert log.locator("a.item-link").all_inner_texts() == TITLES
    log.get_by_role("link", name="Red Candle").click()
    expect(page.get_by_role("listitem", name="Red Candle")).to_be_focused()
    expect(page.get_by_role("listitem", name="Red Candle")).to_contain_text("3.00")


def test_example_starts_a_conversation(open_page: OpenPage) -> None:
    """A new user needs a first message that works."""
    page = open_page()
    page.locator("#examples button").first.click()
    wait_for_reply(page)
    assert len(titles(page)) == 5
    expect(page.locator("#welcome")).to_be_hidden()


def test_reply_streams_and_can_be_stopped(open_page: OpenPage, network: NetworkProxy) -> None:
    """A reply that appears only when it is complete makes users wait."""
    page = open_page()
    network.pause_after = 3  # preferences, items and the first text
    message_box(page).fill("something nice")
    message_box(page).press("Enter")
    expect(page.locator("#cards h3").first).to_have_text("Red Mug")
    expect(page.get_by_role("log")).to_contain_text("How")
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "true")
    message_box(page).press_sequentially("typed in the meantime")
    page.keyboard.press("Escape")
    wait_for_reply(page)
    expect(page.get_by_role("log")).to_contain_text("Stopped.")
    expect(message_box(page)).to_have_value("typed in the meantime")
    assert len(titles(page)) == 5


def test_stopped_reply_keeps_item_numbers(open_page: OpenPage, network: NetworkProxy) -> None:
    """The server reads from the reply what was shown; half a reply must not change what number 4 is."""
    page = open_page()
    network.event_delay = 0.25
    message_box(page).fill("something nice")
    message_box(page).press("Enter")
    expect(page.locator("#cards h3")).to_have_count(5)
    page.keyboard.press("Escape")
    wait_for_reply(page)
    network.event_delay = 0.0
    page.get_by_role("button", name="Not this, number 4").click()
    wait_for_reply(page)
    assert "Not Red Rug" in preference_labels(page)


def test_message_stopped_early_returns_to_the_message_box(open_page: OpenPage, network: NetworkProxy) -> None:
    """Text that a user typed must not be lost."""
    page = open_page()
    network.event_delay = 1.0
    message_box(page).fill("a long and careful sentence")
    message_box(page).press("Enter")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(message_box(page)).to_have_value("a long and careful sentence")
    expect(page.locator(".turn")).to_have_count(0)


def test_stated_filter_narrows_the_cards_and_its_label_removes_it(open_page: OpenPage) -> None:
    """A filter must apply, and a user must be able to remove it."""
    page = open_page()
    send_message(page, "something for the kitchen")
    send_message(page, "under 3.5")
    assert "Up to 3.5" in preference_labels(page)
    assert prices(page)
    assert max(prices(page)) <= 3.5
    page.get_by_role("button", name="Remove: Up to 3.5").click()
    wait_for_reply(page)
    assert preference_labels(page) == ["Looks for something for the kitchen"]
    expect(page.get_by_role("log")).to_contain_text("Removed: Up to 3.5")
    assert len(titles(page)) == 5
    assert max(prices(page)) > 3.5


def test_card_buttons_change_the_preferences(open_page: OpenPage) -> None:
    """A button must do what its label says."""
    page = open_page()
    send_message(page, "something for the kitchen")
    page.get_by_role("button", name="More like this, number 2").click()
    wait_for_reply(page)
    assert "Likes Red Lamp" in preference_labels(page)
    assert "Red Lamp" not in titles(page)
    first = titles(page)[0]
    page.get_by_role("button", name="Not this, number 1").click()
    wait_for_reply(page)
    assert f"Not {first}" in preference_labels(page)
    assert first not in titles(page)


def test_questions_keep_item_numbers(open_page: OpenPage) -> None:
    """After "why?" the list is unchanged; otherwise a button would exclude another item."""
    page = open_page()
    send_message(page, "something for the kitchen")
    page.get_by_role("button", name="Why? number 3").click()
    wait_for_reply(page)
    expect(page.locator(".turn").last.locator("a.item-link")).to_have_text(["Red Candle"])
    expect(page.get_by_role("button", name="Why? number 3")).to_be_focused()  # an unchanged list keeps its cards
    page.get_by_role("button", name="Compare number 3").click()
    page.get_by_role("button", name="Compare number 1").click()
    page.get_by_role("button", name="Compare 1 and 3").click()
    wait_for_reply(page)
    expect(page.locator(".turn").last).to_contain_text("Compare number 1 and number 3")
    expect(page.locator(".turn").last.get_by_role("listitem")).to_have_count(2)
    assert titles(page) == TITLES
    page.get_by_role("button", name="Not this, number 4").click()
    wait_for_reply(page)
    assert "Not Red Rug" in preference_labels(page)


def test_undo_removes_the_last_turn(open_page: OpenPage) -> None:
    """Undo must return the message to the message box, and remove its preferences."""
    page = open_page()
    send_message(page, "something for the kitchen")
    send_message(page, "under 3.5")
    page.get_by_role("button", name="Undo").click()
    assert preference_labels(page) == ["Looks for something for the kitchen"]
    assert titles(page) == TITLES
    expect(message_box(page)).to_have_value("under 3.5")
    expect(page.locator(".turn")).to_have_count(1)
    message_box(page).press("Enter")
    wait_for_reply(page)
    assert "Up to 3.5" in preference_labels(page)


def test_undo_does_not_restore_removed_preferences(open_page: OpenPage) -> None:
    """A label that was removed must not come back."""
    page = open_page()
    send_message(page, "under 3.5")
    send_message(page, "something for the kitchen")
    page.get_by_role("button", name="Remove: Up to").click()
    wait_for_reply(page)
    liked = f"Likes {titles(page)[1]}"
    send_message(page, "more like number 2")
    assert liked in preference_labels(page)
    page.get_by_role("button", name="Undo").click()
    assert preference_labels(page) == ["Looks for something for the kitchen"]
    message_box(page).press("Enter")
    wait_for_reply(page)
    assert sorted(preference_labels(page)) == [liked, "Looks for something for the kitchen"]


def test_conversation_survives_reload_and_new(open_page: OpenPage) -> None:
    """A wrong click must not cost a conversation."""
    page = open_page()
    send_message(page, "something for the kitchen")
    message_box(page).press_sequentially("and then")
    page.reload()
    assert titles(page) == TITLES
    assert preference_labels(page) == ["Looks for something for the kitchen"]
    expect(page.get_by_role("log")).to_contain_text("Red Lamp")
    expect(message_box(page)).to_have_value("and then")
    page.get_by_role("button", name="New").click()
    expect(page.get_by_text("Describe what you want")).to_be_visible()
    assert titles(page) == preference_labels(page) == []
    page.get_by_role("button", name="Restore the previous conversation").click()
    assert titles(page) == TITLES


def test_new_conversation_discards_a_pending_reply(open_page: OpenPage, network: NetworkProxy) -> None:
    """A reply must not appear in another conversation than its message."""
    page = open_page()
    send_message(page, "something for the kitchen")
    network.event_delay = 0.5
    message_box(page).fill("under 3.5")
    message_box(page).press("Enter")
    page.get_by_role("button", name="New").click()
    network.event_delay = 0.0
    wait_for_reply(page)
    expect(page.locator(".turn")).to_have_count(0)
    assert titles(page) == preference_labels(page) == []
    page.get_by_role("button", name="Restore the previous conversation").click()
    page.get_by_role("button", name="Try again").click()
    wait_for_reply(page)
    assert "Up to 3.5" in preference_labels(page)


def test_pending_message_survives_a_reload(open_page: OpenPage, network: NetworkProxy) -> None:
    """A reload during a request must not lose the message."""
    page = open_page()
    network.event_delay = 1.0
    message_box(page).fill("something for the kitchen")
    message_box(page).press("Enter")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    page.reload()
    network.event_delay = 0.0
    page.get_by_role("button", name="Try again").click()
    wait_for_reply(page)
    assert titles(page) == TITLES
    expect(page.locator(".turn")).to_have_count(1)


def test_markup_in_texts_is_not_rendered(open_page: OpenPage, tmp_path: Path) -> None:
    """A title with a script would otherwise run it with the API key of every viewer."""
    items = [Item(f"i{place}", title, {"note": title}) for place, title in enumerate(HOSTILE)]
    with running_server(Pipeline.from_rankers(Catalog.from_items(items)), tmp_path) as address:
        page = open_page(address)
        send_message(page, "<img src=x onerror=alert(5)> & <b>me</b>")
        page.get_by_role("button", name="More like this, number 1").click()
        wait_for_reply(page)
        # Item links omit characters that change the text direction.
        named = [re.sub("[\u202e\u2066]", "", title) for title in HOSTILE]
        assert page.locator(".turn").first.locator("a.item-link").all_text_contents() == named
        assert set(titles(page)) <= set(HOSTILE)
        assert f"Likes {HOSTILE[0]}" in preference_labels(page)
        expect(page.locator(".user-message").first).to_contain_text("<img src=x onerror=alert(5)> & <b>me</b>")
        for link in page.locator("#turns a").all():
            assert (link.get_attribute("href") or "").startswith("#item=i")
        found = page.locator("main :is(img, script, b, iframe, object, embed, code), main svg:not(.icon)")
        expect(found).to_have_count(0)
        page.reload()
        expect(found).to_have_count(0)


def test_page_is_usable_by_keyboard(open_page: OpenPage) -> None:
    """Some users have no pointer."""
    page = open_page()
    page.keyboard.press("/")
    expect(message_box(page)).to_be_focused()
    page.keyboard.type("something")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("for the kitchen")
    expect(message_box(page)).to_have_value("something\nfor the kitchen")
    page.keyboard.press("Enter")
    wait_for_reply(page)

    def tab_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            target = page.get_by_role("button", name=name)
            if target.count() and target.first.evaluate("element => element === document.activeElement"):
                outline = target.first.evaluate("element => getComputedStyle(element).outlineStyle")
                assert outline != "none", f"the focus on {name} is not visible"
                return
        raise AssertionError(f"the keyboard cannot reach {name!r}")

    tab_to("Remove: Looks for something, for the kitchen")
    tab_to("Not this, number 1")
    page.keyboard.press("Enter")
    wait_for_reply(page)
    assert "Not Red Mug" in preference_labels(page)
    page.keyboard.press("/")
    page.keyboard.type("under 3.5")
    page.keyboard.press("Enter")
    wait_for_reply(page)
    assert "Up to 3.5" in preference_labels(page)


@pytest.mark.parametrize("width", [360, 768])
def test_phone_layout_has_one_column_and_large_targets(open_page: OpenPage, width: int) -> None:
    """Text beyond the edge is not read, and small targets are missed."""
    page = open_page(viewport={"width": width, "height": 740}, has_touch=True, is_mobile=True)
    send_message(page, "somethingwithoutanyspaceinit" * 8)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    suggestions, conversation = (
        page.locator("#suggestions").bounding_box(),
        page.locator(".conversation").bounding_box(),
    )
    assert suggestions is not None and conversation is not None  # noqa: PT018
    assert suggestions["y"] >= conversation["y"] + conversation["height"]
    for target in page.locator("button:visible").all():
        box = target.bounding_box()
        assert box is not None
        assert box["height"] >= 44, target.inner_text()
        assert box["width"] >= 40, target.inner_text()


def test_theme_follows_the_system_until_chosen(open_page: OpenPage) -> None:
    """A choice of the user must survive a reload."""
    page = open_page(color_scheme="light")

    def brightness() -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3])

    assert brightness() > 600
    page.emulate_media(color_scheme="dark")
    assert brightness() < 150
    page.get_by_role("button", name="Dark theme").click()
    assert brightness() > 600
    page.reload()
    assert brightness() > 600
    expect(page.get_by_role("button", name="Dark theme")).to_have_attribute("aria-pressed", "false")


def test_interrupted_reply_is_reported_and_can_be_retried(open_page: OpenPage, network: NetworkProxy) -> None:
    """Half a reply that looks complete is misleading."""
    page = open_page(allowed_console="ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION|Failed to load resource")
    network.disconnect_after = 4
    send_message(page, "something for the kitchen")
    expect(page.get_by_role("alert")).to_contain_text("Connection lost.")
    expect(page.get_by_role("log")).to_contain_text("something for the kitchen")
    network.disconnect_after = None
    page.get_by_role("button", name="Try again").click()
    wait_for_reply(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator(".turn")).to_have_count(1)
    assert titles(page) == TITLES


def test_unreachable_server_is_reported_and_can_be_retried(open_page: OpenPage) -> None:
    """An error in the console only looks like a page that ignores the user."""
    page = open_page(allowed_console="Failed to load resource|ERR_")
    page.context.set_offline(True)
    send_message(page, "something for the kitchen")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.get_by_role("button", name="Edit message").click()
    expect(message_box(page)).to_have_value("something for the kitchen")
    page.context.set_offline(False)
    message_box(page).press("Enter")
    wait_for_reply(page)
    assert titles(page) == TITLES


def test_api_key_is_requested_and_kept_in_the_tab(open_page: OpenPage, tmp_path: Path) -> None:
    """A key that outlives its tab could be used by the next person."""
    with running_server(small_pipeline(), tmp_path, keys=[KEY]) as address:
        page = open_page(address, allowed_console="401")
        page.get_by_label("API key", exact=True).fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="The server rejected this key")).to_be_visible()
        page.keyboard.press("Escape")
        message_box(page).fill("something for the kitchen")
        message_box(page).press("Enter")
        page.get_by_label("API key", exact=True).fill(KEY)
        page.get_by_role("button", name="Use this key").click()
        wait_for_reply(page)
        assert titles(page) == TITLES
        page.reload()
        send_message(page, "under 3.5")
        assert "Up to 3.5" in preference_labels(page)
        assert KEY not in page.evaluate("JSON.stringify(localStorage) + document.cookie")


def test_busy_server_is_retried_and_reported(open_page: OpenPage, tmp_path: Path) -> None:
    """Immediate retries keep a busy server busy; silent waiting looks broken."""
    with running_server(small_pipeline(), tmp_path, keys=[KEY], rate=0.5) as address:
        page = open_page(address, allowed_console="401|429")
        page.get_by_label("API key", exact=True).fill(KEY)
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_have_count(0)
        send_message(page, "something for the kitchen")
        message_box(page).fill("under 3.5")
        message_box(page).press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("The server is busy. Retrying in")
        wait_for_reply(page)
        assert "Up to 3.5" in preference_labels(page)


def test_identified_user_can_be_forgotten(open_page: OpenPage, recorder: PageRecorder) -> None:
    """Likes are stored for identified users only, and until they delete their data."""
    page = open_page()
    send_message(page, "something for the kitchen")
    page.get_by_role("button", name="More like this, number 1").click()
    wait_for_reply(page)
    assert "POST /v1/events" not in recorder.requests
    page.get_by_role("button", name="Who is shopping? Guest").click()
    page.get_by_label("User id").fill("u 17/<b>")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Who is shopping? u 17/<b>")).to_be_focused()
    with page.expect_response("**/v1/events") as response:
        page.get_by_role("button", name="More like this, number 2").click()
    assert response.value.ok
    wait_for_reply(page)
    page.get_by_role("button", name="Who is shopping?").click()
    page.get_by_role("button", name="Delete my data").click()
    page.get_by_role("button", name="Cancel").click()
    assert not any(request.startswith("DELETE") for request in recorder.requests)
    page.get_by_role("button", name="Who is shopping?").click()
    page.get_by_role("button", name="Delete my data").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Delete my data").click()
    expect(page.get_by_role("status").filter(has_text="was removed")).to_be_visible()
    expect(page.get_by_role("button", name="Who is shopping? Guest")).to_be_visible()
    assert titles(page) == []


def test_viewing_an_item_sends_no_event(open_page: OpenPage, recorder: PageRecorder) -> None:
    """An item with an event is not recommended again, so asking "why?" must not be one."""
    page = open_page()
    set_user(page, "curious")
    send_message(page, "something for the kitchen")
    page.get_by_role("log").get_by_role("link", name="Red Candle").click()
    page.get_by_role("button", name="Why? number 1").click()
    wait_for_reply(page)
    assert "POST /v1/events" not in recorder.requests


def test_pending_event_is_sent_before_forgetting(
    open_page: OpenPage, recorder: PageRecorder, network: NetworkProxy
) -> None:
    """An event that arrives after the deletion would be stored."""
    page = open_page()
    set_user(page, "hasty")
    send_message(page, "something for the kitchen")
    held: list[Route] = []
    page.route("**/v1/events", lambda route: held.append(route))
    with page.expect_request("**/v1/events"):
        page.get_by_role("button", name="More like this, number 2").click()
    wait_for_reply(page)
    page.get_by_role("button", name="Who is shopping?").click()
    page.get_by_role("button", name="Delete my data").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Delete my data").click()
    expect(page.get_by_role("button", name="Who is shopping? Guest")).to_be_visible()
    assert "DELETE /v1/users/hasty" not in recorder.requests
    held[0].continue_()
    expect(page.get_by_role("status").filter(has_text="was removed")).to_be_visible()
    assert httpx.get(f"{network.address}/v1/users/hasty/history").json()["items"] == []


def set_user(page: Page, user: str) -> None:
    """Set the user id."""
    page.get_by_role("button", name="Who is shopping?").click()
    page.get_by_label("User id").fill(user)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name=f"Who is shopping? {user}")).to_be_focused()
