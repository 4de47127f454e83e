"""Priors of the LLM ranker: saved, measured and subtracted."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from ranker_support import CATALOG, EVERYTHING, CountingBackend, N, generative, history

from genrec.data.interactions import Interactions, read_interactions
from genrec.deadline import Deadline
from genrec.rankers.base import RankRequest
from genrec.rankers.prior_store import draw_histories
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


LOG = read_interactions(
    pa.table(
        {
            "user_id": [f"u{event % 30}" for event in range(120)],
            "item_id": [f"i{number}" for number in np.random.default_rng(1).integers(N, size=120)],
            "timestamp": list(range(120)),
        }
    )
)


def drawn(log: Interactions) -> list[list[int]]:
    return [history.tolist() for history in draw_histories(CATALOG, log, count=3, min_length=4)]


def test_the_background_changes_only_with_the_users_in_it() -> None:
    """Whenever anybody is forgotten or registers, the prior of the catalog would be measured again, for minutes."""
    before, changed = drawn(LOG), 0
    for user in LOG.user_ids:
        own = CATALOG.indices_of(LOG.history_of(user).item_ids).tolist()
        after = drawn(LOG.without_users([user]))
        assert own not in after
        kept = [history for history in before if history != own]
        assert [history for history in after if history in before] == kept
        changed += after != before
    assert changed == 3
    assert drawn(LOG.without_users(list(LOG.user_ids)[:29])) == [
        CATALOG.indices_of(LOG.history_of("u9").item_ids).tolist()
    ]


def test_a_saved_prior_says_whose_histories_it_was_measured_behind(tmp_path: Path) -> None:
    """Whoever must delete what was computed from a user has to find it."""
    generative(strategy="exhaustive", prior_cache=tmp_path, prior_histories=[history(1), history(2)]).compute_priors()
    saved = [json.loads(path.read_text(encoding="utf-8"))["user_data"] for path in tmp_path.glob("*/manifest.json")]
    assert sorted((one["kind"], one["users"]) for one in saved) == [("aggregate", 2), ("none", 0)]


def test_measuring_a_prior_reports_its_progress() -> None:
    """Training measures it first, for hours with a large model; a command that is silent that long is killed."""
    reports: list[tuple[int, int]] = []
    ranker = generative(strategy="exhaustive", prior_histories=[history(2)])
    scores = ranker.prior_scores(lambda done, total: reports.append((done, total)))
    assert reports[-1] == (len(scores), len(scores))


def test_other_histories_leave_no_trace_of_the_replaced_ones(tmp_path: Path) -> None:
    """A ranker that still has the prompts of a forgotten user could send them, or save what it measured after them."""
    ranker = generative(strategy="exhaustive", prior_cache=tmp_path, prior_histories=[history(1), history(2)])
    ranker.compute_priors()
    other = ranker.with_prior_histories([history(2)])
    own = {prompt.tobytes() for prior in other._prior_store._priors.values() for prompt in prior.prompts}
    removed = {prompt.tobytes() for prior in ranker._priors if prior is not None for prompt in prior.prompts} - own
    assert len(removed) == 1
    assert np.isnan(other._priors[0].log_probs).all()  # type: ignore[union-attr]
    other.restore_priors()
    expected = generative(strategy="exhaustive", prior_histories=[history(2)]).prior_scores()
    np.testing.assert_allclose(other.prior_scores(), expected, atol=1e-6)
    same = other.with_prior_histories([history(2)])
    assert same._priors == other._priors
