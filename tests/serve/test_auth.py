"""API keys, rate limits, and requests without a key."""

import time
from pathlib import Path

import httpx
import pytest
from server import error_of, running_server, small_pipeline

from genrec.errors import InputError
from genrec.serve.auth import ApiKeys, TokenBucket, read_keys

KEY = "a-key-of-more-than-sixteen"


def test_missing_key_gets_401_on_every_path(tmp_path: Path) -> None:
    """Also on unknown paths, so that the response does not reveal which paths exist."""
    with (
        running_server(small_pipeline(), tmp_path, keys=[KEY]) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        paths = ["/v1/models", "/v1/users/ann/history", "/metrics", "/health/ready", "/openapi.json", "/nothing"]
        for path in paths:
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
                response = client.get(path, headers=headers)
                assert (response.status_code, error_of(response)["type"]) == (401, "authentication_error")
                assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
        assert client.get("/nothing", headers={"authorization": f"bearer {KEY}"}).status_code == 404
        assert client.get("/health/live").status_code == 200
        assert [client.head(path).status_code for path in ("/", "/health/live")] == [200, 200]  # as probes ask
        page = client.get("/")
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"


def test_without_keys_foreign_hosts_and_origins_are_rejected(client: httpx.Client) -> None:
    """A page of another site must not reach the server through a user's browser or DNS rebinding."""
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/v1/models", headers={"host": "localhost.evil.example:80"}).status_code == 403
    assert client.get("/v1/models", headers={"origin": "https://evil.example"}).status_code == 403
    own = f"http://127.0.0.1:{client.base_url.port}"
    assert client.get("/v1/models", headers={"origin": own}).status_code == 200
    for own in ("[::1]:99", "LOCALHOST", "127.0.0.2:80", "[::1]"):  # whatever `--host` takes without keys
        assert client.get("/v1/models", headers={"host": own}).status_code == 200
    for other in ("[::1]evil.example", "[::1", "0.0.0.0", "127.1.evil.example", ""):
        assert client.get("/v1/models", headers={"host": other}).status_code == 403


def test_each_key_has_its_own_rate_limit(tmp_path: Path) -> None:
    """One caller must not block others, and a caller who obeys Retry-After is served."""
    other = "another-key-of-some-length"
    with (
        running_server(small_pipeline(), tmp_path, keys=[KEY, other], rate=0.5) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        own_headers, other_headers = ({"authorization": f"Bearer {key}"} for key in (KEY, other))
        answers = [client.get("/v1/models", headers=own_headers) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert error_of(answers[-1])["code"] == "rate_limited"
        assert client.get("/v1/models", headers=other_headers).status_code == 200
        time.sleep(int(answers[-1].headers["retry-after"]))
        assert client.get("/v1/models", headers=own_headers).status_code == 200


def test_token_bucket_reports_retry_after() -> None:
    """A wrong time makes callers retry too early, again and again."""
    now = 0.0
    bucket = TokenBucket(2.0, 3.0, lambda: now)
    assert [bucket.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    now = 0.5
    assert [bucket.take() for _ in range(2)] == [0.0, 0.5]
    now = 100.0
    assert [bucket.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_keys_are_read_from_a_file_and_weak_keys_raise(tmp_path: Path) -> None:
    """A key that can be guessed gives a false sense of security."""
    file = tmp_path / "keys"
    file.write_text(f"# of the shop\n{KEY}\n\n", encoding="utf-8")
    assert read_keys(file) == [KEY]
    assert ApiKeys(read_keys(file), clock=time.monotonic).find(KEY)[0]
    for content in ("", "# nothing\n"):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match="contains no API key"):
            read_keys(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path / "none")
    for weak in ("short", "with spaces in between it", "ключ-достаточной-длины"):
        with pytest.raises(InputError, match="API key 2 does not have at least 16"):
            ApiKeys([KEY, weak], clock=time.monotonic)
    with pytest.raises(InputError, match="rate is 0"):
        ApiKeys([KEY], rate=0, clock=time.monotonic)
