"""What works with a language model: its scores, texts and speed, compared with its own forward passes.

Four items are ranked behind two prompts, one of them twice as long. The comparison computes each path, prompt and title
together, in one forward pass without a cache, a mask or a tree.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from genrec.backends.base import Backend, GenerationRequest
from genrec.data.catalog import Catalog
from genrec.data.subset import Subset
from genrec.deadline import Deadline
from genrec.errors import EngineError, MismatchError
from genrec.index.catalog_index import CatalogIndex
from genrec.index.identifiers import TitleIdentifiers
from genrec.prompting.template import read_template
from genrec.prompting.tokenizer import Tokenizer
from genrec.rankers.base import Ranker, RankRequest
from genrec.rankers.generative import GenerativeRanker
from genrec.rankers.generative_settings import GenerativeSettings
from genrec.types import FloatArray, IntArray, Item

TITLES = ("Tea Cup", "Tea Pot", "Bicycle Bell", "Garden Spade", "Tea Cup with a Saucer", "Umbrella", "Notebook", "Lamp")
_HISTORIES = (np.array([0]), np.array([5, 6, 7, 4, 0]))
_ALLOWED = (1, 2, 3, 4)
_MAX_TEXT_TOKENS = 12


@dataclass(frozen=True)
class ScoreComparison:
    """Log-probabilities of the tokens of titles, in nats.

    Attributes:
        log_probs: float64 [U, T], in a token tree, for the T tokens of all titles behind U prompts.
        expected: the same, computed in another way.
    """

    log_probs: FloatArray
    expected: FloatArray

    @property
    def difference(self) -> float:
        """The largest difference of a token's log-probability, in nats."""
        return float(np.abs(self.log_probs - self.expected).max())

    @property
    def sensitivity(self) -> float:
        """How much the prompt changes the log-probability of a token at most, in nats; 0 if the prompt is ignored."""
        return float(np.ptp(self.expected, axis=0).max())


class Reference(Protocol):
    """Computes log-probabilities in another way than a token tree."""

    def log_probs_of(self, prompt: IntArray, title: IntArray) -> FloatArray:
        """The log-probability of each token of a title behind a prompt: float64 [T], in nats."""
        ...


class WholePaths:
    """Log-probabilities by one forward pass over prompt and title, without a cache.

    Args:
        model: a causal language model of Transformers.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._keeps_last = "logits_to_keep" in inspect.signature(model.forward).parameters

    def log_probs_of(self, prompt: IntArray, title: IntArray) -> FloatArray:
        """See `Reference.log_probs_of`."""
        rows = self.next_log_probs(np.concatenate([prompt, title[:-1]]), len(title))
        chosen: FloatArray = rows[np.arange(len(title)), title]
        return chosen

    def next_log_probs(self, path: IntArray, count: int) -> FloatArray:
        """The log-probabilities of all next tokens at the last `count` tokens of a path: float64 [count, V]."""
        import torch

        options = {"logits_to_keep": count} if self._keeps_last else {}
        with torch.inference_mode():
            row = torch.from_numpy(path)[None].to(self._model.device)
            logits = self._model(input_ids=row, use_cache=False, **options).logits
            result: FloatArray = logits[0, -count:].double().log_softmax(dim=-1).cpu().numpy()
        return result


class SingleTokens:
    """Log-probabilities by a prompt of its own for each token, for models that do not run in this process.

    Args:
        backend: the model.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def log_probs_of(self, prompt: IntArray, title: IntArray) -> FloatArray:
        """See `Reference.log_probs_of`."""
        values = []
        for depth in range(len(title)):
            tree = self._backend.open([np.concatenate([prompt, title[:depth]])])
            values.append(tree.log_probs(np.array([0]), title[depth : depth + 1], np.array([0, 1])))
        return np.concatenate(values)


def example_catalog() -> Catalog:
    """The items of `TITLES`, with their positions as ids."""
    return Catalog.from_items([Item(number, title) for number, title in enumerate(TITLES)])


def example_requests() -> list[RankRequest]:
    """Two requests, which differ in the length of their histories."""
    allowed = Subset.from_indices(len(TITLES), list(_ALLOWED))
    return [RankRequest(history, "", allowed) for history in _HISTORIES]


def rank_titles(ranker: Ranker, name: str, k: int) -> list[str]:
    """The k best titles for the first request, ranked by the model with a name.

    Raises:
        EngineError: the model failed, a prompt does not fit, or the list has other items than those allowed.
    """
    ranking = ranker.rank(example_requests()[:1], k, deadline=Deadline.never())[0]
    items = ranking.item_indices.tolist()
    if len(items) != k or len(set(items)) != k or not set(items) <= set(_ALLOWED):
        raise EngineError(f"{name} ranked items {items}, but {k} of {list(_ALLOWED)} were asked for")
    return [TITLES[item] for item in items]


