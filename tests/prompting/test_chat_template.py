"""Laws of chat templates: prompts are what Transformers renders before the answer of a whole conversation."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from genrec.errors import ArtifactError, InputError
from genrec.notices import Notice
from genrec.prompting.chat_format import ChatFormat
from genrec.prompting.chat_template import ChatTemplate, ChatTemplateSettings, read_chat_template
from genrec.types import Message, Role, Span

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TURNS = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}BEFORE{% endif %}{{ m.content }}[end]\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
TEMPLATES = {
    "plain": TURNS.replace("BEFORE", ""),
    "an empty block of reasoning": TURNS.replace("BEFORE", "<think>\n\n</think>\n\n"),
    "reasoning that is opened by the generation prompt": TURNS.replace("BEFORE", "").replace(
        "[assistant]{% endif %}", "[assistant]<think>\n{% endif %}"
    ),
    "reasoning that can be switched off": TURNS.replace("BEFORE", "").replace(
        "[assistant]{% endif %}", "[assistant]{% if enable_thinking %}<think>{% endif %}{% endif %}"
    ),
    "a channel": TURNS.replace("BEFORE", "<channel>final<message>"),
    "a space before the answer": TURNS.replace("BEFORE", " "),
    "the date": "{{ strftime_now('%d %b %Y') }}" + TURNS.replace("BEFORE", ""),
    "the generation block": TURNS.replace(
        "BEFORE{% endif %}{{ m.content }}", "{% endif %}{% generation %}{{ m.content }}{% endgeneration %}"
    ),
    "JSON": "{{ {'a<b': 'é'} | tojson(indent=2) }}" + TURNS.replace("BEFORE", ""),
    "loop controls": TURNS.replace("BEFORE", "").replace(
        "{{ m.content }}", "{{ m.content }}{% if false %}{% break %}{% endif %}"
    ),
    "the system message with the last user": (
        "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[I]"
        "{{ system if loop.index0 >= (messages | length) - 3 else '' }}{{ m.content }}[/I]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "tools that are none": "{% if tools is not none %}TOOLS{% endif %}" + TURNS.replace("BEFORE", ""),
}
CONVERSATIONS: list[list[tuple[Role, str]]] = [
    [("user", "What is next?")],
    [("system", "You know films."), ("user", "What is next?")],
    [("user", "Hello"), ("assistant", "Good day."), ("user", "What is next?")],
]


def chat_format(source: str, settings: ChatTemplateSettings | None = None) -> ChatFormat:
    return ChatFormat(ChatTemplate(source, TOKENS, settings), bos_token="<s>")


def prompt(turns: list[tuple[Role, str]]) -> list[Message]:
    return [Message(role, (Span(text, trusted=False),)) for role, text in turns]


def text(source: str, turns: list[tuple[Role, str]]) -> str:
    return "".join(span.text for span in chat_format(source).spans(prompt(turns)))


@pytest.mark.parametrize("turns", CONVERSATIONS, ids=["user", "system", "three turns"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_what_transformers_renders_before_the_answer(
    name: str, turns: list[tuple[Role, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A title that is scored elsewhere, such as inside a block of reasoning, is scored by a model that never saw it."""
    from transformers.utils import chat_template_utils

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Fixed":
            return cls(2025, 1, 1)

    monkeypatch.setattr(chat_template_utils, "datetime", Fixed)
    answer = "The Matrix"
    messages = [{"role": role, "content": content} for role, content in [*turns, ("assistant", answer)]]
    rendered, _ = chat_template_utils.render_jinja_template(
        conversations=[messages],
        chat_template=TEMPLATES[name],
        add_generation_prompt=False,
        enable_thinking=False,
        **TOKENS,
    )
    before, _, after = rendered[0].rpartition(answer)
    assert text(TEMPLATES[name], turns) == before
    if len(turns) == 1:
        assert chat_format(TEMPLATES[name]).text_after_answer() == after


def test_reasoning_that_is_skipped_is_told() -> None:
    """A model that was trained to reason first ranks worse without it, and nothing else shows why."""
    skipped = {name: chat_format(source).skipped_generation_prompt() for name, source in TEMPLATES.items()}
    assert {name for name, opened in skipped.items() if opened} == {"reasoning that is opened by the generation prompt"}
    thinking = ChatTemplateSettings(arguments={"enable_thinking": True})
    source = TEMPLATES["reasoning that can be switched off"]
    assert chat_format(source, thinking).skipped_generation_prompt() == "<think>"
    assert "; choose a model that answers directly" in str(
        Notice("reasoning_skipped", {"generation_prompt": "<think>"})
    )


