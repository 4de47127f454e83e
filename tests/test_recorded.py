"""Files, stores, answers and command lines of genrec before its modules were renamed work the same now.

The folder `recorded` was recorded with genrec at commit 2e06fb1: tables, a store, indexes, codes, a prior, a cache and
batch runs, and what the Python API, the HTTP server and the command line returned for them. Ids, texts, statuses,
codes, fields and file names must be equal, floats to 1e-6. New fields may be added, and sentences for people reworded.
The cached vectors have another folder since they are named by their texts, so that a changed price keeps them.
"""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import date
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from recordings import ANY, RECORDED, api_of, as_json, masked, mismatches, recorded
from typer.testing import CliRunner

from genrec import (
    Catalog,
    CatalogIndex,
    GenerativeSettings,
    History,
    Interactions,
    Item,
    Settings,
    TitleIdentifiers,
    open_recommender,
    read_catalog,
    read_interactions,
)
from genrec.backends import SentenceEncoder, inspect_adapter
from genrec.batch import BatchRun, GenerateTask, SamplingParams
from genrec.batch.prompts import ChatPromptBuilder
from genrec.cli.app import app
from genrec.datasets.registry import find_adapter
from genrec.decoding import Prior
from genrec.index import SemanticIdentifiers
from genrec.prompting import HuggingFaceTokenizer
from genrec.store import Event, Store
from genrec.testing import ByteTokenizer, TableBackend

KEY = "a-recorded-key-of-some-length"  # the API key in recorded requests
USERS = ("ann", "bob", "cyd", "dan", "eve", "fay", "gus", "hal", "zoe", "17")
FILTERS = (
    "price < 5",
    "price < 5 and organic",
    "'tea' in tags",
    "released >= '2020-01-01' or released is None",
    "not (price < 5)",
    "'lamp' in words(title)",
    "2 <= stock < 40",
    "item_id in ['i1', 'a/b']",
)
HISTORIES: dict[str, Any] = {
    "ann": "ann",
    "hal": "hal",
    "eve": "eve",
    "history": History(("i1", "a/b")),
    "words": History(words="a lamp for the desk"),
    "both": History(("i3",), "green tea", "somebody"),
    "nobody": History(),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"k": 5},
    "explained": {"k": 4, "explain": True},
    "limited": {"k": 5, "where": "price < 9", "exclude": ["i1"]},
    "few": {"k": 5, "only": ["i1", "i2", "i6", "a/b"], "filter_seen": False},
    "boosted": {"k": 6, "boost": {"i9": 3.0, "i2": -1.0}},
    "all": {"k": 50},
}
# When these were recorded, words were compared with the meaning of titles only.
FORMER_TEXTS: dict[str, Any] = {"text": ("title",), "lexical": False}
FORMER_TEXT_OPTIONS = ("--text", "title", "--no-lexical")
SETTINGS = {
    "counting": Settings(model=None, encoder=None, **FORMER_TEXTS),
    "texts": Settings(model=None, **FORMER_TEXTS),
    "model": Settings(compute_priors=True, **FORMER_TEXTS),
}
GENERATIVE_SETTINGS = {
    "candidates": GenerativeSettings(fusion_weight=50.0, candidates=6),
    "beam": GenerativeSettings(strategy="beam", prior=0.5, width=4),
    "exhaustive": GenerativeSettings(strategy="exhaustive", score="catalog"),
}
SERVER_OPTIONS = {
    "open": ["--ranker", "blend", "--encoder", "none", *FORMER_TEXT_OPTIONS],
    "keys": ["--ranker", "popularity", "--keys", "keys.txt", "--rate", "0.01", "--burst", "6", *FORMER_TEXT_OPTIONS],
    "texts": ["--ranker", "embedding", *FORMER_TEXT_OPTIONS],
}

