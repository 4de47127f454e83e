"""Tokenizers that encode spans of text, and never encode untrusted text to control tokens."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tokenizers

from genrec.errors import ArtifactError
from genrec.prompting.chat_format import ChatFormat
from genrec.types import IntArray, Message, Span


class Tokenizer(Protocol):
    """What genrec needs of a tokenizer.

    Attributes:
        fingerprint: identifies the vocabulary; an index works only with the tokenizer that it was built with.
        vocab_size: the number of token ids.
        eos_token_id: the control token that ends an answer.
        control_token_ids: all control tokens; text is never encoded to one of them.
    """

    fingerprint: str
    vocab_size: int
    eos_token_id: int
    control_token_ids: tuple[int, ...]

    def encode_text(self, text: str) -> IntArray:
        """Encode untrusted text: int64 [T], never a control token."""
        ...

    def encode_prompt(self, prompt: Sequence[Message]) -> IntArray:
        """Encode a prompt in the model's chat format, up to the first token of the answer: int64 [P]."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Decode token ids to text for display; never use it as a key."""
        ...


class HuggingFaceTokenizer:
    """A tokenizer from `tokenizer.json` and a chat template, which treats untrusted text as data only.

    Text is encoded without the added tokens of the file, so no text can become a control token. Control tokens come
    from a separate table, and only trusted spans can name them.

    Args:
        tokenizer_json: the text of `tokenizer.json`.
        chat_template: the Jinja source of the chat template; None for a base model.
        bos_token, eos_token: the tokens at the start and the end of a text.

    Attributes:
        tokenizer_json: the text of `tokenizer.json`, for libraries that parse it themselves.

    Raises:
        ArtifactError: the tokenizer is damaged, has no end token, or cannot separate text from control tokens.
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
            raise ArtifactError(f"cannot read the tokenizer: {error}; fetch the model again") from error
        self.control_token_ids = tuple(sorted(self._control_tokens.values()))
        self._chat_format = ChatFormat(chat_template, bos_token=bos_token, eos_token=eos_token)
        self.tokenizer_json = tokenizer_json
        self.vocab_size = 1 + max([*self._control_tokens.values(), *self._text_tokenizer.get_vocab().values()])
        self.eos_token_id = self._find_eos_token_id(eos_token)
        self.fingerprint = hashlib.sha256(f"{self.eos_token_id}\n{tokenizer_json}".encode()).hexdigest()

    @classmethod
    def from_directory(cls, directory: str | Path) -> "HuggingFaceTokenizer":
        """Read tokenizer.json, tokenizer_config.json and chat_template.jinja as Hugging Face saves them.

        Raises:
            ArtifactError: a file is missing or damaged, or the tokenizer cannot separate text from control tokens.
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
        """Encode untrusted text: int64 [T], never a control token."""
        token_ids = np.asarray(self._text_tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)
        # The token for unknown characters may be a control token; drop it.
        return token_ids[~np.isin(token_ids, self.control_token_ids)]

    def encode_spans(self, spans: Sequence[Span]) -> IntArray:
        """Encode adjacent spans: int64 [T], with control tokens only where a trusted span names them.

        Text between two control tokens is encoded in one piece across spans, as the model saw it in training.
        """
        token_ids: list[int] = []
        text = ""
        for span in spans:
            pieces = self._control_pattern.split(span.text) if span.trusted else [span.text]
            for piece in pieces:
                if span.trusted and piece in self._control_tokens:
                    token_ids += [*self.encode_text(text).tolist(), self._control_tokens[piece]]
                    text = ""
                else:
                    text += piece
        token_ids += self.encode_text(text).tolist()
        return np.asarray(token_ids, dtype=np.int64)

    def encode_prompt(self, prompt: Sequence[Message]) -> IntArray:
        """Encode a prompt in the model's chat format, up to the first token of the answer: int64 [P].

        If the last message is the assistant's, it is the beginning of the answer and stays open.

        Raises:
            ArtifactError: the chat template rejects the roles of the messages.
        """
        return self.encode_spans(self._chat_format.spans(prompt))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Decode token ids to text for display; never use it as a key."""
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
    def _control_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._control_tokens, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def _find_eos_token_id(self, eos_token: str) -> int:
        """The control token that the chat template writes after an answer; without one, the tokenizer's end token."""
        for piece in self._control_pattern.split(self._chat_format.text_after_answer()):
            if piece in self._control_tokens:
                return self._control_tokens[piece]
        if eos_token in self._control_tokens:
            return self._control_tokens[eos_token]
        raise ArtifactError("the tokenizer has no end token; set eos_token in tokenizer_config.json")
