"""The seam to whatever runs the model: a tree of tokens that grows behind a batch of prompts, and texts written behind.

Beam search, scoring a whole catalog and scoring candidates are one act: grow nodes, read log-probabilities there.
Writing a text is another: one token after the other, which an engine does by itself.

Letters: U prompts, M nodes grown in one call, Q nodes asked about, C children asked for, all nodes together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from genrec.backends.provenance import Provenance
from genrec.deadline import Deadline
from genrec.types import BoolArray, FloatArray, IntArray


class TokenTree(Protocol):
    """Nodes behind U prompts. Node u < U is the end of prompt u; grown nodes are numbered on from there."""

    @property
    def size(self) -> int:
        """How many nodes there are, the U prompt ends included; the number the next grown node gets."""
        ...

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Add M nodes over all prompts in one forward pass.

        A node sees its prompt and its ancestors only. A parent may be a node that stands earlier in the same call.

        Args:
            parents: int64 [M], existing node numbers, or those that earlier nodes of this call will get.
            tokens: int64 [M].

        Returns:
            int64 [M], the new node numbers: `size`, `size + 1`, ...

        Raises:
            EngineError: the model failed, or a path no longer fits its context.
            DeadlineExceededError: the tree's deadline has passed; the tree is as it was.
        """
        ...

    def log_probs(self, nodes: IntArray, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Log-probabilities of chosen next tokens, normalised over the full vocabulary.

        Args:
            nodes: int64 [Q].
            tokens: int64 [C]; those of node q are `tokens[offsets[q]:offsets[q + 1]]`.
            offsets: int64 [Q + 1].

        Returns:
            float64 [C], in nats.

        Raises:
            EngineError: the model failed.
            DeadlineExceededError: the tree's deadline has passed.
        """
        ...

    def rewind(self, size: int) -> None:
        """Forget every node from number `size` on; `size` is at least U. What they held is freed, or used again."""
        ...


class GenerationState(Protocol):
    """Where a text stands that is held to something; it moves."""

    def forced_tokens(self) -> Sequence[int]:
        """Tokens that follow in any case, so that no model need be asked for them; none where there is a choice."""
        ...

    def allowed_mask(self) -> BoolArray:
        """What may follow: bool [V], at least one token."""
        ...

    def advance(self, token_id: int) -> None:
        """Go on behind one more token.

        Raises:
            InputError: it may not follow here.
        """
        ...


class GenerationConstraint(Protocol):
    """What a text is held to, such as `genrec.decoding.grammar.GrammarConstraint`."""

    @property
    def engine_args(self) -> Mapping[str, Any]:
        """The same for engines that constrain by themselves.

        One of `{"json": a JSON Schema as text}`, `{"grammar": a grammar in llguidance's notation of Lark}`, and what
        `genrec.vllm_plugin.registry.EXTRA_ARG_KEYS` names, for an engine with genrec's plugin.

        Raises:
            EngineError: no engine can keep it by itself.
        """
        ...

    def start(self) -> GenerationState:
        """The state before the first token."""
        ...


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """A text that is to be written.

    Attributes:
        prompt: int64 [P], at least one token.
        stop_token_ids: each of these ends the text and is no part of it; at least one.
        max_tokens: tokens it may have, at least 1; prompt and text fit the context together.
        temperature: 0 takes the likeliest token each time, more of it draws.
        seed: of what is drawn: the same request draws the same on the same backend, whoever is asked beside it.
        constraint: what it is held to, of the same tokenizer; None for nothing.
    """

    prompt: IntArray
    stop_token_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    constraint: GenerationConstraint | None = None


@dataclass(frozen=True, eq=False)
class Completion:
    """What was written: int64 [T], and whether it ended by itself, or was cut short at `most`."""

    token_ids: IntArray
    stopped: bool


OnTokens = Callable[[int, Sequence[int]], None]
"""Told the number of a request, from 0, and the tokens that were written behind those that it was told of before."""


class Backend(Protocol):
    """A language model that reads token ids. It knows no catalog and no text.

    Attributes:
        name: which weights these are; results and caches carry it.
        vocab_size: token ids are below it.
        context_length: the context, prompt and answer together.
        token_bytes: what one token, of a prompt or of a node, takes at most while its tree is open: keys and values of
            all layers, and one hidden state. U prompts are held as U of the longest, and the nodes grown in one call
            as U times those of the prompt that grew most; a backend may hold a quarter more to grow into. An engine
            that keeps keys and values in a pool of fixed size, and computes again what no longer fits, counts none.
        provenance: what the adapter that it serves under was made of, where there is one that says so.
    """

    name: str
    vocab_size: int
    context_length: int
    token_bytes: int
    provenance: Provenance | None

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> TokenTree:
        """Compute U prompts once, in one batch, and open a tree behind them.

        Args:
            prompts: U arrays of token ids, int64.
            deadline: until when the caller waits, for this and for what the tree is asked; by default without end. It
                is looked at before each pass of the model. A model in this process is waited for until its pass is
                over; one that runs elsewhere is left at the deadline, and so is the queue before it. It goes on with
                what it was asked, and does not count as down for having been left.

        Raises:
            EngineError: the model failed, or a prompt is empty or longer than the context.
            DeadlineExceededError: the deadline has passed; `grow` and `log_probs` of the tree raise it too.
        """
        ...

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        deadline: Deadline | None = None,
        on_tokens: OnTokens | None = None,
    ) -> list[Completion]:
        """Write a text behind each prompt, all in one batch.

        Args:
            requests: what to write.
            deadline: as for `open`; until then all of it has to be written.
            on_tokens: told of tokens as they come, perhaps from another thread; all that it was told of a request is
                its text. What it raises ends the writing.

        Raises:
            EngineError: the model failed, or a request does not fit the context.
            DeadlineExceededError: the deadline has passed.
        """
        ...
