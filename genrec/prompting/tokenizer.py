"""From spans of text to token ids, so that untrusted text can never become a control token."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import jinja2
import numpy as np
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment

from genrec.errors import ArtifactError
from genrec.types import IntArray, Message, Role, Span

_MAX_SCAFFOLDS = 256  # that are kept
_CONTENT_PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")


class Tokenizer(Protocol):
    """What genrec needs of a tokenizer.

    Attributes:
        fingerprint: identifies the vocabulary; an index built with one tokenizer serves no other.
        vocab_size: ids are below it.
        eos_token_id: the control token that closes an answer.
        control_token_ids: every control token; no text is written with them.
    """

    fingerprint: str
    vocab_size: int
    eos_token_id: int
    control_token_ids: tuple[int, ...]

    def encode_text(self, text: str) -> IntArray:
        """Token ids of untrusted text: never a control token."""
        ...

    def encode_prompt(self, prompt: Sequence[Message]) -> IntArray:
        """Token ids of a prompt in the model's chat format, ready for the answer's first token."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text for people to read; never a key."""
        ...


class HuggingFaceTokenizer:
    """A `tokenizer.json` with its chat template, held to the rule that text is data.

    Two encoders are made of the one file: a plain one without the added tokens, so that no text whatever can reach a
    control token, and the ids of the control tokens themselves, which only trusted spans may name.

    Attributes:
        tokenizer_json: the text of `tokenizer.json`, for libraries that read it themselves.
    """

    def __init__(self, tokenizer_json: str, *, chat_template: str | None, bos_token: str, eos_token: str) -> None:
        try:
            document = json.loads(tokenizer_json)
            added = document["added_tokens"]
            document.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
            self._text_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
            self._control_tokens = {token["content"]: int(token["id"]) for token in added if not self._is_text(token)}
        except ArtifactError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            raise ArtifactError(f"the tokenizer cannot be read: {error}; fetch the model again") from error
        self.control_token_ids = tuple(sorted(self._control_tokens.values()))
        self._chat_template = chat_template
        self._special_tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._scaffolds: dict[tuple[Role, ...], tuple[str, ...]] = {}
        self.tokenizer_json = tokenizer_json
        self.vocab_size = 1 + max([*self._control_tokens.values(), *self._text_tokenizer.get_vocab().values()])
        self.eos_token_id = self._find_eos_token_id(eos_token)
        self.fingerprint = hashlib.sha256(f"{self.eos_token_id}\n{tokenizer_json}".encode()).hexdigest()

    @classmethod
    def from_directory(cls, directory: str | Path) -> "HuggingFaceTokenizer":
        """Read tokenizer.json, tokenizer_config.json and chat_template.jinja as Hugging Face saves them.

        Raises:
            ArtifactError: a file is missing or unreadable, or the tokenizer cannot keep text and control apart.
        """
        directory = Path(directory)
        try:
            tokenizer_json = (directory / "tokenizer.json").read_text(encoding="utf-8")
            config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
            template_file = directory / "chat_template.jinja"
            template = template_file.read_text(encoding="utf-8") if template_file.is_file() else None
            begin, end = (
                token["content"] if isinstance(token, dict) else token or ""
                for token in (config.get("bos_token"), config.get("eos_token"))
            )
            template = template or config.get("chat_template")
        except (OSError, ValueError, LookupError, AttributeError) as error:
            raise ArtifactError(f"no readable tokenizer in {directory}: {error}; fetch the model again") from error
        return cls(tokenizer_json, chat_template=template, bos_token=begin, eos_token=end)

    def encode_text(self, text: str) -> IntArray:
        """Token ids of untrusted text: never a control token."""
        token_ids = np.asarray(self._text_tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)
        # What is left to drop is the token for unknown characters, where that is a control token.
        return token_ids[~np.isin(token_ids, self.control_token_ids)]

    def encode_spans(self, spans: Sequence[Span]) -> IntArray:
        """Token ids of spans side by side; control tokens only where a trusted span names them.

        Text between two control tokens is encoded as one piece, whatever its spans, as the model met it in training.
        """
        token_ids: list[int] = []
        text = ""
        for span in spans:
            parts = self._control_pattern.split(span.text) if span.trusted else [span.text]
            for part in parts:
                if span.trusted and part in self._control_tokens:
                    token_ids += [*self.encode_text(text).tolist(), self._control_tokens[part]]
                    text = ""
                else:
                    text += part
        token_ids += self.encode_text(text).tolist()
        return np.asarray(token_ids, dtype=np.int64)

    def encode_prompt(self, prompt: Sequence[Message]) -> IntArray:
        """Token ids of a prompt in the model's chat format, ready for the answer's first token.

        A last message of the assistant is the beginning of its answer and stays open.
        """
        return self.encode_spans(self.chat_spans(prompt))

    def chat_spans(self, prompt: Sequence[Message]) -> list[Span]:
        """The prompt as spans, with the model's own chat scaffolding as trusted ones."""
        opened = bool(prompt) and prompt[-1].role == "assistant"
        turns = prompt[:-1] if opened else prompt
        try:
            scaffold = self._scaffold(tuple(message.role for message in turns))
        except ArtifactError:
            if len(turns) < 2 or turns[0].role != "system":
                raise
            # Some chat formats know no system role: what it says then opens the first message of the user.
            both = (*turns[0].spans, Span("\n\n", trusted=True), *turns[1].spans)
            turns = [Message(turns[1].role, both), *turns[2:]]
            scaffold = self._scaffold(tuple(message.role for message in turns))
        spans = [Span(scaffold[0], trusted=True)]
        for message, after in zip(turns, scaffold[1:], strict=True):
            spans += [*message.spans, Span(after, trusted=True)]
        return [*spans, *prompt[-1].spans] if opened else spans

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text for people to read; never a key."""
        names = {token_id: token for token, token_id in self._control_tokens.items()}
        pieces: list[str] = []
        plain: list[int] = []
        for token_id in map(int, token_ids):
            if token_id in names:
                pieces += [self._text_tokenizer.decode(plain), names[token_id]]
                plain = []
            else:
                plain.append(token_id)
        return "".join([*pieces, self._text_tokenizer.decode(plain)])

    def _is_text(self, token: Mapping[str, Any]) -> bool:
        """Whether an added token, such as a run of line breaks, is one that ordinary text is written with."""
        if token["id"] not in self._text_tokenizer.encode(token["content"], add_special_tokens=False).ids:
            return False
        if token.get("special"):
            raise ArtifactError(
                f"this tokenizer writes its control token {token['content']!r} as ordinary text, so a title could "
                "forge it; use a model with a byte-level tokenizer"
            )
        return True

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._control_tokens, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def _scaffold(self, roles: tuple[Role, ...]) -> tuple[str, ...]:
        """What the chat template writes before, between and after the contents of these roles."""
        if roles not in self._scaffolds:
            if len(self._scaffolds) >= _MAX_SCAFFOLDS:
                self._scaffolds.clear()  # whoever may say which roles speak in turn may say many
            self._scaffolds[roles] = self._render_scaffold(roles)
        return self._scaffolds[roles]

    def _render_scaffold(self, roles: tuple[Role, ...], *, add_generation_prompt: bool = True) -> tuple[str, ...]:
        if self._chat_template is None:
            return (self._special_tokens["bos_token"], *("\n\n" for _ in roles))
        contents = [f"\ue000{number}\ue001" for number in range(len(roles))]
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _raise_exception
        try:
            text = environment.from_string(self._chat_template).render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._special_tokens
            )
        except jinja2.TemplateError as error:
            raise ArtifactError(
                f"the model's chat template refuses the roles {', '.join(roles)}: {error}; "
                "use a prompt template without that role"
            ) from error
        pieces = _CONTENT_PLACEHOLDER.split(text)
        if pieces[1::2] != [str(number) for number in range(len(roles))]:
            raise ArtifactError(
                f"the model's chat template does not show the messages {', '.join(roles)} once and in order; "
                "use a prompt template with other roles"
            )
        return tuple(pieces[::2])

    def _find_eos_token_id(self, eos_token: str) -> int:
        """The control token the chat template puts behind an answer; without one, the tokenizer's end token."""
        if self._chat_template is not None:
            after = self._render_scaffold(("user", "assistant"), add_generation_prompt=False)[-1]
            for part in self._control_pattern.split(after):
                if part in self._control_tokens:
                    return self._control_tokens[part]
        if eos_token in self._control_tokens:
            return self._control_tokens[eos_token]
        raise ArtifactError("the tokenizer names no end token; set eos_token in tokenizer_config.json")


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)
