"""Commands with a model behind an API: what they print, record and refuse, and that no file holds the key."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command_line import OURS, run
from model_server import MODEL, ModelServer, Reply, asked_text, completion, model_server, rank_by_rule

from genrec import History, Item, Settings, open_recommender, read_catalog
from genrec.backends import ApiSettings
from genrec.cache import default_cache
from genrec.errors import EngineError, InputError
from genrec.loading import open_pipeline
from genrec.pipeline import ListwiseStage

KEY = "sk-a-secret-key-of-some-length"


def answer(body: dict[str, Any], _: int) -> Reply:
    if "Put all these numbers in order" in asked_text(body):
        return rank_by_rule(body)
    return completion('{"mood":"grim"}' if "response_format" in body else "A fine lamp.")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, files: Path) -> Iterator[ModelServer]:
    monkeypatch.setenv("GENREC_MODEL_API_KEY", KEY)
    with model_server(answer) as running:
        yield running


def api(server: ModelServer, model: str = MODEL) -> tuple[str, ...]:
    return "--api-url", server.url, "--model", model, "--encoder", "none"


def with_longer_histories() -> tuple[str, ...]:
    """Options of data from which evaluation can hold items out."""
    events = [
        f"u{user},{item},{time}" for user in range(4) for time, item in enumerate("abc"[user % 2 :] + "a" * (user % 2))
    ]
    Path("longer.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]), encoding="utf-8")
    return "--items", "items.csv", "--interactions", "longer.csv"


def test_recommend_ranks_by_the_model_and_counts_its_cost(server: ModelServer) -> None:
    """The whole path: option, key, server, list, cost."""
    prices = ("--api-input-price", "2", "--api-output-price", "10")
    (found,) = run("recommend", "--history", "a", *OURS, *api(server), *prices, "--json").json
    assert {item["source"] for item in found["items"]} == {"generative: listwise"}
    assert found["tokens"] == 110
    assert found["cost"] == pytest.approx(0.0003)
    assert found["proven"] is False
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    shown = run("recommend", "--history", "a", *OURS, *api(server), *prices)
    assert "cost 0.0003" in shown.out
    assert "not proven" in shown.out


def test_evaluate_and_batch_use_the_model(server: ModelServer, tmp_path: Path) -> None:
    """A model that can serve must be measurable, and usable for a million rows."""
    report = run(
        "evaluate", *with_longer_histories(), *api(server), "--ranker", "generative", "--k", "1", "--json"
    ).json
    assert {row["ranker"] for row in report["rows"]} == {"generative", "popularity"}
    (tmp_path / "rows.csv").write_text("user_id\nu1\nu2\n", encoding="utf-8")
    done = run("batch", "run", tmp_path / "rows.csv", tmp_path / "lists", *OURS, *api(server), "--no-filter-seen")
    assert done.exit_code == 0, done.err
    table = pq.read_table(tmp_path / "lists" / "parts")
    assert set(table["source"].to_pylist()) == {"generative: listwise"}
    schema = {"type": "object", "properties": {"mood": {"enum": ["gay", "grim"]}}, "required": ["mood"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema | {"additionalProperties": False}), encoding="utf-8")
    (tmp_path / "mood.j2").write_text(
        '{#\nname="mood"\nversion=1\ninputs=["user_id"]\noutput="text"\n#}\n'
        "{% block user %}{{ user_id }}{% endblock %}",
        encoding="utf-8",
    )
    options = ("--prompt", tmp_path / "mood.j2", "--schema", tmp_path / "schema.json")
    done = run("batch", "run", tmp_path / "rows.csv", tmp_path / "texts", *options, *api(server)[:4])
    assert done.exit_code == 0, done.err
    assert pq.read_table(tmp_path / "texts" / "parts")["text"].to_pylist() == ['{"mood":"grim"}'] * 2
    manifests = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(server.url.encode() in path.read_bytes() for path in manifests)
    assert not any(KEY.encode() in path.read_bytes() for path in manifests)


def test_another_model_than_named_fails_in_one_line(server: ModelServer) -> None:
    """Whoever names a model must not get the lists of another one, or of popularity."""
    for command in (("recommend", *OURS), ("evaluate", *with_longer_histories())):
        failed = run(*command, *api(server, "gpt-x"))
        assert failed.exit_code == 5
        message = failed.err.strip().splitlines()[-1]
        assert f"does not serve the model 'gpt-x'; it serves {MODEL}; name one of its models" in message
        assert KEY not in failed.err


def test_a_server_is_asked_for_its_models_once(server: ModelServer) -> None:
    """A start that asks again waits again where a server is slow or limits the rate."""
    longer = with_longer_histories()
    Path("rows.csv").write_text("user_id\nu1\n", encoding="utf-8")
    for command in (
        ("recommend", "--history", "a", *OURS),
        ("doctor",),
        ("evaluate", *longer, "--k", "1"),
        ("batch", "run", "rows.csv", "lists", *longer, "--no-filter-seen"),
    ):
        before = server.model_lists
        assert run(*command, *api(server)).exit_code == 0
        assert server.model_lists == before + 1


@pytest.mark.parametrize("lists", ["no list", "an empty list", "the model"])
@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (Reply(404, {"error": {"message": "no such model"}}), f"does not serve the model '{MODEL}'; name one of its"),
        (Reply(404, "Not Found"), "rejected the request with 404: Not Found; check the URL, the model"),
        (Reply(401, {"error": {"message": "bad key"}}), "API key (401: bad key); set GENREC_MODEL_API_KEY"),
        (
            Reply(308, "", {"Location": "https://user:pw@api.example:8443/v2/chat/completions?token=secret"}),
            "redirects to https://api.example:8443/v2/chat/completions (308); if you trust that server, give "
            "https://api.example:8443/v2 as the URL",
        ),
    ],
    ids=["model", "path", "key", "redirect"],
)
def test_a_named_model_that_refuses_every_request_fails_the_command(
    files: Path, refusal: Reply, message: str, lists: str
) -> None:
    """Lists of another stage would be published as the model's; a list of models may be missing, or need no key."""
    models = {"no list": Reply(404, "Not Found"), "an empty list": Reply(body={"data": []}), "the model": None}[lists]
    Path("rows.csv").write_text("user_id\nu1\n", encoding="utf-8")
    with model_server(lambda *_: refusal, models=models) as server:
        for command in (("recommend", "--history", "a"), ("batch", "run", "rows.csv", "lists")):
            failed = run(*command, *OURS, *api(server))
            assert (failed.exit_code, failed.out) == (5, ""), failed.err
            assert message in failed.err.strip().splitlines()[-1]
            assert "secret" not in failed.err
        settings = Settings(model=MODEL, api=ApiSettings(server.url), encoder=None)
        recommender = open_recommender(read_catalog("items.csv"), None, cache=default_cache(), settings=settings)
        found = recommender.recommend(History(("a",)), 2)
        assert ([item.stage for item in found.items], found.failed_stages) == (["popularity"] * 2, ("generative",))


