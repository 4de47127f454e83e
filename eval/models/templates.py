"""Real chat templates: whether a prompt and an answer have the tokens of the whole conversation in Transformers."""

import datetime
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jinja2

from eval.models.downloads import TEMPLATE_PACKAGES, fetch
from genrec.errors import ArtifactError
from genrec.prompting import ChatTemplateSettings, HuggingFaceTokenizer
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
# Whatever the templates write as markup; the tokenizer gets a control token for each.
_MARKUP = re.compile(
    r"<[|\uff5c][^<>|\uff5c\s'\"{}]+[|\uff5c]?>|<[^<>|\uff5c\s'\"{}]+[|\uff5c]>|\[/?[A-Z_]+\]|\[/?[a-z]+MASK\]|"
    r"</?(?:s|sop|think|seed:\w+|[a-z]+(?:_[a-z0-9]+)+)>|\]~!?b[\]\[]|\[e~\["
)
# Words as Llama 3, Qwen and most newer models split them: a line break behind markup stays one token before text.
_WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS = {"type": "Split", "pattern": {"Regex": _WORD_PATTERN}, "behavior": "Isolated", "invert": False}
_TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_SPECIAL = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@dataclass(frozen=True)
class TemplateRow:
    """How a template works with one conversation.

    Attributes:
        template: its source and name, such as "trl/qwen3".
        conversation: a key of `CONVERSATIONS`.
        verdict: a key of `VERDICTS`.
        notes: what was skipped, or the reason of a refusal.
    """

    template: str
    conversation: str
    verdict: Verdict
    notes: str = ""


class TemplateComparison:
    """Compares prompts with Transformers, over one vocabulary that has the markup of all templates.

    Args:
        base: a folder with a byte-level tokenizer.
        cache: where the templates are kept, see `fetch`.
    """

    def __init__(self, base: Path, cache: Path) -> None:
        self.sources = {
            f"{package}/{file.stem}": file.read_text(encoding="utf-8")
            for package in TEMPLATE_PACKAGES
            for file in sorted(fetch(package, cache).glob("*.jinja"))
        }
        document = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
        known = {token["content"] for token in document["added_tokens"]}
        markup = {found for source in self.sources.values() for found in _MARKUP.findall(source)} | {"<s>", "</s>"}
        size = len(document["model"]["vocab"])
        document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [_WORDS, _BYTES]}
        document["added_tokens"] += [
            {"id": size + number, "content": content, **_SPECIAL}
            for number, content in enumerate(sorted(markup - known))
        ]
        self._tokenizer_json = json.dumps(document)
        self._special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|im_end|>", "unk_token": "<|im_end|>"}
        # Transformers shows today's date.
        self._settings = ChatTemplateSettings(date=datetime.date.today())

    @cached_property
    def _reference(self) -> Any:
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=Tokenizer.from_str(self._tokenizer_json), padding_side="right", **self._special
        )

    def compare(self, template: str) -> Iterator[TemplateRow]:
        """One row for each conversation."""
        source = self.sources[template]
        try:
            tokenizer = HuggingFaceTokenizer(
                self._tokenizer_json,
                chat_template=source,
                bos_token=self._special["bos_token"],
                eos_token=self._special["eos_token"],
                special_tokens=self._special,
                settings=self._settings,
            )
        except ArtifactError as error:
            for name, turns in CONVERSATIONS.items():
                yield TemplateRow(template, name, self._judge_refusal(source, turns, error), str(error))
            return
        skipped = "".join(str(notice.fields["generation_prompt"]) for notice in tokenizer.notices)
        for name, turns in CONVERSATIONS.items():
            verdict, notes = self._compare(tokenizer, source, turns)
            yield TemplateRow(template, name, verdict, notes or (f"skips {skipped!r}" if skipped else ""))

    def _compare(self, tokenizer: HuggingFaceTokenizer, source: str, turns: Turns) -> tuple[Verdict, str]:
        messages = [Message(role, (Span(text, trusted=False),)) for role, text in turns]
        try:
            prompt = tokenizer.encode_prompt(messages).tolist()
        except ArtifactError as error:
            return self._judge_refusal(source, turns, error), str(error)
        ours = [*prompt, *tokenizer.encode_answer(ANSWER).tolist()]
        for verdict, candidate, options in _equivalent(turns):
            try:
                theirs = self._encode(source, [*candidate, ("assistant", ANSWER)], **options)
            except _TEMPLATE_ERRORS:
                continue
            if theirs[: len(ours)] == ours:
                return verdict, ""
        return self._judge_kept_system(source, turns, ours)

    def _judge_kept_system(self, source: str, turns: Turns, ours: list[int]) -> tuple[Verdict, str]:
        """Whether these are the tokens of a prompt without its answer, and then of the answer."""
        try:
            prompt = self._encode(source, turns, add_generation_prompt=True)
            shown = self._render(source, [*turns, ("assistant", ANSWER)])
        except _TEMPLATE_ERRORS as error:
            return "different", f"Transformers: {error}"
        dropped = turns[0][0] == "system" and turns[0][1] not in shown
        same = prompt == ours[: len(prompt)] or prompt[:-1] == ours[: len(prompt) - 1]
        return ("kept" if dropped and same else "different"), ""

    def _judge_refusal(self, source: str, turns: Turns, error: ArtifactError) -> Verdict:
        """Whether Transformers refuses each form of the conversation, too, and ours names the reason."""
        reasons = []
        for _, candidate, options in _equivalent(turns):
            try:
                self._render(source, [*candidate, ("assistant", ANSWER)], **options)
            except _TEMPLATE_ERRORS as theirs:
                reasons.append(str(theirs))
            else:
                return "different"
        return "refused" if any(reason in str(error) for reason in reasons) else "different"

    def _render(self, source: str, turns: Turns, *, in_parts: bool = False, **options: Any) -> str:
        text: str = self._reference.apply_chat_template(
            _as_messages(turns, in_parts), chat_template=source, tokenize=False, enable_thinking=False, **options
        )
        return text

    def _encode(self, source: str, turns: Turns, **options: Any) -> list[int]:
        text = self._render(source, turns, **options)
        if any(content not in text for role, content in turns if role != "system"):
            raise ValueError("the template does not show every message")
        token_ids: list[int] = self._reference(text, add_special_tokens=False)["input_ids"]
        return token_ids


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
