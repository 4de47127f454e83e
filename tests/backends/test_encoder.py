"""Laws of the sentence encoder: the vector of a text depends on the text alone."""

from pathlib import Path

import numpy as np
import pytest

from genrec.backends.encoder import SentenceEncoder

TEXTS = [
    "", "a", "lamp", "red lamp", "RED LAMP", "blue lamp", "a lamp with a shade", "ein roter Lampenschirm", "lamp",
    *("mug " * size for size in range(1, 30)), "tea towel " * 200,
]  # fmt: skip

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def encoder(minilm: Path) -> SentenceEncoder:
    return SentenceEncoder(minilm, batch_size=4, device="cpu")


def test_a_vector_does_not_depend_on_the_other_texts(encoder: SentenceEncoder) -> None:
    """Otherwise a query ranks other items in a batch than alone, and a changed catalog other ones than a restarted."""
    whole = encoder.encode(TEXTS)
    for text, vector in zip(TEXTS, whole, strict=True):
        assert encoder.encode([text])[0].tolist() == vector.tolist(), text
    random = np.random.default_rng(0)
    for size in (2, 3, 5, 9, 20):
        chosen = random.permutation(len(TEXTS))[:size]
        assert np.array_equal(encoder.encode([TEXTS[text] for text in chosen]), whole[chosen])


def test_texts_of_the_same_tokens_have_the_same_vector(encoder: SentenceEncoder) -> None:
    """Items with one title must tie."""
    vectors = encoder.encode(TEXTS)
    assert vectors[2].tolist() == vectors[8].tolist()
    assert vectors[3].tolist() == vectors[4].tolist()
    assert vectors[3].tolist() != vectors[5].tolist()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_progress_counts_all_texts_once(encoder: SentenceEncoder) -> None:
    """A progress bar that ends early, or never, looks like a failure."""
    seen: list[tuple[int, int]] = []
    encoder.encode(TEXTS, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (len(TEXTS), len(TEXTS))
    assert encoder.encode([]).shape == (0, 384)
