"""Tokenizers that encode spans of text, and never encode untrusted text to control tokens."""

import hashlib
import json
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tokenizers

from genrec.errors import ArtifactError, format_error
from genrec.notices import Notice
from genrec.prompting.chat_format import ChatFormat
from genrec.prompting.chat_template import ChatTemplate, ChatTemplateSettings, read_chat_template
from genrec.prompting.tokenizer_file import (
    FETCH_AGAIN,
    parse_tokenizer,
    read_tokenizer_config,
    read_tokenizer_json,
    special_tokens,
)
from genrec.prompting.word_prefix import (
    continuing_tokenizer,
    prefixes_first_word_only,
    with_first_word_prefix_only,
)
from genrec.types import IntArray, Message, Span


class Tokenizer(Protocol):
    """What genrec needs of a tokenizer.

    Attributes:
        fingerprint: identifies the vocabulary; an index works only with the tokenizer that it was built with.
        vocab_size: the number of token ids.
        eos_token_id: the control token that ends an answer.
        answer_end: what stands behind an answer, int64 [E]: usually `eos_token_id` alone, always with it at the end.
        control_token_ids: all control tokens; text is never encoded to one of them.
        chat_template_fingerprint: identifies the chat template with its arguments; "" for none.
        notices: what a user should know about the prompts, such as reasoning that is skipped.
    """

    fingerprint: str
    vocab_size: int
    eos_token_id: int
    answer_end: IntArray
    control_token_ids: tuple[int, ...]
    chat_template_fingerprint: str

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What a user should know about the prompts."""
        ...

    def encode_text(self, text: str) -> IntArray:
        """Encode untrusted text: int64 [T], never a control token."""
        ...

    def encode_answer(self, text: str) -> IntArray:
        """Encode the untrusted text of an answer as it stands behind a prompt: int64 [T], never a control token."""
        ...

    def encode_prompt(self, prompt: Sequence[Message]) -> IntArray:
        """Encode a prompt in the model's chat format, up to the first token of the answer: int64 [P]."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Decode token ids to text for display; never use it as a key."""
        ...

    def token_texts(self) -> list[str]:
        """What `decode` returns for each token id alone: `vocab_size` texts."""
        ...


@dataclass(frozen=True)
class _ControlToken:
    """A control token, and whether it takes the white space before and after it out of the text."""

    token_id: int
    strips_left: bool
    strips_right: bool


