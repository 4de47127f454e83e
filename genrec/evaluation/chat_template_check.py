"""Whether a prompt and an answer have the tokens of the whole conversation in Transformers."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jinja2

from genrec.errors import ArtifactError
from genrec.prompting.chat_template import ChatTemplateSettings
from genrec.prompting.tokenizer import HuggingFaceTokenizer, Tokenizer
from genrec.types import Message, Role, Span

Verdict = Literal["equal", "parts", "lists", "joined", "kept", "refused", "different"]
Turns = Sequence[tuple[Role, str]]

VERDICTS: dict[Verdict, str] = {
    "equal": "tokens of Transformers' own rendering of the whole conversation",
    "parts": "the same, with content as a list of parts, because the template shows no text",
    "lists": "the same, with an empty list of tools, because the template fails without one",
    "joined": "the same, with neighbouring messages joined, because the template rejects the roles",
    "kept": "the system message, which the template drops once there is an answer, stays",
    "refused": "an error with the template's own reason",
    "different": "other tokens, or a wrong reason",
}
ANSWER = "The Matrix (1999)"
CONVERSATIONS: dict[str, Turns] = {
    "user": (("user", "Bought: Alien; Blade Runner.\nWhat is next?"),),
    "system": (("system", "You know films."), ("user", "Bought: Alien; Blade Runner.\nWhat is next?")),
    "turns": (("user", "Hello, 2 films?"), ("assistant", "Good day."), ("user", "What is next?")),
}
_TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError)


class ChatTemplateCheck:
    """Compares the prompts of a tokenizer with those of Transformers.

    Args:
        reference: a tokenizer of Transformers, with the same vocabulary.
        source: the chat template; None for the reference's own.
        arguments: variables of the template; reasoning is switched off unless they say otherwise.
    """

    def __init__(
        self, reference: Any, source: str | None = None, arguments: Mapping[str, object] | None = None
    ) -> None:
        self._reference, self._source = reference, source
        self._arguments = {"enable_thinking": False, **(arguments or {})}

    def compare(self, tokenizer: Tokenizer, turns: Turns) -> tuple[Verdict, str]:
        """Compare one conversation.

        Args:
            tokenizer: renders with today's date, because Transformers shows it.
            turns: the messages, each with its role.

        Returns:
            A key of `VERDICTS`, and the reason of a refusal.
        """
        messages = [Message(role, (Span(text, trusted=False),)) for role, text in turns]
        try:
            prompt = tokenizer.encode_prompt(messages).tolist()
        except ArtifactError as error:
            return self.judge_refusal(turns, error), str(error)
        ours = [*prompt, *tokenizer.encode_answer(ANSWER).tolist()]
        for verdict, candidate, options in _equivalent(turns):
            try:
                theirs = self._encode([*candidate, ("assistant", ANSWER)], **options)
            except _TEMPLATE_ERRORS:
                continue
            if theirs[: len(ours)] == ours:
                return verdict, ""
        return self._judge_kept_system(turns, ours)

    def judge_refusal(self, turns: Turns, error: ArtifactError) -> Verdict:
        """Whether Transformers refuses each form of the conversation, too, and ours names the reason."""
        reasons = []
        for _, candidate, options in _equivalent(turns):
            try:
                self._render([*candidate, ("assistant", ANSWER)], **options)
            except _TEMPLATE_ERRORS as theirs:
                reasons.append(str(theirs))
            else:
                return "different"
        return "refused" if any(reason in str(error) for reason in reasons) else "different"

    def _judge_kept_system(self, turns: Turns, ours: list[int]) -> tuple[Verdict, str]:
        """Whether these are the tokens of a prompt without its answer, and then of the answer."""
        try:
            prompt = self._encode(turns, add_generation_prompt=True)
            shown = self._render([*turns, ("assistant", ANSWER)])
        except _TEMPLATE_ERRORS as error:
            return "different", f"Transformers: {error}"
        dropped = turns[0][0] == "system" and turns[0][1] not in shown
        same = prompt == ours[: len(prompt)] or prompt[:-1] == ours[: len(prompt) - 1]
        return ("kept" if dropped and same else "different"), ""

    def _render(self, turns: Turns, *, in_parts: bool = False, **options: Any) -> str:
        text: str = self._reference.apply_chat_template(
            _as_messages(turns, in_parts), chat_template=self._source, tokenize=False, **self._arguments, **options
        )
        return text

    def _encode(self, turns: Turns, **options: Any) -> list[int]:
        text = self._render(turns, **options)
        if any(content not in text for role, content in turns if role != "system"):
            raise ValueError("the template does not show every message")
        token_ids: list[int] = self._reference(text, add_special_tokens=False)["input_ids"]
        return token_ids


def compare_rendering(
    folder: Path, tokenizer: HuggingFaceTokenizer, settings: ChatTemplateSettings, *, today: datetime.date
) -> Verdict | None:
    """The worst verdict over `CONVERSATIONS` for a model's own tokenizer in Transformers.

    Args:
        folder: the model.
        tokenizer: made from it with the settings.
        settings: how the chat template is rendered.
        today: the date that Transformers shows.

    Returns:
        A key of `VERDICTS`; None without a chat template, or if Transformers cannot load the tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        # Never asks for permission to run code of the model; False refuses it.
        reference = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        template = reference.get_chat_template(settings.name) if reference.chat_template else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError):
        return None
    if template is None:
        return None
    if "strftime_now" in template:
        tokenizer = HuggingFaceTokenizer.from_directory(folder, replace(settings, date=today))
    check = ChatTemplateCheck(reference, template, settings.arguments)
    verdicts = [check.compare(tokenizer, turns)[0] for turns in CONVERSATIONS.values()]
    return max(verdicts, key=list(VERDICTS).index)


def _equivalent(turns: Turns) -> Iterator[tuple[Verdict, Turns, dict[str, Any]]]:
    """The conversation, with content in parts, with lists, and with the system message before the user's."""
    yield "equal", turns, {}
    yield "parts", turns, {"in_parts": True}
    yield "lists", turns, {"tools": [], "documents": []}
    if turns[0][0] == "system":
        joined: Turns = (("user", f"{turns[0][1]}\n\n{turns[1][1]}"), *turns[2:])
        yield "joined", joined, {}
        yield "joined", joined, {"in_parts": True}


def _as_messages(turns: Turns, in_parts: bool) -> list[dict[str, Any]]:
    return [{"role": role, "content": [{"type": "text", "text": text}] if in_parts else text} for role, text in turns]
