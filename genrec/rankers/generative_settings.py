"""Settings of the LLM ranker."""

from dataclasses import dataclass
from typing import Literal, get_args

from genrec.decoding.search_request import ScoreKind
from genrec.errors import InputError, check_count, check_number, format_value

Strategy = Literal["beam", "exhaustive", "candidates"]

_COUNTS = ("candidates", "width", "max_nodes", "min_history", "max_history", "history_step")


@dataclass(frozen=True)
class GenerativeSettings:
    """How the LLM searches and scores.

    Attributes:
        strategy: `candidates` scores the items that a retriever returns; `beam` searches the whole catalog;
            `exhaustive` scores the whole catalog.
        score: `model` or `catalog`, see `genrec.decoding.search.SearchRequest`.
        prior: weight of the prior, which is subtracted from the score; see `genrec.decoding.prior`.
        fusion_weight: weight of the retriever's score in nats per standard deviation. The retriever's scores are
            standardised by the mean and standard deviation of its best `candidates` items.
        candidates: number of items that the retriever returns and the LLM scores, at least k.
        width: beam width, see `genrec.decoding.search.beam_search`; with `exact` the number of nodes expanded at once.
        exact: continue the beam search until its top k is proven, or `max_nodes` nodes were grown for a request.
        max_nodes: limit of nodes per request with `exact`; a list that reaches it is complete, but not proven.
        min_history: least number of history items for which the LLM is used; requests with words are always ranked.
        max_history: greatest number of history items in the prompt; the newest are shown.
        history_step: number of items that leave the prompt together, see `genrec.prompting.renderer.window_start`.
        batch_size: prompts computed at once; None for the backend's own number. In a batch the model's numbers are
            rounded differently, so close scores may swap: with 1 a request gets the same list in any batch.
        memory: budget in bytes for the prompts of a batch and the tokens grown after them, by the backend's
            `token_bytes`. A batch that would exceed it raises an error before it starts, with the estimate in the
            message. Filling a missing prior, 512 tokens at a time, is not counted. None for no budget.

    Raises:
        InputError: a value is of the wrong type or out of range.
    """

    strategy: Strategy = "candidates"
    score: ScoreKind = "model"
    prior: float = 1.0
    fusion_weight: float = 0.0
    candidates: int = 50
    width: int = 8
    exact: bool = True
    max_nodes: int = 2000
    min_history: int = 1
    max_history: int = 12
    history_step: int = 4
    batch_size: int | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        for name, kinds in (("strategy", get_args(Strategy)), ("score", get_args(ScoreKind))):
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in kinds:
                raise InputError(f"{name} is {format_value(getattr(self, name))}; choose one of {', '.join(kinds)}")
        for name in _COUNTS:
            check_count(name, getattr(self, name))
        if self.batch_size is not None:
            check_count("batch_size", self.batch_size)
        if not isinstance(self.exact, bool):
            raise InputError(f"exact is {format_value(self.exact)}; give True or False")
        if self.memory is not None:
            check_number("memory", self.memory, "give a number of bytes above 0, or None for no limit", 0, above=True)
        for name in ("prior", "fusion_weight"):
            check_number(name, getattr(self, name), "it must be a number of at least 0", 0)