def test_a_system_message_that_disappears_with_an_answer_is_kept() -> None:
    """Mistral's template shows the system message only while the user has the last word."""
    source = (
        "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[I]"
        "{{ system if loop.last else '' }}{{ m.content }}[/I]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
    )
    assert text(source, [("system", "S."), ("user", "U?")]) == "[I]S.U?[/I] "


def test_several_system_messages_and_repeated_roles_are_joined() -> None:
    """Clients send them, and templates reject them."""
    strict = (
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('one system') }}"
        "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    assert text(strict, [("system", "a"), ("user", "b"), ("system", "c"), ("user", "d")]) == (
        "[system]a\n\nc[user]b[user]d[assistant]"
    )
    alternating = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
        "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    assert text(alternating, [("system", "a"), ("user", "b"), ("user", "c")]) == "[user]a\n\nb\n\nc[assistant]"


def test_content_in_parts_is_given_where_text_is_not_shown() -> None:
    """Templates of multimodal models read only lists of parts."""
    source = "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
    assert text(source, [("user", "b")]) == "[user]b[assistant]"


def test_templates_are_found_where_hugging_face_saves_them(tmp_path: Path) -> None:
    """There are five places, and a model without its template is prompted as a base model."""
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    assert read_chat_template(tmp_path, {}, None) is None
    assert read_chat_template(tmp_path, {"chat_template": "C"}, None) == "C"
    assert read_chat_template(tmp_path, {"chat_template": named}, None) == "D"
    assert read_chat_template(tmp_path, {"chat_template": named}, "tool_use") == "T"
    with pytest.raises(ArtifactError, match=r"no chat template 'rag' \(it has default, tool_use\)"):
        read_chat_template(tmp_path, {"chat_template": named}, "rag")
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "J"}), encoding="utf-8")
    assert read_chat_template(tmp_path, {"chat_template": named}, None) == "J"
    (tmp_path / "chat_template.jinja").write_text("F", encoding="utf-8")
    assert read_chat_template(tmp_path, {"chat_template": named}, None) == "F"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("R", encoding="utf-8")
    assert read_chat_template(tmp_path, {}, "rag") == "R"


def test_a_template_that_calls_itself_without_end_is_refused_like_any_other() -> None:
    """An error of another kind would end a recommender that could have answered without the model."""
    endless = "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}"
    with pytest.raises(ArtifactError, match="rejects the roles user"):
        text(endless, [("user", "What is next?")])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more than 100,000 steps"),
        (
            "{% for a in 'x' * 999 %}{% for b in 'x' * 999 if false %}{% endfor %}{% endfor %}",
            "more than 100,000 steps",
        ),
        ("{% macro m(n) %}{{ m(n - 1) ~ m(n - 1) if n }}{% endmacro %}{{ m(30) }}", "more than 100,000 steps"),
        ("{% for a in range(10 ** 15) %}{% endfor %}", "more than 100,000 steps"),
        ("{{ 'x' * 10 ** 12 }}", "more than 1,000,000 characters"),
        ("{{ 10 ** (10 ** 10) }}", "more than 1,000,000 characters, elements or bits"),
        (
            "{% set n = namespace(s='x') %}{% for a in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
            "1,000,000 char",
        ),
        (
            "{% set n = namespace(s=[1]) %}{% for a in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
            "1,000,000 char",
        ),
    ],
    ids=["ranges", "skipped turns", "macros", "numbers", "repeats", "powers", "texts", "lists"],
)
def test_a_template_without_end_ends(source: str, message: str) -> None:
    """Templates come with models of strangers; one of them must not hold a server or fill its memory."""
    with pytest.raises(ArtifactError, match=message) as raised:
        text(source, [("user", "What is next?")])
    assert "; correct the chat template" in str(raised.value)


def test_a_long_conversation_is_within_the_bounds() -> None:
    """Bounds are for templates without end, not for people who talk for a day."""
    turns = [(role, "word " * 50) for _ in range(500) for role in ("user", "assistant")]
    for source in TEMPLATES.values():
        assert text(source, [*turns, ("user", "What is next?")]).count("word") == 50_000


def test_an_argument_that_has_no_fingerprint_is_refused() -> None:
    """Caches and adapters record the arguments, in an order that keys of several types do not have."""
    with pytest.raises(InputError, match="chat template argument style is"):
        ChatTemplateSettings({"style": {1: "a", "b": 2}})
