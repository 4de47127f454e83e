"""Public test doubles: a model that is a seeded function of the prefix, and a tokenizer of bytes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrec.backends.base import Completion, GenerationRequest, OnTokens
from genrec.backends.generation import generate_with_tree
from genrec.backends.provenance import Provenance
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError
from genrec.types import FloatArray, IntArray, Message

_UInt64Array = NDArray[np.uint64]


class ByteTokenizer:
    """A token is a byte of UTF-8; one more token ends an answer, and one each opens a message of a role."""

    fingerprint = "bytes"
    vocab_size = 260
    eos_token_id = 256
    control_token_ids = (256, 257, 258, 259)

    def encode_text(self, text: str) -> IntArray:
        """The bytes of a text."""
        return np.frombuffer(text.encode("utf-8", errors="replace"), dtype=np.uint8).astype(np.int64)

    def encode_prompt(self, prompt: Sequence[Message]) -> IntArray:
        """Each message as its role's token and its bytes; an answer is always open at the end."""
        roles = {"system": 257, "user": 258, "assistant": 259}
        turns = prompt if prompt and prompt[-1].role == "assistant" else [*prompt, Message("assistant", ())]
        return np.concatenate([np.append(roles[turn.role], self.encode_text(turn.text)) for turn in turns])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text again, without control tokens."""
        return bytes(token for token in token_ids if token < 256).decode("utf-8", errors="replace")


class TableBackend:
    """A language model whose next-token distribution is a seeded function of every token before it.

    Args:
        vocab_size: token ids are below it.
        seed: another seed, another model.
        logit_std: standard deviation of the logits; 0 makes every token equally likely, and every score a tie.
        context_length: the context, prompt and answer together.
        fails: raise `EngineError` at every call to `open`, as a model that died does.
    """

    def __init__(
        self, vocab_size: int, *, seed: int = 0, logit_std: float = 2.0, context_length: int = 4096, fails: bool = False
    ) -> None:
        self.name = f"table-{vocab_size}-{seed}"
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.token_bytes = 16  # a node is its hash and its length
        self.provenance: Provenance | None = None
        self.seed = seed
        self.logit_std = logit_std
        self.fails = fails

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> "TableTree":
        """Open a tree behind U prompts."""
        deadline = deadline or Deadline.never()
        deadline.check()
        if self.fails:
            raise EngineError(f"{self.name} was told to fail")
        for number, prompt in enumerate(prompts):
            if not 0 < len(prompt) < self.context_length:
                raise EngineError(
                    f"prompt {number} has {len(prompt)} tokens; {self.name} takes 1 to {self.context_length - 1}"
                )
        return TableTree(self, prompts, deadline)

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        deadline: Deadline | None = None,
        on_tokens: OnTokens | None = None,
    ) -> list[Completion]:
        """Write a text behind each prompt."""
        return generate_with_tree(self, requests, deadline, on_tokens)


class TableTree:
    """A node is the hash of its path."""

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
        """How many nodes there are, prompt ends included."""
        return len(self._states)

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Add M nodes."""
        self._deadline.check()
        nodes = np.arange(self.size, self.size + len(parents))
        if (parents >= nodes).any() or (parents < 0).any():
            raise InputError("a node's parent must stand before it")
        states, lengths = [*self._states], [*self._lengths]
        for parent, token in zip(parents, tokens, strict=True):
            states.append(_mix_hash(np.array([states[parent]]), np.array([token]))[0])
            lengths.append(lengths[parent] + 1)
        if nodes.size and max(lengths[nodes[0] :]) > self._backend.context_length:
            raise EngineError(f"a path reaches {max(lengths)} tokens; the context is shorter")
        self._states, self._lengths = np.array(states, dtype=np.uint64), np.array(lengths, dtype=np.int64)
        return nodes

    def log_probs(self, nodes: IntArray, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Log-probabilities of chosen next tokens, normalised over the full vocabulary."""
        logits = self.logits(nodes)
        normaliser = np.log(np.exp(logits).sum(axis=1))
        owner = np.repeat(np.arange(len(nodes)), np.diff(offsets))
        result: FloatArray = logits[owner, tokens] - normaliser[owner]
        return result

    def logits(self, nodes: IntArray) -> FloatArray:
        """Of the tokens behind some nodes: float64 [Q, V]."""
        self._deadline.check()
        vocabulary = np.arange(self._backend.vocab_size)
        noise = _mix_hash(self._states[nodes][:, None], vocabulary[None, :]) >> np.uint64(11)
        return np.asarray(self._backend.logit_std * np.sqrt(12.0) * (noise / 2.0**53 - 0.5))

    def rewind(self, size: int) -> None:
        """Forget every node from number `size` on."""
        if size < self._num_prompts or size > self.size:
            raise InputError(f"cannot rewind to {size}: the tree has {self._num_prompts} prompts and {self.size} nodes")
        self._states, self._lengths = self._states[:size], self._lengths[:size]


def _mix_hash(states: _UInt64Array, tokens: IntArray) -> _UInt64Array:
    """One step of SplitMix64 (Steele et al., OOPSLA 2014) over a state and a token."""
    with np.errstate(over="ignore"):
        word = (states ^ (tokens.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03))) + np.uint64(0x9E3779B97F4A7C15)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: _UInt64Array = word ^ (word >> np.uint64(31))
    return mixed
