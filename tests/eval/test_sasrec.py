"""SASRec keeps the ranker contract, learns order, repeats itself under its seed, and comes back from a folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from contracts import KnownAnswer, RankerContract

from eval.baselines.sasrec import SasRec, train_sasrec
from genrec import Ranker, RankRequest, Subset
from genrec.deadline import Deadline
from genrec.errors import ArtifactError, InputError
from genrec.types import IntArray

N = 20
EVERYTHING = Subset.everything(N)


def walk(random: np.random.Generator, size: int) -> IntArray:
    """What comes next depends on the last two items: a run keeps its direction round the ring of items."""
    return (random.integers(N) + random.choice([-1, 1]) * np.arange(size)) % N


def trained(seed: int = 1, epochs: int = 30, **options: int | None) -> SasRec:
    random = np.random.default_rng(0)
    histories = [walk(random, random.integers(3, 9)) for _ in range(600)]
    held = [walk(random, 6) for _ in range(60)]
    pairs = [(one[:-1], int(one[-1])) for one in held]
    return train_sasrec(
        histories, N, validation=pairs, seed=seed, epochs=epochs, dimension=16, dropout=0.1, batch_size=32, **options
    )


@pytest.fixture(scope="module", params=[{}, {"negatives": 16, "among": 10, "patience": 30}], ids=["whole", "sampled"])
def learned(request: pytest.FixtureRequest) -> SasRec:
    return trained(**request.param)


def request(*items: int) -> RankRequest:
    history = np.array(items, dtype=np.int64)
    return RankRequest(history, "", EVERYTHING.without(history))


class TestSasRec(RankerContract):
    subject = "SasRec"
    atol = 1e-5

    @pytest.fixture
    def items(self) -> int:
        return N

    @pytest.fixture
    def ranker(self, learned: SasRec) -> Ranker:
        return learned

    @pytest.fixture
    def planted(self) -> KnownAnswer:
        return KnownAnswer(request(3, 4, 5), 6)


def test_order_decides(learned: SasRec) -> None:
    """The same last item, met from either side: whoever only counts what stands together cannot tell these apart."""
    random = np.random.default_rng(7)
    walks = [walk(random, size) for size in (4, 5, 6, 7) for _ in range(25)]
    rankings = learned.rank([request(*one[:-1]) for one in walks], 1, deadline=Deadline.never())
    right = [ranking.item_indices[0] == one[-1] for ranking, one in zip(rankings, walks, strict=True)]
    assert np.mean(right) > 0.9


def test_the_same_seed_gives_the_same_ranker() -> None:
    """A figure that cannot be repeated is none; and whoever trains must not change anybody else's random numbers."""
    state = torch.get_rng_state()
    first, again, other = (trained(seed, epochs=2).scores([request(1, 2)]) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_saved_ranker_scores_as_before(learned: SasRec, tmp_path: Path) -> None:
    """Whoever trained for twenty minutes does so once."""
    people = [request(1, 2), request(9, 8, 7), request(5)]
    learned.save(tmp_path / "saved")
    assert SasRec.load(tmp_path / "saved").scores(people).tolist() == learned.scores(people).tolist()
    (tmp_path / "saved" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match="altered"):
        SasRec.load(tmp_path / "saved")


def test_only_the_newest_items_are_looked_at(learned: SasRec) -> None:
    """A history longer than the positions that were learned must not fail, nor be read from its old end."""
    long = np.resize(np.arange(N), 75)
    whole, newest = learned.scores([RankRequest(long, "", EVERYTHING), RankRequest(long[-50:], "", EVERYTHING)])
    np.testing.assert_allclose(whole, newest, atol=1e-5)


def test_it_keeps_the_best_pass_and_stops() -> None:
    """Passes after the best one forget; with nothing to find, the first is the best there is."""
    random = np.random.default_rng(0)
    histories = [walk(random, 4) for _ in range(50)]
    told: list[tuple[int, int]] = []

    def train(epochs: int) -> SasRec:
        # The item to be found is in the history, so that no pass ever finds it.
        pairs = [(histories[0], int(histories[0][0]))]
        tell = lambda done, total: told.append((done, total))  # noqa: E731
        return train_sasrec(histories, N, validation=pairs, seed=3, epochs=epochs, patience=4, on_progress=tell)

    stopped = train(50)
    assert told == [(done, 50) for done in range(1, 6)]
    assert stopped.scores([request(1)]).tolist() == train(1).scores([request(1)]).tolist()


def test_without_anything_to_learn_it_says_so() -> None:
    """Random weights rank too, and nobody would notice."""
    pair = (np.array([1, 2]), 3)
    with pytest.raises(InputError, match="0 histories of two items or more and 1 to validate with"):
        train_sasrec([np.array([1]), np.array([], dtype=np.int64)], N, validation=[pair], seed=1)
    with pytest.raises(InputError, match="1 histories of two items or more and 0 to validate with"):
        train_sasrec([np.array([1, 2])], N, validation=[], seed=1)
