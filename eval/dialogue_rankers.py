"""Rankers for the turns of dialogues: single signals, their blend, and a language model.

No ranker or weight is trained on a dialogue that it is evaluated on: a data set without training dialogues is split
into folds, and each is ranked by models of the others. One exception: the prior of the language model is measured after
three histories of evaluated dialogues, which do not contain their targets.
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
    CatalogIndex,
    CooccurrenceRanker,
    EmbeddingRanker,
    GenerativeRanker,
    GenerativeSettings,
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
from genrec.loading import embed_texts, load_backend
from genrec.prompting import one_line
from genrec.rankers import WORDS_SIMILARITY, DenseRanker, LexicalRanker, PriorSource, fit_weights, text_signals
from genrec.settings import LANGUAGE_MODEL
from genrec.types import FloatArray, IntArray

FOLDS = 5
MAX_FIT_TURNS = 1200  # turns on which weights are fitted, at most
BACKGROUND_HISTORIES = 3  # histories after which the prior of the language model is measured
POPULAR, BLEND, MODEL = "popularity", "blend of these", "SmolLM2-135M on 50 of the blend"
TEMPLATE = Path(__file__).parent / "dialogue.j2"


class PrecomputedEncoder:
    """An encoder that only looks up texts encoded in advance."""

    name = "remembered"

    def __init__(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        self._vectors, self._positions = vectors, {one_line(text): place for place, text in enumerate(texts)}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [texts, D].

        Raises:
            InputError: a text was not encoded in advance.
        """
        places = [self._positions.get(one_line(text), -1) for text in texts]
        if -1 in places:
            raise InputError(f"the text {texts[places.index(-1)]!r:.60} was not encoded in advance; add it")
        return self._vectors[places]


Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Vectors of texts: float32 [texts, D], each of length 1."""


def make_embed(cache: Path) -> Embed:
    """The bundled sentence encoder, with its vectors cached like those of a catalog."""

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        report = report_progress("texts")
        found = embed_texts(texts, Settings(), cache, on_progress=lambda _, done, total: report(done, total))
        if found is None:
            raise InputError("the settings have no sentence encoder; set one")
        return found.vectors

    return embed


@dataclass(frozen=True)
class TextVectors:
    """Vectors of titles and of descriptions, float32 [N, D] each, and of the queries."""

    titles: NDArray[np.float32]
    descriptions: NDArray[np.float32]
    contexts: PrecomputedEncoder

    @classmethod
    def from_dialogues(cls, data: Dialogues, embed: Embed) -> "TextVectors":
        """Encode all texts of a data set."""
        turns = [*data.test_turns, *data.train_turns]
        queries = list(dict.fromkeys(one_line(turn.query) or "-" for turn in turns))
        return cls(embed(data.catalog.titles), embed(data.descriptions), PrecomputedEncoder(queries, embed(queries)))


def make_component_rankers(
    data: Dialogues, texts: TextVectors, training_turns: Sequence[Turn]
) -> dict[str, DenseRanker]:
    """Single-signal rankers by name; the last two count the training turns."""
    size, log = len(data.catalog), interactions_of(training_turns)
    offsets, items = _empty_log() if log is None else log.to_indices(data.catalog)
    described = EmbeddingRanker(texts.descriptions, encoder=texts.contexts)
    lexical = LexicalRanker.from_texts(data.descriptions)
    by_history, by_words = described.history_and_words_rankers()
    titles = EmbeddingRanker(texts.titles, encoder=texts.contexts, history_weight=0)
    return {
        "dialogue, by titles": titles,
        "dialogue, by letters of descriptions": lexical,
        "dialogue, by descriptions": by_words,
        "dialogue, by descriptions and their letters": text_signals(described, lexical)[WORDS_SIMILARITY],
        "like what was mentioned": by_history,
        "beside what was mentioned": CooccurrenceRanker(offsets, items, size, decay=0.9, next_weight=0),
        POPULAR: PopularityRanker(np.bincount(items, minlength=size)),
    }


def fit_blend_weights(data: Dialogues, texts: TextVectors, turns: Sequence[Turn], seed: int) -> dict[str, float]:
    """Weights of the single-signal rankers by name: the mean of the best weights on each fold of the turns."""
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
    """Rankers by name for some turns, trained without their dialogues, and the weights of the blend."""

    turns: list[Turn]
    rankers: dict[str, DenseRanker]
    weights: dict[str, float]


def make_fold_rankers(data: Dialogues, texts: TextVectors, seed: int) -> Iterator[FoldRankers]:
    """Train rankers once if there are training dialogues, otherwise once per fold of the test turns."""
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
    """The language model as a ranker of retrieved candidates; loaded once for all folds of a data set."""

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
        """The model alone, and with the default fusion weight of the retriever's scores, by name."""
        fusion_weight = Settings().generative.fusion_weight
        return {
            f"{MODEL}, alone": self._ranker.with_settings(retriever=retriever),
            f"{MODEL}, fusion weight {fusion_weight:g}": self._ranker.with_settings(
                retriever=retriever, fusion_weight=fusion_weight
            ),
        }

    def save_priors(self) -> None:
        """Save the measured prior for the next run."""
        self._ranker.save_priors()


def make_recommender(data: Dialogues, ranker: Ranker, fallback: Ranker) -> Recommender:
    """A recommender with one ranker and a fallback."""
    return Recommender(data.catalog, [ranker, fallback])


def _request(data: Dialogues, turn: Turn) -> RankRequest:
    catalog = data.catalog
    mentioned: IntArray = catalog.indices_of(sorted(turn.mentioned, key=str))
    return RankRequest(catalog.indices_of(turn.history), turn.query, Subset.everything(len(catalog)).without(mentioned))


def _empty_log() -> tuple[IntArray, IntArray]:
    return np.zeros(1, dtype=np.int64), np.empty(0, dtype=np.int64)