_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+(?=\D.*\n)")  # in the line that a server prints when it listens
_HEADERS = ("content-type", "www-authenticate", "allow", "content-security-policy", "x-content-type-options")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A copy of all recordings, with batch runs moved there."""
    home = tmp_path / "recorded"
    shutil.copytree(RECORDED, home)
    for run in (home / "batch").iterdir():
        relocate_run(run, home, recorded("batch")["home"])
    return home


@pytest.fixture
def recorded_cache(home: Path, cache: Path) -> Path:
    """The recorded cache, with the models of the user's cache."""
    (home / "cache" / "models").symlink_to(cache / "models", target_is_directory=True)
    return home / "cache"


def relocate_run(run: Path, home: Path, recorded_home: str) -> None:
    """Change the paths and the genrec version in the manifest of a run, and expire its leases.

    The checksum of a manifest is the SHA-256 of all its other fields, as JSON in one line. Git does not keep the
    empty folders of a run, so they are created.
    """
    path = run / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8").replace(recorded_home, str(home)))
    del manifest["sha256"]
    if "genrec" in manifest["facts"]:
        manifest["facts"]["genrec"] = version("genrec")
    manifest["sha256"] = sha256(json.dumps(manifest).encode()).hexdigest()
    path.write_text(json.dumps(manifest), encoding="utf-8")
    for name in ("parts", "failed", "done", "leases"):
        (run / name).mkdir(exist_ok=True)
    for lease in (run / "leases").iterdir():
        os.utime(lease, (1, 1))


def read_tables(home: Path) -> tuple[Catalog, Interactions]:
    """The recorded catalog and interactions."""
    return read_catalog(home / "items.jsonl"), read_interactions(home / "interactions.csv")


def store_schema(file: Path) -> list[str]:
    """The SQL statements that create the tables of a store."""
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
        return [" ".join(sql.split()) for (sql,) in rows]


def index_facts(index: CatalogIndex) -> dict[str, Any]:
    """Fingerprint, item ids and token rows of an index."""
    rows = [index.trie.tokens_of_row(int(row)) for row in index.trie.rows_of_items]
    return as_json({"fingerprint": index.fingerprint, "ids": list(index.catalog.item_ids), "rows": rows})


def updated_index(index: CatalogIndex, identifiers: Any, tokenizer: Any) -> CatalogIndex:
    """An index with items added, withdrawn and retitled."""
    new = Catalog.from_items([Item("new", "Lamp, folding", {"price": 7.5}), Item("new 2", "Candle")])
    return index.update(identifiers, tokenizer, add=new, withdraw=["i4"], retitle={"i2": "Lamp with a new name"})


def empty_prior(catalog: Catalog) -> Prior:
    """A prior of the table model, without scores."""
    index = CatalogIndex.build(catalog, TitleIdentifiers(), ByteTokenizer())
    backend = TableBackend(ByteTokenizer.vocab_size, seed=4)
    return Prior(backend, index.trie, [np.array([5, 2, 9]), np.array([7, 7])], key="recorded prior")


def cached_files(cache: Path) -> dict[str, str]:
    """Every file of a cache except the models, and its SHA-256."""
    files = (file for kind in ("indexes", "vectors", "counts", "priors") for file in (cache / kind).rglob("*"))
    return {str(file.relative_to(cache)): sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def rename_forgotten_users(home: Path, store_file: Path) -> None:
    """Give users of the file who are forgotten, then or by a recorded request, other ids there.

    The recorded release kept them in what it had computed from the file. Here they are others, who stay; the history of
    ann, who is forgotten by a request, is in the store instead.
    """
    path = home / "interactions.csv"
    interactions = read_interactions(path)
    with Store.open(f"sqlite:///{store_file}") as store:
        items = interactions.history_of("ann").item_ids
        store.add(
            [Event("ann", item, place - len(items), event_id=f"file {place}") for place, item in enumerate(items)]
        )
    lines = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"^(ann|dan|gus)(?=,)", r"\1 of the file", lines, flags=re.MULTILINE), encoding="utf-8")


