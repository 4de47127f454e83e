"""The words of the field, as small frozen values."""

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
    """One thing that may be recommended. `title` is untrusted text; `attributes` holds every other column."""

    item_id: ItemId
    title: str
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Interaction:
    """One event: a person did something with an item. `timestamp` orders a history; seconds where it is a time."""

    user_id: UserId
    item_id: ItemId
    timestamp: float
    event: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class History:
    """What is known of a person when a recommendation is made.

    Attributes:
        item_ids: items met, oldest first; may be empty.
        words: what the person says they look for, untrusted text; may be empty.
        user_id: the caller's id, returned with every recommendation; None for somebody unknown.
    """

    item_ids: tuple[ItemId, ...] = ()
    words: str = ""
    user_id: UserId | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of prompt text. Only a trusted span, the operator's own, may hold control tokens."""

    text: str
    trusted: bool


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a prompt: who speaks, and the spans of what is said."""

    role: Role
    spans: tuple[Span, ...]

    @property
    def text(self) -> str:
        """The spans joined, for people to read; never a key and never what is encoded."""
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a ranker answers for one request: item indices, best first.

    Attributes:
        item_indices: int64 [k], distinct, ties in catalog order.
        scores: float64 [k], falling; comparable within this ranking only.
        proven: no other allowed item scores higher under the ranker's stated score.
        num_scored: how many allowed items had their whole score compared; a proof rules out the others by bounds.
        notices: what the caller should know, such as a history cut to fit the context.
        generated_tokens: tokens that a model computed for this ranking beside its prompt.
        forward_passes: how many passes of the model these took; shared with others of its batch.
        prompt_tokens: tokens of its prompt.
        main_signals: of a ranker that weighs several kinds, which spoke for each of the k items most; () of all others.
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
    """A history item that carried a recommendation.

    `drop` is how far the score falls without it; infinite where the ranker then knows nothing of what it recommended.
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
        reason: one sentence, where an explanation was asked for.
        drivers: the history items behind it, strongest first, where an explanation was asked for.
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
        """Stage and signal as text, for people and for files: "popularity", "blend: after recent items"."""
        return self.stage if self.signal is None else f"{self.stage}: {self.signal}"


@dataclass(frozen=True, slots=True)
class RecommendationList:
    """The answer to one request.

    Attributes:
        items: exactly k of them whenever k items are allowed, best first.
        proven: the first source's part is the true top of all allowed items under its stated score.
        compared: how many allowed items that source compared in full; a proof rules out the others by bounds.
        notices: what the caller should know: fewer than k allowed, history cut, a step of the ladder skipped.
        seconds: time from request to answer; shared evenly by the requests of one batch.
        tokens: those of prompts, and behind them, that language models computed for the rankings it is made of; a prior
            that was measured on the way is not counted.
        failed_stages: the steps that should have answered, and failed or had no time.
    """

    items: tuple[Recommendation, ...]
    proven: bool
    compared: int
    notices: tuple[Notice, ...] = ()
    seconds: float = 0.0
    tokens: int = 0
    failed_stages: tuple[str, ...] = ()


class Encoder(Protocol):
    """Turns texts into vectors. `name` says which weights; caches of vectors carry it."""

    name: str

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [texts, D], each of length 1."""
        ...
