"""Every ranker keeps the contract, see contracts.py; and what each promises of its own."""

import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brute import path_score
from contracts import KnownAnswer, RankerContract, subjects
from numpy.typing import NDArray

import eval.baselines
import genrec.rankers
from genrec.data.catalog import Catalog
from genrec.data.subset import Boost, Mask, Subset
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError, InputError, TokenizerMismatchError
from genrec.index.catalog_index import CatalogIndex
from genrec.index.identifiers import TitleIdentifiers
from genrec.index.kernels import numba as numba_kernels
from genrec.index.kernels import numpy as numpy_kernels
from genrec.notices import Notice
from genrec.prompting.template import Template
from genrec.rankers.base import DenseRanker, Ranker, RankRequest, top_k
from genrec.rankers.collaborative import CooccurrenceRanker, fit_pmi_vectors
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.ensemble import BlendRanker, fit_weights
from genrec.rankers.generative import GenerativeRanker, GenerativeSettings
from genrec.rankers.popularity import PopularityRanker
from genrec.recommender import Recommender
from genrec.testing import ByteTokenizer, TableBackend
from genrec.types import FloatArray, History, IntArray, Item

N = 20
EVERYTHING = Subset.everything(N)
TITLES = ["".join(letters) for size in (1, 2, 3) for letters in itertools.product("abc", repeat=size)][:N]
CATALOG = Catalog.from_items([Item(f"i{place}", title) for place, title in enumerate(TITLES)], name="letters")


def only(*items: int) -> Subset:
    return Subset.from_indices(N, items)


def history(*items: int) -> IntArray:
    return np.array(items, dtype=np.int64)


class WordEncoder:
    """Texts of equal letters have equal vectors."""

    name = "letters"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [np.random.default_rng(list(text.encode())).normal(size=8) for text in texts]
        vectors = np.array(rows, dtype=np.float32).reshape(-1, 8)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def popularity() -> PopularityRanker:
    return PopularityRanker(np.random.default_rng(4).integers(0, 6, N))


def cooccurrence() -> CooccurrenceRanker:
    """400 random histories, and a hundred more in which item 7 comes right after item 3."""
    random = np.random.default_rng(5)
    baskets = [random.choice(N, 4, replace=False) for _ in range(400)] + [history(3, 7)] * 100
    offsets = np.concatenate([[0], np.cumsum([len(basket) for basket in baskets])])
    return CooccurrenceRanker(offsets, np.concatenate(baskets), N)


def embedding() -> EmbeddingRanker:
    """Item 7 lies almost where item 3 lies."""
    vectors = WordEncoder().encode(TITLES)
    vectors[7] = vectors[3] + 0.01 * vectors[5]
    return EmbeddingRanker(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), encoder=WordEncoder())


class _Dense(RankerContract):
    @pytest.fixture
    def items(self) -> int:
        return N

    @pytest.fixture
    def planted(self) -> KnownAnswer:
        return KnownAnswer(RankRequest(history(3), "", EVERYTHING.without([3])), 7)


class TestPopularityRanker(_Dense):
    subject = "PopularityRanker"

    @pytest.fixture
    def ranker(self) -> Ranker:
        return popularity()

    @pytest.fixture
    def planted(self) -> KnownAnswer:
        counts = np.random.default_rng(4).integers(0, 6, N)
        return KnownAnswer(RankRequest(history(), "", EVERYTHING), int(np.argmax(counts)))

    def test_it_always_has_an_answer(self, ranker: Ranker) -> None:
        """The ladder ends here."""
        assert ranker.can_rank(RankRequest(history(), "", EVERYTHING))

    def test_without_any_event_items_stand_in_catalog_order(self) -> None:
        """A shop that opens today still gets a list."""
        ranker = PopularityRanker(np.zeros(N, dtype=np.int64))
        (ranking,) = ranker.rank([RankRequest(history(), "", EVERYTHING.without([0]))], 3, deadline=Deadline.never())
        assert ranking.item_indices.tolist() == [1, 2, 3]


