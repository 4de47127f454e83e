"""Types that all packages share: items, interactions, histories, prompts, rankings and recommendations."""

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
    """An item that can be recommended. `title` is untrusted text; `attributes` has every other column."""

    item_id: ItemId
    title: str
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Interaction:
    """One event of a user with an item. `timestamp` orders a history; if it is a time, it is in seconds."""

    user_id: UserId
    item_id: ItemId
    timestamp: float
    event: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class History:
    """What is known of a user when a recommendation is made.

    Attributes:
        item_ids: items the user interacted with, oldest first; may be empty.
        words: the user's query, untrusted text; may be empty.
        user_id: the caller's id, returned with every recommendation; None for an unknown user.
    """

    item_ids: tuple[ItemId, ...] = ()
    words: str = ""
    user_id: UserId | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of prompt text. Only trusted spans, which the operator wrote, may contain control tokens."""

    text: str
    trusted: bool


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt: its role, and the spans of its text."""

    role: Role
    spans: tuple[Span, ...]

    @property
    def text(self) -> str:
        """The joined spans, for display only: it is neither encoded nor used as a key."""
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The result of a ranker for one request, best first.

    Attributes:
        item_indices: int64 [k], distinct, ties in catalog order.
        scores: float64 [k], descending; comparable within this ranking only.
        proven: no other allowed item has a higher score under the ranker's documented score.
        num_scored: number of allowed items whose full score was computed; bounds exclude the others.
        notices: notices to the caller, for example that the history was truncated to fit the context.
        generated_tokens: tokens that a model computed for this ranking in addition to the prompt.
        forward_passes: number of forward passes for these tokens; shared with the other requests of the batch.
        prompt_tokens: number of prompt tokens.
        main_signals: for rankers that combine several signals, the one that contributed most to each of the k items;
            otherwise ().
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


@dataclass(frozen=True, slots=True)
class Driver:
    """A history item that drove a recommendation.

    `drop` is the decrease of the score without this item; infinite if the ranker then cannot score the recommendation.
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
        drivers: the history items that drove it, strongest first, if an explanation was requested.
        signal: for a stage that combines several signals, the one that contributed most to this item; otherwise None.
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
        """Stage and signal as text, for people and for files: "popularity", "blend: after recent items"."""
        return self.stage if self.signal is None else f"{self.stage}: {self.signal}"


@dataclass(frozen=True, slots=True)
class RecommendationList:
    """The recommendations for one request.

    Attributes:
        items: exactly k items whenever k are allowed, best first.
        proven: whether the items of the first stage are the true top of all allowed items under its documented score.
        compared: number of allowed items whose full score the first stage computed; bounds exclude the others.
        notices: notices to the caller, for example that fewer than k items are allowed or that a stage was skipped.
        seconds: processing time; the time of a batch is divided evenly among its requests.
        tokens: prompt and generated tokens of all rankings that contributed, without those that measure a prior.
        failed_stages: the stages that failed or exceeded their deadline.
    """

    items: tuple[Recommendation, ...]
    proven: bool
    compared: int
    notices: tuple[Notice, ...] = ()
    seconds: float = 0.0
    tokens: int = 0
    failed_stages: tuple[str, ...] = ()


class Encoder(Protocol):
    """Encodes texts as vectors. `name` identifies the weights in cache keys."""

    name: str

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode N texts: float32 [N, D], each row of length 1."""
        ...
