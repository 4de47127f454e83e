"""How likely each item is whoever asks.

An LLM prefers short and famous titles whatever the history says. Subtracting the log-probability that the same
template gives an item with other people's histories, or with none, takes that preference out: what is left is what
this history says. Source: the pointwise mutual information of Church and Hanks, Computational Linguistics 16(1), 1990;
as a decoding objective, Li et al., "A Diversity-Promoting Objective Function", NAACL 2016, section 4.2; measuring it
behind contentful rather than empty prompts follows Zhao et al., "Calibrate Before Use", ICML 2021, section 5.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrec import artifact
from genrec.backends.base import Backend
from genrec.deadline import Deadline
from genrec.decoding.bounds import PriorPenalty
from genrec.decoding.tree_scoring import score_tries
from genrec.errors import ArtifactError, MismatchError
from genrec.index.trie import TokenTrie
from genrec.types import IntArray

_KIND = "prior"
_FILE = "steps.safetensors"
_VERSION = 2
_BLOCK_ROWS = 256  # rows scored between two calls of on_progress


class Prior:
    """Log-probabilities of every token of a trie, the mean over some prompts; rows are scored when first needed.

    Threads may share it: while one scores a block of rows the others wait, and find it done.

    Args:
        backend: the model.
        trie: T tokens in N rows.
        prompts: int64 [P] each, the template with the histories of others, or with none.
        key: names the model, the prompts and the index; a saved prior of another key is refused.

    Attributes:
        log_probs: float32 [T]; NaN for tokens of rows that nobody asked about yet.
        unsaved: whether anything was scored that `save` has not written yet.
    """

    def __init__(self, backend: Backend, trie: TokenTrie, prompts: Sequence[IntArray], *, key: str) -> None:
        self._backend, self._trie, self._prompts, self._key = backend, trie, list(prompts), key
        self.unsaved = False
        self._penalties: dict[float, PriorPenalty] = {}
        self._lock = threading.Lock()
        self._is_complete = False  # nothing is missing any more
        self.log_probs: NDArray[np.float32] = np.full(len(trie.tokens), np.nan, dtype=np.float32)

    def fill(
        self,
        rows: IntArray | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        *,
        deadline: Deadline | None = None,
    ) -> None:
        """Score the rows that are still missing; what was scored before the deadline passed is kept.

        Args:
            rows: rows that will be asked about; by default all.
            on_progress: called with how many rows are done, and how many were missing.
            deadline: when to give up.

        Raises:
            DeadlineExceededError: it passed.
        """
        if self._is_complete:  # so that a request against a whole prior costs nothing that grows with the catalog
            return
        everything = rows is None
        deadline = deadline or Deadline.never()
        rows = np.arange(len(self._trie)) if rows is None else np.unique(rows)
        missing = self._missing_rows(rows)
        for start in range(0, len(missing), _BLOCK_ROWS):
            with deadline.acquire(self._lock):
                # Another thread may have scored some of them by now.
                block = self._missing_rows(missing[start : start + _BLOCK_ROWS])
                if len(block):
                    self._score_rows(block, deadline)
            if on_progress is not None:
                on_progress(min(start + _BLOCK_ROWS, len(missing)), len(missing))
        self._is_complete = self._is_complete or everything

    @property
    def prompts(self) -> tuple[IntArray, ...]:
        """What it is measured behind."""
        return tuple(self._prompts)

    def reindexed(self, trie: TokenTrie, new_item_indices: IntArray, *, key: str) -> "Prior":
        """The same behind the same prompts, of another trie; what was scored of rows that it has as well is kept.

        Args:
            trie: the other trie.
            new_item_indices: int64, of each item of this trie its number in the other, -1 where it is written otherwise or gone.
            key: names the model, the prompts and the other index.
        """
        other = Prior(self._backend, trie, self._prompts, key=key)
        kept = np.flatnonzero(new_item_indices >= 0)
        rows, places = self._trie.rows_of_items[kept], trie.rows_of_items[new_item_indices[kept]]
        # What tells that a row is there is read first: another thread writes it last.
        there = ~np.isnan(self.log_probs[self._trie.last_positions[rows]])
        rows, places = rows[there], places[there]
        other.log_probs[trie.path_positions(places)] = self.log_probs[self._trie.path_positions(rows)]
        other.unsaved = bool(len(rows))
        return other

    def penalty(self, weight: float) -> PriorPenalty:
        """What a search subtracts; the rows that it may recommend have to be scored before."""
        if weight not in self._penalties:
            self._penalties[weight] = PriorPenalty(self._trie, self.log_probs, weight)
        return self._penalties[weight]

    def save(self, directory: Path) -> None:
        """Write a folder, whole or not at all."""
        with self._lock:
            with artifact.artifact_writer(
                directory, kind=_KIND, version=_VERSION, metadata={"key": self._key}
            ) as folder:
                artifact.write_arrays(folder / _FILE, {"steps": self.log_probs})
            self.unsaved = False

    def load(self, directory: Path) -> None:
        """Take the scores that `save` wrote, in the place of those there are; guides made before are out of date.

        Raises:
            ArtifactError: a file is missing, cut short or altered.
            MismatchError: they belong to another model, prompt or index.
        """
        manifest = artifact.verify(directory, kind=_KIND, version=_VERSION)
        if manifest["key"] != self._key:
            raise MismatchError(
                f"the prior in {directory} is of {manifest['key']}, not of {self._key}", remedy="remove it"
            )
        arrays = artifact.mmap_arrays(directory / _FILE)
        if "steps" not in arrays:
            raise ArtifactError(f"{directory / _FILE} holds no steps", remedy="remove it")
        steps = arrays["steps"]
        if steps.shape != self.log_probs.shape:
            raise MismatchError(
                f"the prior in {directory} has {len(steps)} tokens, not {len(self.log_probs)}",
                remedy="remove it",
            )
        with self._lock:
            self.log_probs[:] = steps
            self._penalties.clear()
            self._is_complete = False
            self.unsaved = False

    def _missing_rows(self, rows: IntArray) -> IntArray:
        """Those that were not scored yet: a row's last token is in no other row, so it tells."""
        missing: IntArray = rows[np.isnan(self.log_probs[self._trie.last_positions[rows]])]
        return missing

    def _score_rows(self, rows: IntArray, deadline: Deadline) -> None:
        tree = self._backend.open(self._prompts, deadline=deadline)
        part = self._trie if len(rows) == len(self._trie) else self._trie.restrict(rows)
        readings = score_tries(tree, [part] * len(self._prompts))
        steps = np.mean([reading.log_probs for reading in readings if reading is not None], axis=0)
        places, values = self._trie.path_positions(rows), steps[part.path_positions(np.arange(len(part)))]
        last = np.isin(places, self._trie.last_positions[rows])
        # What tells that a row is there is written when it is: other threads look without waiting.
        self.log_probs[places[~last]] = values[~last]
        self.log_probs[places[last]] = values[last]
        self.unsaved = True
