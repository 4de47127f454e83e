"""The page in a real browser against the real server: what somebody sees, is told, and can reach."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from genrec import Catalog, Item
from genrec.pipeline import Parts
from tests.screen import Network, Open, Watched, chips, chromium, prices, say, settle, titles, words
from tests.server import serving, shop

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
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with serving(shop(), tmp_path_factory.mktemp("page")) as server:
        network = Network(server)
        yield network
        network.close()


@pytest.fixture
def watched(browser: Browser, network: Network) -> Iterator[Watched]:
    """A violation of the CSP, an error on the console, a dialog or a request to anybody else fails the test."""
    watched = Watched(browser)
    yield watched
    watched.close()
    network.slow, network.cut_after, network.hold_after = 0.0, None, None
    assert not watched.trouble


@pytest.fixture
def open_page(watched: Watched, network: Network) -> Open:
    return lambda at=network.address, *, may_say="", **options: watched.open(at, may_say, **options)


def test_a_conversation_fills_shelf_chips_and_reply(open_page: Open) -> None:
    """Without this the page is of no use: what was said, understood, found and replied must all be there."""
    page = open_page()
    expect(page.get_by_role("heading", name="Conversation")).to_be_attached()
    say(page, "something for the kitchen")
    assert titles(page) == TITLES
    assert chips(page) == ["Looks for something for the kitchen"]
    log = page.get_by_role("log")
    expect(log).to_contain_text("something for the kitchen")
    assert log.locator("a.mention").all_inner_texts() == TITLES
    log.get_by_role("link", name="Red Candle").click()
    expect(page.get_by_role("listitem", name="Red Candle")).to_be_focused()
    expect(page.get_by_role("listitem", name="Red Candle")).to_contain_text("3.00")


def test_an_example_begins_a_conversation(open_page: Open) -> None:
    """Whoever does not know what to say needs a beginning that works."""
    page = open_page()
    page.locator("#examples button").first.click()
    settle(page)
    assert len(titles(page)) == 5
    expect(page.locator("#empty")).to_be_hidden()


def test_the_reply_appears_as_it_comes_and_can_be_stopped(open_page: Open, network: Network) -> None:
    """A reply that is only shown when it is whole lets people wait; one that cannot be stopped keeps them."""
    page = open_page()
    network.hold_after = 3  # wishes, items, and the first words
    words(page).fill("something nice")
    words(page).press("Enter")
    expect(page.locator("#cards h3").first).to_have_text("Red Mug")
    expect(page.get_by_role("log")).to_contain_text("How")
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "true")
    words(page).press_sequentially("typed meanwhile")
    page.keyboard.press("Escape")
    settle(page)
    expect(page.get_by_role("log")).to_contain_text("Stopped.")
    expect(words(page)).to_have_value("typed meanwhile")
    assert len(titles(page)) == 5


def test_a_reply_that_was_stopped_leaves_the_numbers_as_they_are(open_page: Open, network: Network) -> None:
    """The server learns from the reply what was shown; half a reply must not make number 4 another item, or none."""
    page = open_page()
    network.slow = 0.25
    words(page).fill("something nice")
    words(page).press("Enter")
    expect(page.locator("#cards h3")).to_have_count(5)
    page.keyboard.press("Escape")
    settle(page)
    network.slow = 0.0
    page.get_by_role("button", name="Not this, number 4").click()
    settle(page)
    assert "Not Red Rug" in chips(page)


def test_stopped_before_an_answer_came_the_words_are_in_the_box_again(open_page: Open, network: Network) -> None:
    """Nothing that was typed is lost."""
    page = open_page()
    network.slow = 1.0
    words(page).fill("a long and careful sentence")
    words(page).press("Enter")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(words(page)).to_have_value("a long and careful sentence")
    expect(page.locator(".turn")).to_have_count(0)


def test_a_filter_said_in_words_narrows_the_cards_and_its_chip_takes_it_back(open_page: Open) -> None:
    """A filter that does not act sells what was ruled out; one that cannot be taken back traps people."""
    page = open_page()
    say(page, "something for the kitchen")
    say(page, "under 3.5")
    assert "Only price ≤ 3.5" in chips(page)
    assert prices(page)
    assert max(prices(page)) <= 3.5
    page.get_by_role("button", name="Take back: Only price ≤ 3.5").click()
    settle(page)
    assert chips(page) == ["Looks for something for the kitchen"]
    expect(page.get_by_role("log")).to_contain_text("Took back: price ≤ 3.5")
    assert len(titles(page)) == 5
    assert max(prices(page)) > 3.5


def test_cards_are_criticised_by_their_buttons(open_page: Open) -> None:
    """A button that says something else than what it is called is worse than none."""
    page = open_page()
    say(page, "something for the kitchen")
    page.get_by_role("button", name="More like this, number 2").click()
    settle(page)
    assert "Likes Red Lamp" in chips(page)
    assert "Red Lamp" not in titles(page)
    first = titles(page)[0]
    page.get_by_role("button", name="Not this, number 1").click()
    settle(page)
    assert f"Not {first}" in chips(page)
    assert first not in titles(page)


def test_questions_leave_the_numbers_as_they_are(open_page: Open) -> None:
    """After "why?" the shelf stands as before; a button on it that meant another item would rule out the wrong one."""
    page = open_page()
    say(page, "something for the kitchen")
    page.get_by_role("button", name="Why? number 3").click()
    settle(page)
    expect(page.locator(".turn").last.locator("a.mention")).to_have_text(["Red Candle"])
    expect(page.get_by_role("button", name="Why? number 3")).to_be_focused()  # the same list is the same cards
    page.get_by_role("button", name="Compare number 3").click()
    page.get_by_role("button", name="Compare number 1").click()
    page.get_by_role("button", name="Compare 1 and 3").click()
    settle(page)
    expect(page.locator(".turn").last).to_contain_text("Compare number 1 and number 3")
    expect(page.locator(".turn").last.get_by_role("listitem")).to_have_count(2)
    assert titles(page) == TITLES
    page.get_by_role("button", name="Not this, number 4").click()
    settle(page)
    assert "Not Red Rug" in chips(page)


def test_undo_takes_the_last_turn_back(open_page: Open) -> None:
    """An undo that forgets the words makes people type them again; one that keeps the wishes does not undo."""
    page = open_page()
    say(page, "something for the kitchen")
    say(page, "under 3.5")
    page.get_by_role("button", name="Undo").click()
    assert chips(page) == ["Looks for something for the kitchen"]
    assert titles(page) == TITLES
    expect(words(page)).to_have_value("under 3.5")
    expect(page.locator(".turn")).to_have_count(1)
    words(page).press("Enter")
    settle(page)
    assert "Only price ≤ 3.5" in chips(page)


def test_undo_brings_no_wish_back_that_was_taken_away_by_hand(open_page: Open) -> None:
    """A chip that was closed and stands there again is an argument with the machine."""
    page = open_page()
    say(page, "under 3.5")
    say(page, "something for the kitchen")
    page.get_by_role("button", name="Take back: Only price").click()
    settle(page)
    liked = f"Likes {titles(page)[1]}"
    say(page, "more like number 2")
    assert liked in chips(page)
    page.get_by_role("button", name="Undo").click()
    assert chips(page) == ["Looks for something for the kitchen"]
    words(page).press("Enter")
    settle(page)
    assert sorted(chips(page)) == [liked, "Looks for something for the kitchen"]


def test_a_reload_keeps_conversation_and_draft_and_new_brings_them_back(open_page: Open) -> None:
    """A finger that slips must not cost a conversation."""
    page = open_page()
    say(page, "something for the kitchen")
    words(page).press_sequentially("and then")
    page.reload()
    assert titles(page) == TITLES
    assert chips(page) == ["Looks for something for the kitchen"]
    expect(page.get_by_role("log")).to_contain_text("Red Lamp")
    expect(words(page)).to_have_value("and then")
    page.get_by_role("button", name="New").click()
    expect(page.get_by_text("What are you looking for?")).to_be_visible()
    assert titles(page) == chips(page) == []
    page.get_by_role("button", name="Bring back the last conversation").click()
    assert titles(page) == TITLES


def test_a_new_conversation_may_begin_while_an_answer_is_on_its_way(open_page: Open, network: Network) -> None:
    """An answer that arrives in another conversation than its question belongs to nobody."""
    page = open_page()
    say(page, "something for the kitchen")
    network.slow = 0.5
    words(page).fill("under 3.5")
    words(page).press("Enter")
    page.get_by_role("button", name="New").click()
    network.slow = 0.0
    settle(page)
    expect(page.locator(".turn")).to_have_count(0)
    assert titles(page) == chips(page) == []
    page.get_by_role("button", name="Bring back the last conversation").click()
    page.get_by_role("button", name="Try again").click()
    settle(page)
    assert "Only price ≤ 3.5" in chips(page)


def test_what_was_asked_when_the_page_went_is_there_to_be_asked_again(open_page: Open, network: Network) -> None:
    """A reload in mid-answer loses neither the words nor the way to go on."""
    page = open_page()
    network.slow = 1.0
    words(page).fill("something for the kitchen")
    words(page).press("Enter")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    page.reload()
    network.slow = 0.0
    page.get_by_role("button", name="Try again").click()
    settle(page)
    assert titles(page) == TITLES
    expect(page.locator(".turn")).to_have_count(1)


def test_text_that_looks_like_markup_is_text(open_page: Open, tmp_path: Path) -> None:
    """Whoever may write a title could otherwise run a script with the key of everybody who sees it."""
    items = [Item(f"i{place}", title, {"note": title}) for place, title in enumerate(HOSTILE)]
    with serving(Parts.of(Catalog.from_items(items)), tmp_path) as address:
        page = open_page(address)
        say(page, "<img src=x onerror=alert(5)> & <b>me</b>")
        page.get_by_role("button", name="More like this, number 1").click()
        settle(page)
        # What turns the direction of a line is left out where an item is named within one.
        named = [re.sub("[\u202e\u2066]", "", title) for title in HOSTILE]
        assert page.locator(".turn").first.locator("a.mention").all_text_contents() == named
        assert set(titles(page)) <= set(HOSTILE)
        assert f"Likes {HOSTILE[0]}" in chips(page)
        expect(page.locator(".said").first).to_contain_text("<img src=x onerror=alert(5)> & <b>me</b>")
        for mention in page.locator("#turns a").all():
            assert (mention.get_attribute("href") or "").startswith("#item=i")
        found = page.locator("main :is(img, script, b, iframe, object, embed, code), main svg:not(.icon)")
        expect(found).to_have_count(0)
        page.reload()
        expect(found).to_have_count(0)


def test_the_keyboard_alone_is_enough(open_page: Open) -> None:
    """Not everybody has a pointer."""
    page = open_page()
    page.keyboard.press("/")
    expect(words(page)).to_be_focused()
    page.keyboard.type("something")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("for the kitchen")
    expect(words(page)).to_have_value("something\nfor the kitchen")
    page.keyboard.press("Enter")
    settle(page)

    def tab_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            target = page.get_by_role("button", name=name)
            if target.count() and target.first.evaluate("element => element === document.activeElement"):
                outline = target.first.evaluate("element => getComputedStyle(element).outlineStyle")
                assert outline != "none", f"nobody sees that {name} has the focus"
                return
        raise AssertionError(f"the keyboard does not reach {name!r}")

    tab_to("Take back: Looks for something, for the kitchen")
    tab_to("Not this, number 1")
    page.keyboard.press("Enter")
    settle(page)
    assert "Not Red Mug" in chips(page)
    page.keyboard.press("/")
    page.keyboard.type("under 3.5")
    page.keyboard.press("Enter")
    settle(page)
    assert "Only price ≤ 3.5" in chips(page)


@pytest.mark.parametrize("width", [360, 768])
def test_a_phone_shows_all_in_one_column_with_room_for_fingers(open_page: Open, width: int) -> None:
    """Text beyond the edge is text that is not read, and a target smaller than a finger is another one's."""
    page = open_page(viewport={"width": width, "height": 740}, has_touch=True, is_mobile=True)
    say(page, "somethingwithoutanyspaceinit" * 8)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    shelf, talk = page.locator("#shelf").bounding_box(), page.locator(".talk").bounding_box()
    assert shelf is not None and talk is not None  # noqa: PT018
    assert shelf["y"] >= talk["y"] + talk["height"]
    for target in page.locator("button:visible").all():
        box = target.bounding_box()
        assert box is not None
        assert box["height"] >= 44, target.inner_text()
        assert box["width"] >= 40, target.inner_text()


