"""Laws of semantic ids: distinct for every item, similar for similar items, and new items need no training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from genrec import Catalog, CatalogIndex, Item, open_dataset
from genrec.backends.encoder import SentenceEncoder
from genrec.errors import ArtifactError, InputError, MismatchError
from genrec.index.semantic_ids import SemanticIdentifiers
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.testing import ByteTokenizer

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def shop(cache: Path) -> Catalog:
    catalog, _ = open_dataset("online-retail", cache)
    return Catalog.from_items(catalog[index] for index in range(0, 3600, 6))


@pytest.fixture(scope="module")
def encoder(minilm: Path) -> SentenceEncoder:
    return SentenceEncoder(minilm)


@pytest.fixture(scope="module")
def codes(shop: Catalog, encoder: SentenceEncoder, tokenizer: HuggingFaceTokenizer) -> SemanticIdentifiers:
    return SemanticIdentifiers.train(shop.titles, encoder, tokenizer, levels=2, codebook_size=24)


def test_every_item_has_its_own_tokens(
    shop: Catalog, codes: SemanticIdentifiers, tokenizer: HuggingFaceTokenizer
) -> None:
    """Two items with the same tokens are one item to the search."""
    written = codes.encode(shop, tokenizer)
    assert len({own.tobytes() for own in written}) == len(shop)
    assert all(own[-1] == tokenizer.eos_token_id for own in written)
    assert sorted({len(own) for own in written}) == [3, 4], (
        "two levels and an end token, and one more token at a collision"
    )
    index = CatalogIndex.build(shop, codes, tokenizer)
    assert len(index.trie) == len(shop)
    report = codes.report(shop.titles)
    assert report.collision_rate == pytest.approx(np.mean([len(own) == 4 for own in written]))
    assert (report.utilization > 0.9).all()
    assert (report.normalized_entropy > 0.85).all()
    assert (report.normalized_entropy <= 1).all()


def test_semantic_ids_are_vocabulary_words_related_to_the_item(
    shop: Catalog, codes: SemanticIdentifiers, tokenizer: HuggingFaceTokenizer, encoder: SentenceEncoder
) -> None:
    """Engines do not load new tokens; a word with an unrelated meaning would have to be unlearned first."""
    written = codes.encode(shop, tokenizer)
    words = [tokenizer.decode([int(own[0])]) for own in written]
    assert all(word.startswith(" ") and word[1:].isalpha() for word in words)
    titles, meanings = encoder.encode(shop.titles), encoder.encode([word[1:] for word in words])
    own = (titles * meanings).sum(axis=1).mean()
    others = (titles * np.roll(meanings, 7, axis=0)).sum(axis=1).mean()
    assert own > others + 0.1


def test_similar_items_share_a_prefix(
    shop: Catalog, codes: SemanticIdentifiers, tokenizer: HuggingFaceTokenizer, encoder: SentenceEncoder
) -> None:
    """What a model learns about one lamp should apply to all lamps."""
    vectors, first = encoder.encode(shop.titles), np.array([own[0] for own in codes.encode(shop, tokenizer)])
    similarities = vectors @ vectors.T
    same = first[:, None] == first[None, :]
    itself = np.eye(len(first), dtype=bool)
    assert similarities[same & ~itself].mean() > similarities[~same].mean() + 0.1


def test_a_new_item_is_encoded_without_training(
    shop: Catalog, codes: SemanticIdentifiers, tokenizer: HuggingFaceTokenizer
) -> None:
    """Adding and withdrawing items must not change the tokens of others, or the adapter no longer knows them."""
    index = CatalogIndex.build(shop, codes, tokenizer)
    twin = Catalog.from_items([Item("new", shop.titles[0]), Item("newer", shop.titles[0])])
    later = index.update(codes, tokenizer, add=twin, withdraw=[shop.item_ids[5]])
    before = [index.trie.tokens_of_row(int(row)).tolist() for row in index.trie.rows_of_items]
    after = [later.trie.tokens_of_row(int(row)).tolist() for row in later.trie.rows_of_items]
    assert after[: len(shop) - 1] == before[:5] + before[6:]
    assert after[-1][:2] == after[-2][:2] == before[0][:2]
    assert len({tuple(own) for own in after}) == len(later.trie)


def test_save_and_load_round_trip(
    shop: Catalog, codes: SemanticIdentifiers, tokenizer: HuggingFaceTokenizer, encoder: SentenceEncoder, tmp_path: Path
) -> None:
    """With other semantic ids than in training an adapter recommends at random."""
    codes.save(tmp_path / "codes")
    again = SemanticIdentifiers.load(tmp_path / "codes", encoder)
    assert again.fingerprint == codes.fingerprint
    pairs = zip(again.encode(shop, tokenizer), codes.encode(shop, tokenizer), strict=True)
    assert all(one.tolist() == other.tolist() for one, other in pairs)
    one, other = (
        SemanticIdentifiers.train(shop.titles, ConstantEncoder(), tokenizer, levels=1, codebook_size=n) for n in (2, 3)
    )
    assert one.fingerprint != other.fingerprint != codes.fingerprint
    with pytest.raises(MismatchError, match="were trained with encoder 'all-MiniLM-L6-v2', not with 'flat'"):
        SemanticIdentifiers.load(tmp_path / "codes", ConstantEncoder())
    (tmp_path / "codes" / "codes.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match="altered"):
        SemanticIdentifiers.load(tmp_path / "codes", encoder)


class ConstantEncoder:
    """An encoder that gives every text the same vector."""

    name = "flat"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.tile(np.float32([1, 0, 0]), (len(texts), 1))


def test_invalid_training_arguments_are_refused(
    shop: Catalog, tokenizer: HuggingFaceTokenizer, codes: SemanticIdentifiers
) -> None:
    """Codebooks that are too small must be refused before hours of training."""
    with pytest.raises(InputError, match="3 titles cannot fill 24 clusters"):
        SemanticIdentifiers.train(["a", "b", "c"], ConstantEncoder(), tokenizer, codebook_size=24)
    with pytest.raises(InputError, match="codebook_size is 0"):
        SemanticIdentifiers.train(["a"], ConstantEncoder(), tokenizer, codebook_size=0)
    with pytest.raises(InputError, match="the tokenizer has 0 words of one token, but 2 are needed"):
        SemanticIdentifiers.train(["a", "b"], ConstantEncoder(), ByteTokenizer(), codebook_size=2)
    with pytest.raises(MismatchError, match="the semantic ids were trained for tokenizer"):
        codes.encode(shop, ByteTokenizer())
    narrow = SemanticIdentifiers.train(shop.titles, ConstantEncoder(), tokenizer, levels=1, codebook_size=2)
    seven = Catalog.from_items(shop[index] for index in range(7))
    assert len({own.tobytes() for own in narrow.encode(seven, tokenizer)}) == 7
    with pytest.raises(InputError, match="the same tokens as 7 others; train with more levels"):
        narrow.encode(Catalog.from_items(shop[index] for index in range(8)), tokenizer)
