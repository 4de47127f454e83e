"""The rankers of a config, constructed on first use."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eval.config import Config, RankerConfig
from eval.progress import report_progress
from genrec import (
    BlendRanker,
    CooccurrenceRanker,
    EmbeddingRanker,
    GenerativeRanker,
    PopularityRanker,
    Ranker,
    Recommender,
    Settings,
    open_recommender,
    read_template,
)
from genrec.errors import ArtifactError, InputError, ModelMissingError
from genrec.evaluation import Experiment, SupportsRecommend
from genrec.loading import find_model_directory
from genrec.rankers import DenseRanker, fit_pmi_vectors
from genrec.settings import LANGUAGE_MODEL
from genrec.types import IntArray

_VALIDATION_USERS = 2000  # users whose last item validates a trained baseline


class ConfiguredRankers:
    """The rankers of one config over one experiment; models are loaded once.

    Args:
        config: names and settings of the rankers.
        experiment: the catalog and the training data.
        cache: the cache directory of models, indexes, vectors and priors.
    """

    def __init__(self, config: Config, experiment: Experiment, cache: Path) -> None:
        self._config, self._experiment, self._cache = config, experiment, cache
        self._rankers: dict[str, Ranker] = {}
        self._recommenders: dict[str | None, Recommender] = {}  # by adapter

    def __getitem__(self, name: str) -> Ranker:
        """The ranker with a name.

        Raises:
            InputError: the config has no ranker of this name, or its settings do not fit its kind.
            ModelMissingError: its model is not installed.
        """
        if name not in self._config.rankers:
            raise InputError(f"there is no ranker {name!r}; choose from {', '.join(self._config.rankers)}")
        if name not in self._rankers:
            own = self._config.rankers[name]
            if own.kind == "unconstrained":
                raise InputError(
                    f"ranker {name!r} generates unconstrained text, so it cannot be a part of another ranker"
                )
            try:
                self._rankers[name] = self._constructors[own.kind](own)
            except TypeError as error:
                raise InputError(f"the settings of ranker {name!r} do not fit {own.kind}: {error}") from error
        return self._rankers[name]

    def recommender_for(self, name: str) -> tuple[SupportsRecommend, str]:
        """The recommender of a ranker, and the source of the ranker's own items; other items in its lists are fallback.

        Raises: as `rankers[name]`.
        """
        own = self._config.rankers.get(name)
        if own is not None and own.kind == "unconstrained":
            from eval.baselines.unconstrained import UnconstrainedLlm

            template = read_template(Path(__file__).parent / "unconstrained.j2")
            weights = find_model_directory(LANGUAGE_MODEL, self._cache)
            return UnconstrainedLlm(self._experiment.catalog, weights, template), UnconstrainedLlm.source
        ranker = self[name]
        notices = ranker.notices if isinstance(ranker, GenerativeRanker) else ()
        for notice in notices:
            print(f"note: {name}: {notice}", file=sys.stderr)
        return Recommender(self._experiment.catalog, [ranker, self.popularity], notices=notices), ranker.source

    def save_priors(self) -> None:
        """Save measured priors, so that a resumed run does not measure them again; report if that fails."""
        try:
            for ranker in self._rankers.values():
                if isinstance(ranker, GenerativeRanker):
                    ranker.save_priors()
        except ArtifactError as error:
            print(f"note: {error}", file=sys.stderr)

    @property
    def popularity(self) -> PopularityRanker:
        """The last stage of every fallback chain."""
        counts = self._experiment.train.item_counts(self._experiment.catalog, on_unknown="skip")
        return PopularityRanker(counts)

    @property
    def _constructors(self) -> dict[str, Callable[[RankerConfig], Ranker]]:
        return {
            "als": self._implicit,
            "blend": self._blend,
            "cooccurrence": lambda own: self._from_interactions(CooccurrenceRanker, own),
            "embedding": lambda _: self._fallback_stage("embedding"),
            "generative": self._generative,
            "item-vectors": lambda own: self._from_interactions(_ItemVectorRanker, own),
            "itemknn": self._implicit,
            "popularity": lambda _: self.popularity,
            "sasrec": self._sasrec,
        }

    def _blend(self, config: RankerConfig) -> Ranker:
        if not config.parts:
            return self._fallback_stage("blend")
        parts: dict[str, DenseRanker] = {}
        for name in config.parts:
            part = self[name]
            if not isinstance(part, DenseRanker):
                raise InputError(f"a blend cannot contain {name!r}, which does not score whole catalogs")
            parts[name] = part
        return BlendRanker(parts, config.parts)

    def _from_interactions(self, make: Callable[..., Ranker], config: RankerConfig) -> Ranker:
        """Construct a ranker from the training histories."""
        offsets, items = self._experiment.train.to_indices(self._experiment.catalog, on_unknown="skip")
        return make(offsets, items, len(self._experiment.catalog), **config.settings)

    def _implicit(self, config: RankerConfig) -> Ranker:
        from eval.baselines.neighbours import Als, ItemKnn

        return self._from_interactions(Als if config.kind == "als" else ItemKnn, config)

    def _sasrec(self, config: RankerConfig) -> Ranker:
        """Train on the training histories, without the last item of some users, which decides when to stop."""
        from eval.baselines.sasrec import train_sasrec

        offsets, items = self._experiment.train.to_indices(self._experiment.catalog, on_unknown="skip")
        histories = np.split(items, offsets[1:-1])
        long = np.flatnonzero(np.diff(offsets) >= 3)
        kept = np.random.default_rng(self._config.seed).permutation(long)[:_VALIDATION_USERS]
        validation = [(histories[user][:-1], int(histories[user][-1])) for user in kept]
        for user in kept:
            histories[user] = histories[user][:-1]
        report = report_progress("sasrec, epochs")
        count, seed = len(self._experiment.catalog), self._config.seed
        return train_sasrec(histories, count, validation=validation, seed=seed, on_progress=report, **config.settings)

    def _generative(self, config: RankerConfig) -> Ranker:
        base = self._fallback_stage("generative", config.adapter)
        if not isinstance(base, GenerativeRanker):
            raise InputError("the first stage of the fallback chain is not a language model")
        return base.with_settings(
            retriever=None if config.proposer is None else self[config.proposer],
            prior_histories=None if config.background else [],
            **{"fusion_weight": 0.0, **config.settings},
        )

    def _fallback_stage(self, stage: str, adapter: str | None = None) -> Ranker:
        """A stage of the default fallback chain over this catalog."""
        if adapter not in self._recommenders:
            settings = Settings(template=self._config.template, background=self._config.background, adapter=adapter)
            catalog, train = self._experiment.catalog, self._experiment.train
            opened = open_recommender(catalog, train, cache=self._cache, settings=settings)
            self._recommenders[adapter] = opened
            if not any(ranker.source == "embedding" for ranker in opened.stages):
                raise ModelMissingError(
                    "the text encoder is not installed, and weights would be learned without it; run genrec model get"
                )
        for ranker in self._recommenders[adapter].stages:
            if ranker.source == stage:
                return ranker
        notices = "; ".join(map(str, self._recommenders[adapter].notices))
        raise ModelMissingError(f"there is no {stage} ranker ({notices}); run genrec model get, then try again")


class _ItemVectorRanker(EmbeddingRanker):
    """Ranks by the vectors of `fit_pmi_vectors`; arguments as there, and `decay` as in `EmbeddingRanker`."""

    source = "item-vectors"

    def __init__(
        self, offsets: IntArray, item_indices: IntArray, item_count: int, *, decay: float = 0.7, **settings: int
    ) -> None:
        super().__init__(fit_pmi_vectors(offsets, item_indices, item_count, **settings), decay=decay)