@pytest.mark.parametrize("reply", [Reply(429), Reply(500), Reply(drop=True)], ids=["rate", "failure", "closed"])
def test_a_named_model_that_fails_for_now_is_replaced_in_that_list(
    files: Path, monkeypatch: pytest.MonkeyPatch, reply: Reply
) -> None:
    """A server that runs for weeks must survive a minute without its model, also the minute in which it starts."""
    monkeypatch.setattr("genrec.backends.api_connection._FIRST_DELAY", 0.01)
    with model_server(lambda *_: reply, models=Reply(404, "Not Found")) as server:
        (found,) = run("recommend", "--history", "a", *OURS, *api(server), "--json").json
    assert {item["stage"] for item in found["items"]} == {"blend"}
    assert "stage_skipped" in json.dumps(found["notices"]) or "was skipped" in json.dumps(found["notices"])


def test_a_server_that_cannot_be_reached_fails_the_command_and_not_the_library(
    monkeypatch: pytest.MonkeyPatch, files: Path, tmp_path: Path
) -> None:
    """The command names a model; a recommender in a program answers with its other stages, and tries again later."""
    monkeypatch.setattr("genrec.backends.api_connection._FIRST_DELAY", 0.01)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    failed = run("recommend", "--history", "a", *OURS, "--api-url", url, "--model", "m", "--encoder", "none")
    assert failed.exit_code == 5
    assert "failed 4 times: ConnectError" in failed.err
    settings = Settings(model="m", api=ApiSettings(url), encoder=None)
    recommender = open_recommender(read_catalog("items.csv"), None, cache=default_cache(), settings=settings)
    assert [notice.code for notice in recommender.notices] == ["model_unreachable"]
    with pytest.raises(EngineError, match="failed 4 times: ConnectError"):
        open_recommender(read_catalog("items.csv"), None, cache=default_cache(), settings=settings, need_model=True)
    found = recommender.recommend(History(("a",)), 2)
    assert [item.stage for item in found.items] == ["popularity"] * 2
    assert found.failed_stages == ("generative",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--api-url", "http://localhost:1/v1"), "needs the name of a model there; add --model NAME"),
        (("--api-input-price", "3"), "--api-input-price applies only to a model behind an API; add --api-url URL"),
        (("--api-url", "localhost", "--model", "m"), "'localhost' is not an HTTP URL"),
        (("--api-url", "http://h", "--model", "m", "--api-timeout", "0"), "timeout is 0.0; give seconds above 0"),
        (("--api-url", "http://h", "--model", "m", "--window-step", "50"), "window_step is 50, and window is 50"),
        (("--api-url", "http://h", "--model", "m", "--list-template", "next-item"), "cannot rank a list"),
    ],
)
def test_options_that_do_not_fit_fail_before_any_request(files: Path, arguments: Any, message: str) -> None:
    """A typing error must not cost money, or minutes."""
    failed = run("recommend", "--history", "a", *OURS, "--encoder", "none", *arguments)
    assert failed.exit_code in (2, 5)
    assert message in failed.err


