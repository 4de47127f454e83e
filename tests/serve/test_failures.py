"""Requests that fail: the caller learns the id of the request, and the log has the traceback under this id."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from server import ROUTE_REQUESTS, error_of, parse_sse, running_server, small_pipeline, wait_until
from starlette.exceptions import HTTPException

from genrec.errors import GenrecError, StoreError
from genrec.serve import app as app_module
from genrec.serve.service import Service
from genrec.serve.telemetry import Metrics

WAIT = 30.0
CHAT = {"messages": [{"role": "user", "content": "a lamp"}]}


class Panic(BaseException):
    """What compiled code raises when it panics."""


def fail(error: BaseException) -> Any:
    """A function that raises an error, whatever it is called with."""

    def failing(*given: Any, **named: Any) -> Any:
        raise error

    return failing


@contextmanager
def server_of(folder: Path) -> Iterator[httpx.Client]:
    with running_server(small_pipeline(), folder) as address, httpx.Client(base_url=address, timeout=WAIT) as client:
        yield client


def assert_logged(caplog: pytest.LogCaptureFixture, response: httpx.Response, secret: str = "boom") -> None:
    """Exactly one entry has the id of the request and the traceback, which the caller does not get."""
    request_id = response.headers["x-request-id"]

    def entries() -> list[logging.LogRecord]:
        return [record for record in caplog.records if request_id in record.getMessage()]

    wait_until(lambda: bool(entries()))
    (entry,) = entries()
    assert entry.levelno == logging.ERROR
    formatted = logging.Formatter().format(entry)
    assert "Traceback" in formatted
    assert secret in formatted
    assert secret not in response.text


@pytest.mark.parametrize(("method", "path"), list(ROUTE_REQUESTS))
def test_every_failed_route_is_logged_with_its_request_id(
    method: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The body says that the log has more: without an entry, nobody can find out what failed."""
    with server_of(tmp_path) as client:
        monkeypatch.setattr(app_module, "to_json_bytes", fail(RuntimeError("boom")))
        monkeypatch.setattr(Metrics, "text", property(fail(RuntimeError("boom"))))
        url = path.format(item_id="i1", user_id="eve", model="genrec")
        response = client.request(method, url, json=ROUTE_REQUESTS[method, path])
        assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
        assert_logged(caplog, response)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("boom"), 500),
        (GenrecError("boom"), 500),
        (HTTPException(500, "boom"), 500),
        (ExceptionGroup("boom", [ValueError("boom")]), 500),
        (StoreError("boom"), 503),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_failure_is_logged(
    error: Exception, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each kind of exception takes another way through the server, and each way must end in the log."""
    with server_of(tmp_path) as client:
        monkeypatch.setattr(Service, "request_context", fail(error))
        for body in ({}, {"user_id": "ann"}):
            response = client.post("/v1/recommend", json=body)
            assert response.status_code == status
            assert_logged(caplog, response)


def test_failed_streams_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reply that breaks off has status 200, so its cause is in the log or nowhere."""
    with server_of(tmp_path) as client:
        monkeypatch.setattr(Metrics, "record_first_token", fail(RuntimeError("boom")))
        response = client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        events = list(parse_sse(iter(response.text.splitlines())))
        assert events[-2]["genrec"] == {"fallback": True}
        assert_logged(caplog, response)
        monkeypatch.setattr(Service, "advisor", fail(Panic("boom")))
        for stream in (False, True):
            response = client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
            assert response.status_code == 503
            assert_logged(caplog, response)


def test_requests_of_the_caller_that_are_wrong_are_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A caller could fill the disk, and hide failures of the server."""
    with server_of(tmp_path) as client:
        answers = [client.get("/nowhere"), client.post("/v1/recommend", json={"k": 0}), client.put("/v1/models")]
    assert [answer.status_code for answer in answers] == [404, 400, 405]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3
    assert not caplog.records