@contextmanager
def serve_command(folder: Path, name: str, home: Path, cache: Path) -> Iterator[str]:
    """Run `genrec serve` on a copy of the recorded store until the block ends; yields the address."""
    if name == "open":
        shutil.copy(home / "store.sqlite", folder / "open.sqlite")
        rename_forgotten_users(home, folder / "open.sqlite")
    (folder / "keys.txt").write_text(f"{KEY}\n{KEY}-2\n", encoding="utf-8")
    arguments = ["--items", str(home / "items.jsonl"), "--interactions", str(home / "interactions.csv")]
    arguments += ["--store", f"sqlite:///{folder / name}.sqlite", "--patience", "30", *SERVER_OPTIONS[name]]
    command = [sys.executable, "-m", "genrec", "serve", "--port", "0", *arguments]
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1", "GENREC_CACHE": str(cache), "GENREC_KEYS": ""}
    output = folder / "output.txt"
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=folder)
    try:
        end = time.monotonic() + 120
        while (found := _ADDRESS.search(printed := output.read_text(encoding="utf-8"))) is None:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start: {printed}")
            time.sleep(0.05)
        yield found[0]
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def send(client: httpx.Client, request: Mapping[str, Any]) -> dict[str, Any]:
    """Send a recorded request; returns status, headers and answer of its response.

    A request has `method` and `path`, and may have `headers` and a body: `body` (JSON), `text`, or `filler` (the
    number of spaces).
    """
    body: dict[str, Any] = {}
    if "body" in request:
        body = {"json": request["body"]}
    elif "text" in request or "filler" in request:
        body = {"content": request["text"].encode() if "text" in request else b" " * request["filler"]}
    response = client.request(request["method"], request["path"], headers=request.get("headers"), **body)
    content_type, path = response.headers.get("content-type", ""), request["path"]
    answer: Any = None
    if content_type == "application/json":
        answer = response.json() if response.content else None
    elif content_type.startswith("text/event-stream"):
        lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
        answer = [line if line == "[DONE]" else json.loads(line) for line in lines]
    elif path == "/metrics":
        types = (line.split()[2:4] for line in response.text.splitlines() if line.startswith("# TYPE"))
        answer = dict(types) or None
    elif not path.startswith("/page") and path != "/":
        answer = response.text
    headers = {name: response.headers[name] for name in _HEADERS if name in response.headers}
    if "retry-after" in response.headers:
        headers["retry-after"] = ANY
    return {"status": response.status_code, "headers": headers, "answer": masked(answer)}


def run_command(arguments: Sequence[str], typed: str | None = None) -> dict[str, Any]:
    """The exit code, the JSON of `--json`, and the other output of a command in the working directory."""
    result = CliRunner().invoke(app, list(arguments), input=typed)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    is_json = "--json" in arguments and bool(result.stdout.strip())
    answer = masked(json.loads(result.stdout), Path.cwd()) if is_json else None
    return {"exit": result.exit_code, "json": answer, "stdout": "" if is_json else result.stdout}


