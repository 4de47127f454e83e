"""How likely each item is whoever asks.

An LLM prefers short and famous titles whatever the history says. Subtracting the log-probability that the same
template gives an item with other people's histories, or with none, takes that preference out: what is left is what
this history says. Source: the pointwise mutual information of Church and Hanks, Computational Linguistics 16(1), 1990;
as a decoding objective, Li et al., "A Diversity-Promoting Objective Function", NAACL 2016, section 4.2; measuring it
behind contentful rather than empty prompts follows Zhao et al., "Calibrate Before Use", ICML 2021, section 5.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genrec import artifact
from genrec.backends.base import Backend
from genrec.deadline import Deadline
from genrec.errors import ArtifactError, MismatchError
from genrec.search import ScoreKind, catalog_steps, path_log_probs, prefix_sums
from genrec.timed_tree import TimedTree
from genrec.trie import TokenTrie, ragged_ranges
from genrec.types import FloatArray, IntArray

_KIND = "prior"
_VERSION = 1
_ROWS = 256  # rows scored between two calls of on_progress


class Prior:
    """Log-probabilities of every token of a trie, the mean over some prompts; rows are scored when first needed.

    Args:
        backend: the model.
        trie: T tokens in N rows.
        prompts: int64 [P] each, the template with the histories of others, or with none.
        key: names the model, the prompts and the index; a saved prior of another key is refused.

    Attributes:
        unsaved: whether anything was scored that `save` has not written yet.
    """

    def __init__(self, backend: Backend, trie: TokenTrie, prompts: Sequence[IntArray], *, key: str) -> None:
        self._backend, self._trie, self._prompts, self._key = backend, trie, list(prompts), key
        self.unsaved = False
        self._steps: NDArray[np.float32] = np.full(len(trie.tokens), np.nan, dtype=np.float32)

    def fill(self, on_progress: Callable[[int, int], None] | None = None, *, deadline: Deadline | None = None) -> None:
        """Score every row that is still missing; what was scored before the deadline passed is kept.

        Raises:
            DeadlineExceededError: it passed.
        """
        deadline = deadline or Deadline.never()
        missing = np.flatnonzero(np.isnan(self._steps[self._trie.offsets[:-1]]))
        for start in range(0, len(missing), _ROWS):
            self._score(missing[start : start + _ROWS], deadline)
            if on_progress is not None:
                on_progress(min(start + _ROWS, len(missing)), len(missing))

    def row_scores(self, rows: IntArray, kind: ScoreKind, deadline: Deadline | None = None) -> FloatArray:
        """float64 [rows], the log-probability of whole rows.

        Under `model` only these rows are scored, if they are missing; under `catalog` every row has to be.
        """
        if kind == "catalog":
            return self.prefix_scores(kind, deadline)[self._trie.offsets[rows + 1] - 1]
        missing = np.unique(rows[np.isnan(self._steps[self._trie.offsets[rows]])])
        if missing.size:
            self._score(missing, deadline or Deadline.never())
        places, _ = ragged_ranges(self._trie.offsets[rows], self._trie.offsets[rows + 1])
        scores = np.zeros(len(rows))
        np.add.at(scores, np.repeat(np.arange(len(rows)), self._trie.lengths[rows]), self._steps[places])
        return scores

    def prefix_scores(self, kind: ScoreKind, deadline: Deadline | None = None) -> FloatArray:
        """float64 [T], the log-probability of every prefix of every row; missing rows are scored first."""
        self.fill(deadline=deadline)
        steps = self._steps.astype(np.float64)
        return prefix_sums(self._trie, catalog_steps(self._trie, steps) if kind == "catalog" else steps)

    def save(self, directory: Path) -> None:
        """Write a folder, whole or not at all."""
        with artifact.writing(directory, kind=_KIND, version=_VERSION, facts={"key": self._key}) as folder:
            save_file({"steps": self._steps}, folder / "steps.safetensors")
        self.unsaved = False

    def load(self, directory: Path) -> None:
        """Take the scores that `save` wrote.

        Raises:
            ArtifactError: a file is missing, cut short or altered.
            MismatchError: they belong to another model, prompt or index.
        """
        manifest = artifact.verify(directory, kind=_KIND, version=_VERSION)
        if manifest["key"] != self._key:
            raise MismatchError(f"the prior in {directory} is of {manifest['key']}, not of {self._key}; remove it")
        try:
            steps = load_file(directory / "steps.safetensors")["steps"]
        except (SafetensorError, KeyError) as error:
            raise ArtifactError(f"{directory / 'steps.safetensors'} cannot be read: {error}; remove it") from error
        if steps.shape != self._steps.shape:
            raise MismatchError(f"the prior in {directory} has {len(steps)} tokens, not {len(self._steps)}; remove it")
        self._steps = steps

    def _score(self, rows: IntArray, deadline: Deadline) -> None:
        rows = np.sort(rows)
        deadline.check()
        tree = TimedTree(self._backend.open(self._prompts), deadline)
        steps = np.mean(path_log_probs(tree, self._trie, [rows] * len(self._prompts)), axis=0)
        places, _ = ragged_ranges(self._trie.offsets[rows], self._trie.offsets[rows + 1])
        self._steps[places] = steps
        self.unsaved = True
