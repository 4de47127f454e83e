"""SASRec: next-item prediction by self-attention over the history; the standard trained baseline.

Source: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, section III. As in the paper:
learned positions, two blocks of causal single-head attention and a pointwise network with ReLU, each with a layer norm
and a residual connection, item vectors shared between input and output, Adam. As in the authors' code: a final layer
norm. Different: the loss. The paper contrasts each next item with one random item (binary cross-entropy); here it is a
softmax over the whole catalog, as in libraries that reach the published figures, or over `negatives` random items. Item
vectors are not scaled by the root of D, dropout applies to attention weights too, and the histories of a batch have
similar lengths.

Letters: U histories, B histories in a batch, L items in each, D dimensions, N items of the catalog.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.artifact import UserData, artifact_writer, mmap_arrays, verify, write_arrays
from genrec.data import Subset
from genrec.deadline import Deadline
from genrec.errors import InputError
from genrec.rankers import DenseRanker, DenseScores, RankRequest
from genrec.types import IntArray

_KIND, _VERSION, _FILE = "sasrec", 1, "weights.safetensors"
_HYPERPARAMETERS = ("item_count", "dimension", "blocks", "length")
_SCORING_BATCH_SIZE = 512  # histories per forward pass
_POOL = 32  # batches that are sorted by length together


class _Block(nn.Module):
    def __init__(self, dimension: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.network_norm = nn.LayerNorm(dimension), nn.LayerNorm(dimension)
        self.projection = nn.Linear(dimension, 3 * dimension, bias=False)
        self.wide, self.narrow = nn.Linear(dimension, dimension), nn.Linear(dimension, dimension)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """float32 [B, L, D]; `mask` [B, L, L] is added to the attention."""
        query, key, value = self.projection(self.attention_norm(states)).chunk(3, dim=-1)
        weights = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5).softmax(dim=-1)
        states = states + self.dropout(self.dropout(weights) @ value)
        hidden = self.dropout(functional.relu(self.wide(self.network_norm(states))))
        found: Tensor = states + self.dropout(self.narrow(hidden))
        return found


class _Network(nn.Module):
    def __init__(self, item_count: int, dimension: int, blocks: int, length: int, dropout: float) -> None:
        super().__init__()
        self.items, self.positions = nn.Embedding(item_count + 1, dimension), nn.Embedding(length, dimension)
        self.blocks = nn.ModuleList(_Block(dimension, dropout) for _ in range(blocks))
        self.norm, self.dropout = nn.LayerNorm(dimension), nn.Dropout(dropout)
        for weight in self.parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(self, items: Tensor) -> Tensor:
        """The expected next item at each position: float32 [B, L, D] from int64 [B, L], left-padded with N."""
        size = items.shape[1]
        real = items < self.items.num_embeddings - 1
        before = torch.ones(size, size, dtype=torch.bool).tril()
        # Padding attends to itself, so that no row of the mask is empty.
        seen = before & real[:, None, :] | torch.eye(size, dtype=torch.bool)
        mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
        states = self.dropout(self.items(items) + self.positions.weight[-size:])
        for block in self.blocks:
            states = block(states, mask)
        found: Tensor = self.norm(states)
        return found


class SasRec(DenseRanker):
    """Scores an item by the inner product of its vector and the network's output after the history.

    Created by `train_sasrec` or `load`. Only the newest `length` items of a history are used.
    """

    source = "sasrec"

    def __init__(
        self, item_count: int, *, dimension: int = 64, blocks: int = 2, length: int = 50, dropout: float = 0.0
    ) -> None:
        self.item_count, self.dimension, self.blocks, self.length = item_count, dimension, blocks, length
        self.network = _Network(item_count, dimension, blocks, length, dropout).eval()

    def can_rank(self, request: RankRequest) -> bool:
        """Whether the history has items."""
        return len(request.history) > 0

    @torch.inference_mode()
    def scores(self, requests: Sequence[RankRequest]) -> DenseScores:
        """float32 [U, N]."""
        histories = [request.history[-self.length :] for request in requests]
        expected = torch.empty(len(histories), self.dimension)
        order = np.argsort([len(history) for history in histories], kind="stable")
        for rows in np.split(order, range(_SCORING_BATCH_SIZE, len(order), _SCORING_BATCH_SIZE)):
            expected[rows] = self.network(_pad([histories[row] for row in rows], self.item_count))[:, -1]
        scores: DenseScores = (expected @ self.network.items.weight[:-1].T).numpy()
        return scores

    def save(self, directory: Path) -> None:
        """Write a directory atomically: weights.safetensors, manifest.json."""
        facts = {name: getattr(self, name) for name in _HYPERPARAMETERS}
        user_data = UserData("aggregate", "weights of a model that was trained on interactions")
        with artifact_writer(directory, kind=_KIND, version=_VERSION, user_data=user_data, metadata=facts) as folder:
            write_arrays(folder / _FILE, {name: one.numpy() for name, one in self.network.state_dict().items()})

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtifactError: the directory is missing or was altered.
        """
        facts = verify(directory, kind=_KIND, version=_VERSION)
        ranker = cls(**{name: facts[name] for name in _HYPERPARAMETERS})
        arrays = mmap_arrays(directory / _FILE)
        ranker.network.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
        return ranker


