"""Every command that takes a model takes its engine, and a server must serve the model that was named."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import typer
from backend_support import needs_httpx
from command_line import run
from http_server import http_server

from genrec import Settings, open_dataset, open_recommender
from genrec.cli import app as commands
from genrec.errors import EngineError, InputError

COMMANDS = ("recommend", "chat", "serve", "evaluate", "batch run", "batch plan")


@pytest.fixture
def serve_models() -> Iterator[Callable[..., str]]:
    """Start servers that list models, and can do nothing else."""
    servers = ExitStack()

    def start(*names: str) -> str:
        body = json.dumps({"data": [{"id": name, "max_model_len": 4096} for name in names]}).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        return servers.enter_context(http_server(Handler))

    with servers:
        yield start


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_runs_a_model_takes_its_engine(command: str) -> None:
    """A model that can be served but not evaluated, or the other way round, is half supported."""
    found = typer.main.get_command(commands.app)
    for name in command.split():
        found = found.commands[name]  # type: ignore[attr-defined]
    assert {"engine", "server_url", "server_model"} <= {one.name for one in found.params}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tgi"}, "engine is 'tgi'; choose one of transformers, vllm, server"),
        ({"engine": "server"}, "server_url is not set"),
        ({"server_url": "http://127.0.0.1:8000"}, "set engine to server, or omit server_url"),
        ({"engine": "server", "server_url": "127.0.0.1:8000"}, "give a base URL such as http://127.0.0.1:8000"),
        ({"engine": "server", "server_url": "http://[::1"}, "give a base URL"),
        ({"engine": "server", "server_url": "http://:80"}, "give a base URL"),
        ({"engine": "server", "server_url": "http://a:b@host"}, "GENREC_MODEL_API_KEY"),
    ],
)
def test_engine_and_url_are_checked_before_any_work(options: dict[str, str], message: str) -> None:
    """Otherwise a typing error shows after the minutes in which a catalog is read and encoded."""
    with pytest.raises(InputError) as raised:
        Settings(**options)  # type: ignore[arg-type]
    assert message in str(raised.value)
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    result = run("recommend", "--k", "3", *flags)
    assert (result.exit_code, result.out) == (2, "")
    assert message in result.err.replace("\n", " ")


@needs_httpx
def test_a_server_that_serves_another_model_fails_the_command_and_not_the_recommender(
    serve_models: Callable[..., str], smollm2: Path, cache: Path
) -> None:
    """Another model than the one that was named must not answer in its place; a recommender steps down and says so."""
    url = serve_models("llama-3")
    result = run("recommend", "--engine", "server", "--server-url", url, "--encoder", "none", "-k", "3")
    assert (result.exit_code, result.out) == (5, "")
    assert "serves llama-3, not 'SmolLM2-135M-Instruct'; use one of these names" in result.err.replace("\n", " ")
    settings = Settings(engine="server", server_url=url, encoder=None)
    recommender = open_recommender(*open_dataset("online-retail", cache), cache=cache, settings=settings)
    assert len(recommender.recommend("15049", k=3).items) == 3
    (notice,) = (notice for notice in recommender.notices if notice.code == "no_language_model")
    assert "serves llama-3" in str(notice)


@needs_httpx
def test_a_server_that_cannot_be_reached_fails_the_command_and_not_the_recommender(
    serve_models: Callable[..., str], smollm2: Path, cache: Path
) -> None:
    """A server that is down is no reason for empty pages, and no reason to evaluate something else."""
    settings = Settings(engine="server", server_url="http://127.0.0.1:9", encoder=None)
    catalog, interactions = open_dataset("online-retail", cache)
    recommender = open_recommender(catalog, interactions, cache=cache, settings=settings)
    assert len(recommender.recommend("15049", k=3).items) == 3
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9 failed 4 times"):
        open_recommender(catalog, interactions, cache=cache, settings=settings, need_model=True)