def test_the_theme_follows_the_system_until_it_is_chosen(open_page: Open) -> None:
    """A page that is bright at night although it was told otherwise is closed."""
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


def test_an_answer_that_breaks_off_is_told_and_can_be_asked_again(open_page: Open, network: Network) -> None:
    """Half a reply that looks like a whole one misleads; one that is lost is typed again."""
    page = open_page(may_say="ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION|Failed to load resource")
    network.cut_after = 4
    say(page, "something for the kitchen")
    expect(page.get_by_role("alert")).to_contain_text("The answer broke off.")
    expect(page.get_by_role("log")).to_contain_text("something for the kitchen")
    network.cut_after = None
    page.get_by_role("button", name="Try again").click()
    settle(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator(".turn")).to_have_count(1)
    assert titles(page) == TITLES


def test_a_server_that_is_gone_is_told_and_can_be_asked_again(open_page: Open) -> None:
    """An error that is only in the console looks like a page that ignores people."""
    page = open_page(may_say="Failed to load resource|ERR_")
    page.context.set_offline(True)
    say(page, "something for the kitchen")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.get_by_role("button", name="Back to the message box").click()
    expect(words(page)).to_have_value("something for the kitchen")
    page.context.set_offline(False)
    words(page).press("Enter")
    settle(page)
    assert titles(page) == TITLES


