"""The value types of genrec: items, interactions, histories, prompts, rankings and recommendations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from genrec.notices import Notice

ItemId = str | int
UserId = str | int
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Item:
    """An item that can be recommended. `title` is untrusted text; `attributes` holds every other column."""

    item_id: ItemId
    title: str
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Interaction:
    """One event of a user with an item. `timestamp` orders the history; if it is a time, in seconds."""

    user_id: UserId
    item_id: ItemId
    timestamp: float
    event: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class History:
    """The input of a recommendation: past items, and optionally a query.

    Attributes:
        item_ids: items the user interacted with, oldest first; may be empty.
        words: the user's own description of what they look for, untrusted text; may be empty.
        user_id: the caller's id, returned with every recommendation; None for an unknown user.
    """

    item_ids: tuple[ItemId, ...] = ()
    words: str = ""
    user_id: UserId | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of prompt text. Only a trusted span, written by the operator, may contain control tokens."""

    text: str
    trusted: bool


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt: its role and the spans of its text."""

    role: Role
    spans: tuple[Span, ...]

    @property
    def text(self) -> str:
        """The joined spans, for display only; never use it as a key, and never encode it."""
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True, slots=True)
class Ranking:
    """A ranker's result for one request: item indices, best first.

    Attributes:
        item_indices: int64 [k], distinct, ties in catalog order.
        scores: float64 [k], in descending order; comparable only within this ranking.
        proven: no other allowed item scores higher under the ranker's stated score.
        num_scored: number of allowed items that were scored in full; a proof excludes the others by bounds.
        notices: notices for the caller, such as a history truncated to fit the context.
        generated_tokens: tokens that the model computed for this ranking, without the prompt.
        forward_passes: number of forward passes of the model; shared with the other requests of the batch.
        prompt_tokens: tokens of the prompt.
        main_signals: for a ranker that combines several signals, the one that contributed most to each of the k
            items; else ().
        cost: of a model that is charged by the token, in the currency of its prices; else 0.
    """

    item_indices: IntArray
    scores: FloatArray
    proven: bool
    num_scored: int
    notices: tuple[Notice, ...] = ()
    generated_tokens: int = 0
    forward_passes: int = 0
    prompt_tokens: int = 0
    main_signals: tuple[str, ...] = ()
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Driver:
    """A history item that contributed to a recommendation.

    `drop` is how far the score falls without it; infinite if the ranker cannot score the recommended item without it.
    """

    item_id: ItemId
    title: str
    drop: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item.

    Attributes:
        user_id: the caller's id for the user, None for an unknown user.
        item_id: the caller's id for the item.
        rank: from 1.
        score: for ordering within one list and one stage; higher is better.
        stage: the stage of the fallback chain that served this item, such as "generative" or "popularity".
        title: the catalog's title, untrusted text.
        reason: one sentence, if an explanation was requested.
        drivers: the history items that contributed to it, strongest first, if an explanation was requested.
        signal: of a stage that combines several signals, the one that contributed most to this item; else None.
    """

    user_id: UserId | None
    item_id: ItemId
    rank: int
    score: float
    stage: str
    title: str
    reason: str | None = None
    drivers: tuple[Driver, ...] = ()
    signal: str | None = None

    @property
    def source(self) -> str:
        """Stage and signal as text, for display and for files: "popularity", "blend: after recent items"."""
        return self.stage if self.signal is None else f"{self.stage}: {self.signal}"


@dataclass(frozen=True, slots=True)
class RecommendationList:
    """The answer to one request.

    Attributes:
        items: the recommendations, best first; exactly k if at least k items are allowed.
        proven: the items of the first stage are the true top of all allowed items under its stated score.
        compared: number of allowed items that this stage scored in full; a proof excludes the others by bounds.
        notices: notices for the caller: fewer than k items allowed, history truncated, a stage skipped.
        seconds: time from request to answer; the time of a batch is divided evenly among its requests.
        tokens: prompt tokens and generated tokens of all language models; tokens for measuring a prior are not counted.
        failed_stages: the stages that failed or exceeded the deadline.
        cost: of models that are charged by the token, in the currency of their prices.
    """

    items: tuple[Recommendation, ...]
    proven: bool
    compared: int
    notices: tuple[Notice, ...] = ()
    seconds: float = 0.0
    tokens: int = 0
    failed_stages: tuple[str, ...] = ()
    cost: float = 0.0


class Encoder(Protocol):
    """Encodes texts as vectors. `name` identifies the weights; it is part of the key of cached vectors."""

    name: str

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [len(texts), D], each vector of length 1."""
        ...
