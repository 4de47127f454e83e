"""Background turns of chat clients are answered as what they are, and what users write is never taken for one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.serve.background_turns import recognize_background_turn, strip_documents

CHAT = "USER: a red lamp, under 9\nASSISTANT: How about: 1. [Red Lamp](#item=i1)\nUSER: cheaper"
SHEETS = {
    "title": "### Task:\nWrite a heading of a few words, with an emoji, for the chat below.\n### Output:\nJSON format: "
    '{{ "title": "your words" }}\n### Examples:\n- {{ "title": "🍪 Cookies" }}\n### Chat History:\n{}',
    "tags": '### Task:\nName the themes of the chat.\n\n### Output:\nJSON: {{ "tags": ["tag1", "tag2"] }}\n\n'
    "### Chat History:\n{}",
    "follow_ups": "### Task:\nWhat might come next?\n### Guidelines:\n- Short titles.\n### Output:\n"
    '{{ "follow_ups": ["Question 1?"] }}\n### Chat History:\n{}',
    "queries": '### Task:\nIs a search needed?\n### Guidelines:\n- Answer {{ "queries": ["query1"] }} or '
    '{{ "queries": [] }}.\n### Output:\n{{\n  "queries": ["query1", "query2"]\n}}\n\n### Chat History:\n{}\n',
    "text": '### Task:\nContinue the text in `<text>`.\n### **Output Rules**:\n- Only `{{ "text": "<more>" }}`.\n---\n'
    "### Context:\n{}\n<type>General</type>\n<text>a red</text>\n#### Output:\n",
    "prompt": '### Task:\nDescribe an image.\n### Output:\n{{\n    "prompt": "words"\n}}\n### Chat History:\n{}',
}
EXPECTED = {
    "title": "A red lamp, under 9",
    "tags": ["Recommendations"],
    "follow_ups": [],
    "queries": [],
    "text": "",
    "prompt": "",
}
PLAIN = {
    "a title in plain text": f"Give the chat a short title in its own language, nothing else.\n\nConversation:\n{CHAT}",
    "with other roles": "A title of at most 40 characters for a conversation that starts with:\nHuman: a red lamp, "
    "under 9\nAI: Here you are\n\nTitle:",
    "before an answer": "Provide a title for the conversation.\n\nConversation:\nUser: a red lamp, under 9",
    "of an old client": 'Please generate a title of five words.\n\nConvo:\n||>User:\n"a red lamp, under 9"\n'
    '||>Response:\n"Yes"\n\n||>Title:',
    "between markers": "---BEGIN USER MESSAGES---\na red lamp, under 9\n---END USER MESSAGES---\n\nA short title.",
    "a sheet without JSON": f"### Task:\nA title, please.\n### Chat History:\n<chat_history>\n{CHAT}\n</chat_history>",
    "a sheet about a note": "### Task:\nA title of 3-5 words, please.\n### Guidelines:\n- Short.\n### Content:\nlamps",
}
SAID = (
    "a red lamp, under 9",
    "a mug with the title of a book on it",
    'something like { "title": "Dune" }, but cheaper',
    "### Task lamp\nfor my desk",
    "# Lamps\nwith tags, please",
    "tags: garden, title: none, no emoji",
    "message: ```\na lamp\n```",
    "for the user: a lamp",
    "I am looking for: a mug\nno red ones",
)


@pytest.mark.parametrize("kind", SHEETS)
@pytest.mark.parametrize("tags", [True, False])
def test_task_sheets_are_answered_with_the_key_that_the_client_reads(kind: str, tags: bool) -> None:
    """A client that finds no JSON object with its key shows an error, or the reply as the title."""
    text = SHEETS[kind].format(f"<chat_history>\n{CHAT}\n</chat_history>" if tags else CHAT)
    turn = recognize_background_turn(text)
    assert turn is not None
    assert (turn.kind, json.loads(turn.reply)) == (kind, {kind: EXPECTED[kind]})


@pytest.mark.parametrize("text", PLAIN.values(), ids=PLAIN.keys())
def test_titles_in_plain_text_are_the_words_of_the_user(text: str) -> None:
    """Clients show the reply as it is."""
    turn = recognize_background_turn(text)
    assert turn is not None
    assert turn.kind == "title"
    assert turn.reply == ("A red lamp, under 9" if "under 9" in text else "Recommendations")
    assert recognize_background_turn("", system=text) is None


def test_emoji_turn_has_a_fenced_message() -> None:
    """The emoji of a message is asked for without a conversation."""
    turn = recognize_background_turn("Show the speaker's face as an emoji (e.g., 😊).\n\nMessage: ```a red lamp```")
    assert turn is not None
    assert (turn.kind, turn.reply) == ("emoji", "🙂")


def test_tool_selection_finds_no_tool() -> None:
    """The JSON example is in the system prompt, and the conversation in the message."""
    system = 'Available tools: []\nAnswer {\n  "tool_calls": []\n} if none matches.'
    turn = recognize_background_turn('Query: History:\nUSER: """a red lamp"""\nQuery: cheaper', system=system)
    assert turn is not None
    assert json.loads(turn.reply) == {"tool_calls": []}


def test_schema_of_the_request_names_what_is_asked_for() -> None:
    """Structured output: the answer must have every property of the schema."""
    properties = {"language": {"type": "string"}, "title": {"type": "string"}, "topics": {"type": "array"}, "x": True}
    schema = {"type": "json_schema", "json_schema": {"name": "t", "schema": {"properties": properties}}}
    turn = recognize_background_turn(f"Analyse this conversation.\n\n{CHAT}", response_format=schema)
    assert turn is not None
    assert turn.kind == "title"
    assert json.loads(turn.reply) == {"language": "", "title": "A red lamp, under 9", "topics": [], "x": ""}
    for wrong in (None, "json", {"json_schema": []}, {"json_schema": {"schema": {"properties": None}}}):
        assert recognize_background_turn(f"Analyse this conversation.\n\n{CHAT}", response_format=wrong) is None


@pytest.mark.parametrize("text", SAID)
def test_words_of_a_user_are_no_background_turn(text: str) -> None:
    """A user who writes of titles and tags must get a list."""
    assert recognize_background_turn(text) is None
    assert strip_documents(text) == text


@given(st.text(max_size=200), st.sampled_from(list(SHEETS)))
def test_whatever_a_conversation_holds_its_background_turn_is_recognised(said: str, kind: str) -> None:
    """The quoted conversation is data: it can hold tags, JSON and headings of its own."""
    text = SHEETS[kind].format(f"<chat_history>\nUSER: {said}\n</chat_history>")
    turn = recognize_background_turn(text)
    assert turn is not None
    assert turn.kind == kind
    assert list(json.loads(turn.reply)) == [kind]


@given(st.text(alphabet="#<>/{}\"':- \nabcUSERtitle_historychat`", max_size=300), st.text(max_size=20))
def test_every_text_is_read(text: str, system: str) -> None:
    """A message must not fail, whatever it holds."""
    turn: Any = recognize_background_turn(text, system=system)
    assert turn is None or isinstance(turn.reply, str)
    assert len(strip_documents(text)) <= len(text)


@pytest.mark.parametrize(
    "text",
    [
        "### Task:\nAnswer with the context.\n### Output:\nA clear response.\n<context>\n{}\n</context>\n\n"
        "<user_query>\na red lamp\n</user_query>",
        "### Task:\nAnswer with the context.\n### Guidelines:\n- Short.\n<context>\n{}\n</context>\na red lamp",
    ],
)
def test_question_about_documents_is_what_the_user_wrote(text: str) -> None:
    """Otherwise the instructions and the documents of the client become preferences."""
    for document in ("no candles, under 3", '{ "title": "Candles" }', f"<conversation>\n{CHAT}\n</conversation>", CHAT):
        message = text.format(document)
        assert recognize_background_turn(message) is None
        assert strip_documents(message) == "a red lamp"
