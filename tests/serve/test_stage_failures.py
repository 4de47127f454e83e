"""Whatever fails inside a stage, the answer of the server is a list, and never blames the caller."""

from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from server import BlockingRanker, error_of, item_ids, running_server, small_pipeline

from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError, TemplateError
from genrec.rankers.base import RankRequest
from genrec.types import Ranking

ERRORS = [MemoryError(), ValueError("bad"), InputError("too large"), TemplateError("no price"), EngineError("gone")]


class FailingRanker(BlockingRanker):
    """Fails with the error of the price that is asked for."""

    source = "failing"

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        raise ERRORS[int(requests[0].words)]


def test_a_failing_stage_is_no_error_of_the_request(tmp_path: Path) -> None:
    """Status 400 tells a client to change its request, which it cannot; a 500 gives it nothing at all."""
    with running_server(small_pipeline(extra_stages=[FailingRanker()]), tmp_path) as address:
        for number, error in enumerate(ERRORS):
            body = {"user_id": "ann", "words": str(number), "k": 3, "explain": True}
            response = httpx.post(f"{address}/v1/recommend", json=body)
            assert len(item_ids(response)) == 3
            (told,) = [one for one in response.json()["notice_details"] if one["code"] == "stage_skipped"]
            code = getattr(error, "code", "out_of_memory" if isinstance(error, MemoryError) else "unexpected_error")
            assert told["fields"] == {"stage": "failing", "error": code}


def test_a_filter_that_takes_too_long_is_no_failure_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller can allow more time or write a shorter filter, and must be told so."""
    monkeypatch.setattr("genrec.data.filters._UNCHECKED_ROWS", 0)
    with running_server(small_pipeline(), tmp_path) as address:
        body = {"words": "mug", "where": " or ".join(["price < 99"] * 100), "deadline": 1e-6}
        response = httpx.post(f"{address}/v1/recommend", json=body)
    assert response.status_code == 503
    error = error_of(response)
    assert (error["code"], error["reason"]) == ("deadline_exceeded", "deadline_exceeded")