def test_an_adapter_behind_an_api_is_refused() -> None:
    """It would be left out silently."""
    with pytest.raises(InputError, match="adapter is 'online-retail', which cannot be loaded behind the API at h"):
        Settings(model="m", api=ApiSettings("http://h"), adapter="online-retail")


def test_a_changed_catalog_is_ranked_by_the_same_model(server: ModelServer) -> None:
    """A server changes its catalog while it runs; new items must be ranked, and removed ones must not."""
    settings = Settings(model=MODEL, api=ApiSettings(server.url), encoder=None)
    catalog = read_catalog("items.csv")
    pipeline = open_pipeline(catalog, None, cache=default_cache(), settings=settings)
    assert isinstance(pipeline.llm, ListwiseStage)
    new = type(catalog).from_items([Item("d", "Yellow Tea", {"price": 4})])
    revised = pipeline.revised(new, remove=["b"]).recommender()
    found = revised.recommend(History(("a",)), 3)
    assert {item.item_id for item in found.items} == {"c", "d"}
    assert {item.source for item in found.items} == {"generative: listwise"}


def test_the_doctor_lets_the_model_rank_and_says_what_it_used(server: ModelServer) -> None:
    """The first thing to try with a new server, key and model."""
    facts = run("doctor", *api(server), "--json").json
    assert facts["usable"] is True
    found = facts["checks"][-1]["found"]
    assert facts["checks"][-1]["name"] == "generation"
    assert found.startswith("ranking after Tea Cup, listwise: ")
    assert found.endswith("110 tokens")
    refused = run("doctor", *api(server, "unknown"), "--json")
    assert refused.exit_code == 5
    (check,) = [check for check in refused.json["checks"] if check["state"] == "broken"]
    assert "unknown" in check["found"]
    assert MODEL in check["found"] + check["remedy"]
