"""Priors of the LLM ranker: saved, measured and subtracted."""

from pathlib import Path

import numpy as np
from ranker_support import EVERYTHING, CountingBackend, N, generative, history

from genrec.deadline import Deadline
from genrec.rankers.base import RankRequest
from genrec.testing import ByteTokenizer, TableBackend


def test_priors_are_saved_by_model_and_prompts(tmp_path: Path) -> None:
    """Scoring a catalog takes minutes; the prior of another model would be a wrong correction."""
    request = RankRequest(history(3), "", EVERYTHING)
    first = generative(strategy="exhaustive", prior_cache=tmp_path)
    (expected,) = first.rank([request], 5, deadline=Deadline.never())
    first.compute_priors()
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert len(kept) == 1, "both templates render the same prompt without a history"
    counting = CountingBackend(ByteTokenizer.vocab_size, seed=9)
    again = generative(backend=counting, strategy="exhaustive", prior_cache=tmp_path)
    (ranking,) = again.rank([request], 5, deadline=Deadline.never())
    assert counting.opened == 1
    assert ranking.item_indices.tolist() == expected.item_indices.tolist()
    assert ranking.scores.tolist() == expected.scores.tolist()
    generative(backend=TableBackend(260, seed=1), strategy="exhaustive", prior_cache=tmp_path).compute_priors()
    generative(strategy="exhaustive", prior_cache=tmp_path, prior_histories=[history(1)]).compute_priors()
    assert len(list(tmp_path.iterdir())) == 3


def test_prior_of_an_adapter_is_that_of_the_base_model() -> None:
    """An adapter is trained to add to the score minus this prior; its own prior would remove what it learned."""
    request, items = RankRequest(history(3), "", EVERYTHING), np.arange(N)
    tuned, base = TableBackend(260, seed=1), TableBackend(260)
    found, raw = (
        generative(backend=tuned, prior_backend=base, strategy="exhaustive", prior=weight).score(
            [request], [items], deadline=Deadline.never()
        )[0]
        for weight in (1.0, 0.0)
    )
    expected = generative(backend=base, strategy="exhaustive").prior_scores()
    np.testing.assert_allclose(raw - found, expected, atol=1e-5)


def test_prior_scores_are_subtracted_from_scores() -> None:
    """An adapter is trained on scores minus this prior; with another one it would learn a wrong correction."""
    request = RankRequest(history(3), "", EVERYTHING)
    items = np.arange(N)
    with_prior, without = (
        generative(strategy="exhaustive", prior=weight).score([request], [items], deadline=Deadline.never())[0]
        for weight in (1.0, 0.0)
    )
    np.testing.assert_allclose(generative(strategy="exhaustive").prior_scores(), without - with_prior, atol=1e-5)
