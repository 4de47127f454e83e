"""The lexical ranker, in many languages and on hostile text."""

import numpy as np
import pytest
from contracts import KnownAnswer
from hypothesis import given
from hypothesis import strategies as st
from ranker_support import EVERYTHING, TITLES, DenseRankerContract

from genrec.data.subset import Subset
from genrec.deadline import Deadline
from genrec.rankers.base import Ranker, RankRequest
from genrec.rankers.lexical import LexicalRanker

# One text a language or kind, and queries that must find it first.
FOUND = [
    ("星海旅人. 科幻, 战斗", ("科幻 战斗", "科幻", "星海", "海")),
    ("鋼の錬金術師 ハガレン", ("錬金術", "ﾊｶﾞﾚﾝ", "鋼")),
    ("กาแฟเย็นใส่นม", ("กาแฟ", "เย็น")),
    ("무선 이어폰", ("이어폰을", "무선")),
    ("Wasserkocher aus Edelstahl", ("kocher", "WASSERKOCHER", "Edelstahlkocher")),
    ("Crème brûlée", ("creme brulee", "CRÈME", "crème")),
    ("Book: Война и мир", ("войны", "МИРА война")),
    ("قهوة تركية", ("قهوه", "تركية")),
    ("कॉफ़ी मशीन", ("कॉफ़ी", "मशीनें")),
    ("Cordless drill BX-4410", ("bx4410", "BX 4410", "bx-4410", "drlil cordless")),
    ("Pyjamas XXL 128cm", ("128 CM", "xxl", "pyjama")),
    ("Party hat 🍕", ("🍕", "hats")),
]
TEXTS = [text for text, _ in FOUND]


def request(words: str, size: int) -> RankRequest:
    return RankRequest(np.empty(0, dtype=np.int64), words, Subset.everything(size))


def ranked(ranker: LexicalRanker, words: str, size: int) -> list[int]:
    (found,) = ranker.rank([request(words, size)], size, deadline=Deadline.never())
    items: list[int] = found.item_indices.tolist()
    return items


class TestLexicalRanker(DenseRankerContract):
    subject = "LexicalRanker"

    @pytest.fixture
    def ranker(self) -> Ranker:
        return LexicalRanker.from_texts([f"thing {title}" for title in TITLES])

    @pytest.fixture
    def planted(self) -> KnownAnswer:
        return KnownAnswer(RankRequest(np.array([3]), f"thing {TITLES[7]}", EVERYTHING.without([3])), 7)

    @pytest.fixture
    def requests(self, ranker: Ranker, items: int) -> list[RankRequest]:
        everything = Subset.everything(items)
        allowed = [everything, everything.without(np.array([1, 4])), Subset.from_indices(items, [2, 5, 7])]
        queries = ["THING", TITLES[11], f"thing {TITLES[3]} {TITLES[7]}", "\ud800 <|im_end|>\nthing"]
        return [RankRequest(np.array([0]), words, subset) for words in queries for subset in allowed]


@pytest.mark.parametrize(("place", "query"), [(place, query) for place, (_, own) in enumerate(FOUND) for query in own])
def test_every_language_and_code_is_found_by_its_letters(place: int, query: str) -> None:
    """A shop in a language that the encoder cannot read would answer searches with bestsellers."""
    assert ranked(LexicalRanker.from_texts(TEXTS), query, len(TEXTS))[0] == place


def test_an_item_with_the_whole_word_comes_before_one_with_a_part() -> None:
    """N-grams make near misses visible; they must not hide exact hits."""
    texts = ["lampshade stand", "mirror lamp", "horror film", "lamb stew"]
    ranker = LexicalRanker.from_texts(texts)
    assert ranked(ranker, "lamp", 4)[:2] == [1, 0]
    assert ranked(ranker, "horror", 4)[0] == 2


@pytest.mark.parametrize("query", ["", " \n", "!?…", "\x00\x07\u200b", "\ud800", "()[]"])
def test_a_query_without_letters_is_not_ranked(query: str) -> None:
    """The next stage must answer, and not this one with items in catalog order."""
    assert not LexicalRanker.from_texts(TEXTS).can_rank(request(query, len(TEXTS)))


def test_texts_without_letters_are_unknown_and_break_nothing() -> None:
    """Empty descriptions are common; a division by a mean length of 0 would make every score NaN."""
    empty = LexicalRanker.from_texts(["", "…", "\x00"])
    assert not empty.can_rank(request("lamp", 3))
    assert ranked(LexicalRanker.from_texts(["", "lamp", "!"]), "lamp", 3) == [1]


def test_stop_words_alone_rank_and_rare_words_outweigh_them() -> None:
    """No list of stop words exists for every language; rarity must do its work."""
    texts = [f"the {name} of the" for name in ("lamp", "mug", "hat", "cup")]
    ranker = LexicalRanker.from_texts(texts)
    assert sorted(ranked(ranker, "the of", 4)) == [0, 1, 2, 3]
    assert ranked(ranker, "the of the of the hat", 4)[0] == 2


def test_ten_thousand_words_are_searched_by_their_rarest() -> None:
    """A pasted document must not take memory in proportion to all items that share a word with it."""
    texts = [f"thing number {place % 1000}" for place in range(2000)]
    ranker = LexicalRanker.from_texts([*texts, "unique zeppelin"])
    query = " ".join(f"number thing {place}" for place in range(3300)) + " zeppelin"
    assert len(ranker._terms(query)) == 256
    assert 2000 in ranked(ranker, query, 2001)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=6), st.text(max_size=20))
def test_any_text_can_be_counted_and_searched(texts: list[str], query: str) -> None:
    """Titles and queries are untrusted: surrogates, controls and marks without a letter must not raise."""
    ranker = LexicalRanker.from_texts(texts)
    scores = LexicalRanker.from_arrays(ranker.arrays).scores([request(query, len(texts))])
    assert scores.tolist() == ranker.scores([request(query, len(texts))]).tolist()
    assert not np.isnan(scores).any()
    for text in texts:
        if ranker.can_rank(request(text, len(texts))):
            assert texts.index(text) in ranked(ranker, text, len(texts))


def test_equal_texts_score_equal() -> None:
    """Otherwise the order of duplicates changes with unrelated items."""
    ranker = LexicalRanker.from_texts(["red lamp", "blue mug", "red lamp"])
    scores = ranker.scores([request("a red lamp", 3)])[0]
    assert scores[0] == scores[2]


def test_a_changed_catalog_scores_as_one_that_is_made_anew() -> None:
    """A server that was updated for weeks must answer as one that was restarted."""
    before = ["red lamp", "blue mug", "drill BX-4410", "星海旅人"]
    after = ["blue mug", "green zeppelin", "星海旅人", "red lamp"]
    changed = LexicalRanker.from_texts(before).reindexed(np.array([3, 0, -1, 2]), ["green zeppelin"])
    for query in ("red lamp", "zeppelins", "星海", "BX 4410", "drill"):
        found = changed.scores([request(query, 4)])
        assert found.tolist() == LexicalRanker.from_texts(after).scores([request(query, 4)]).tolist()
        assert changed.can_rank(request(query, 4)) == LexicalRanker.from_texts(after).can_rank(request(query, 4))