def test_a_key_is_asked_for_and_kept_in_this_tab_alone(open_page: Open, tmp_path: Path) -> None:
    """A page that cannot be given a key cannot be used behind one; a key that outlives its tab is somebody else's."""
    with serving(shop(), tmp_path, keys=[KEY]) as address:
        page = open_page(address, may_say="401")
        page.get_by_label("Key", exact=True).fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="That key was not taken")).to_be_visible()
        page.keyboard.press("Escape")
        say_without = words(page)
        say_without.fill("something for the kitchen")
        say_without.press("Enter")
        page.get_by_label("Key", exact=True).fill(KEY)
        page.get_by_role("button", name="Use this key").click()
        settle(page)
        assert titles(page) == TITLES
        page.reload()
        say(page, "under 3.5")
        assert "Only price ≤ 3.5" in chips(page)
        assert KEY not in page.evaluate("JSON.stringify(localStorage) + document.cookie")


def test_a_busy_server_is_waited_for_and_it_is_said(open_page: Open, tmp_path: Path) -> None:
    """A page that hammers a busy server keeps it busy; one that waits in silence looks broken."""
    with serving(shop(), tmp_path, keys=[KEY], rate=0.5) as address:
        page = open_page(address, may_say="401|429")
        page.get_by_label("Key", exact=True).fill(KEY)
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_have_count(0)
        say(page, "something for the kitchen")
        words(page).fill("under 3.5")
        words(page).press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("The server is busy. It is asked again in")
        settle(page)
        assert "Only price ≤ 3.5" in chips(page)