class TestCooccurrenceRanker(_Dense):
    subject = "CooccurrenceRanker"

    @pytest.fixture
    def ranker(self) -> Ranker:
        return cooccurrence()

    def test_item_without_interactions_is_not_scored(self) -> None:
        """It must say so, and leave the request to the next step, rather than score everything zero."""
        ranker = CooccurrenceRanker(np.array([0, 2, 3]), np.array([0, 1, 2]), 4)
        everything = Subset.everything(4)
        lonely, met = RankRequest(history(3, 2), "a", everything), RankRequest(history(3, 0), "", everything)
        assert not ranker.can_rank(lonely)
        assert not ranker.can_rank(RankRequest(history(), "words", everything))
        assert ranker.can_rank(met)
        (ranking,) = ranker.rank([met], 4, deadline=Deadline.never())
        assert ranking.item_indices.tolist() == [1]

    def test_scores_are_those_of_the_formula(self) -> None:
        """The docstring is the specification: cosine of baskets plus cosine of next items, weighted by recency."""
        baskets = [[0, 1, 2], [0, 1], [2, 0], [1]]
        offsets = np.cumsum([0, *map(len, baskets)])
        ranker = CooccurrenceRanker(offsets, np.array([*itertools.chain(*baskets)]), 3, decay=0.5, next_weight=2.0)
        met = [sum(item in basket for basket in baskets) for item in range(3)]

        def link(a: int, b: int) -> float:
            beside = sum(a in basket and b in basket for basket in baskets) if a != b else 0
            after = sum(pair == (a, b) for basket in baskets for pair in itertools.pairwise(basket)) if a != b else 0
            return float((beside + 2.0 * after) / np.sqrt(met[a] * met[b]))

        (scores,) = ranker.scores([RankRequest(history(1, 0), "", Subset.everything(3))])
        expected = np.array([(0.5 * link(1, item) + link(0, item)) / 1.5 for item in range(3)])
        np.testing.assert_allclose(scores, expected, rtol=1e-6)

    def test_decay_is_held_to_its_range(self) -> None:
        """Above 1 the oldest item would weigh most."""
        for decay in (0.0, 1.1):
            with pytest.raises(InputError, match=f"decay is {decay}"):
                CooccurrenceRanker(np.array([0, 1]), np.array([0]), 1, decay=decay)


class TestEmbeddingRanker(_Dense):
    subject = "EmbeddingRanker"
    atol = 1e-6

    @pytest.fixture
    def ranker(self) -> Ranker:
        return embedding()

    def test_query_alone_finds_matching_items(self, ranker: Ranker) -> None:
        """Somebody new who says what they look for is not left with what is popular."""
        (ranking,) = ranker.rank([RankRequest(history(), TITLES[11], EVERYTHING)], 1, deadline=Deadline.never())
        assert ranking.item_indices.tolist() == [11]
        assert not ranker.can_rank(RankRequest(history(), " \n", EVERYTHING))
        silent = EmbeddingRanker(WordEncoder().encode(TITLES))
        assert not silent.can_rank(RankRequest(history(), "words", EVERYTHING))

    def test_bad_vectors_are_refused(self) -> None:
        """One NaN would spread over every score."""
        for vectors in (np.zeros(3), np.full((2, 2), np.nan)):
            with pytest.raises(InputError, match="vectors must be finite and of shape"):
                EmbeddingRanker(vectors.astype(np.float32))
        with pytest.raises(InputError, match="decay is 0"):
            EmbeddingRanker(np.ones((1, 1), dtype=np.float32), decay=0)

    @pytest.mark.parametrize("people", [1, 3, 4, 7, 16, 17])
    def test_numpy_and_numba_kernels_agree(self, people: int) -> None:
        """Scores must not depend on what is installed, nor on how many people are asked about at once."""
        random = np.random.default_rng(people)
        vectors = random.standard_normal((2500, 19), dtype=np.float32)
        asked = random.standard_normal((people, 19), dtype=np.float32)
        for loops in (numpy_kernels, numba_kernels):
            found = np.full((people, 2500), np.nan, dtype=np.float32)
            loops.inner_products(vectors, asked, found)
            np.testing.assert_allclose(found, asked @ vectors.T, atol=1e-5)


