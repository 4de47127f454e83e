"""The memory budget of a batch."""

import pytest
from ranker_support import TITLES, CountingBackend, N, generative, history

from genrec.data.subset import Subset
from genrec.deadline import Deadline
from genrec.errors import InputError
from genrec.rankers.base import RankRequest
from genrec.testing import TableBackend


def test_batch_above_the_memory_budget_is_rejected_with_the_estimate() -> None:
    """A machine that swaps answers no request; the message shows which setting to lower."""
    requests = [RankRequest(history(3, 8), "b", Subset.everything(N))] * 2
    for options in ({"strategy": "beam", "width": 5}, {"strategy": "exhaustive"}):
        backend = CountingBackend(260, seed=9)
        ranker = generative(backend=backend, memory=100.0, **options)
        opened = backend.opened
        with pytest.raises(
            InputError, match=r"2 prompts of up to \d+ tokens, with .* more .* MB, but memory is 0\.0 MB; .*"
        ):
            ranker.rank(requests, 3, deadline=Deadline.never())
        assert ranker.settings.prior
        fits = ranker.with_settings(memory=1e9, exact=options["strategy"] == "beam")
        assert backend.opened == opened
        assert all(ranking.proven for ranking in fits.rank(requests, 3, deadline=Deadline.never()))


def test_memory_estimate_covers_the_longest_prompt_and_k() -> None:
    """A batch is stored as wide as its longest prompt, and a beam holds k nodes if k is above its width."""
    requests = [
        RankRequest(history(3), "b", Subset.everything(N)),
        RankRequest(history(*range(9)), "b", Subset.everything(N)),
    ]
    ranker = generative(strategy="beam", width=2, exact=False, memory=1.0)
    lengths = [len(ranker.render(one).token_ids) for one in requests]
    longest = max(len(title.encode()) + 1 for title in TITLES)
    needed = 2 * (max(lengths) + 7 * longest) * TableBackend(260).token_bytes
    with pytest.raises(InputError, match=rf"up to {max(lengths)} tokens, with 7 x {longest} more"):
        ranker.with_settings(memory=needed - 1.0).rank(requests, 7, deadline=Deadline.never())
    assert len(ranker.with_settings(memory=float(needed)).rank(requests, 7, deadline=Deadline.never())) == 2
