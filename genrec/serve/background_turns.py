"""Background turns of chat clients: requests for a title, tags or follow-up questions of a conversation.

Clients send them to the same route as the messages of the user, usually as one user message. They are recognised by
what all of them have, not by their wording, which administrators can change:

- a quoted conversation: a block in tags, lines that begin with a role, or lines between two markers; or a sheet of
  headings that begins with "### Task";
- what to return: a key of a JSON Schema or of a JSON example, which the client reads from the answer; for answers in
  plain text, a noun in the instructions.

Sources: the prompt templates of Open WebUI (`backend/open_webui/config.py`), LibreChat (`@librechat/agents`,
`utils/title`) and Goose.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from types import MappingProxyType
from typing import Any

from genrec.chat.item_links import split_item_links
from genrec.prompting.template import one_line

_NO_CONVERSATION = "Recommendations"  # the title of a conversation without words, and the tag of every one
_ANSWERS: Mapping[str, Any] = MappingProxyType(
    {
        "title": _NO_CONVERSATION,
        "tags": [_NO_CONVERSATION],
        "follow_ups": [],
        "queries": [],
        "tool_calls": [],
        "emoji": "🙂",
        "text": "",
        "prompt": "",
    }
)
"""The keys that clients read from answers, each with its value; a title is made from the conversation."""

_NOUNS = (
    ("title", re.compile(r"\btitle\b", re.IGNORECASE)),
    ("follow_ups", re.compile(r"\bfollow[- ]?ups?\b", re.IGNORECASE)),
    ("tags", re.compile(r"\btags?\b", re.IGNORECASE)),
    ("emoji", re.compile(r"\bemojis?\b", re.IGNORECASE)),
    ("queries", re.compile(r"\bsearch quer(?:y|ies)\b", re.IGNORECASE)),
)
_QUOTE_TAGS = ("chat_history", "conversation", "history", "messages", "transcript")
_JSON_KEY = re.compile(r"[{,]\s*[\"'](\w{1,40})[\"']\s*:")
_HEADING = re.compile(r"^#{1,6}[ \t*]*(\w+)", re.MULTILINE)
_ROLE_LINE = re.compile(r"^[ \t]*(?:\|\|>)?(user|human|assistant|ai|response)[ \t]*:", re.IGNORECASE | re.MULTILINE)
_USER_ROLES = ("user", "human")
_MARKER = re.compile(r"^-{2,} ?(BEGIN|END)\b[^\n]{0,40}-{2,}[ \t]*$", re.MULTILINE)
_FENCED_MESSAGE = re.compile(r"\bmessage: ?(`{3}|\"{3})", re.IGNORECASE)
_TITLE_WORDS, _TITLE_LENGTH = 6, 60
_TITLE_SOURCE = 1000  # characters that a title is made from


@dataclass(frozen=True)
class BackgroundTurn:
    """A background turn.

    Attributes:
        kind: what the client asks for, such as "title"; a key of the JSON object that it reads.
        reply: the answer.
    """

    kind: str
    reply: str


def recognize_background_turn(text: str, *, system: str = "", response_format: Any = None) -> BackgroundTurn | None:
    """The background turn that a message is; None if the user has written it.

    Args:
        text: the message.
        system: the system prompt.
        response_format: OpenAI's parameter, as the client sent it.
    """
    instructions, conversation = _split_quote(text)
    is_sheet = _is_task_sheet(instructions)
    if "<context>" in instructions or (conversation is None and not is_sheet):  # a question about documents, or none
        return None
    title = _make_title(conversation or "")
    properties = _schema_properties(response_format)
    if (kind := next((name for name in properties if name in _ANSWERS), None)) is not None:
        return BackgroundTurn(kind, _to_json(_fill(properties, title)))
    keys = _JSON_KEY.findall(f"{instructions}\n{system}")
    if (kind := next((key for key in keys if key in _ANSWERS), None)) is not None:
        return BackgroundTurn(kind, _to_json({kind: _answer(kind, title)}))
    asked = _task_of(instructions) if is_sheet else f"{instructions}\n{system}"
    if (kind := next((name for name, noun in _NOUNS if noun.search(asked)), None)) is None:
        return None
    answer = _answer(kind, title)
    return BackgroundTurn(kind, answer if isinstance(answer, str) else ", ".join(answer))


def strip_documents(text: str) -> str:
    """What the user has written in a message to which the client has added documents; other messages as they are.

    Open WebUI puts a task sheet with the documents in `<context>` before the message, or around it.
    """
    end = text.rfind("</context>")
    if end < 0 or not _is_task_sheet(text):
        return text
    rest = text[end + len("</context>") :].strip()
    return rest.removeprefix("<user_query>").removesuffix("</user_query>").strip()


def _is_task_sheet(text: str) -> bool:
    headings = _HEADING.finditer(text.lstrip())
    first = next(headings, None)
    return first is not None and first.start() == 0 and first[1].lower() == "task" and next(headings, None) is not None


def _task_of(sheet: str) -> str:
    """The text below the first heading."""
    sheet = sheet.lstrip()
    return sheet[: [heading.start() for heading in _HEADING.finditer(sheet)][1]]


def _split_quote(text: str) -> tuple[str, str | None]:
    """A message without the conversation that it quotes, and this conversation; None if it quotes none."""
    lowered = text.lower()
    for tag in _QUOTE_TAGS:
        start, end = lowered.find(f"<{tag}>"), lowered.rfind(f"</{tag}>")
        if 0 <= start < end:
            return text[:start] + text[end:], text[start + len(tag) + 2 : end]
    markers = list(_MARKER.finditer(text))
    if len(markers) > 1 and (markers[0][1], markers[-1][1]) == ("BEGIN", "END"):
        return text[: markers[0].start()] + text[markers[-1].end() :], text[markers[0].end() : markers[-1].start()]
    if (fenced := _FENCED_MESSAGE.search(text)) and (end := text.rfind(fenced[1])) > fenced.start(1):
        return text[: fenced.start()] + text[end:], text[fenced.end() : end]
    lines = list(_ROLE_LINE.finditer(text))
    roles = {line[1].lower() in _USER_ROLES for line in lines}
    if lines and (roles == {True, False} or text[: lines[0].start()].rstrip().endswith(":")):
        return text[: lines[0].start()], text[lines[0].start() :]
    return text, None


def _make_title(conversation: str) -> str:
    """A title from the first words of the user in a quoted conversation."""
    lines = list(_ROLE_LINE.finditer(conversation))
    said = conversation
    for line, following in zip_longest(lines, lines[1:]):
        if line[1].lower() in _USER_ROLES:
            said = conversation[line.end() : following.start() if following else None]
            break
    pieces = (piece if isinstance(piece, str) else piece.title for piece in split_item_links(said[:_TITLE_SOURCE]))
    words = one_line("".join(pieces)).strip("\"'`. ").split()[:_TITLE_WORDS]
    title = " ".join(words)[:_TITLE_LENGTH].strip(" ,;:")
    return title[:1].upper() + title[1:] or _NO_CONVERSATION


def _answer(kind: str, title: str) -> Any:
    return title if kind == "title" else _ANSWERS[kind]


def _schema_properties(response_format: Any) -> Mapping[str, Any]:
    """The properties of the JSON Schema that the client wants the answer in; none if it wants none."""
    properties = response_format
    for name in ("json_schema", "schema", "properties"):
        properties = properties.get(name) if isinstance(properties, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def _fill(properties: Mapping[str, Any], title: str) -> dict[str, Any]:
    """A value for each property of a schema: the answer where there is one, otherwise an empty value of its type."""
    empty: dict[str, Any] = {"array": [], "object": {}, "number": 0, "integer": 0, "boolean": False}
    types = {name: value.get("type") if isinstance(value, Mapping) else None for name, value in properties.items()}
    filled = {name: empty.get(kind, "") if isinstance(kind, str) else "" for name, kind in types.items()}
    return filled | {name: _answer(name, title) for name in filled.keys() & _ANSWERS.keys()}


def _to_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