class ModelCheck:
    """Ranks items with a language model, and compares it with its own forward passes.

    Args:
        backend: the model.
        tokenizer: its tokenizer.

    Raises:
        TokenizerMismatchError: the tokenizer belongs to another model.
    """

    def __init__(self, backend: Backend, tokenizer: Tokenizer) -> None:
        self._backend, self._tokenizer = backend, tokenizer
        self.index = CatalogIndex.build(example_catalog(), TitleIdentifiers(), tokenizer)
        self.ranker = GenerativeRanker(
            self.index,
            backend,
            tokenizer,
            template=read_template("next-item"),
            cold_template=read_template("cold-start"),
            settings=GenerativeSettings(strategy="exhaustive", prior=0.0),
        )
        self.requests = example_requests()

    def prompts(self) -> list[IntArray]:
        """The prompts, int64 [P] each.

        Raises:
            EngineError: the context is too short for a prompt without a history.
        """
        return [self.ranker.render(request).token_ids for request in self.requests]

    def rank(self, k: int) -> list[str]:
        """The k best titles behind the first prompt.

        Raises:
            EngineError: the model failed, a prompt does not fit, or the list has other items than those allowed.
        """
        return rank_titles(self.ranker, self._backend.name, k)

    def compare_scores(self, reference: Reference) -> ScoreComparison:
        """Compute the log-probabilities of the titles' tokens in one token tree, and in another way.

        Raises:
            EngineError: the model failed, or a prompt does not fit.
        """
        prompts, titles = self.prompts(), self._titles()
        expected = [np.concatenate([reference.log_probs_of(prompt, title) for title in titles]) for prompt in prompts]
        return ScoreComparison(_tree_log_probs(self._backend, prompts, titles), np.stack(expected))

    def compare_backends(self, other: Backend) -> float:
        """The largest difference of a token's log-probability from another backend's, in nats.

        Raises:
            EngineError: a model failed, or a prompt does not fit.
        """
        prompts, titles = self.prompts(), self._titles()
        own, others = (_tree_log_probs(backend, prompts, titles) for backend in (self._backend, other))
        return float(np.abs(own - others).max())

    def _titles(self) -> list[IntArray]:
        """The tokens of the titles that are compared."""
        trie = self.index.trie
        return [trie.tokens_of_row(int(trie.rows_of_items[item])).astype(np.int64) for item in _ALLOWED]

    def generate(self, reference: WholePaths | None = None, *, tolerance: float = 1e-3) -> str:
        """A greedy text of a few tokens behind the first prompt.

        Args:
            reference: checks that each token is the most probable one; None for no check.
            tolerance: how much less probable than the best one a token may be, in nats.

        Raises:
            EngineError: the model failed.
            MismatchError: a token is not the most probable one.
        """
        prompt = self.prompts()[0]
        request = GenerationRequest(prompt, self._tokenizer.control_token_ids, _MAX_TEXT_TOKENS)
        completion = self._backend.generate([request])[0]
        token_ids = completion.token_ids
        if reference is not None and len(token_ids):
            path = np.concatenate([prompt, token_ids[:-1]])
            expected = reference.next_log_probs(path, len(token_ids))
            behind = expected.max(axis=1) - expected[np.arange(len(token_ids)), token_ids]
            if (behind > tolerance).any():
                place = int(np.argmax(behind > tolerance))
                raise MismatchError(
                    f"token {place + 1} of the text by {self._backend.name} is {behind[place]:.3g} nats less probable "
                    "than the best one; report this model"
                )
        return self._tokenizer.decode(token_ids.tolist())


def _tree_log_probs(backend: Backend, prompts: Sequence[IntArray], titles: Sequence[IntArray]) -> FloatArray:
    """The log-probability of each token of all titles behind each prompt, in one tree: float64 [U, T]."""
    parents: list[int] = []
    tokens: list[int] = []
    queries: list[tuple[int, int]] = []
    node_of: dict[tuple[int, int], int] = {}
    for prompt in range(len(prompts)):
        for title in titles:
            node = prompt
            for token in title.tolist():
                queries.append((node, token))
                if (node, token) not in node_of:
                    node_of[node, token] = len(prompts) + len(parents)
                    parents.append(node)
                    tokens.append(token)
                node = node_of[node, token]
    tree = backend.open(prompts)
    tree.grow(np.array(parents), np.array(tokens))
    nodes, next_tokens = (np.array(column) for column in zip(*queries, strict=True))
    return tree.log_probs(nodes, next_tokens, np.arange(len(queries) + 1)).reshape(len(prompts), -1)
