"""The rankers that a config names, made when they are first asked for."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eval.config import Config, RankerConfig
from eval.progress import tell_progress
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
from genrec.evaluation.protocols import Experiment, Recommends
from genrec.loading import find_weights
from genrec.rankers.base import DenseRanker
from genrec.rankers.collaborative import count_vectors
from genrec.settings import LANGUAGE_MODEL
from genrec.types import IntArray

_KEPT = 2000  # people whose last item tells a baseline that is trained when to stop


class Rankers:
    """Those of one config over one experiment; models are loaded once.

    Args:
        config: names and settings.
        experiment: what they may count.
        cache: the folder of models, indexes, vectors and priors.
    """

    def __init__(self, config: Config, experiment: Experiment, cache: Path) -> None:
        self._config, self._experiment, self._cache = config, experiment, cache
        self._made: dict[str, Ranker] = {}
        self._recommenders: dict[str | None, Recommender] = {}  # by their adapter

    def __getitem__(self, name: str) -> Ranker:
        """The ranker of a name.

        Raises:
            InputError: the config has none of this name, or its settings do not fit its kind.
            ModelMissingError: its model is not on this machine.
        """
        if name not in self._config.rankers:
            raise InputError(f"there is no ranker {name!r}; choose from {', '.join(self._config.rankers)}")
        if name not in self._made:
            own = self._config.rankers[name]
            if own.kind == "unconstrained":
                raise InputError(f"ranker {name!r} only writes what it likes, so it can be no part of another")
            try:
                self._made[name] = self._kinds[own.kind](own)
            except TypeError as error:
                raise InputError(f"the settings of ranker {name!r} do not fit {own.kind}: {error}") from error
        return self._made[name]

    def asked(self, name: str) -> tuple[Recommends, str]:
        """What answers under a name, and the source of what it serves itself; all else in its lists is fallback.

        Raises: as `rankers[name]`.
        """
        own = self._config.rankers.get(name)
        if own is not None and own.kind == "unconstrained":
            from eval.baselines.unconstrained import UnconstrainedLlm

            template = read_template(Path(__file__).parent / "unconstrained.j2")
            weights = find_weights(LANGUAGE_MODEL, self._cache)
            return UnconstrainedLlm(self._experiment.catalog, weights, template), UnconstrainedLlm.source
        ranker = self[name]
        notices = ranker.notices if isinstance(ranker, GenerativeRanker) else ()
        for notice in notices:
            print(f"note: {name}: {notice}", file=sys.stderr)
        return Recommender(self._experiment.catalog, [ranker, self.popularity], notices=notices), ranker.source

    def save_priors(self) -> None:
        """Keep what was measured of priors, so that a run that goes on does not measure it again; or say why not."""
        try:
            for ranker in self._made.values():
                if isinstance(ranker, GenerativeRanker):
                    ranker.save_priors()
        except ArtifactError as error:
            print(f"note: {error}", file=sys.stderr)

    @property
    def popularity(self) -> PopularityRanker:
        """The last step of every ladder."""
        counts = self._experiment.train.item_counts(self._experiment.catalog, on_unknown="skip")
        return PopularityRanker(counts)

    @property
    def _kinds(self) -> dict[str, Callable[[RankerConfig], Ranker]]:
        return {
            "als": self._implicit,
            "blend": self._blend,
            "cooccurrence": lambda own: self._counted(CooccurrenceRanker, own),
            "embedding": lambda _: self._of_ladder("embedding"),
            "generative": self._generative,
            "item-vectors": lambda own: self._counted(_ItemVectors, own),
            "itemknn": self._implicit,
            "popularity": lambda _: self.popularity,
            "sasrec": self._sasrec,
        }

    def _blend(self, own: RankerConfig) -> Ranker:
        if not own.parts:
            return self._of_ladder("blend")
        parts: dict[str, DenseRanker] = {}
        for name in own.parts:
            part = self[name]
            if not isinstance(part, DenseRanker):
                raise InputError(f"a blend cannot hold {name!r}, which does not score whole catalogs")
            parts[name] = part
        return BlendRanker(parts, own.parts)

    def _counted(self, make: Callable[..., Ranker], own: RankerConfig) -> Ranker:
        """A ranker that is made of histories alone."""
        offsets, items = self._experiment.train.as_indices(self._experiment.catalog, on_unknown="skip")
        return make(offsets, items, len(self._experiment.catalog), **own.settings)

    def _implicit(self, own: RankerConfig) -> Ranker:
        from eval.baselines.neighbours import Als, ItemKnn

        return self._counted(Als if own.kind == "als" else ItemKnn, own)

    def _sasrec(self, own: RankerConfig) -> Ranker:
        """Trained on what rankers may count; of some people the last item of that is kept to stop by."""
        from eval.baselines.sasrec import train_sasrec

        offsets, items = self._experiment.train.as_indices(self._experiment.catalog, on_unknown="skip")
        histories = np.split(items, offsets[1:-1])
        long = np.flatnonzero(np.diff(offsets) >= 3)
        kept = np.random.default_rng(self._config.seed).permutation(long)[:_KEPT]
        validation = [(histories[user][:-1], int(histories[user][-1])) for user in kept]
        for user in kept:
            histories[user] = histories[user][:-1]
        tell = tell_progress("sasrec, passes")
        count, seed = len(self._experiment.catalog), self._config.seed
        return train_sasrec(histories, count, validation=validation, seed=seed, on_progress=tell, **own.settings)

    def _generative(self, own: RankerConfig) -> Ranker:
        base = self._of_ladder("generative", own.adapter)
        if not isinstance(base, GenerativeRanker):
            raise InputError("the first step of the ladder is no LLM")
        return base.with_settings(
            proposer=None if own.proposer is None else self[own.proposer],
            background=None if own.background else [],
            **{"evidence": 0.0, **own.settings},
        )

    def _of_ladder(self, source: str, adapter: str | None = None) -> Ranker:
        """A step of what a user gets who opens this catalog, which has to be there."""
        if adapter not in self._recommenders:
            settings = Settings(template=self._config.template, background=self._config.background, adapter=adapter)
            catalog, train = self._experiment.catalog, self._experiment.train
            opened = open_recommender(catalog, train, cache=self._cache, settings=settings)
            self._recommenders[adapter] = opened
            if not any(step.source == "embedding" for step in opened.ladder):
                raise ModelMissingError(
                    "no text encoder here, without which other weights are learned: run genrec model get"
                )
        for step in self._recommenders[adapter].ladder:
            if step.source == source:
                return step
        said = "; ".join(self._recommenders[adapter].notices)
        raise ModelMissingError(f"no {source} ranker here ({said}); run genrec model get, then try again")


class _ItemVectors(EmbeddingRanker):
    """Items near a history by `count_vectors`; arguments as there, and `decay` as in `EmbeddingRanker`."""

    source = "item-vectors"

    def __init__(
        self, offsets: IntArray, item_indices: IntArray, items: int, *, decay: float = 0.7, **how: int
    ) -> None:
        super().__init__(count_vectors(offsets, item_indices, items, **how), decay=decay)
