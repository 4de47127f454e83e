"""The interface to a language model: a token tree over a batch of prompts, and text generation.

Beam search and the scoring of a whole catalog or of candidates do the same: they grow nodes, and read log-probabilities
there. Generation is sequential, and the engine does it by itself.

Letters: U prompts, M nodes grown in one call, Q nodes queried, C next tokens queried over all these nodes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from genrec.backends.provenance import Provenance
from genrec.deadline import Deadline
from genrec.types import BoolArray, FloatArray, IntArray

DEFAULT_BATCH_SIZE = 8
"""Prompts to open together, for backends that are faster with a batch."""


class TokenTree(Protocol):
    """A tree of tokens over U prompts. Node u < U is the end of prompt u; grown nodes are numbered from U on."""

    @property
    def size(self) -> int:
        """The number of nodes, the U prompt ends included; the next node gets this number."""
        ...

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Add M nodes over all prompts in one forward pass.

        A node sees its prompt and its ancestors only. A parent may be an earlier node of the same call.

        Args:
            parents: int64 [M], numbers of existing nodes, or of earlier nodes of this call.
            tokens: int64 [M].

        Returns:
            int64 [M], the new node numbers: `size`, `size + 1`, ...

        Raises:
            EngineError: the model failed, or a path does not fit the context.
            InputError: a parent does not come before its child.
            DeadlineExceededError: the tree's deadline has passed; the tree is unchanged.
        """
        ...

    def log_probs(self, nodes: IntArray, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Read log-probabilities of chosen next tokens, normalised over the full vocabulary.

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
        """Remove every node from number `size` on, at least U; their memory is freed or reused.

        Raises:
            InputError: `size` is below U, or above the number of nodes.
        """
        ...


class GenerationState(Protocol):
    """The mutable state of a constraint while one text is generated."""

    def forced_tokens(self) -> Sequence[int]:
        """Tokens that must come next, which need no model; empty if there is a choice."""
        ...

    def allowed_mask(self) -> BoolArray:
        """Which tokens may come next: bool [V], at least one of them true."""
        ...

    def advance(self, token_id: int) -> None:
        """Move past one token.

        Raises:
            InputError: the token is not allowed here.
        """
        ...


class GenerationConstraint(Protocol):
    """A constraint on generated text, such as `genrec.decoding.grammar.GrammarConstraint`."""

    @property
    def engine_args(self) -> Mapping[str, Any]:
        """The constraint for engines that apply it by themselves.

        One of `{"json": a JSON Schema as text}`, `{"grammar": a grammar in llguidance's dialect of Lark}`, or, for an
        engine with genrec's plugin, a mapping with the keys `genrec.vllm_plugin.registry.EXTRA_ARG_KEYS`.

        Raises:
            EngineError: no engine can apply this constraint by itself.
        """
        ...

    def start(self) -> GenerationState:
        """A new state, before the first token."""
        ...


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """A request to generate one text.

    Attributes:
        prompt: int64 [P], at least one token.
        stop_token_ids: tokens that end the text and are not part of it; at least one.
        max_tokens: the maximum length of the text, at least 1; prompt and text must fit the context together.
        temperature: 0 for greedy decoding; above 0 tokens are sampled.
        seed: the seed of sampling: the same request gives the same text on the same backend, in any batch.
        constraint: a constraint for the same tokenizer; None for none.
    """

    prompt: IntArray
    stop_token_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    constraint: GenerationConstraint | None = None


@dataclass(frozen=True)
class TokenUsage:
    """What a model counted and charged for a text, with all attempts.

    Attributes:
        prompt_tokens, generated_tokens: counted by the model's own tokenizer.
        cost: in the currency of the prices; 0 without prices.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.prompt_tokens + other.prompt_tokens,
            self.generated_tokens + other.generated_tokens,
            self.cost + other.cost,
        )


@dataclass(frozen=True, eq=False)
class Completion:
    """A generated text.

    Attributes:
        token_ids: int64 [T], without the stop token.
        stopped: whether a stop token or the constraint ended the text; False if it was cut at `max_tokens`.
        usage: of a model that counts tokens with another tokenizer than that of `token_ids`; else None.
    """

    token_ids: IntArray
    stopped: bool
    usage: TokenUsage | None = None


OnTokens = Callable[[int, Sequence[int]], None]
"""A callback for streaming: the number of a request, from 0, and its new tokens."""


GenerationRequests = Sequence[GenerationRequest]
"""Requests that one call generates together."""


class TextBackend(Protocol):
    """A language model that generates text. It knows no catalog, and reads and writes token ids.

    Attributes:
        name: identifies the weights; results and caches record it.
        vocab_size: the number of token ids.
        context_length: the context, prompt and answer together, in tokens.
        batch_size: how many prompts to compute together by default.
    """

    name: str
    vocab_size: int
    context_length: int
    batch_size: int

    def generate(
        self, requests: GenerationRequests, *, deadline: Deadline | None = None, on_tokens: OnTokens | None = None
    ) -> list[Completion]:
        """Generate a text after each prompt, all in one batch.

        Args:
            requests: one for each text.
            deadline: as for `open`, for all texts together.
            on_tokens: called with new tokens as they are generated, possibly from another thread; the tokens of all its
                calls for a request are that request's text. An exception that it raises ends the generation.

        Returns:
            One completion for each request, in order.

        Raises:
            EngineError: the model failed, ignored a constraint, or a request does not fit the context.
            DeadlineExceededError: the deadline has passed.
        """
        ...


class Backend(TextBackend, Protocol):
    """A language model that scores and generates token ids. It knows no catalog and no text.

    Attributes:
        name: identifies the weights; results and caches record it.
        vocab_size: the number of token ids.
        context_length: the context, prompt and answer together, in tokens.
        token_bytes: the maximum memory of one token of an open tree: its keys and values in all layers, and one hidden
            state. Prompts count as U times the longest one, and the nodes of one call as U times those of the prompt
            with the most nodes; a backend may allocate a quarter more. An engine with a key-value cache of fixed size,
            which recomputes what was evicted, does not count it.
        batch_size: how many prompts to open together by default; 1 makes the rounding of a prompt's log-probabilities
            independent of other prompts.
        provenance: how the active adapter was trained; None without an adapter or if that is unknown.
    """

    name: str
    vocab_size: int
    context_length: int
    token_bytes: int
    batch_size: int
    provenance: Provenance | None

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> TokenTree:
        """Compute U prompts in one batch, and open a tree over them.

        Args:
            prompts: U arrays of token ids, int64.
            deadline: when the caller stops waiting, for this call and for all calls to the tree; by default never. It
                is checked before each pass of the model. A model in this process finishes its pass first. For a model
                in another process, the call returns at the deadline, also while it waits in the queue; the engine
                finishes its work, and does not count as down because of it.

        Returns:
            The tree, whose nodes are the U prompt ends.

        Raises:
            EngineError: the model failed, or a prompt is empty or does not fit the context.
            DeadlineExceededError: the deadline has passed; `grow` and `log_probs` of the tree raise it too.
        """
        ...
