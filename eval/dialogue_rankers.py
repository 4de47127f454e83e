"""What answers a turn of a dialogue: parts that know one thing each, all of them as one, and a language model.

No part has counted, and no weight was learned from, anything of a dialogue that is asked about: where a data set has no
dialogues to learn from, it is cut into folds, and each is answered by what the others tell. One thing is of those that
are asked there: the prior of the language model is measured behind three of their histories, which tell no answers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.dialogue import Dialogues, Turn, folds, interactions_of
from eval.progress import report_progress
from genrec import (
    BlendRanker,
    Catalog,
    CatalogIndex,
    CooccurrenceRanker,
    EmbeddingRanker,
    GenerativeRanker,
    GenerativeSettings,
    Item,
    PopularityRanker,
    Ranker,
    RankRequest,
    Recommender,
    Settings,
    Subset,
    TitleIdentifiers,
    read_template,
)
from genrec.errors import InputError
from genrec.loading import embed_titles, load_backend
from genrec.prompting.template import one_line
from genrec.rankers.base import DenseRanker
from genrec.rankers.ensemble import fit_weights
from genrec.rankers.prior_store import PriorSource
from genrec.settings import LANGUAGE_MODEL
from genrec.types import FloatArray, IntArray

FOLDS = 5
MAX_FIT_TURNS = 1200  # turns that weights are learned from, at most
BACKGROUND_HISTORIES = 3  # dialogues behind which the prior of the language model is measured
POPULAR, BLEND, MODEL = "popularity", "blend of these", "SmolLM2-135M on 50 of the blend"
TEMPLATE = Path(__file__).parent / "dialogue.j2"


class PrecomputedEncoder:
    """Vectors of texts that were encoded beforehand; what it has not met it does not know."""

    name = "remembered"

    def __init__(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        self._vectors, self._positions = vectors, {one_line(text): place for place, text in enumerate(texts)}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [texts, D].

        Raises:
            InputError: a text was not encoded beforehand.
        """
        places = [self._positions.get(one_line(text), -1) for text in texts]
        if -1 in places:
            raise InputError(f"the text {texts[places.index(-1)]!r:.60} was not encoded beforehand; add it")
        return self._vectors[places]


Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Vectors of texts: float32 [texts, D], each of length 1."""


def make_embed(cache: Path) -> Embed:
    """The bundled sentence encoder; what it made is kept under the cache, as the vectors of a catalog are."""

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        catalog, tell = (
            Catalog.from_items(Item(place, text) for place, text in enumerate(texts)),
            report_progress("texts"),
        )
        found = embed_titles(catalog, Settings(), cache, on_progress=lambda _, done, total: tell(done, total))
        if found is None:
            raise InputError("the settings name no sentence encoder; name one")
        return found.vectors

    return embed


@dataclass(frozen=True)
class TextVectors:
    """Vectors of what is read: of titles and of descriptions, float32 [N, D] each, and of what was said."""

    titles: NDArray[np.float32]
    descriptions: NDArray[np.float32]
    contexts: PrecomputedEncoder

    @classmethod
    def from_dialogues(cls, data: Dialogues, embed: Embed) -> "TextVectors":
        """Read all texts of a data set."""
        turns = [*data.test_turns, *data.train_turns]
        said = list(dict.fromkeys(one_line(turn.query) or "-" for turn in turns))
        return cls(embed(data.catalog.titles), embed(data.descriptions), PrecomputedEncoder(said, embed(said)))


def make_component_rankers(
    data: Dialogues, texts: TextVectors, training_turns: Sequence[Turn]
) -> dict[str, DenseRanker]:
    """Rankers by what they know, of which the last two have counted some turns."""
    size, log = len(data.catalog), interactions_of(training_turns)
    offsets, items = _empty_log() if log is None else log.to_indices(data.catalog)
    described = EmbeddingRanker(texts.descriptions, encoder=texts.contexts)
    alike, said = described.history_and_words_rankers()
    return {
        "dialogue, by titles": EmbeddingRanker(texts.titles, encoder=texts.contexts, history_weight=0),
        "dialogue, by descriptions": said,
        "like what was mentioned": alike,
        "beside what was mentioned": CooccurrenceRanker(offsets, items, size, decay=0.9, next_weight=0),
        POPULAR: PopularityRanker(np.bincount(items, minlength=size)),
    }


def fit_blend_weights(data: Dialogues, texts: TextVectors, turns: Sequence[Turn], seed: int) -> dict[str, float]:
    """Weights of the parts by their names: the mean of those that each fold of some turns shows best."""
    found: list[FloatArray] = []
    names: list[str] = []
    for inside, outside in folds(turns, FOLDS, seed):
        parts = make_component_rankers(data, texts, outside)
        names = list(parts)
        asked = [turn for turn in inside if turn.targets]
        chosen = np.random.default_rng(seed).permutation(len(asked))[: MAX_FIT_TURNS // FOLDS]
        requests = [_request(data, asked[place]) for place in chosen]
        taken = np.array([data.catalog.index_of(asked[place].targets[0]) for place in chosen], dtype=np.int64)
        found.append(fit_weights(list(parts.values()), requests, taken, initial_weights=np.ones(len(parts)), seed=seed))
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))


@dataclass(frozen=True)
class FoldRankers:
    """For some turns, rankers by name, which know nothing of their dialogues; and the weights of the blend."""

    turns: list[Turn]
    rankers: dict[str, DenseRanker]
    weights: dict[str, float]


def make_fold_rankers(data: Dialogues, texts: TextVectors, seed: int) -> Iterator[FoldRankers]:
    """One for all turns where there are other dialogues to learn from, else one for each fold of them."""
    splits = (
        [(list(data.test_turns), list(data.train_turns))] if data.train_turns else folds(data.test_turns, FOLDS, seed)
    )
    for inside, outside in splits:
        if not inside:
            continue
        parts = make_component_rankers(data, texts, outside)
        weights = fit_blend_weights(data, texts, outside, seed)
        kept = {name: weight for name, weight in weights.items() if weight > 0}
        blend = BlendRanker({name: parts[name] for name in kept}, kept)
        yield FoldRankers(inside, {**parts, BLEND: blend}, weights)


class LlmRankers:
    """The language model as a ranker of what another proposes; loaded once for all folds of a data set."""

    def __init__(self, data: Dialogues, cache: Path, seed: int) -> None:
        backend, tokenizer = load_backend(LANGUAGE_MODEL, cache)
        template = read_template(str(TEMPLATE))
        turns = [turn for turn in (data.train_turns or data.test_turns) if len(turn.history) > 2]
        chosen = np.random.default_rng(seed).permutation(len(turns))[:BACKGROUND_HISTORIES]
        self._background = [data.catalog.indices_of(turns[place].history) for place in chosen]
        self._ranker = GenerativeRanker(
            CatalogIndex.build(data.catalog, TitleIdentifiers(), tokenizer),
            backend,
            tokenizer,
            template=template,
            cold_template=template,
            prior=PriorSource(self._background, cache / "priors"),
            retriever=PopularityRanker(np.zeros(len(data.catalog), dtype=np.int64)),
            settings=GenerativeSettings(),
        )

    def for_retriever(self, retriever: Ranker) -> dict[str, GenerativeRanker]:
        """The model alone, and with the proposer's own judgement as the default has it, by name."""
        evidence = Settings().generative.fusion_weight
        return {
            f"{MODEL}, alone": self._ranker.with_settings(retriever=retriever),
            f"{MODEL}, evidence {evidence:g}": self._ranker.with_settings(retriever=retriever, fusion_weight=evidence),
        }

    def save_priors(self) -> None:
        """Keep what was measured of the prior for the next run."""
        self._ranker.save_priors()


def make_recommender(data: Dialogues, ranker: Ranker, fallback: Ranker) -> Recommender:
    """What answers with one ranker, and with what is popular where it knows too little."""
    return Recommender(data.catalog, [ranker, fallback])


def _request(data: Dialogues, turn: Turn) -> RankRequest:
    catalog = data.catalog
    mentioned: IntArray = catalog.indices_of(sorted(turn.mentioned, key=str))
    return RankRequest(catalog.indices_of(turn.history), turn.query, Subset.everything(len(catalog)).without(mentioned))


def _empty_log() -> tuple[IntArray, IntArray]:
    return np.zeros(1, dtype=np.int64), np.empty(0, dtype=np.int64)
