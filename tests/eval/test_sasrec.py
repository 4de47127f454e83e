"""SASRec satisfies the ranker contract, learns order, is reproducible with a seed, and can be saved and loaded."""

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
    """A walk in one direction around a ring of items, so the next item depends on the last two."""
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
    atol = batch_atol = 1e-5

    @pytest.fixture
    def items(self) -> int:
        return N

    @pytest.fixture
    def ranker(self, learned: SasRec) -> Ranker:
        return learned

    @pytest.fixture
    def planted(self) -> KnownAnswer:
        return KnownAnswer(request(3, 4, 5), 6)


def test_the_order_of_the_history_matters(learned: SasRec) -> None:
    """Walks reach the same last item from either side; co-occurrence alone cannot distinguish them."""
    random = np.random.default_rng(7)
    walks = [walk(random, size) for size in (4, 5, 6, 7) for _ in range(25)]
    rankings = learned.rank([request(*one[:-1]) for one in walks], 1, deadline=Deadline.never())
    right = [ranking.item_indices[0] == one[-1] for ranking, one in zip(rankings, walks, strict=True)]
    assert np.mean(right) > 0.9


def test_the_same_seed_gives_the_same_ranker() -> None:
    """Figures must be reproducible, and training must not change the global random state."""
    state = torch.get_rng_state()
    first, again, other = (trained(seed, epochs=2).scores([request(1, 2)]) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_saved_ranker_scores_as_before(learned: SasRec, tmp_path: Path) -> None:
    """Otherwise every run would train again, for twenty minutes."""
    requests = [request(1, 2), request(9, 8, 7), request(5)]
    learned.save(tmp_path / "saved")
    assert SasRec.load(tmp_path / "saved").scores(requests).tolist() == learned.scores(requests).tolist()
    (tmp_path / "saved" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match="altered"):
        SasRec.load(tmp_path / "saved")


def test_only_the_newest_items_are_used(learned: SasRec) -> None:
    """A history longer than the learned positions must be truncated at its old end."""
    long = np.resize(np.arange(N), 75)
    whole, newest = learned.scores([RankRequest(long, "", EVERYTHING), RankRequest(long[-50:], "", EVERYTHING)])
    np.testing.assert_allclose(whole, newest, atol=1e-5)


def test_training_stops_early_and_keeps_the_best_epoch() -> None:
    """Later epochs overfit; if the target cannot be found, the first epoch is the best."""
    random = np.random.default_rng(0)
    histories = [walk(random, 4) for _ in range(50)]
    progress: list[tuple[int, int]] = []

    def record(done: int, total: int) -> None:
        progress.append((done, total))

    def train(epochs: int) -> SasRec:
        # The target is in the history, so no epoch finds it.
        pairs = [(histories[0], int(histories[0][0]))]
        return train_sasrec(histories, N, validation=pairs, seed=3, epochs=epochs, patience=4, on_progress=record)

    stopped = train(50)
    assert progress == [(done, 50) for done in range(1, 6)]
    assert stopped.scores([request(1)]).tolist() == train(1).scores([request(1)]).tolist()


def test_empty_training_or_validation_data_is_an_error() -> None:
    """A ranker with random weights would look like a trained one."""
    pair = (np.array([1, 2]), 3)
    with pytest.raises(InputError, match="0 histories of two items or more and 1 validation histories"):
        train_sasrec([np.array([1]), np.array([], dtype=np.int64)], N, validation=[pair], seed=1)
    with pytest.raises(InputError, match="1 histories of two items or more and 0 validation histories"):
        train_sasrec([np.array([1, 2])], N, validation=[], seed=1)