class HuggingFaceTokenizer:
    """A tokenizer from `tokenizer.json` and a chat template, which treats untrusted text as data only.

    Text is encoded without the added tokens of the file, so no text can become a control token. Control tokens come
    from a separate table, and only trusted spans can name them.

    Args:
        tokenizer_json: the text of `tokenizer.json`.
        chat_template: the Jinja source of the chat template; None for a base model.
        bos_token, eos_token: the tokens at the start and the end of a text.
        special_tokens: further variables of the chat template, such as `pad_token`.
        settings: how the chat template is rendered.

    Attributes:
        tokenizer_json: the text of `tokenizer.json`, for libraries that parse it themselves.
        notices: what a user should know about the chat template, such as reasoning that cannot be switched off, or
            arguments that it does not read.

    Raises:
        ArtifactError: the tokenizer is damaged, has no end token, or cannot separate text from control tokens; the
            chat template is not valid.
    """

    def __init__(
        self,
        tokenizer_json: str,
        *,
        chat_template: str | None,
        bos_token: str,
        eos_token: str,
        special_tokens: Mapping[str, str] | None = None,
        settings: ChatTemplateSettings | None = None,
    ) -> None:
        document = parse_tokenizer(tokenizer_json)
        added = document["added_tokens"]
        try:
            document.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
            self._text_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
            self._continuing_tokenizer = continuing_tokenizer(document) or self._text_tokenizer
            first_only = prefixes_first_word_only(document)
            self._inner_tokenizer = self._continuing_tokenizer if first_only else self._text_tokenizer
            self._control_tokens = {
                token["content"]: _ControlToken(int(token["id"]), bool(token.get("lstrip")), bool(token.get("rstrip")))
                for token in added
                if not self._is_text(token)
            }
        except ArtifactError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            problem = f"tokenizer.json is not as the package tokenizers writes it ({format_error(error)})"
            raise ArtifactError(problem, remedy=FETCH_AGAIN) from error
        control_token_ids = [token.token_id for token in self._control_tokens.values()]
        self.control_token_ids = tuple(sorted(control_token_ids))
        self.vocab_size = 1 + max([*control_token_ids, *self._text_tokenizer.get_vocab().values()])
        self._is_control = np.zeros(self.vocab_size, dtype=np.bool_)
        self._is_control[control_token_ids] = True
        settings = settings or ChatTemplateSettings()
        variables = {"bos_token": bos_token, "eos_token": eos_token, **(special_tokens or {})}
        template = None if chat_template is None else ChatTemplate(chat_template, variables, settings)
        self.chat_template_fingerprint = "" if template is None else template.fingerprint
        ignored = sorted(settings.arguments) if template is None else template.ignored_arguments
        self._ignored = [Notice("chat_template_arguments_ignored", {"names": ignored})] if ignored else []
        self._chat_format = ChatFormat(template, bos_token=bos_token)
        self.tokenizer_json = tokenizer_json
        self.eos_token_id = self._find_eos_token_id(eos_token)
        self._answer_layout, closing = self._find_answer_layout()
        self.answer_end = np.array([*closing, self.eos_token_id], dtype=np.int64)
        is_plain = self._answer_layout is _AnswerLayout.APART and not closing
        layout = "" if is_plain else f"{self._answer_layout.value} {closing}\n"
        self.fingerprint = hashlib.sha256(f"{layout}{self.eos_token_id}\n{tokenizer_json}".encode()).hexdigest()

    @classmethod
    def from_directory(
        cls, directory: str | Path, settings: ChatTemplateSettings | None = None
    ) -> "HuggingFaceTokenizer":
        """Read tokenizer.json, tokenizer_config.json and the chat template as Hugging Face saves them.

        Raises:
            ModelMissingError: there is only a tokenizer.model, and packages that convert it are not installed.
            ArtifactError: a file is missing or damaged, the tokenizer cannot separate text from control tokens, or
                several chat templates exist and none has the name that was asked for.
        """
        directory = Path(directory)
        try:
            tokenizer_json, config = read_tokenizer_json(directory), read_tokenizer_config(directory)
            template = read_chat_template(directory, config, None if settings is None else settings.name)
            tokens = special_tokens(config)
        except ArtifactError as error:
            raise error.revised(problem=f"no readable tokenizer in {directory}: {error.problem}") from error
        try:
            if config.get("legacy") is False and str(config.get("tokenizer_class")).startswith("LlamaTokenizer"):
                tokenizer_json = with_first_word_prefix_only(tokenizer_json)
            return cls(
                tokenizer_json,
                chat_template=template,
                bos_token=tokens.get("bos_token", ""),
                eos_token=tokens.get("eos_token", ""),
                special_tokens=tokens,
                settings=settings,
            )
        except ArtifactError as error:
            raise error.revised(problem=f"{directory}: {error.problem}") from error

    @cached_property
    def notices(self) -> tuple[Notice, ...]:
        """What a user should know about the chat template."""
        skipped = self._chat_format.skipped_generation_prompt()
        reasoning = [Notice("reasoning_skipped", {"generation_prompt": skipped})] if skipped else []
        return (*reasoning, *self._ignored)

    def encode_text(self, text: str) -> IntArray:
        """Encode untrusted text: int64 [T], never a control token."""
        return self._encode(self._text_tokenizer, text)

    def encode_answer(self, text: str) -> IntArray:
        """Encode the untrusted text of an answer as it stands behind a prompt: int64 [T], never a control token."""
        return self._encode_answer(self._answer_layout, text)

    def encode_spans(self, spans: Sequence[Span]) -> IntArray:
        """Encode adjacent spans: int64 [T], with control tokens only where a trusted span names them.

        Text between two control tokens is encoded in one piece across spans, as the model saw it in training.
        """
        token_ids: list[int] = []
        text, strips = "", False
        for span in spans:
            pieces = self._control_pattern.split(span.text) if span.trusted else [span.text]
            for piece in pieces:
                token = self._control_tokens.get(piece) if span.trusted else None
                if token is None:
                    text += piece.lstrip() if strips and not text else piece
                    continue
                token_ids += self._encode_segment(text.rstrip() if token.strips_left else text, not token_ids)
                token_ids.append(token.token_id)
                text, strips = "", token.strips_right
        token_ids += self._encode_segment(text, not token_ids)
        return np.asarray(token_ids, dtype=np.int64)

    def encode_prompt(self, prompt: Sequence[Message]) -> IntArray:
        """Encode a prompt in the model's chat format, up to the first token of the answer: int64 [P].

        If the last message is the assistant's, it is the beginning of the answer and stays open.

        Raises:
            ArtifactError: the chat template rejects the roles of the messages.
        """
        spans = self._chat_format.spans(prompt)
        if self._answer_layout.moves_spaces:
            spans = _without_trailing_spaces(spans)
        return self.encode_spans(spans)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Decode token ids to text for display; never use it as a key."""
        names = self._control_names
        pieces: list[str] = []
        plain: list[int] = []
        for token_id in map(int, token_ids):
            if token_id in names:
                pieces += [self._text_tokenizer.decode(plain), names[token_id]]
                plain = []
            else:
                plain.append(token_id)
        return "".join([*pieces, self._text_tokenizer.decode(plain)])

    def token_texts(self) -> list[str]:
        """What `decode` returns for each token id alone: `vocab_size` texts."""
        texts: list[str] = self._text_tokenizer.decode_batch([[token_id] for token_id in range(self.vocab_size)])
        for token_id, name in self._control_names.items():
            texts[token_id] = name
        return texts

    def _encode(self, tokenizer: tokenizers.Tokenizer, text: str) -> IntArray:
        token_ids = np.asarray(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)
        # The token for unknown characters may be a control token; drop it.
        return token_ids[~self._is_control[token_ids]]

    def _encode_segment(self, text: str, first: bool) -> list[int]:
        """Encode the text between two control tokens; some tokenizers write a space before the first text only."""
        token_ids: list[int] = self._encode(self._text_tokenizer if first else self._inner_tokenizer, text).tolist()
        return token_ids

    def _encode_answer(self, layout: "_AnswerLayout", text: str) -> IntArray:
        if layout is _AnswerLayout.CONTINUED:
            return self._encode(self._continuing_tokenizer, text)
        return self._encode(self._text_tokenizer, f" {text}" if layout is _AnswerLayout.SPACE_BEFORE else text)

    def _find_answer_layout(self) -> "tuple[_AnswerLayout, list[int]]":
        """Find how prompt, answer and end, encoded apart, have the tokens of all of them encoded together.

        Raises:
            ArtifactError: the chat template rejects a message of the user.

        Returns:
            The layout that does so for most answers (punctuation may join the end of a prompt), and the tokens that the
            chat template writes between an answer and its end token.
        """
        spans = self._chat_format.spans([Message("user", (Span("q", trusted=False),))])
        closing_text = self._control_pattern.split(self._text_after_answer())[0]
        together, closings = [], []
        for answer in _PROBE_ANSWERS:
            token_ids = self.encode_spans([*spans, Span(answer, trusted=False)]).tolist()
            closed = self.encode_spans([*spans, Span(answer + closing_text, trusted=False)]).tolist()
            together.append(token_ids)
            closings.append(closed[len(token_ids) :] if closed[: len(token_ids)] == token_ids else None)
        closing = closings[0] if closings[0] and all(other == closings[0] for other in closings) else []
        matches: dict[_AnswerLayout, int] = {}
        for layout in _AnswerLayout:
            prompt = self.encode_spans(_without_trailing_spaces(spans) if layout.moves_spaces else spans).tolist()
            apart = [[*prompt, *self._encode_answer(layout, answer).tolist()] for answer in _PROBE_ANSWERS]
            matches[layout] = sum(map(operator.eq, apart, together))
        return max(matches, key=matches.__getitem__), closing

    def _is_text(self, token: Mapping[str, Any]) -> bool:
        """Whether an added token, such as a run of line breaks, also encodes ordinary text."""
        if token["id"] not in self._text_tokenizer.encode(token["content"], add_special_tokens=False).ids:
            return False
        if token.get("special"):
            raise ArtifactError(
                f"this tokenizer encodes text to its control token {token['content']!r}, so a title could forge it; "
                "use a model with a byte-level tokenizer"
            )
        return True

    @cached_property
    def _control_names(self) -> dict[int, str]:
        return {token.token_id: content for content, token in self._control_tokens.items()}

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._control_tokens, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def _text_after_answer(self) -> str:
        try:
            return self._chat_format.text_after_answer()
        except ArtifactError:
            return ""  # some templates reject an answer at the end

    def _find_eos_token_id(self, eos_token: str) -> int:
        """The control token that the chat template writes after an answer; without one, the tokenizer's end token."""
        for piece in self._control_pattern.split(self._text_after_answer()):
            if piece in self._control_tokens:
                return self._control_tokens[piece].token_id
        if eos_token in self._control_tokens:
            return self._control_tokens[eos_token].token_id
        if eos_token:
            raise ArtifactError(
                f"the tokenizer has no end token: {eos_token!r}, the eos_token of tokenizer_config.json, is not one of "
                "the control tokens in tokenizer.json",
                remedy="use both files of one model, or set eos_token to a control token",
            )
        raise ArtifactError("the tokenizer has no end token; set eos_token in tokenizer_config.json")


class _AnswerLayout(Enum):
    """How an answer is encoded, apart from its prompt, to the tokens that it has behind it."""

    APART = "apart"  # as a text of its own
    CONTINUED = "continued"  # as text that is not the first of its document
    SPACE_DROPPED = "space dropped"  # as a text of its own, behind a prompt that loses its last spaces
    SPACE_BEFORE = "space before"  # with the space that the prompt ends with

    @property
    def moves_spaces(self) -> bool:
        """Whether the prompt is encoded without the spaces at its end."""
        return self in (_AnswerLayout.SPACE_DROPPED, _AnswerLayout.SPACE_BEFORE)


_PROBE_ANSWERS = ("Alien", "the matrix", "2001: A Space Odyssey (1968)", "(Untitled)", "\u00c9toile", "\u6620\u753b")


def _without_trailing_spaces(spans: Sequence[Span]) -> list[Span]:
    return [*spans[:-1], Span(spans[-1].text.rstrip(" "), spans[-1].trusted)] if spans else []
