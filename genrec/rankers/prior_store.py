"""Priors of an LLM ranker's prompts: measured when first needed, saved to and loaded from a cache directory."""

import hashlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec.backends.base import Backend
from genrec.data.catalog import Catalog
from genrec.data.interactions import Interactions
from genrec.data.subset import Boost, Subset
from genrec.deadline import Deadline
from genrec.decoding.bounds import prefix_sums
from genrec.decoding.prior import Prior
from genrec.decoding.search import exhaustive_search
from genrec.decoding.search_request import ScoreKind, SearchRequest
from genrec.errors import ArtifactError, MismatchError
from genrec.index.catalog_index import CatalogIndex
from genrec.rankers.base import scores_in_order
from genrec.types import FloatArray, IntArray

_LOGGER = logging.getLogger(__name__)
_SEED = 0  # for the choice of histories over which the prior is averaged


def draw_histories(
    catalog: Catalog, interactions: Interactions | None, *, count: int, min_length: int
) -> list[IntArray]:
    """Choose the histories over which a prior is averaged, the same ones every time.

    Users are drawn by a hash of their ids: a user who is added or removed changes the choice only if they are in it,
    and then only one history is replaced.

    Args:
        catalog: gives the item indices; events of items that it lacks are skipped.
        interactions: the histories of users; None for none.
        count: number of histories.
        min_length: least number of events of a history.

    Returns:
        At most `count` histories in the order of their users: item indices, int64 [H] each, oldest first.
    """
    if interactions is None:
        return []
    offsets, items = interactions.to_indices(catalog, on_unknown="skip")
    users = np.flatnonzero(np.diff(offsets) >= min_length)
    keys = interactions.user_ids.keys
    digests = [hashlib.sha256(f"{_SEED} {keys[int(user)]}".encode()).digest() for user in users]
    chosen = np.sort(users[sorted(range(len(users)), key=digests.__getitem__)[:count]])
    return [items[offsets[user] : offsets[user + 1]] for user in chosen]


@dataclass(frozen=True)
class PriorSource:
    """How the prior of an LLM ranker is measured and where it is saved.

    Attributes:
        histories: int64 histories of other users, in item indices. The prior is the mean score after the prompts of
            these histories. Without any it is the score after an empty history, which corrects less well.
        cache: directory in which priors are saved and from which they are loaded; None keeps them in memory only.
        backend: the model whose prior is measured, by default the ranker's. An adapter is trained on top of the
            base model's prior, so for a model with an adapter this is the model without it.
    """

    histories: Sequence[IntArray] = ()
    cache: Path | None = None
    backend: Backend | None = None


class PriorStore:
    """The priors of one index under one model, one for each list of prompts.

    Args:
        index: the catalog as token ids.
        backend: the model.
        cache: directory of saved priors, or None.
    """

    def __init__(self, index: CatalogIndex, backend: Backend, cache: Path | None = None) -> None:
        self.backend = backend
        self._index, self._cache = index, cache
        self._priors: dict[str, Prior] = {}
        self._write_failed = False

    def get(self, prompts: Sequence[IntArray], *, users: int) -> Prior:
        """The prior of some prompts, loaded from the cache directory if it was saved there.

        Args:
            prompts: the prompts.
            users: the number of users whose histories they show.

        Raises:
            ArtifactError: the saved prior was altered.
        """
        key = self._key(prompts)
        if key not in self._priors:
            prior = Prior(self.backend, self._index.trie, prompts, key=key, users=users)
            if self._cache is not None and (self._cache / key).is_dir():
                try:
                    prior.load(self._cache / key)
                except (ArtifactError, MismatchError) as error:
                    remedy = f"remove the folder {self._cache / key}; the prior is computed again"
                    raise ArtifactError(error.problem, remedy=remedy) from error
            self._priors[key] = prior
        return self._priors[key]

    def save(self) -> None:
        """Write the priors with new scores to the cache directory; do nothing without one.

        If it cannot be written, the priors stay in memory, and a log record says so, once.
        """
        if self._cache is not None and not self._write_failed:
            for key, prior in self._priors.items():
                if prior.unsaved:
                    try:
                        prior.save(self._cache / key)
                    except (OSError, ArtifactError) as error:
                        self._write_failed = True
                        _LOGGER.warning("priors are not cached, and measured again next time: %s", error)
                        return

    @property
    def folders(self) -> list[Path]:
        """The folders in the cache directory that hold these priors, or would if they were saved."""
        return [] if self._cache is None else [self._cache / key for key in self._priors]

    def restricted_to(self, priors: Collection[Prior | None]) -> "PriorStore":
        """A store of the same index, model and cache directory with some of its priors, and no memory of the others."""
        other = PriorStore(self._index, self.backend, self._cache)
        other._priors = {key: prior for key, prior in self._priors.items() if prior in priors}
        return other

    def reindexed(self, index: CatalogIndex, prompts: Collection[Sequence[IntArray] | None]) -> "PriorStore":
        """Carry over the priors of some prompts to the index of another version of the catalog, in memory only.

        Scores of items whose identifier has not changed are kept.
        """
        other = PriorStore(index, self.backend)
        new_indices = index.catalog.item_ids.positions(self._index.catalog.item_ids)
        keys = {self._key(own) for own in prompts if own is not None}
        for prior in (prior for key, prior in self._priors.items() if key in keys):
            key = other._key(prior.prompts)
            other._priors[key] = prior.reindexed(index.trie, new_indices, key=key)
        return other

    def item_scores(self, prior: Prior, on_progress: Callable[[int, int], None] | None = None) -> FloatArray:
        """float64 [N], the prior of every item in nats; missing scores are computed, see `Prior.fill`."""
        trie = self._index.trie
        prior.fill(on_progress=on_progress)
        totals = prefix_sums(trie, prior.log_probs.astype(np.float64))[trie.last_positions]
        return totals[trie.rows_of_items]

    def candidate_boosts(
        self,
        prompts: Sequence[IntArray],
        candidates: Sequence[Subset],
        score: ScoreKind,
        *,
        weight: float,
        deadline: Deadline,
    ) -> list[Boost]:
        """Weighted priors of candidates after prompts that list the same candidates; these are not stored.

        Args:
            prompts: U prompts with an empty history.
            candidates: U subsets of N items, those that each prompt lists.
            score: see `genrec.decoding.search.SearchRequest`.
            weight: factor of the priors.
            deadline: passed to the model.

        Returns:
            For each prompt, the weighted scores of its candidates in nats.
        """
        size = len(self._index.trie)
        tree = self.backend.open(prompts, deadline=deadline)
        rows = [self._index.to_row_subset(subset) for subset in candidates]
        rankings = exhaustive_search(tree, self._index.trie, SearchRequest(rows, size, score))
        return [
            Boost(subset.to_indices(), weight * scores_in_order(ranking, subset.to_indices(), size))
            for ranking, subset in zip(rankings, candidates, strict=True)
        ]

    def _key(self, prompts: Sequence[IntArray]) -> str:
        """A name for the prior of this index and model after some prompts."""
        name = self.backend.name.encode()
        digest = hashlib.sha256(b"\0".join([name, *(prompt.tobytes() for prompt in prompts)]))
        return f"{self._index.fingerprint}-{digest.hexdigest()[:16]}"
