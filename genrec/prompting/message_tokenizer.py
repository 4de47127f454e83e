"""The tokenizer of a model whose own tokenizer is out of reach, such as a model behind an API.

Its tokens are the bytes of UTF-8 and one control token for each role. A prompt becomes token ids, as everywhere in
genrec, and `decode_messages` turns them back into the messages that an API takes. Messages are separated by control
tokens, which no text is encoded to, so a text cannot forge a message.

The server encodes the texts with the model's own tokenizer, and many servers read the names of control tokens in a text
as these tokens. So untrusted text gets a space into everything of the form of such a name.
"""

import json
import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from genrec.notices import Notice
from genrec.prompting.byte_level import byte_characters, byte_level_document, byte_level_step
from genrec.types import IntArray, Message, Role

_NUM_BYTES = 256
_END = 256
# <|name|> and DeepSeek's wide bars, the tags of Gemma, Llama 2, T5 and reasoning models, and Mistral's brackets.
_CONTROL_NAME = re.compile(
    r"<(?=[|\uff5c])|<(?=/?(?:s|bos|eos|pad|unk|mask|think|start_of_turn|end_of_turn|end_of_utterance)>)"
    r"|<(?=</?SYS>>)|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK)\])"
)
_ROLE_TOKENS: tuple[tuple[Role, int], ...] = (("system", 257), ("user", 258), ("assistant", 259))


class MessageTokenizer:
    """Encodes messages as bytes; see the module and `genrec.prompting.tokenizer.Tokenizer`.

    A token of the model is at least one byte in almost every vocabulary, so the number of these tokens is an upper
    bound of the number of the model's.
    """

    fingerprint = "messages as bytes, version 1"
    vocab_size = 260
    eos_token_id = _END
    control_token_ids: tuple[int, ...] = (_END, *(token for _, token in _ROLE_TOKENS))
    chat_template_fingerprint = ""
    notices: tuple[Notice, ...] = ()

    def __init__(self) -> None:
        self.answer_end: IntArray = np.array([_END], dtype=np.int64)

    def encode_text(self, text: str) -> IntArray:
        """The bytes of a text: int64 [T]; a lone surrogate becomes a question mark."""
        return np.frombuffer(text.encode("utf-8", errors="replace"), dtype=np.uint8).astype(np.int64)

    def encode_answer(self, text: str) -> IntArray:
        """The bytes of an answer: int64 [T]."""
        return self.encode_text(text)

    def encode_prompt(self, prompt: Sequence[Message]) -> IntArray:
        """Encode each message as the token of its role and its bytes: int64 [P].

        The last message is the assistant's: the beginning of the answer, usually empty.
        """
        roles = dict(_ROLE_TOKENS)
        turns = prompt if prompt and prompt[-1].role == "assistant" else [*prompt, Message("assistant", ())]
        return np.concatenate([np.append(roles[turn.role], self.encode_text(_safe_text(turn))) for turn in turns])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Decode token ids to text for display; a control token becomes its name."""
        names = {token: name for name, token in _control_names()}
        pieces: list[str] = []
        plain = bytearray()
        for token_id in map(int, token_ids):
            if token_id < _NUM_BYTES:
                plain.append(token_id)
            else:
                pieces += [plain.decode("utf-8", errors="replace"), names[token_id]]
                plain = bytearray()
        return "".join([*pieces, plain.decode("utf-8", errors="replace")])

    def token_texts(self) -> list[str]:
        """What `decode` returns for each token id alone: `vocab_size` texts."""
        return [self.decode([token_id]) for token_id in range(self.vocab_size)]

    @cached_property
    def tokenizer_json(self) -> str:
        """The same vocabulary in the format of `tokenizer.json`, for libraries that parse it themselves."""
        vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
        step = byte_level_step(use_regex=False)
        return json.dumps(byte_level_document(vocabulary, [], dict(_control_names()), pre_tokenizer=step, decoder=step))


def decode_messages(token_ids: Sequence[int]) -> list[tuple[Role, str]]:
    """The messages of a prompt that a `MessageTokenizer` encoded: role and text, in order.

    The last one is the assistant's, the beginning of the answer, if it is not empty.
    """
    roles = {token: role for role, token in _ROLE_TOKENS}
    turns: list[tuple[Role, bytearray]] = []
    for token_id in map(int, token_ids):
        if token_id in roles:
            turns.append((roles[token_id], bytearray()))
        elif token_id < _NUM_BYTES and turns:
            turns[-1][1].append(token_id)
    messages = [(role, text.decode("utf-8", errors="replace")) for role, text in turns]
    return messages[:-1] if messages and messages[-1] == ("assistant", "") else messages


def _safe_text(message: Message) -> str:
    """The text of a message, with the names of control tokens in untrusted spans broken."""
    return "".join(span.text if span.trusted else _CONTROL_NAME.sub(r"\g<0> ", span.text) for span in message.spans)


def _control_names() -> list[tuple[str, int]]:
    names = ((f"<|genrec {role}|>", token) for role, token in _ROLE_TOKENS)
    return [("<|genrec end|>", _END), *names]