def train_sasrec(
    histories: Sequence[IntArray],
    item_count: int,
    *,
    validation: Sequence[tuple[IntArray, int]],
    seed: int,
    epochs: int = 100,
    patience: int = 5,
    dimension: int = 64,
    blocks: int = 2,
    length: int = 50,
    dropout: float = 0.5,
    negatives: int | None = None,
    among: int | None = None,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    on_progress: Callable[[int, int], None] | None = None,
) -> SasRec:
    """Train until NDCG on the validation items stops improving, and return the ranker of the best epoch.

    The same arguments give the same weights on the same machine with the same number of threads.

    Args:
        histories: item indices of each of U users, oldest first; histories with one item are ignored.
        item_count: N.
        validation: pairs of a history and its next item.
        seed: seed of weights, order, dropout and random items.
        epochs: maximum number of passes over the histories.
        patience: number of epochs without a better NDCG@10 before training stops.
        negatives: number of random negatives per batch; None for the whole catalog.
        among: number of random items that a validation item is ranked among; None for the whole catalog without the
            history.
        on_progress: called after each epoch with the number of finished epochs and of all epochs.

    Raises:
        InputError: there are no histories of two items or more, or no validation items.
    """
    sequences = [history[-length - 1 :] for history in histories if len(history) > 1]
    if not sequences or not validation:
        raise InputError(
            f"{len(sequences)} histories of two items or more and {len(validation)} validation histories; "
            "give at least one of each"
        )
    random = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ranker = SasRec(item_count, dimension=dimension, blocks=blocks, length=length, dropout=dropout)
        network = ranker.network
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
        best, best_weights, waited = -1.0, deepcopy(network.state_dict()), 0
        for epoch in range(1, epochs + 1):
            network.train()
            for batch in _batches([len(one) for one in sequences], batch_size, random):
                rows = _pad([sequences[place] for place in batch], item_count)
                others = None if negatives is None else torch.from_numpy(random.integers(0, item_count, negatives))
                loss = _loss(network, rows, others)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            network.eval()
            found = _ndcg(ranker, validation, among, seed)
            waited += 1
            if found > best:
                best, best_weights, waited = found, deepcopy(network.state_dict()), 0
            if on_progress is not None:
                on_progress(epoch, epochs)
            if waited == patience:
                break
    network.load_state_dict(best_weights)
    return ranker


def _batches(sizes: Sequence[int], batch_size: int, random: np.random.Generator) -> Iterator[IntArray]:
    """All indices in random order, in batches of similar lengths, which need little padding."""
    order = random.permutation(len(sizes))
    pools = np.split(order, range(_POOL * batch_size, len(order), _POOL * batch_size))
    alike = [pool[np.argsort(np.asarray(sizes)[pool], kind="stable")] for pool in pools]
    batches = [batch for pool in alike for batch in np.split(pool, range(batch_size, len(pool), batch_size))]
    for place in random.permutation(len(batches)):
        yield batches[place]


def _pad(histories: Sequence[IntArray], padding: int) -> Tensor:
    """int64 [B, L]; each history ends at the right edge."""
    rows = np.full((len(histories), max(map(len, histories))), padding)
    for row, history in zip(rows, histories, strict=True):
        row[len(row) - len(history) :] = history
    return torch.from_numpy(rows)


def _loss(network: _Network, rows: Tensor, negatives: Tensor | None) -> Tensor:
    """Softmax cross-entropy of each next item over the catalog, or over sampled negatives."""
    before, after = rows[:, :-1], rows[:, 1:]
    real = before < network.items.num_embeddings - 1
    expected, true = network(before)[real], after[real]
    if negatives is None:
        return functional.cross_entropy(expected @ network.items.weight[:-1].T, true)
    right = (expected * network.items(true)).sum(dim=-1)
    # A random item that is the next item is not a negative.
    wrong = (expected @ network.items(negatives).T).masked_fill(negatives == true[:, None], -torch.inf)
    everything = wrong.logsumexp(dim=1) + np.log((network.items.num_embeddings - 2) / len(negatives))
    return functional.softplus(everything - right).mean()


def _ndcg(ranker: SasRec, validation: Sequence[tuple[IntArray, int]], among: int | None, seed: int) -> float:
    """NDCG@10 of the validation items, among the same random items at each call or all items outside the history."""
    random, size, total = np.random.default_rng(seed), ranker.item_count, 0.0
    everything = Subset.everything(size)
    for start in range(0, len(validation), _SCORING_BATCH_SIZE):
        pairs, requests = validation[start : start + _SCORING_BATCH_SIZE], []
        for history, item in pairs:
            allowed = everything.without(history)
            if among is not None:
                others = np.setdiff1d(random.integers(0, size, among), history)
                allowed = Subset.from_indices(size, np.append(others, item))
            requests.append(RankRequest(history, "", allowed))
        for (_, item), ranking in zip(pairs, ranker.rank(requests, 10, deadline=Deadline.never()), strict=True):
            total += float((1.0 / np.log2(2.0 + np.flatnonzero(ranking.item_indices == item))).sum())
    return total / len(validation)