def test_who_says_who_they_are_is_known_and_can_be_forgotten(open_page: Open, watched: Watched) -> None:
    """What a person likes is kept only where they said who they are, and no longer than they want."""
    page = open_page()
    say(page, "something for the kitchen")
    page.get_by_role("button", name="More like this, number 1").click()
    settle(page)
    assert "POST /v1/events" not in watched.asked
    page.get_by_role("button", name="Who am I: guest").click()
    page.get_by_label("User id").fill("u 17/<b>")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Who am I: u 17/<b>")).to_be_focused()
    with page.expect_response("**/v1/events") as told:
        page.get_by_role("button", name="More like this, number 2").click()
    assert told.value.ok
    settle(page)
    page.get_by_role("button", name="Who am I").click()
    page.get_by_role("button", name="Forget me").click()
    page.get_by_role("button", name="Keep it").click()
    assert not any(asked.startswith("DELETE") for asked in watched.asked)
    page.get_by_role("button", name="Who am I").click()
    page.get_by_role("button", name="Forget me").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Forget me").click()
    expect(page.get_by_role("status").filter(has_text="is removed")).to_be_visible()
    expect(page.get_by_role("button", name="Who am I: guest")).to_be_visible()
    assert titles(page) == []


def test_looking_at_an_item_is_no_event(open_page: Open, watched: Watched) -> None:
    """What counts as met is not recommended again: whoever asks "why?" would never see that item any more."""
    page = open_page()
    be(page, "curious")
    say(page, "something for the kitchen")
    page.get_by_role("log").get_by_role("link", name="Red Candle").click()
    page.get_by_role("button", name="Why? number 1").click()
    settle(page)
    assert "POST /v1/events" not in watched.asked


def test_an_event_on_its_way_does_not_undo_being_forgotten(open_page: Open, watched: Watched, network: Network) -> None:
    """What arrives after the removal is kept, and the page has said that nothing is."""
    page = open_page()
    be(page, "hasty")
    say(page, "something for the kitchen")
    held: list[Route] = []
    page.route("**/v1/events", lambda route: held.append(route))
    with page.expect_request("**/v1/events"):
        page.get_by_role("button", name="More like this, number 2").click()
    settle(page)
    page.get_by_role("button", name="Who am I").click()
    page.get_by_role("button", name="Forget me").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Forget me").click()
    expect(page.get_by_role("button", name="Who am I: guest")).to_be_visible()
    assert "DELETE /v1/users/hasty" not in watched.asked
    held[0].continue_()
    expect(page.get_by_role("status").filter(has_text="is removed")).to_be_visible()
    assert httpx.get(f"{network.address}/v1/users/hasty/history").json()["items"] == []


def be(page: Page, user: str) -> None:
    """Say who one is."""
    page.get_by_role("button", name="Who am I").click()
    page.get_by_label("User id").fill(user)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name=f"Who am I: {user}")).to_be_focused()
