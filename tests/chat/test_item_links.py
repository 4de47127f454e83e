"""Item links round-trip, whatever titles and ids contain."""

from hypothesis import example, given
from hypothesis import strategies as st

from genrec.chat.item_links import ItemLink, escape_markdown, extract_item_ids, format_item_link, split_item_links
from genrec.prompting.template import one_line

NASTY = st.text(alphabet="[]()\\!#*_`<>&~|=%item\n\x00\u202e\u2067\u200fé日", max_size=12)
TEXTS = st.text(max_size=20) | NASTY
IDS = st.integers() | st.text(min_size=1, max_size=12) | NASTY.filter(bool)


def shown(item_id: object, title: str) -> str:
    """A title as a link shows it."""
    turning = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
    return one_line(title.translate(turning)) or one_line(str(item_id).translate(turning))


@given(IDS, TEXTS)
@example("a", "](#item=b)")
@example("a](#item=b)", "![x")
@example(17, "<b>\\")
def test_item_links_round_trip(item_id: str | int, title: str) -> None:
    """Otherwise a click on a title leads to another item, or to none."""
    text = format_item_link(item_id, title)
    assert extract_item_ids(text) == (str(item_id),)
    assert list(split_item_links(text)) == [ItemLink(str(item_id), shown(item_id, title))]
    assert "\n" not in text
    assert not any(char in text for char in "\u202e\u2067")


@given(st.lists(st.tuples(TEXTS, IDS, TEXTS), max_size=4), TEXTS)
def test_surrounding_text_neither_adds_nor_hides_item_links(parts: list[tuple[str, str | int, str]], end: str) -> None:
    """Otherwise generated or quoted text could name an item that was not recommended."""
    text = "".join(escape_markdown(before) + format_item_link(item_id, title) for before, item_id, title in parts)
    text += escape_markdown(end)
    assert extract_item_ids(text) == tuple(str(item_id) for _, item_id, _ in parts)
    plain = "".join(part if isinstance(part, str) else f"<{part.title}>" for part in split_item_links(text))
    assert plain == "".join(f"{before}<{shown(own, title)}>" for before, own, title in parts) + end


@given(st.text(alphabet="[]()\\!#*=item a1", max_size=40))
def test_only_markdown_links_are_item_links(text: str) -> None:
    """Unescaped text, as a client may send it back, names exactly the items of its links."""
    for item_id in extract_item_ids(text):
        assert f"](#item={item_id})" in text


def test_images_and_escaped_brackets_are_no_item_links() -> None:
    """They show no title to click on."""
    assert extract_item_ids("![a](#item=1) \\[b](#item=2) [c](#item=3) [d](#item=) [e](http://x#item=5)") == ("3", "")
    assert extract_item_ids("\\\\[a](#item=a%2Fb) [a\\]](#item=%C3%A9)") == ("a/b", "é")