def with_former_texts(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with the recorded defaults of the options for texts if it has them."""
    ranks = arguments[:1] in (["recommend"], ["evaluate"], ["chat"]) or arguments[:2] in (
        ["batch", "run"],
        ["batch", "plan"],
    )
    return [*arguments, *(FORMER_TEXT_OPTIONS if ranks else ())]


def options_of(command: Any, name: str = "genrec") -> dict[str, set[str]]:
    """The options and arguments of every command, by its name."""
    found = {name: {option for param in command.params for option in (*param.opts, *param.secondary_opts)}}
    for part, subcommand in getattr(command, "commands", {}).items():
        found |= options_of(subcommand, f"{name} {part}")
    return found


def run_facts(run: Path, home: Path) -> dict[str, Any]:
    """Everything in the folder of a batch run except leases."""
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    if "genrec" in manifest["facts"]:
        manifest["facts"]["genrec"] = ANY
    tables = [pq.read_table(part) for part in sorted((run / "parts").glob("*.parquet"))]
    failures = [file.read_text(encoding="utf-8") for file in sorted((run / "failed").glob("*.jsonl"))]
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((run / "done").glob("*.json"))]
    files = {f"{file.parent.name}/{file.name}" for file in run.rglob("*") if file.is_file() and file.name[0] != "."}
    facts = {
        "manifest": {**manifest, "sha256": ANY},
        "files": sorted(files),
        "records": [sorted(record) for record in records],
        "lines": [line for table in tables for line in table.to_pylist()],
        "failures": [json.loads(line) for text in failures for line in text.splitlines()],
        "status": BatchRun.open(run).status(),
    }
    return masked(as_json(facts), home)


def part_bytes(run: Path) -> dict[str, bytes]:
    """The content of every part of a run."""
    return {part.name: part.read_bytes() for part in (run / "parts").iterdir()}


def test_recorded_tables_have_the_same_values_and_fingerprints(home: Path) -> None:
    """Another fingerprint loses every cache, index and run; another value changes recommendations."""
    catalog, interactions = read_tables(home)
    table = read_catalog(home / "items.csv")
    train, held_out = interactions.leave_last_out()
    histories = {str(history.user_id): list(history.item_ids) for history in interactions.histories()}
    now = {
        "catalog": {"fingerprint": catalog.fingerprint, "items": list(catalog)},
        "csv": {"fingerprint": table.fingerprint, "items": list(table)},
        "interactions": {"fingerprint": interactions.fingerprint, "histories": histories},
        "train": train.fingerprint,
        "held out": held_out.fingerprint,
        "filters": {where: catalog.where(where) for where in FILTERS},
    }
    assert mismatches(recorded("tables"), as_json(now)) == []


def test_recorded_store_returns_its_events_and_revisions(home: Path) -> None:
    """Acknowledged events are lost, or a forgotten user is known again."""
    with Store.open(f"sqlite:///{home / 'store.sqlite'}") as store:
        put, withdrawn = store.revisions()
        now = {
            "events": {user: store.events_of(user) for user in USERS},
            "forgotten": {user: store.is_forgotten(user) for user in USERS},
            "revision": store.revision(),
            "put": put,
            "withdrawn": withdrawn,
        }
    assert mismatches(recorded("store"), as_json(now)) == []


def test_recorded_store_accepts_new_events_without_a_schema_change(home: Path, tmp_path: Path) -> None:
    """Two releases that share one database would count events twice, or need different tables."""
    schema = store_schema(home / "store.sqlite")
    with Store.open(f"sqlite:///{tmp_path / 'new.sqlite'}"):
        pass
    assert store_schema(tmp_path / "new.sqlite") == schema
    with Store.open(f"sqlite:///{home / 'store.sqlite'}") as store:
        assert store.add([Event("ann", "i1", 5.0, event_id="order 1")]) == 0, "the store has it already"
        assert store.add([Event("ann", "i1", 5.0, event_id="order 99")]) == 1
        assert store.forget("ann") == recorded("store_changes")["forget ann"]
        before = store.revision()
        assert store.revise([Item("late", "Late Lamp", {"price": 1.0, "day": date(2024, 2, 29)})], ["i2"]) == before + 1
        put, withdrawn = store.revisions()
        attributes = {"price": 1.0, "day": "2024-02-29"}
        assert as_json(put[-1]) == {"item_id": "late", "title": "Late Lamp", "attributes": attributes}
        assert "i2" in withdrawn
    assert store_schema(home / "store.sqlite") == schema


def test_recorded_indexes_load_and_are_rebuilt_equal(
    home: Path, tokenizer: HuggingFaceTokenizer, minilm: Path, tmp_path: Path
) -> None:
    """A saved index that is rejected, or that a new build differs from, must be rebuilt wherever it is served."""
    expected = recorded("index")
    catalog, _ = read_tables(home)
    titles = CatalogIndex.load(home / "index" / "titles", tokenizer=tokenizer)
    encoder = SentenceEncoder(minilm)
    identifiers = SemanticIdentifiers.load(home / "codes", encoder)
    codes = CatalogIndex.load(home / "index" / "codes", tokenizer=tokenizer)
    now = {
        "titles": index_facts(titles),
        "titles updated": index_facts(updated_index(titles, TitleIdentifiers(), tokenizer)),
        "codes": index_facts(codes),
        "codes updated": index_facts(updated_index(codes, identifiers, tokenizer)),
        "codes fingerprint": identifiers.fingerprint,
        "titles fingerprint": TitleIdentifiers().fingerprint,
        "tokenizer fingerprint": tokenizer.fingerprint,
        "encoder": encoder.name,
    }
    assert mismatches(expected, now) == []
    for name, own in (("titles", TitleIdentifiers()), ("codes", identifiers)):
        built = CatalogIndex.build(catalog, own, tokenizer)
        built.save(tmp_path / name)
        assert mismatches(expected[name], index_facts(built)) == []
        old, new = (folder / name for folder in (home / "index", tmp_path))
        assert sorted(file.name for file in old.iterdir()) == sorted(file.name for file in new.iterdir())
        manifests = [json.loads((folder / "manifest.json").read_text(encoding="utf-8")) for folder in (old, new)]
        assert manifests[1].pop("user_data")["kind"] == "none"  # a field that was added
        for manifest in manifests:
            manifest["files"]["catalog.parquet"] = manifest["checksum"] = ANY  # depend on the version of pyarrow
        assert manifests[0] == manifests[1]


def test_recorded_prior_loads_and_is_recomputed_equal(home: Path) -> None:
    """Minutes of computing are lost, or the prior of something else changes every score."""
    expected = np.array(recorded("prior")["steps"], dtype=np.float32)
    catalog, _ = read_tables(home)
    loaded, computed = empty_prior(catalog), empty_prior(catalog)
    loaded.load(home / "prior")
    computed.fill()
    assert np.array_equal(loaded.log_probs, expected)
    np.testing.assert_allclose(computed.log_probs, expected, rtol=1e-6)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_recorded_cache_is_used(
    name: str, home: Path, recorded_cache: Path, tokenizer: HuggingFaceTokenizer, minilm: Path
) -> None:
    """Entries with another name are computed again, which takes minutes for the prior of a model."""
    expected, progress = recorded("cache"), list[str]()
    before = cached_files(recorded_cache)
    assert before == expected["files"]
    backend = TableBackend(tokenizer.vocab_size)
    backend.name = expected["model"]  # cache entries of the real model, whose scores are not computed here
    recommender = open_recommender(
        *read_tables(home),
        cache=recorded_cache,
        settings=SETTINGS[name],
        backend=backend if name == "model" else None,
        on_progress=lambda step, *_: progress.append(step),
    )
    assert [stage.source for stage in recommender.stages] == expected["ladders"][name]
    assert progress == [], "this was computed again"
    assert cached_files(recorded_cache) == before


def test_new_cache_has_the_recorded_names(
    home: Path, recorded_cache: Path, tokenizer: HuggingFaceTokenizer, minilm: Path
) -> None:
    """Two releases side by side would compute everything twice, and never find each other's entries."""
    expected = recorded("cache")
    for kind in ("indexes", "vectors", "counts", "priors"):
        shutil.rmtree(recorded_cache / kind)
    backend = TableBackend(tokenizer.vocab_size)
    backend.name = expected["model"]
    for name, settings in SETTINGS.items():
        own = backend if name == "model" else None
        open_recommender(*read_tables(home), cache=recorded_cache, settings=settings, backend=own)
    assert sorted(cached_files(recorded_cache)) == sorted(expected["files"])


def test_shipped_adapter_has_the_recorded_name_and_provenance(smollm2: Path) -> None:
    """An adapter with another name loses its cached prior; without provenance its settings are unknown."""
    adapter = inspect_adapter(find_adapter("online-retail"), base=smollm2)
    now = {"name": adapter.name, "provenance": adapter.provenance}
    assert mismatches(recorded("adapter"), as_json(now)) == []


@pytest.mark.parametrize(("name", "tolerance"), [("counting", 1e-5), ("texts", 1e-4)])  # float32 when recorded
def test_recommendations_are_the_recorded_ones(
    name: str, tolerance: float, home: Path, recorded_cache: Path, minilm: Path
) -> None:
    """An update of genrec changes recommendations, or the reasons for them."""
    recommender = open_recommender(*read_tables(home), cache=recorded_cache, settings=SETTINGS[name])
    now = {
        option: dict(zip(HISTORIES, recommender.recommend(list(HISTORIES.values()), **values), strict=True))
        for option, values in OPTIONS.items()
    }
    assert mismatches(recorded("recommendations")[name], masked(as_json(now)), tolerance=tolerance) == []


@pytest.mark.parametrize("name", list(GENERATIVE_SETTINGS))
def test_recommendations_of_a_language_model_are_the_recorded_ones(
    name: str, home: Path, recorded_cache: Path, tokenizer: HuggingFaceTokenizer
) -> None:
    """Prompts, search, prior or fusion changed; each changes the scores of a real model too."""
    settings = Settings(encoder=None, **FORMER_TEXTS, generative=GENERATIVE_SETTINGS[name], background=2)
    backend = TableBackend(tokenizer.vocab_size, seed=1)
    recommender = open_recommender(*read_tables(home), cache=recorded_cache, settings=settings, backend=backend)
    users = [HISTORIES["ann"], HISTORIES["hal"], HISTORIES["words"]]
    now = {
        "plain": recommender.recommend(users, 4),
        "limited": recommender.recommend(users, 3, where="price < 9", boost={"i2": 2.0}),
        "explained": recommender.recommend(users[:1], 2, explain=True),
    }
    assert mismatches(recorded("recommendations")[f"generative {name}"], masked(as_json(now))) == []


@pytest.mark.parametrize(("name", "tolerance"), [("open", 1e-6), ("keys", 1e-6), ("texts", 1e-4)])
def test_server_responses_are_the_recorded_ones(
    name: str, tolerance: float, home: Path, recorded_cache: Path, tmp_path: Path
) -> None:
    """Shop pages, chat clients and probes rely on every status, code and field."""
    wrong = {}
    with (
        serve_command(tmp_path, name, home, recorded_cache) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        for index, one in enumerate(recorded("http")[name]):
            request, now = one["request"], send(client, one["request"])
            if name == "open" and (request["method"], request["path"]) == ("DELETE", "/v1/users/ann"):
                now["answer"]["removed"]["genrec_events.user_id"] -= 3  # moved to the store, see rename_forgotten_users
            if found := mismatches({field: one[field] for field in now}, now, tolerance=tolerance):
                wrong[f"{index}: {request['method']} {request['path']}"] = found
        if name == "open":
            schema = client.get("/openapi.json").json()
            assert mismatches(api_of(recorded("openapi")), api_of(schema)) == []
    assert wrong == {}


def test_command_line_output_is_the_recorded_one(
    home: Path, recorded_cache: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: HuggingFaceTokenizer
) -> None:
    """Scripts rely on exit codes and on the JSON of `--json`."""
    monkeypatch.setenv("GENREC_CACHE", str(recorded_cache))
    monkeypatch.chdir(home)
    wrong = {}
    for one in recorded("cli"):
        now = run_command(with_former_texts(one["argv"]), one.get("input"))
        if one["argv"][:2] == ["prompt", "list"]:  # later releases ship more templates
            names = {template["name"] for template in one["json"]}
            now["json"] = [template for template in now["json"] if template["name"] in names]
        found = mismatches({"exit": one["exit"], "json": one["json"]}, now)
        if bool(one["stdout"]) != bool(now["stdout"]):
            found.append(f"stdout was {one['stdout']!r:.200}, and is {now['stdout']!r:.200}")
        for name, content in one.get("saved", {}).items():
            found += mismatches(content, masked(json.loads(Path(name).read_text(encoding="utf-8")), home))
        if found:
            wrong[" ".join(one["argv"])] = found
    assert wrong == {}


def test_commands_have_all_recorded_options() -> None:
    """A script that ran yesterday ends with a usage error."""
    now = options_of(typer.main.get_command(app))
    missing = {name: set(options) - now.get(name, set()) for name, options in recorded("cli_options").items()}
    assert {name: options for name, options in missing.items() if options} == {}


@pytest.mark.parametrize("name", ["done", "failed", "mended"])
def test_recorded_run_is_intact(name: str, home: Path, recorded_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run is reported as damaged, or its lines are read differently than they were written."""
    monkeypatch.setenv("GENREC_CACHE", str(recorded_cache))
    folder, expected = home / "batch" / name, recorded("batch")[name]
    assert mismatches(expected["before"], run_facts(folder, home)) == []
    run = BatchRun.open(folder)
    run.check_source()
    assert run.verify() == []
    for command in ("resume", "status", "verify", "retry-failed"):
        now = run_command(["batch", command, str(folder), "--json"])
        assert mismatches(expected[command], now) == [], command
    assert mismatches(expected["after"], run_facts(folder, home)) == []


@pytest.mark.parametrize("name", ["done", "failed"])
def test_command_of_a_recorded_run_continues_it_and_repeats_it(
    name: str, home: Path, recorded_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is rejected in the folder of its own run, or writes other lines for the same rows."""
    monkeypatch.setenv("GENREC_CACHE", str(recorded_cache))
    monkeypatch.chdir(home)
    folder, expected = home / "batch" / name, recorded("batch")[name]
    parts = part_bytes(folder)
    command = with_former_texts(expected["argv"])
    assert run_command(command)["exit"] == expected["retry-failed"]["exit"]
    assert part_bytes(folder) == parts
    again = [f"again/{name}" if argument == f"batch/{name}" else argument for argument in command]
    run_command(again)
    assert mismatches(expected["before"], run_facts(home / "again" / name, home)) == []


def test_interrupted_run_of_lists_resumes(home: Path, recorded_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update in the middle of a run loses finished parts, or changes the rest."""
    monkeypatch.setenv("GENREC_CACHE", str(recorded_cache))
    folder, expected = home / "batch" / "half", recorded("batch")["half"]
    assert mismatches(expected["before"], run_facts(folder, home)) == []
    finished = part_bytes(folder)
    now = run_command(["batch", "resume", str(folder), "--json"])
    assert mismatches(expected["resume"], now) == []
    assert mismatches(expected["after"], run_facts(folder, home)) == []
    assert finished.items() <= part_bytes(folder).items(), "a finished part was processed again"


def test_interrupted_run_of_texts_resumes(home: Path, tokenizer: HuggingFaceTokenizer) -> None:
    """Another prompt or seed changes the texts of the second half; another lease format blocks it."""
    folder, expected = home / "batch" / "texts", recorded("batch")["texts"]
    assert mismatches(expected["before"], run_facts(folder, home)) == []
    backend, params = TableBackend(tokenizer.vocab_size, seed=2), SamplingParams(max_tokens=5)
    task = GenerateTask(backend, tokenizer, ChatPromptBuilder("tiny"), sampling_params=params, batch_size=2)
    assert BatchRun.open(folder).run(task).finished
    assert mismatches(expected["after"], run_facts(folder, home)) == []
    assert BatchRun.open(folder).verify() == []


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ({"a": 1}, {"a": 1, "new": 2}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"message": "one wording"}, {"message": "another"}, True),
        ({"message": "one wording"}, {"message": ""}, False),
        ({"message": "one wording"}, {"message": 5}, False),
        ({"notices": ["a"]}, {"notices": ["b"]}, True),
        ({"notices": ["a"]}, {"notices": []}, False),
        ({"message": {"content": "a"}}, {"message": {"content": "b"}}, False),
        ({"content": "I could not answer this; please ask again."}, {"content": "another"}, False),
        (1.0, 1.0000001, True),
        (1.0, 1.001, False),
        (1, 1.0, False),
        ([1, 2], [2, 1], False),
        (ANY, {"x": None}, True),
        (None, 0, False),
    ],
)
def test_comparison_allows_added_fields_and_reworded_sentences_only(before: Any, now: Any, same: bool) -> None:
    """A comparison that accepts everything proves nothing."""
    assert (mismatches(before, now) == []) is same
