"""The baselines of the library implicit satisfy the ranker contract, and find items that occur together."""

import numpy as np
import pytest
from contracts import KnownAnswer, RankerContract

from eval.baselines.neighbours import Als, ItemKnn
from genrec import Ranker, RankRequest, Subset
from genrec.types import IntArray

N = 20
EVERYTHING = Subset.everything(N)


def histories() -> tuple[IntArray, IntArray]:
    """Histories contain items of one half; every second history is 3, 4, 5."""
    random = np.random.default_rng(0)
    halves = [random.permutation(10)[:4] + 10 * random.integers(2) for _ in range(200)]
    users = [np.array([3, 4, 5]) if number % 2 else half for number, half in enumerate(halves)]
    return np.cumsum([0, *map(len, users)]), np.concatenate(users)


def request(*items: int) -> RankRequest:
    history = np.array(items, dtype=np.int64)
    return RankRequest(history, "", EVERYTHING.without(history))


class _Baseline:
    atol = batch_atol = 1e-4

    @pytest.fixture
    def items(self) -> int:
        return N

    @pytest.fixture
    def planted(self) -> KnownAnswer:
        return KnownAnswer(request(3, 4), 5)


class TestItemKnn(_Baseline, RankerContract):
    subject = "ItemKnn"

    @pytest.fixture
    def ranker(self) -> Ranker:
        return ItemKnn(*histories(), N)


class TestAls(_Baseline, RankerContract):
    subject = "Als"

    @pytest.fixture
    def ranker(self) -> Ranker:
        return Als(*histories(), N, factors=8)
