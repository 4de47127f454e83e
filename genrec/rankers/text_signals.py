"""The signals of the items' texts: items like the history, and items that the query finds."""

from genrec.rankers.base import DenseRanker
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.ensemble import BlendRanker
from genrec.rankers.lexical import LexicalRanker

TEXT_SIMILARITY, WORDS_SIMILARITY = "like their texts", "like their words"
_LEXICAL_WEIGHT = 0.03  # cosine per nat of BM25; 0.02 to 0.05 were best on real dialogues, see eval/RESULTS.md
_WORDS_WEIGHT = 2.0  # of the query beside the history, as in `EmbeddingRanker`


def text_signals(embedding: EmbeddingRanker | None, lexical: LexicalRanker | None) -> dict[str, DenseRanker]:
    """The signals by name. That of the query is a sum of meaning and letters with fixed weights.

    These weights are not learned, because simulated queries are words of titles, where letters would always win.
    """
    signals: dict[str, DenseRanker] = {}
    by_words: dict[str, DenseRanker] = {}
    if embedding is not None:
        signals[TEXT_SIMILARITY], by_meaning = embedding.history_and_words_rankers()
        if lexical is None:
            return signals | {WORDS_SIMILARITY: by_meaning}
        if by_meaning.reads_words:
            by_words["meaning"] = by_meaning
    if lexical is not None:
        by_words["letters"] = lexical
        weights = {name: _LEXICAL_WEIGHT if name == "letters" else 1.0 for name in by_words}
        signals[WORDS_SIMILARITY] = BlendRanker(by_words, weights)
    return signals


def text_blend(embedding: EmbeddingRanker | None, lexical: LexicalRanker) -> BlendRanker:
    """The ranker by texts alone, where no interactions are known."""
    signals = text_signals(embedding, lexical)
    return BlendRanker(signals, {name: _WORDS_WEIGHT if name == WORDS_SIMILARITY else 1.0 for name in signals})