class TestBlendRanker(_Dense):
    subject = "BlendRanker"
    atol = 1e-6

    @pytest.fixture
    def ranker(self) -> Ranker:
        return BlendRanker({"beside": cooccurrence(), "near": embedding()}, {"beside": 1.0, "near": 0.3})

    def test_its_score_is_the_weighted_sum_of_what_its_parts_know(self) -> None:
        """A part that knows nothing of an item must not veto it, nor must one that cannot rank the person."""
        counting, near = CooccurrenceRanker(np.array([0, 2]), np.array([3, 4]), N), embedding()
        ranker = BlendRanker({"beside": counting, "near": near}, {"beside": 2.0, "near": 0.5})
        people = [RankRequest(history(3), "", EVERYTHING), RankRequest(history(9), "", EVERYTHING)]
        one, other = ranker.scores(people)
        expected = 0.5 * near.scores(people).astype(np.float64)
        expected[0, 4] += 2.0 * counting.scores(people[:1])[0, 4]
        np.testing.assert_allclose([one, other], expected)
        alone = BlendRanker({"beside": counting}, {"beside": 1.0})
        assert np.flatnonzero(np.isfinite(alone.scores(people[:1])[0])).tolist() == [4]
        assert not alone.can_rank(people[1])

    def test_supporting_part_ranks_no_user_alone(self) -> None:
        """What everybody gets must not look as if it were meant for somebody."""
        near = EmbeddingRanker(np.eye(N, dtype=np.float32)[[*range(N - 1), 0]] * (np.arange(N) < 9)[:, None])
        parts = {"near": near, "popular": popularity()}
        ranker = BlendRanker(parts, {"near": 1.0, "popular": 0.5}, non_personalized=["popular"])
        assert not ranker.can_rank(RankRequest(history(), "tea", EVERYTHING))
        assert not ranker.can_rank(RankRequest(history(9), "", EVERYTHING))
        request = RankRequest(history(3), "", EVERYTHING)
        (scores,) = ranker.scores([request])
        assert np.flatnonzero(np.isfinite(scores)).tolist() == list(range(9))
        np.testing.assert_allclose(scores[:9], (np.arange(9) == 3) + 0.5 * popularity().scores([request])[0, :9])

    def test_each_item_names_its_source(self) -> None:
        """A list that says only "blend" could not be explained, nor could what it is made of be judged."""
        counting, near = CooccurrenceRanker(np.array([0, 2]), np.array([3, 4]), N), embedding()
        ranker = BlendRanker({"beside": counting, "near": near}, {"beside": 100.0, "near": 0.5})
        request = RankRequest(history(3), "", EVERYTHING.without([3]))
        (ranking,) = ranker.rank([request], N, deadline=Deadline.never())
        assert ranking.item_indices[0] == 4
        assert ranking.main_signals[1:] == ("near",) * (N - 2), "the other part knows nothing of these"
        other = BlendRanker({"beside": cooccurrence(), "near": near}, {"beside": 100.0, "near": 1e-6})
        (ranking,) = other.rank([request], 1, deadline=Deadline.never())
        assert (ranking.item_indices[0], ranking.main_signals) == (7, ("beside",))
        answer = Recommender(CATALOG, [other, popularity()]).recommend(History(("i3",)), 1)
        assert (answer.items[0].source, answer.items[0].stage) == ("blend: beside", "blend")

    def test_contribution_is_measured_against_the_mean(self) -> None:
        """A part that likes everything would speak for everything."""
        flat, steep = _Fixed(np.full(N, 9.0)), _Fixed(np.linspace(0, 1, N))
        ranker = BlendRanker({"flat": flat, "steep": steep}, {"flat": 1.0, "steep": 1.0})
        (ranking,) = ranker.rank([RankRequest(history(3), "", EVERYTHING)], N, deadline=Deadline.never())
        assert ranking.main_signals == ("steep",) * (N // 2) + ("flat",) * (N // 2)

    def test_uninformed_part_contributes_nothing(self) -> None:
        """Somebody who only says a word has nothing beside which anything could have stood."""
        parts = {"near": embedding(), "beside": cooccurrence(), "popular": popularity()}
        ranker = BlendRanker(parts, dict.fromkeys(parts, 1.0), non_personalized=["popular"])
        (ranking,) = ranker.rank([RankRequest(history(), "b", EVERYTHING)], N, deadline=Deadline.never())
        assert ranking.main_signals == ("near",) * N

    def test_what_cannot_be_blended_is_named(self) -> None:
        """A weight that is no number would silence the whole blend, and a name that is wrong one part of it."""
        part = popularity()
        wrong: list[tuple[dict[str, DenseRanker], dict[str, float], list[str], str]] = [
            ({}, {}, [], "a blend of nothing"),
            ({"popular": part}, {"popular": 1.0}, ["popular"], "and one that is no support"),
            ({"popular": part}, {"popular": 1.0}, ["poplar"], "the support poplar"),
            ({"popular": part}, {"rare": 1.0}, [], "has weights of rare"),
            ({"popular": part}, {"popular": 0.0}, [], r"the weight of 'popular' is 0\.0"),
            ({"near": embedding(), "popular": part}, {"near": 1.0, "popular": float("nan")}, [], "'popular' is nan"),
            ({"popular": part}, {"popular": float("inf")}, [], "'popular' is inf"),
            ({"near": None}, {"near": 1.0}, [], "part 'near' is None"),  # type: ignore[dict-item]
        ]
        for parts, weights, support, message in wrong:
            with pytest.raises(InputError, match=message):
                BlendRanker(parts, weights, non_personalized=support)


class _Fixed(DenseRanker):
    """Says the same of every person."""

    source = "fixed"

    def __init__(self, scores: NDArray[Any]) -> None:
        self._scores = scores

    def can_rank(self, request: RankRequest) -> bool:
        return len(request.history) > 0

    def scores(self, requests: Sequence[RankRequest]) -> NDArray[Any]:
        return np.broadcast_to(self._scores, (len(requests), len(self._scores)))


def test_weights_are_recovered_from_interactions() -> None:
    """Choices drawn from known weights lead back to them; from a handful nothing is concluded."""
    random, size, true = np.random.default_rng(0), 60, np.array([1.5, 0.0, 0.7])
    tables = random.normal(size=(3, size))
    parts = [_Fixed(table) for table in tables]
    odds = np.exp(true @ tables)
    taken = random.choice(size, 4000, p=odds / odds.sum())
    requests = [RankRequest(np.array([0]), "", Subset.everything(size))] * len(taken)
    start = np.array([1.0, 1.0, 1.0])
    np.testing.assert_allclose(fit_weights(parts, requests, taken, initial_weights=start, seed=0), true, atol=0.1)
    np.testing.assert_allclose(
        fit_weights(parts, requests[:1], taken[:1], initial_weights=start, seed=0), start, atol=0.1
    )
    assert fit_weights(parts, [], taken[:0], initial_weights=start, seed=0).tolist() == start.tolist()
    with pytest.raises(InputError, match="2 requests and 1 items taken"):
        fit_weights(parts, requests[:2], taken[:1], initial_weights=start, seed=0)


@pytest.mark.parametrize("same", [-np.inf, 0.0, np.log1p(1.0), 1e9])
def test_uninformative_part_keeps_its_weight(same: float) -> None:
    """Of what was never seen to help or to harm nothing is learned."""
    parts = [_Fixed(np.arange(300.0)), _Fixed(np.full(300, same))]
    requests = [RankRequest(np.array([0]), "", Subset.everything(300))] * 50
    found = fit_weights(parts, requests, np.full(50, 299), initial_weights=np.array([0.01, 3.0]), seed=0)
    assert found[0] > 0.01
    assert found[1] == 3.0


def test_vectors_of_items_that_stand_near_the_same_others_are_near() -> None:
    """Red and blue lamps are never bought together, but both stand beside the same shades."""
    histories = [[0, 2, 3], [0, 3, 2], [1, 2, 3], [1, 3, 2], [4, 5, 6], [4, 6, 5], [7]] * 20
    offsets = np.cumsum([0, *map(len, histories)])
    vectors = fit_pmi_vectors(offsets, np.concatenate([np.array(one) for one in histories]), 9)
    assert vectors.shape == (9, 8)
    near = vectors @ vectors.T
    assert near[0, 1] > 0.9
    assert abs(near[0, 4]) < 0.1
    assert near[7].tolist() == near[8].tolist() == [0.0] * 9
    lengths = np.linalg.norm(vectors[:7], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    again = fit_pmi_vectors(offsets, np.concatenate([np.array(one) for one in histories]), 9)
    np.testing.assert_allclose(again @ again.T, near, atol=1e-5)
    for size, own in ((1, [0]), (2, [0, 1]), (3, [])):
        few = fit_pmi_vectors(np.array([0, len(own)]), np.array(own, dtype=np.int64), size)
        assert np.isfinite(few).all()
        assert len(few) == size


def dense_case(seed: int) -> tuple[NDArray[Any], Subset, int, Boost | None]:
    """Scores with and without ties and gaps, under filters that let much, little or the worst through."""
    random = np.random.default_rng(seed)
    size = int(random.choice([1, 7, 300, 5000]))
    scores: NDArray[Any] = random.normal(size=size)
    if seed % 3 == 0:
        scores = random.integers(0, int(random.choice([1, 3, 50])), size).astype(np.float64)
    if seed % 5 == 0:
        scores[random.random(size) < 0.3] = random.choice([-np.inf, np.inf, np.nan])
    if seed % 2:
        scores = scores.astype(np.float32)
    share = float(random.choice([0.0, 0.02, 0.5, 1.0]))
    by_rank = np.argsort(np.argsort(-np.nan_to_num(scores), kind="stable"), kind="stable")
    passed = random.random(size) < share if random.random() < 0.5 else by_rank >= size * (1 - share)
    kinds = [
        Subset.everything(size),
        Subset.from_mask(Mask.from_bool(passed)),
        Subset.from_indices(size, np.flatnonzero(passed)),
    ]
    allowed = kinds[int(random.integers(3))]
    allowed = allowed.without(np.argsort(by_rank)[: int(random.choice([0, 1, 40, size]))])
    places = np.unique(random.integers(0, size, int(random.choice([1, 30]))))
    boost = Boost(places, random.integers(-3, 4, len(places)) * random.choice([0.5, 100.0])) if seed % 4 else None
    return scores, allowed, int(random.choice([1, 5, 60, size])), boost


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_the_best_of_a_dense_row_are_those_of_a_full_sort(first: int) -> None:
    """A threshold that cuts one item too many is a wrong list that calls itself proven."""
    for seed in range(first, first + 100):
        scores, allowed, k, boost = dense_case(seed)
        full = scores.astype(np.float64)
        if boost is not None:
            full[boost.indices] += boost.values
        places = np.flatnonzero(allowed.to_bool() & np.isfinite(scores))
        best = places[np.lexsort((places, -full[places]))][:k]
        before = scores.copy()
        ranking = top_k(scores, allowed, k, boost)
        assert ranking.item_indices.tolist() == best.tolist(), seed
        assert ranking.scores.tolist() == full[best].tolist(), seed
        assert ranking.scores.dtype == np.float64
        assert (ranking.proven, ranking.num_scored) == (True, len(places))
        np.testing.assert_array_equal(scores, before)


HEADER = '{{#\nname = "{0}"\nversion = 1\ninputs = {1}\noutput = "{2}"\n#}}\n'
WARM = HEADER.format("warm", '["history", "words"]', "item") + (
    "{% block user %}{% for item in history %}{{ item.title }},{% endfor %}{{ words }}?{% endblock %}"
)
COLD = HEADER.format("cold", '["words"]', "item") + "{% block user %}{{ words }}?{% endblock %}"


def generative(*, backend: TableBackend | None = None, **options: Any) -> GenerativeRanker:
    tokenizer = ByteTokenizer()
    parts = {name: options.pop(name) for name in ("prior_histories", "prior_cache", "prior_backend") if name in options}
    return GenerativeRanker(
        CatalogIndex.build(CATALOG, TitleIdentifiers(), tokenizer),
        backend or TableBackend(tokenizer.vocab_size, seed=9),
        tokenizer,
        template=Template.from_source(WARM),
        cold_template=Template.from_source(COLD),
        retriever=popularity(),
        settings=GenerativeSettings(**options),
        **parts,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "exhaustive", "prior": 0.0},
        {"strategy": "exhaustive", "score": "catalog"},
        {"strategy": "beam", "width": 50},
        {"strategy": "beam", "width": 5},
        {"strategy": "beam", "width": 1, "exact": True, "score": "catalog", "batch_size": 2},
        {"strategy": "beam", "width": 5, "fusion_weight": 0.7, "prior": 0.5},
        {"strategy": "candidates", "score": "catalog"},
        {"strategy": "candidates", "candidates": 5, "fusion_weight": 2.0},
        {"strategy": "candidates", "candidates": 5, "batch_size": 1},
    ],
    ids=lambda options: "-".join(f"{value}" for value in options.values()),
)
class TestGenerativeRanker(RankerContract):
    subject = "GenerativeRanker"

    @pytest.fixture
    def items(self) -> int:
        return N

    @pytest.fixture
    def ranker(self, options: dict[str, Any]) -> GenerativeRanker:
        return generative(**options)

    @pytest.fixture
    def planted(self, ranker: GenerativeRanker, options: dict[str, Any]) -> KnownAnswer:
        """Few enough are allowed that each strategy compares them all; the best is found by hand."""
        allowed = [2, 6, 9, 13, 17]
        request = RankRequest(history(3, 8), "b", only(*allowed))
        settings, paths = ranker.settings, [(*title.encode(), ByteTokenizer.eos_token_id) for title in TITLES]
        backend = TableBackend(ByteTokenizer.vocab_size, seed=9)
        blank = ranker.render(replace(request, words="", history=history(3)))
        blank_ids = np.concatenate([blank.token_ids[:1], ByteTokenizer().encode_text("?"), blank.token_ids[-1:]])
        scores = np.array(
            [
                path_score(
                    backend, ranker.render(request).token_ids, paths[item], [paths[i] for i in allowed], settings.score
                )
                - settings.prior * path_score(backend, blank_ids, paths[item], paths, settings.score)
                for item in allowed
            ]
        )
        popular = popularity().score([request], [np.array(allowed)], deadline=Deadline.never())[0]
        scores += settings.fusion_weight * (popular - popular.mean()) / popular.std()
        return KnownAnswer(request, allowed[int(np.argmax(scores))])


