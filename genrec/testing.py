"""Public test doubles: a language model that is a seeded function of the prefix, and a tokenizer of bytes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrec.backends.base import DEFAULT_BATCH_SIZE, Completion, GenerationRequests, OnTokens
from genrec.backends.generation import generate_with_tree
from genrec.backends.provenance import Provenance
from genrec.backends.tree_arrays import check_path_lengths, check_prompt_lengths, check_rewind, new_node_numbers
from genrec.deadline import Deadline
from genrec.errors import EngineError
from genrec.notices import Notice
from genrec.types import FloatArray, IntArray, Message

_UInt64Array = NDArray[np.uint64]


class ByteTokenizer:
    """A tokenizer whose tokens are bytes of UTF-8, one end token, and one token for each role."""

    fingerprint = "bytes"
    chat_template_fingerprint = ""
    vocab_size = 260
    eos_token_id = 256
    control_token_ids = (256, 257, 258, 259)
    notices: tuple[Notice, ...] = ()

    def __init__(self) -> None:
        self.answer_end: IntArray = np.array([self.eos_token_id])

    def encode_text(self, text: str) -> IntArray:
        """The bytes of a text, int64."""
        return np.frombuffer(text.encode("utf-8", errors="replace"), dtype=np.uint8).astype(np.int64)

    def encode_answer(self, text: str) -> IntArray:
        """The bytes of a text, int64."""
        return self.encode_text(text)

    def encode_prompt(self, prompt: Sequence[Message]) -> IntArray:
        """Each message as its role's token and its bytes; the answer's message is open at the end."""
        roles = {"system": 257, "user": 258, "assistant": 259}
        turns = prompt if prompt and prompt[-1].role == "assistant" else [*prompt, Message("assistant", ())]
        return np.concatenate([np.append(roles[turn.role], self.encode_text(turn.text)) for turn in turns])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the bytes; control tokens are skipped."""
        return bytes(token for token in token_ids if token < 256).decode("utf-8", errors="replace")

    def token_texts(self) -> list[str]:
        """The text of each token alone."""
        return [self.decode([token]) for token in range(self.vocab_size)]


class TableBackend:
    """A language model whose next-token distribution is a seeded function of every token before it.

    Args:
        vocab_size: the number of token ids.
        seed: each seed is another model.
        logit_std: the standard deviation of the logits; 0 makes all tokens equally likely, and all scores tie.
        context_length: the context, prompt and answer together, in tokens.
        fails: whether every call to `open` raises `EngineError`, as for a model that has died.
    """

    def __init__(
        self, vocab_size: int, *, seed: int = 0, logit_std: float = 2.0, context_length: int = 4096, fails: bool = False
    ) -> None:
        self.name = f"table-{vocab_size}-{seed}"
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.token_bytes = 16  # a node is its hash and its length
        self.batch_size = DEFAULT_BATCH_SIZE
        self.provenance: Provenance | None = None
        self.seed = seed
        self.logit_std = logit_std
        self.fails = fails

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> "TableTree":
        """Open a tree over U prompts."""
        deadline = deadline or Deadline.never()
        deadline.check()
        if self.fails:
            raise EngineError(f"{self.name} was created with fails=True")
        check_prompt_lengths(prompts, self.name, self.context_length)
        return TableTree(self, prompts, deadline)

    def generate(
        self, requests: GenerationRequests, *, deadline: Deadline | None = None, on_tokens: OnTokens | None = None
    ) -> list[Completion]:
        """Generate a text after each prompt."""
        return generate_with_tree(self, requests, deadline, on_tokens)


class TableTree:
    """A token tree whose nodes are hashes of their paths."""

    def __init__(self, backend: TableBackend, prompts: Sequence[IntArray], deadline: Deadline) -> None:
        self._backend, self._deadline = backend, deadline
        self._num_prompts = len(prompts)
        states = np.full(len(prompts), backend.seed, dtype=np.uint64)
        for number, prompt in enumerate(prompts):
            for token in prompt:
                states[number : number + 1] = _mix_hash(states[number : number + 1], np.array([token]))
        self._states = states
        self._lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)

    @property
    def size(self) -> int:
        """The number of nodes, prompt ends included."""
        return len(self._states)

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Add M nodes."""
        self._deadline.check()
        nodes = new_node_numbers(self.size, parents)
        states, lengths = [*self._states], [*self._lengths]
        for parent, token in zip(parents, tokens, strict=True):
            states.append(_mix_hash(np.array([states[parent]]), np.array([token]))[0])
            lengths.append(lengths[parent] + 1)
        check_path_lengths(np.array(lengths[self.size :], dtype=np.int64), self._backend.context_length)
        self._states, self._lengths = np.array(states, dtype=np.uint64), np.array(lengths, dtype=np.int64)
        return nodes

    def log_probs(self, nodes: IntArray, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Read log-probabilities of chosen next tokens, see `TokenTree.log_probs`."""
        logits = self.logits(nodes)
        normaliser = np.log(np.exp(logits).sum(axis=1))
        owner = np.repeat(np.arange(len(nodes)), np.diff(offsets))
        result: FloatArray = logits[owner, tokens] - normaliser[owner]
        return result

    def logits(self, nodes: IntArray) -> FloatArray:
        """Logits of the next tokens at Q nodes: float64 [Q, V]."""
        self._deadline.check()
        vocabulary = np.arange(self._backend.vocab_size)
        noise = _mix_hash(self._states[nodes][:, None], vocabulary[None, :]) >> np.uint64(11)
        return np.asarray(self._backend.logit_std * np.sqrt(12.0) * (noise / 2.0**53 - 0.5))

    def rewind(self, size: int) -> None:
        """Remove every node from number `size` on."""
        check_rewind(size, self._num_prompts, self.size)
        self._states, self._lengths = self._states[:size], self._lengths[:size]


def _mix_hash(states: _UInt64Array, tokens: IntArray) -> _UInt64Array:
    """One step of SplitMix64 (Steele et al., OOPSLA 2014) over a state and a token."""
    with np.errstate(over="ignore"):
        word = (states ^ (tokens.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03))) + np.uint64(0x9E3779B97F4A7C15)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: _UInt64Array = word ^ (word >> np.uint64(31))
    return mixed
