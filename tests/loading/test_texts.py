"""Words reach every column of words, with and without an encoder that can read them."""

from pathlib import Path

import pytest

from genrec import Catalog, History, Item, RecommendationList, Settings, open_recommender
from genrec.errors import InputError
from genrec.loading import open_pipeline

ANIME = [
    Item("A1", "星海旅人", {"类型": ["科幻", "战斗"]}),
    Item("A2", "雨夜咖啡馆", {"类型": ["日常", "恋爱"]}),
    Item("A3", "名侦探柯南", {"类型": ["推理"]}),
    Item("B1", "Cordless drill", {"sku": "BX-4410", "类型": ["tool"]}),
    Item("B2", "A bunch of roses", {"sku": "RO-1", "类型": ["gift"]}),
]


def settings(**options: object) -> Settings:
    return Settings(model=None, **options)  # type: ignore[arg-type]


def ranked(items: list[Item], words: str, cache: Path, used: Settings) -> RecommendationList:
    return open_recommender(Catalog.from_items(items), None, cache=cache, settings=used).recommend(
        History(words=words), k=1
    )


@pytest.mark.parametrize(("words", "found"), [("科幻 战斗", "A1"), ("推理", "A3"), ("bx4410", "B1"), ("rosen", "B2")])
def test_words_find_items_of_any_language_without_an_encoder(words: str, found: str, tmp_path: Path) -> None:
    """A minimal installation would answer every search with bestsellers."""
    for _ in ("counted", "from the cache"):
        answer = ranked(ANIME, words, tmp_path, settings(encoder=None))
        assert [item.item_id for item in answer.items] == [found]
        assert answer.items[0].stage == "blend"


def test_an_encoder_that_cannot_read_the_texts_is_named_and_letters_find_them(minilm: Path, tmp_path: Path) -> None:
    """Vectors of unknown tokens rank at random, and look like an answer."""
    answer = ranked(ANIME, "科幻 战斗", tmp_path, settings(encoder=minilm))
    assert [item.item_id for item in answer.items] == ["A1"]
    (notice,) = (notice for notice in answer.notices if notice.code == "texts_unreadable")
    assert (notice.fields["count"], notice.fields["total"]) == (3, 5)
    assert "multilingual" in str(notice)
    meant = ranked(ANIME, "flowers for my girlfriend", tmp_path, settings(encoder=minilm))
    assert [item.item_id for item in meant.items] == ["B2"]
    readable = ranked(ANIME[3:], "drill", tmp_path, settings(encoder=minilm))
    assert "texts_unreadable" not in [notice.code for notice in readable.notices]


def test_only_the_chosen_columns_are_searched(tmp_path: Path) -> None:
    """Internal notes must not decide what customers find."""
    chosen = settings(encoder=None, text=("title",))
    assert ranked(ANIME, "bx4410", tmp_path, chosen).items[0].stage == "popularity"
    with pytest.raises(InputError, match="no attribute 'titel'"):
        ranked(ANIME, "drill", tmp_path, settings(encoder=None, text=("titel",)))
    with pytest.raises(InputError, match="pass a tuple of names"):
        settings(text="title")


def test_a_changed_price_counts_and_encodes_nothing_again(tmp_path: Path) -> None:
    """Otherwise every change of prices costs the minutes of the first start."""
    cheap, dear = (
        Catalog.from_items(Item(item.item_id, item.title, {**item.attributes, "price": price}) for item in ANIME)
        for price in (1.0, 2.0)
    )
    for catalog in (cheap, dear):
        open_pipeline(catalog, None, cache=tmp_path, settings=settings(encoder=None))
    assert len(list((tmp_path / "lexical").iterdir())) == 1


def test_an_item_that_is_added_or_changed_is_found_by_its_new_text(tmp_path: Path) -> None:
    """A server that follows its catalog must search what customers see."""
    pipeline = open_pipeline(Catalog.from_items(ANIME), None, cache=tmp_path, settings=settings(encoder=None))
    news = [Item("B1", "Cordless drill", {"sku": "ZK-77"}), Item("C1", "Green zeppelin", {"sku": "Q"})]
    recommender = pipeline.revised(upsert=Catalog.from_items(news)).recommender()
    for words, found in (("zk77", "B1"), ("zeppelin", "C1"), ("科幻", "A1")):
        assert recommender.recommend(History(words=words), k=1).items[0].item_id == found
    assert recommender.recommend(History(words="BX-4410"), k=1).items[0].source == "popularity"