def test_every_ranker_has_its_contract() -> None:
    """A ranker that nobody held to the law will break it in production."""
    modules = [
        importlib.import_module(f"{package.__name__}.{module.name}")
        for package in (genrec.rankers, eval.baselines)
        for module in pkgutil.iter_modules(package.__path__)
    ]
    rankers = {
        name
        for module in modules
        for name, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__ == module.__name__ and hasattr(one, "rank") and one not in (Ranker, DenseRanker)
    }
    assert rankers == subjects("RankerContract") | subjects("_Dense")


class _Clock:
    """A clock that moves by one at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("strategy", ["beam", "exhaustive", "candidates"])
def test_a_deadline_that_passes_on_the_way_leaves_nothing_broken(strategy: str) -> None:
    """A request that was stopped must not spoil the next one: half a prior kept as a whole one would."""
    ranker, expected = (generative(strategy=strategy) for _ in range(2))
    request = RankRequest(history(3), "", EVERYTHING)
    stopped = 0
    for moment in itertools.count(1):
        try:
            ranker.rank([request], 5, deadline=Deadline(moment, _Clock()))
            break
        except DeadlineExceededError:
            stopped += 1
    assert stopped >= 2
    (after,) = ranker.rank([request], 5, deadline=Deadline.never())
    (fresh,) = expected.rank([request], 5, deadline=Deadline.never())
    assert after.item_indices.tolist() == fresh.item_indices.tolist()
    assert after.scores.tolist() == fresh.scores.tolist()


def test_a_long_history_loses_its_oldest_items_and_says_so() -> None:
    """The newest items say most; what was left out must be seen, not guessed."""
    backend = TableBackend(ByteTokenizer.vocab_size, context_length=24)
    ranker = generative(backend=backend, strategy="exhaustive", max_history=12)
    request = RankRequest(np.arange(N), "", EVERYTHING)
    rendered = ranker.render(request)
    newest = ",".join(TITLES[-4:])
    assert rendered.prompt[0].text.endswith(f"{newest},?")
    assert rendered.notices == (Notice("history_truncated", {"shown": 4, "total": 12, "max_tokens": 20}),)
    (ranking,) = ranker.rank([request], 3, deadline=Deadline.never())
    assert ranking.notices == rendered.notices
    with pytest.raises(EngineError, match="does not fit 20 tokens even without a history"):
        ranker.rank([replace(request, words="x" * 30)], 3, deadline=Deadline.never())


def test_repeated_history_item_is_rendered_once() -> None:
    """Repeated purchases must not push everything else out of the prompt."""
    met = RankRequest(history(5, 1, 2, 5, 3, 3, 5), "", EVERYTHING)
    for step, shown in [(1, [2, 5, 3]), (2, [5, 3]), (4, [3, 5])]:
        ranker = generative(strategy="exhaustive", max_history=3, history_step=step)
        assert ranker.render(met).prompt[0].text == ",".join(TITLES[item] for item in shown) + ",?"


def test_uninformed_retriever_does_not_stop_the_model() -> None:
    """Evidence is an extra: words of somebody new are ranked without it."""
    ranker = generative(strategy="exhaustive", fusion_weight=1.0).with_settings(retriever=cooccurrence())
    numpy_kernels = generative(strategy="exhaustive")
    for request in (RankRequest(history(), "a lamp", EVERYTHING), RankRequest(history(), "b", only(1, 2))):
        (with_evidence,) = ranker.rank([request], 5, deadline=Deadline.never())
        (without,) = numpy_kernels.rank([request], 5, deadline=Deadline.never())
        assert with_evidence.item_indices.tolist() == without.item_indices.tolist()
        assert with_evidence.main_signals == ()


@pytest.mark.parametrize(
    ("strategy", "evidence", "expected"),
    [
        ("candidates", 0.0, set()),
        ("candidates", 1e-9, {"language model", "popularity"}),
        ("candidates", 1e9, {"language model", "popularity"}),
        ("exhaustive", 1e9, set()),
        ("beam", 1e9, set()),
    ],
)
def test_each_item_names_whether_the_model_ranked_it(strategy: str, evidence: float, expected: set[str]) -> None:
    """Who tunes the weight of evidence sees by it which side decides; told wrong, it would be tuned the wrong way."""
    ranker = generative(strategy=strategy, fusion_weight=evidence)
    request = RankRequest(history(3), "", EVERYTHING)
    (whole,) = ranker.rank([request], N, deadline=Deadline.never())
    assert set(whole.main_signals) <= expected
    for k in (1, 4):
        (ranking,) = ranker.rank([request], k, deadline=Deadline.never())
        assert len(ranking.item_indices) == len(ranking.scores) == k
        assert ranking.main_signals == whole.main_signals[:k], (
            "what spoke for an item is the same however long the list"
        )
    if expected:
        liked = popularity().scores([request])[0]
        above = liked[whole.item_indices] > liked.mean()
        spoke = np.array(whole.main_signals) == "popularity"
        assert spoke.tolist() == above.tolist() if evidence > 1 else not spoke.all()


def test_priors_are_kept_between_runs_and_only_for_what_they_are_of(tmp_path: Path) -> None:
    """Scoring a catalog takes minutes; a prior of another model would quietly correct the wrong way."""
    request = RankRequest(history(3), "", EVERYTHING)
    first = generative(strategy="exhaustive", prior_cache=tmp_path)
    (expected,) = first.rank([request], 5, deadline=Deadline.never())
    first.compute_priors()
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert len(kept) == 1, "both templates say the same of nobody"
    counting = _Counting(ByteTokenizer.vocab_size, seed=9)
    again = generative(backend=counting, strategy="exhaustive", prior_cache=tmp_path)
    (ranking,) = again.rank([request], 5, deadline=Deadline.never())
    assert counting.opened == 1
    assert ranking.item_indices.tolist() == expected.item_indices.tolist()
    assert ranking.scores.tolist() == expected.scores.tolist()
    generative(backend=TableBackend(260, seed=1), strategy="exhaustive", prior_cache=tmp_path).compute_priors()
    generative(strategy="exhaustive", prior_cache=tmp_path, prior_histories=[history(1)]).compute_priors()
    assert len(list(tmp_path.iterdir())) == 3


def test_beside_an_adapter_the_prior_stays_the_models_own() -> None:
    """An adapter learns what to add to the score less this prior; its own would take away what it has learned."""
    request, items = RankRequest(history(3), "", EVERYTHING), np.arange(N)
    tuned, numpy_kernels = TableBackend(260, seed=1), TableBackend(260)
    found, raw = (
        generative(backend=tuned, prior_backend=numpy_kernels, strategy="exhaustive", prior=weight).score(
            [request], [items], deadline=Deadline.never()
        )[0]
        for weight in (1.0, 0.0)
    )
    expected = generative(backend=numpy_kernels, strategy="exhaustive").prior_scores()
    np.testing.assert_allclose(raw - found, expected, atol=1e-5)


def test_the_prior_of_an_item_is_what_its_score_lacks() -> None:
    """An adapter is trained on scores less this prior; another one would teach it to correct what is not there."""
    request = RankRequest(history(3), "", EVERYTHING)
    items = np.arange(N)
    with_prior, without = (
        generative(strategy="exhaustive", prior=weight).score([request], [items], deadline=Deadline.never())[0]
        for weight in (1.0, 0.0)
    )
    np.testing.assert_allclose(generative(strategy="exhaustive").prior_scores(), without - with_prior, atol=1e-5)


class _Counting(TableBackend):
    """Counts how often it was asked."""

    opened = 0

    def open(self, prompts: Sequence[IntArray], **options: Any) -> Any:
        self.opened += 1
        return super().open(prompts, **options)


def test_a_batch_that_would_not_fit_the_budget_is_refused_with_the_arithmetic() -> None:
    """A machine that swaps answers nobody; whoever set a budget wants to know which number to turn."""
    requests = [RankRequest(history(3, 8), "b", Subset.everything(N))] * 2
    for options in ({"strategy": "beam", "width": 5}, {"strategy": "exhaustive"}):
        backend = _Counting(260, seed=9)
        ranker = generative(backend=backend, memory=100.0, **options)
        opened = backend.opened
        with pytest.raises(
            InputError, match=r"2 prompts of up to \d+ tokens, with .* more .* MB; the budget is 0\.0 MB; .*"
        ):
            ranker.rank(requests, 3, deadline=Deadline.never())
        assert ranker.settings.prior
        fits = ranker.with_settings(memory=1e9, exact=options["strategy"] == "beam")
        assert backend.opened == opened
        assert all(ranking.proven for ranking in fits.rank(requests, 3, deadline=Deadline.never()))


def test_a_budget_counts_what_a_ragged_batch_and_a_long_list_take() -> None:
    """A batch is held as wide as its longest prompt, and a beam keeps k nodes where k is more than its width."""
    people = [
        RankRequest(history(3), "b", Subset.everything(N)),
        RankRequest(history(*range(9)), "b", Subset.everything(N)),
    ]
    ranker = generative(strategy="beam", width=2, exact=False, memory=1.0)
    lengths = [len(ranker.render(one).token_ids) for one in people]
    longest = max(len(title.encode()) + 1 for title in TITLES)
    needed = 2 * (max(lengths) + 7 * longest) * TableBackend(260).token_bytes
    with pytest.raises(InputError, match=rf"up to {max(lengths)} tokens, with 7 x {longest} more"):
        ranker.with_settings(memory=needed - 1.0).rank(people, 7, deadline=Deadline.never())
    assert len(ranker.with_settings(memory=float(needed)).rank(people, 7, deadline=Deadline.never())) == 2


def test_nothing_proposed_is_not_called_nothing_allowed() -> None:
    """The next step of the ladder fills the list, and the notice would stand above it."""
    request = RankRequest(history(3), "b", Subset.everything(N))
    ranker = generative(strategy="candidates", prior=0.0).with_settings(retriever=Silent())
    (ranking,) = ranker.rank([request], 3, deadline=Deadline.never())
    assert (len(ranking.item_indices), ranking.notices) == (0, ())
    nobody = replace(request, allowed=Subset.from_indices(N, []))
    assert ranker.rank([nobody], 3, deadline=Deadline.never())[0].notices == (Notice("nothing_allowed"),)


class Silent(DenseRanker):
    """Knows nothing of any item."""

    source = "silent"

    def can_rank(self, request: RankRequest) -> bool:
        return True

    def scores(self, requests: Sequence[RankRequest]) -> FloatArray:
        return np.full((len(requests), N), -np.inf)


@pytest.mark.parametrize("history", [[N], [-1], [1.5]])
def test_a_history_of_no_items_is_refused_where_it_enters(history: list[float]) -> None:
    """Further in it is an IndexError in the middle of a batch, or another item counted from the end."""
    with pytest.raises(InputError, match=r"a history holds .*; give item indices from 0 to"):
        RankRequest(np.array(history), "", Subset.everything(N))


def test_parts_that_do_not_fit_are_refused() -> None:
    """Each of these would answer, and answer nonsense."""
    for options, message in [
        ({"strategy": "best"}, "strategy is 'best'; choose one of beam, exhaustive, candidates"),
        ({"score": "sum"}, "score is 'sum'; choose one of model, catalog"),
        ({"width": 1.5}, "width is 1.5; give a whole number of at least 1"),
        ({"batch_size": "8"}, "batch_size is '8'; give a whole number of at least 1"),
        ({"exact": "no"}, "exact is 'no'; give True or False"),
        ({"memory": "1GB"}, "memory is '1GB'; give a number of bytes above 0"),
        ({"prior": None}, "prior is None; it must be a number of at least 0"),
        ({"width": 0}, "width is 0; give a whole number of at least 1"),
        ({"candidates": 0}, "candidates is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"history_step": 0}, "history_step is 0"),
        ({"prior": -1.0}, r"prior is -1\.0; it must be a number of at least 0"),
        ({"fusion_weight": float("nan")}, "fusion_weight is nan"),
        ({"memory": 0.0}, r"memory is 0\.0; give a number of bytes above 0"),
        ({"memory": float("nan")}, "memory is nan"),
        ({"memory": float("inf")}, "memory is inf"),
        ({"max_nodes": 0}, "max_nodes is 0"),
    ]:
        with pytest.raises(InputError, match=message):
            GenerativeSettings(**options)  # type: ignore[arg-type]
    index = CatalogIndex.build(CATALOG, TitleIdentifiers(), ByteTokenizer())
    parts: dict[str, Any] = {
        "index": index,
        "backend": TableBackend(260),
        "tokenizer": ByteTokenizer(),
        "template": Template.from_source(WARM),
        "cold_template": Template.from_source(COLD),
    }
    text = Template.from_source(COLD.replace('"item"', '"text"'))
    strange = Template.from_source(COLD.replace("words", "mood"))
    showing = Template.from_source(COLD.replace("words", "candidates"))
    for change, error, message in [
        ({"index": replace(index, tokenizer_fingerprint="other")}, TokenizerMismatchError, "the index was built for"),
        ({"backend": TableBackend(259)}, TokenizerMismatchError, "tokenizer has 260 tokens, the model .* only 259"),
        ({}, InputError, "need a proposer"),
        ({"template": text}, InputError, "template 'cold' answers with text"),
        (
            {"cold_template": strange, "retriever": popularity()},
            InputError,
            "'cold' asks for 'mood'; a ranker can give",
        ),
        (
            {"template": showing, "settings": GenerativeSettings(strategy="beam")},
            InputError,
            "shows candidates cannot guide a beam",
        ),
    ]:
        with pytest.raises(error, match=message):
            GenerativeRanker(**{**parts, **change})


def test_candidates_can_be_shown_in_the_prompt() -> None:
    """A model that sees what it may choose from ranks them in one list, prior and all."""
    showing = WARM.replace('"words"]', '"words", "candidates"]').replace(
        "{{ words }}", "{% for one in candidates %}{{ one.title }};{% endfor %}"
    )
    ranker = generative(strategy="candidates", candidates=4)
    index = CatalogIndex.build(CATALOG, TitleIdentifiers(), ByteTokenizer())
    ranker = GenerativeRanker(
        index, TableBackend(260), ByteTokenizer(),
        template=Template.from_source(showing), cold_template=Template.from_source(COLD),
        retriever=popularity(), settings=ranker.settings,
    )  # fmt: skip
    request = RankRequest(history(3), "", EVERYTHING)
    (proposed,) = popularity().rank([request], 4, deadline=Deadline.never())
    (ranking,) = ranker.rank([request], 4, deadline=Deadline.never())
    assert sorted(ranking.item_indices.tolist()) == sorted(proposed.item_indices.tolist())
    shown = ranker.render(request, np.sort(proposed.item_indices)).prompt[0].text
    assert shown.endswith("".join(f"{TITLES[item]};" for item in sorted(proposed.item_indices)) + "?")
