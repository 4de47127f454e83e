"""Laws of the prior: it is the mean score behind other prompts, and only a matching saved prior is loaded."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brute import log_probs, path_score
from hostile import damaged_copies

from genrec.deadline import Deadline
from genrec.decoding.prior import Prior
from genrec.errors import ArtifactError, DeadlineExceededError, MismatchError
from genrec.index.trie import TokenTrie
from genrec.testing import TableBackend
from genrec.types import FloatArray, IntArray

PROMPT = np.array([5, 2])
PATHS = [(1, 2, 0), (1, 3, 0), (4, 0), (4, 4, 4, 0), (2, 2, 0), (3, 0)]


class CountingBackend(TableBackend):
    """Counts the trees that are opened."""

    opened = 0

    def open(self, prompts: Any, **options: Any) -> Any:
        self.opened += 1
        return super().open(prompts, **options)


@pytest.fixture
def trie() -> TokenTrie:
    return TokenTrie.from_sequences([np.array(path) for path in PATHS])


@pytest.fixture
def backend() -> CountingBackend:
    return CountingBackend(7, seed=2)


def rows_of(trie: TokenTrie, *items: int) -> IntArray:
    return trie.rows_of_items[list(items)]


def scores_of(prior: Prior, trie: TokenTrie, rows: IntArray) -> FloatArray:
    """The prior log-probabilities of complete rows."""
    prior.fill(rows)
    return np.array([prior.log_probs[trie.path_positions(np.array([row]))].sum(dtype=np.float64) for row in rows])


def test_the_prior_of_a_row_is_its_score_behind_the_prompt(backend: CountingBackend, trie: TokenTrie) -> None:
    """Subtracting anything else adds a bias instead of removing one."""
    prior = Prior(backend, trie, [PROMPT], key="k")
    expected = np.array([path_score(backend, PROMPT, path, PATHS, "model") for path in PATHS])
    some = [5, 0, 5]
    np.testing.assert_allclose(scores_of(prior, trie, rows_of(trie, *some)), expected[some], atol=1e-5)
    np.testing.assert_allclose(scores_of(prior, trie, trie.rows_of_items), expected, atol=1e-5)
    position = trie.path_positions(rows_of(trie, 3))[2]
    assert prior.log_probs[position] == pytest.approx(log_probs(backend, [*PROMPT, 4, 4], [4])[0], abs=1e-5)


def test_the_prior_behind_several_prompts_is_their_mean(backend: CountingBackend, trie: TokenTrie) -> None:
    """A single history is arbitrary; the mean over several estimates the background."""
    prompts = [PROMPT, np.array([1]), np.array([6, 6, 6])]
    prior = Prior(backend, trie, prompts, key="k")
    expected = [np.mean([path_score(backend, prompt, path, PATHS, "model") for prompt in prompts]) for path in PATHS]
    np.testing.assert_allclose(scores_of(prior, trie, trie.rows_of_items), expected, atol=1e-5)


def test_rows_are_scored_once_and_on_demand(backend: CountingBackend, trie: TokenTrie) -> None:
    """A request over fifty candidates must not score a catalog of a million items."""
    prior = Prior(backend, trie, [PROMPT], key="k")
    assert not prior.unsaved
    prior.fill(rows_of(trie, 2, 0))
    assert (backend.opened, prior.unsaved) == (1, True)
    prior.fill(rows_of(trie, 0, 2, 0))
    prior.fill(rows_of(trie))
    assert backend.opened == 1
    progress: list[tuple[int, int]] = []
    prior.fill(on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(4, 4)]
    assert not np.isnan(prior.log_probs).any()
    opened = backend.opened
    prior.fill(on_progress=lambda done, total: progress.append((done, total)))
    assert backend.opened == opened
    assert progress == [(4, 4)]


class BlockingBackend(TableBackend):
    """Counts the trees that are opened, and blocks until it is released."""

    def __init__(self, *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **options)
        self.opened = 0
        self.started, self.released = threading.Event(), threading.Event()

    def open(self, prompts: Any, **options: Any) -> Any:
        self.opened += 1
        self.started.set()
        assert self.released.wait(30)
        return super().open(prompts, **options)


def test_two_threads_score_each_row_once(trie: TokenTrie) -> None:
    """Otherwise the first two requests of a server would each score the whole catalog, on the same cores."""
    backend = BlockingBackend(7, seed=2)
    prior = Prior(backend, trie, [PROMPT], key="k")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(prior.fill, rows_of(trie, 0, 1, 2, 3))
        assert backend.started.wait(30)
        second = pool.submit(prior.fill, rows_of(trie, 2, 3))
        time.sleep(0.2)
        assert not second.done()
        backend.released.set()
        first.result(30)
        second.result(30)
    assert backend.opened == 1
    alone = Prior(TableBackend(7, seed=2), trie, [PROMPT], key="k")
    alone.fill(rows_of(trie, 0, 1, 2, 3))
    np.testing.assert_array_equal(prior.log_probs, alone.log_probs)


def test_waiting_thread_keeps_its_own_deadline(trie: TokenTrie) -> None:
    """Otherwise the slowest request delays all others beyond their deadlines."""
    backend = BlockingBackend(7, seed=2)
    prior = Prior(backend, trie, [PROMPT], key="k")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(prior.fill)
        assert backend.started.wait(30)
        with pytest.raises(DeadlineExceededError):
            prior.fill(deadline=Deadline(0.0, lambda: 1.0))
        prior.fill(rows_of(trie)[:0], deadline=Deadline(0.0, lambda: 1.0))
        backend.released.set()
        first.result(30)
    prior.fill(deadline=Deadline(0.0, lambda: 1.0))
    assert backend.opened == 1


def test_prior_penalty_uses_the_latest_prior(backend: CountingBackend, trie: TokenTrie, tmp_path: Path) -> None:
    """A search that subtracts one prior and takes its bounds from another proves wrong lists."""
    other = Prior(CountingBackend(7, seed=3), trie, [PROMPT], key="k")
    other.fill()
    other.save(tmp_path / "prior")
    prior = Prior(backend, trie, [PROMPT], key="k")
    prior.fill()
    before = prior.penalty(1.0)
    assert not np.array_equal(before.score_bound("model").row_gains, other.penalty(1.0).score_bound("model").row_gains)
    prior.load(tmp_path / "prior")
    assert not prior.unsaved
    after = prior.penalty(1.0)
    assert after is not before
    positions = np.arange(len(trie.tokens))
    np.testing.assert_array_equal(after.log_probs_at(positions), other.penalty(1.0).log_probs_at(positions))
    for kind in ("model", "catalog"):
        np.testing.assert_array_equal(after.score_bound(kind).row_gains, other.penalty(1.0).score_bound(kind).row_gains)
    kept = Prior(CountingBackend(7, seed=2), trie, [PROMPT], key="k")
    early = kept.penalty(1.0)
    kept.load(tmp_path / "prior")
    np.testing.assert_array_equal(early.log_probs_at(positions), other.log_probs)


def test_a_saved_prior_loads_without_the_model(backend: CountingBackend, trie: TokenTrie, tmp_path: Path) -> None:
    """A prior takes minutes to compute; a partial one that was saved can be completed later."""
    prior = Prior(backend, trie, [PROMPT], key="k")
    prior.fill(rows_of(trie, 1, 2))
    prior.save(tmp_path / "prior")
    assert not prior.unsaved
    other = CountingBackend(7, seed=2)
    again = Prior(other, trie, [PROMPT], key="k")
    again.load(tmp_path / "prior")
    again.fill(rows_of(trie, 1, 2))
    assert other.opened == 0
    np.testing.assert_array_equal(again.log_probs, prior.log_probs)
    again.fill()
    prior.fill()
    assert other.opened == 1
    np.testing.assert_array_equal(again.log_probs, prior.log_probs)


def test_a_prior_with_another_key_or_trie_is_refused(backend: CountingBackend, trie: TokenTrie, tmp_path: Path) -> None:
    """A wrong correction looks like a bad model."""
    Prior(backend, trie, [PROMPT], key="k").save(tmp_path / "prior")
    with pytest.raises(MismatchError, match="has key k, not other; remove it"):
        Prior(backend, trie, [PROMPT], key="other").load(tmp_path / "prior")
    longer = TokenTrie.from_sequences([np.array(path) for path in [*PATHS, (6, 0)]])
    with pytest.raises(MismatchError, match="has 15 tokens, not 17; remove it"):
        Prior(backend, longer, [PROMPT], key="k").load(tmp_path / "prior")


@pytest.mark.parametrize("name", ["steps.safetensors", "manifest.json"])
def test_any_changed_byte_is_refused_and_the_file_named(
    backend: CountingBackend, trie: TokenTrie, tmp_path: Path, name: str
) -> None:
    """One flipped bit could rank one item first for every user."""
    prior = Prior(backend, trie, [PROMPT], key="k")
    prior.fill()
    prior.save(tmp_path)
    for content in damaged_copies(tmp_path / name):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=name):
            prior.load(tmp_path)
