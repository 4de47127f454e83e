"""Measures the prior of each item: its log-probability independent of the user's history.

`genrec.decoding.prior_penalty` holds what a score subtracts.

An LLM prefers short and famous titles, whatever the history. Subtracting the log-probability that the same template
gives an item with the histories of other users, or with none, removes this preference, so that the score reflects this
history. Source: the pointwise mutual information of Church and Hanks, Computational Linguistics 16(1), 1990;
as a decoding objective, Li et al., "A Diversity-Promoting Objective Function", NAACL 2016, section 4.2; measuring it
after prompts with content rather than empty ones follows Zhao et al., "Calibrate Before Use", ICML 2021, section 5.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrec import artifact
from genrec.backends.base import Backend
from genrec.deadline import Deadline
from genrec.decoding.prior_penalty import PriorPenalty
from genrec.decoding.tree_scoring import score_tries
from genrec.errors import ArtifactError, MismatchError
from genrec.index.trie import TokenTrie
from genrec.types import BoolArray, IntArray

_KIND = "prior"
_FILE = "steps.safetensors"
_VERSION = 2
_BLOCK_ROWS = 256  # rows scored between two calls of on_progress, and under one lock


class Prior:
    """The mean log-probability of every token of a trie over P prompts; rows are scored when they are first needed.

    Threads may share it: while one scores a block of rows, the others wait and then use its scores.

    Args:
        backend: the model.
        trie: T tokens in N rows.
        prompts: P prompts, int64 each: the template with the histories of other users, or with none.
        key: identifies the model, the prompts and the index; a saved prior with another key is refused.
        users: the number of users whose histories the prompts show; None if that is not known.

    Attributes:
        log_probs: float32 [T]; NaN for tokens of rows that are not scored yet.
        unsaved: whether scores were added since the last `save`.
    """

    def __init__(
        self, backend: Backend, trie: TokenTrie, prompts: Sequence[IntArray], *, key: str, users: int | None = None
    ) -> None:
        self._backend, self._trie, self._prompts, self._key = backend, trie, list(prompts), key
        self.unsaved, self._users = False, users
        self._penalties: dict[float, PriorPenalty] = {}
        self._lock = threading.Lock()
        self._is_complete = False  # whether every row is scored
        self.log_probs: NDArray[np.float32] = np.full(len(trie.tokens), np.nan, dtype=np.float32)

    def fill(
        self,
        rows: IntArray | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        *,
        deadline: Deadline | None = None,
    ) -> None:
        """Score the missing rows; scores computed before the deadline are kept.

        Args:
            rows: rows that a search needs; by default all.
            on_progress: called with the number of rows scored so far, and the number that were missing.
            deadline: when to stop.

        Raises:
            DeadlineExceededError: the deadline has passed.
        """
        if self._is_complete:  # the cost of a request must not grow with the catalog
            return
        everything = rows is None
        deadline = deadline or Deadline.never()
        rows = np.arange(len(self._trie)) if rows is None else np.unique(rows)
        missing = self._missing_rows(rows)
        for start in range(0, len(missing), _BLOCK_ROWS):
            with deadline.acquire(self._lock):
                # Another thread may have scored some of them in the meantime.
                block = self._missing_rows(missing[start : start + _BLOCK_ROWS])
                if len(block):
                    self._score_rows(block, deadline)
            if on_progress is not None:
                on_progress(min(start + _BLOCK_ROWS, len(missing)), len(missing))
        self._is_complete = self._is_complete or everything

    @property
    def is_complete(self) -> bool:
        """Whether every row is scored."""
        if not self._is_complete:
            self._is_complete = not len(self._missing_rows(np.arange(len(self._trie))))
        return self._is_complete

    @property
    def prompts(self) -> tuple[IntArray, ...]:
        """The prompts after which it is measured."""
        return tuple(self._prompts)

    def reindexed(self, trie: TokenTrie, new_item_indices: IntArray, *, key: str) -> "Prior":
        """The prior of another trie after the same prompts; items with the same tokens in both keep their scores.

        Args:
            trie: the other trie.
            new_item_indices: int64, for each item of this trie its index in the other; -1 if it was removed.
            key: identifies the model, the prompts and the other index.
        """
        other = Prior(self._backend, trie, self._prompts, key=key, users=self._users)
        kept = np.flatnonzero(new_item_indices >= 0)
        rows, new_rows = self._trie.rows_of_items[kept], trie.rows_of_items[new_item_indices[kept]]
        # The last token of a row marks it as scored. It is read first here, and other threads write it last.
        is_scored = ~np.isnan(self.log_probs[self._trie.last_positions[rows]])
        rows, new_rows = rows[is_scored], new_rows[is_scored]
        is_same = _have_equal_tokens(self._trie, rows, trie, new_rows)
        rows, new_rows = rows[is_same], new_rows[is_same]
        other.log_probs[trie.path_positions(new_rows)] = self.log_probs[self._trie.path_positions(rows)]
        other.unsaved = bool(len(rows))
        return other

    def penalty(self, weight: float) -> PriorPenalty:
        """The penalty that a search subtracts; every allowed row must be scored before the search."""
        if weight not in self._penalties:
            self._penalties[weight] = PriorPenalty(self._trie, self.log_probs, weight)
        return self._penalties[weight]

    def save(self, directory: Path) -> None:
        """Write a directory, completely or not at all."""
        contains = "the mean log-probability of each token of each title after prompts with histories of users"
        user_data = artifact.UserData("aggregate", contains, self._users)
        if self._users == 0:
            user_data = artifact.UserData("none", "the log-probability of each token of each title", 0)
        with self._lock:
            with artifact.artifact_writer(
                directory, kind=_KIND, version=_VERSION, user_data=user_data, metadata={"key": self._key}
            ) as folder:
                artifact.write_arrays(folder / _FILE, {"steps": self.log_probs})
            self.unsaved = False

    def load(self, directory: Path) -> None:
        """Replace the scores by those that `save` wrote; penalties made before are out of date.

        Raises:
            ArtifactError: a file is missing, cut short or altered.
            MismatchError: the scores belong to another model, prompt or index.
        """
        manifest = artifact.verify(directory, kind=_KIND, version=_VERSION)
        if manifest["key"] != self._key:
            raise MismatchError(
                f"the prior in {directory} has key {manifest['key']}, not {self._key}", remedy="remove it"
            )
        arrays = artifact.mmap_arrays(directory / _FILE)
        if "steps" not in arrays:
            raise ArtifactError(f"{directory / _FILE} does not contain the array steps", remedy="remove it")
        log_probs = arrays["steps"]
        if log_probs.shape != self.log_probs.shape:
            raise MismatchError(
                f"the prior in {directory} has {len(log_probs)} tokens, not {len(self.log_probs)}",
                remedy="remove it",
            )
        with self._lock:
            self.log_probs[:] = log_probs
            self._penalties.clear()
            self._is_complete = False
            self.unsaved = False

    def _missing_rows(self, rows: IntArray) -> IntArray:
        """The rows that are not scored yet: those whose last token, which no other row has, is NaN."""
        missing: IntArray = rows[np.isnan(self.log_probs[self._trie.last_positions[rows]])]
        return missing

    def _score_rows(self, rows: IntArray, deadline: Deadline) -> None:
        tree = self._backend.open(self._prompts, deadline=deadline)
        block = self._trie if len(rows) == len(self._trie) else self._trie.restrict(rows)
        scores = score_tries(tree, [block] * len(self._prompts))
        log_probs = np.mean([prompt_scores.log_probs for prompt_scores in scores if prompt_scores is not None], axis=0)
        positions, values = self._trie.path_positions(rows), log_probs[block.path_positions(np.arange(len(block)))]
        is_last = np.isin(positions, self._trie.last_positions[rows])
        # The last token of a row marks it as scored, so it is written last: other threads read without the lock.
        self.log_probs[positions[~is_last]] = values[~is_last]
        self.log_probs[positions[is_last]] = values[is_last]
        self.unsaved = True


def _have_equal_tokens(trie: TokenTrie, rows: IntArray, other: TokenTrie, other_rows: IntArray) -> BoolArray:
    """Which rows of two tries, compared pairwise, have the same tokens: bool, one for each pair."""
    lengths, other_lengths = (
        compared.shared[at].astype(np.int64) + compared.tails[at]
        for compared, at in ((trie, rows), (other, other_rows))
    )
    is_same: BoolArray = lengths == other_lengths
    pairs = np.flatnonzero(is_same)
    if pairs.size:
        equal = trie.tokens_of_rows(rows[pairs]) == other.tokens_of_rows(other_rows[pairs])
        is_same[pairs] = np.logical_and.reduceat(equal, np.cumsum(lengths[pairs]) - lengths[pairs])
    return is_same
