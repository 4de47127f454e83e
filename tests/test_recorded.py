"""What genrec wrote and answered before its modules were moved and renamed is read, and answered, alike today.

The folder `recorded` was made by `record.py` with genrec at commit 2e06fb1. Text, ids, statuses, codes and structure
have to be equal, scores to 1e-6. How a message or a notice is worded is free, and so are fields that are new.
"""

import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
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
from genrec.batch_texts import MessageReading, Style, TextAnswerer
from genrec.codes import SemanticIdentifiers
from genrec.dataset import find_adapter
from genrec.prior import Prior
from genrec.tokenizer import HuggingFaceTokenizer
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
from genrec.backends.adapter import read_adapter
from genrec.backends.encoder import SentenceEncoder
from genrec.batch import BatchRun
from genrec.cli.app import app
from genrec.store import Event, Store
from genrec.testing import ByteTokenizer, TableBackend

RECORDED = Path(__file__).parent / "recorded"
ANY = "<any>"
"""Stands in a recording for what differs each time: seconds, ids of replies, moments, paths, versions."""

WHERE = "<recorded>"
"""Stands in a recording for the folder that it lay in."""

KEY = "a-recorded-key-of-some-length"

_WORDED = ("message", "notices", "wrong", "summary")  # their texts are sentences for people
_VARYING = ("seconds", "hours", "memory_bytes", "output_bytes", "bytes", "created", "versions")
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+(?=\D.*\n)")  # in the line that a server says when it listens
_HEADERS = ("content-type", "www-authenticate", "allow", "content-security-policy", "x-content-type-options")


# Comparing


def mismatches(recorded: Any, now: Any, *, place: str = "", tolerance: float = 1e-6) -> list[str]:
    """Where something is not what was recorded: [] where nothing is.

    Args:
        recorded: plain values, as JSON has them; `ANY` is like everything, and fields that it lacks are free.
        now: the same, as it is today.
        place: where these stand in the whole.
        tolerance: relative, of numbers that are not whole.
    """
    if isinstance(recorded, str) and recorded == ANY:
        return []
    if isinstance(recorded, dict) and isinstance(now, dict):
        found = [f"{place}.{name} is missing" for name in recorded if name not in now]
        for name in recorded:
            if name not in now:
                continue
            there = f"{place}.{name}"
            if name in _WORDED and _shape(recorded[name]) is not None:
                if _shape(recorded[name]) != _shape(now[name]):
                    found.append(f"{there} was {recorded[name]!r:.200}, and is {now[name]!r:.200}")
            else:
                found += mismatches(recorded[name], now[name], place=there, tolerance=tolerance)
        return found
    if isinstance(recorded, list) and isinstance(now, list):
        if len(recorded) != len(now):
            return [f"{place} had {len(recorded)} values, and has {len(now)}: {recorded!r:.300}; {now!r:.300}"]
        pairs = enumerate(zip(recorded, now, strict=True))
        return [
            one
            for number, (before, after) in pairs
            for one in mismatches(before, after, place=f"{place}[{number}]", tolerance=tolerance)
        ]
    if isinstance(recorded, float) and isinstance(now, int | float) and not isinstance(now, bool):
        same = math.isclose(recorded, now, rel_tol=tolerance, abs_tol=1e-9) or (recorded != recorded and now != now)
    else:
        same = type(recorded) is type(now) and recorded == now
    return [] if same else [f"{place} was {recorded!r:.300}, and is {now!r:.300}"]


def matches(recorded: Any, now: Any) -> bool:
    """Whether something is what was recorded, see `mismatches`."""
    return not mismatches(recorded, now)


def _shape(sentences: Any) -> str | int | None:
    """What has to stay of sentences, which may be reworded: that there is one, or how many; None of all others."""
    if isinstance(sentences, str):
        return "a sentence" if sentences else "none"
    if isinstance(sentences, list) and all(isinstance(one, str) for one in sentences):
        return len(sentences)
    return None


def plain(value: Any) -> Any:
    """A value as JSON has it; dates and decimals become text, frozen values become objects."""

    def simpler(one: Any) -> Any:
        if is_dataclass(one) and not isinstance(one, type):
            return asdict(one)
        if isinstance(one, np.ndarray | np.generic):
            return one.tolist()
        if isinstance(one, Mapping):
            return dict(one)
        return str(one)

    return json.loads(json.dumps(value, default=simpler))


def veiled(value: Any, home: Path | None = None) -> Any:
    """Plain values with `ANY` for what differs each time, and `WHERE` for the folder that things lie in."""
    if isinstance(value, dict):
        return {
            name: ANY
            if (name in _VARYING and one is not None and not isinstance(one, str) and (name, one) != ("created", 0))
            or (name == "id" and str(one).startswith("chatcmpl-"))
            else veiled(one, home)
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [veiled(one, home) for one in value]
    if isinstance(value, str) and home is not None:
        return value.replace(str(home), WHERE)
    return value


def recorded(name: str) -> Any:
    """A recording that is JSON."""
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


# What is asked today; `record.py` asks the same


def shop(home: Path) -> tuple[Catalog, Interactions]:
    """The recorded catalog, and what people did."""
    return read_catalog(home / "items.jsonl"), read_interactions(home / "interactions.csv")


def tables_of(home: Path) -> dict[str, Any]:
    """What is read of the files, and how they are fingerprinted; caches, indexes and runs are found by these."""
    catalog, interactions = shop(home)
    table = read_catalog(home / "items.csv")
    histories = {str(one.user_id): list(one.item_ids) for one in interactions.histories()}
    train, held_out = interactions.leave_last_out()
    return plain(
        {
            "catalog": {"fingerprint": catalog.fingerprint, "items": list(catalog)},
            "csv": {"fingerprint": table.fingerprint, "items": list(table)},
            "interactions": {"fingerprint": interactions.fingerprint, "histories": histories},
            "train": train.fingerprint,
            "held out": held_out.fingerprint,
            "filters": {
                where: catalog.where(where)
                for where in (
                    "price < 5",
                    "price < 5 and organic",
                    "'tea' in tags",
                    "released >= '2020-01-01' or released is None",
                    "not (price < 5)",
                    "'lamp' in words(title)",
                    "2 <= stock < 40",
                    "item_id in ['i1', 'a/b']",
                )
            },
        }
    )


USERS = ("ann", "bob", "cyd", "dan", "eve", "fay", "gus", "hal", "zoe", "17")


def store_of(file: Path) -> dict[str, Any]:
    """Everything that a store tells."""
    with Store.open(f"sqlite:///{file}") as store:
        put, withdrawn = store.revisions()
        return plain(
            {
                "events": {user: store.events_of(user) for user in USERS},
                "forgotten": {user: store.is_forgotten(user) for user in USERS},
                "revision": store.revision(),
                "put": put,
                "withdrawn": withdrawn,
            }
        )


def schema_of(file: Path) -> list[str]:
    """The tables of a store, as SQLite describes them, and its facts but for the salt."""
    connection = sqlite3.connect(file)
    try:
        made = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
        return [" ".join(text.split()) for (text,) in connection.execute(made)]
    finally:
        connection.close()


def index_of(index: CatalogIndex) -> dict[str, Any]:
    """What a search sees of an index."""
    rows = [index.trie.row(int(row)) for row in index.trie.rows_of_items]
    return plain({"fingerprint": index.fingerprint, "ids": list(index.catalog.item_ids), "rows": rows})


def updated(index: CatalogIndex, identifiers: Any, tokenizer: Any) -> CatalogIndex:
    """An index after items came, went and were renamed."""
    new = Catalog.from_items([Item("new", "Lamp, folding", {"price": 7.5}), Item("new 2", "Candle")])
    return index.update(identifiers, tokenizer, add=new, withdraw=["i4"], retitle={"i2": "Lamp with a new name"})


PRIOR_PROMPTS = ([5, 2, 9], [7, 7])


def prior_of(catalog: Catalog) -> Prior:
    """A prior of the table model; nothing is measured yet."""
    index = CatalogIndex.build(catalog, TitleIdentifiers(), ByteTokenizer())
    backend = TableBackend(ByteTokenizer.vocab_size, seed=4)
    return Prior(backend, index.trie, [np.array(one) for one in PRIOR_PROMPTS], key="recorded prior")


def adapter_of(model: Path) -> dict[str, Any]:
    """What is read of the adapter that ships with genrec."""
    found = read_adapter(find_adapter("online-retail"), base=model)
    return plain({"name": found.name, "provenance": found.provenance})


PEOPLE: dict[str, Any] = {
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


def lists_of(recommender: Any) -> dict[str, Any]:
    """Everybody's lists under all options."""
    found: dict[str, Any] = {}
    for name, options in OPTIONS.items():
        own = dict(options)
        answers = recommender.recommend(list(PEOPLE.values()), own.pop("k"), **own)
        found[name] = {who: veiled(plain(answer)) for who, answer in zip(PEOPLE, answers, strict=True)}
    return found


COUNTING, TEXTS = Settings(model=None, encoder=None), Settings(model=None)
GENERATING = {
    "candidates": GenerativeSettings(evidence=50.0, candidates=6),
    "beam": GenerativeSettings(strategy="beam", prior=0.5, width=4),
    "exhaustive": GenerativeSettings(strategy="exhaustive", score="catalog"),
}


def generating(home: Path, cache: Path, name: str, tokenizer: HuggingFaceTokenizer) -> Any:
    """A recommender whose language model is the table."""
    settings = Settings(encoder=None, generative=GENERATING[name], background=2)
    backend = TableBackend(tokenizer.vocab_size, seed=1)
    return open_recommender(*shop(home), cache=cache, settings=settings, backend=backend)


def generated_of(recommender: Any) -> dict[str, Any]:
    """A few people's lists where a language model ranks."""
    people = [PEOPLE["ann"], PEOPLE["hal"], PEOPLE["words"]]
    told = {
        "plain": recommender.recommend(people, 4),
        "limited": recommender.recommend(people, 3, where="price < 9", boost={"i2": 2.0}),
        "explained": recommender.recommend(people[:1], 2, explain=True),
    }
    return veiled(plain(told))


@contextmanager
def serving(folder: Path, arguments: Sequence[object], **environment: str) -> Iterator[str]:
    """`genrec serve` until the block ends; its address."""
    said = folder / "said.txt"
    command = [sys.executable, "-m", "genrec", "serve", "--port", "0", *map(str, arguments)]
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    with said.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, **threads, "HF_HUB_OFFLINE": "1", **environment}
        )
    try:
        end = time.monotonic() + 120
        while (found := re.search(_ADDRESS, told := said.read_text(encoding="utf-8"))) is None:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start: {told}")
            time.sleep(0.05)
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def servers_of(home: Path, cache: Path, folder: Path) -> dict[str, tuple[list[object], dict[str, str]]]:
    """What each server of the recording is started with; they begin with a copy of the recorded store."""
    shutil.copy(home / "store.sqlite", folder / "open.sqlite")
    (folder / "keys.txt").write_text(f"{KEY}\n{KEY}-2\n", encoding="utf-8")
    files: list[object] = ["--items", home / "items.jsonl", "--interactions", home / "interactions.csv"]
    open_store, keys_store, texts_store = (f"sqlite:///{folder / name}.sqlite" for name in ("open", "keys", "texts"))
    environment = {"GENREC_CACHE": str(cache), "GENREC_KEYS": ""}
    files += ["--patience", "30"]  # of a machine that is busy with something else
    keys = ["--keys", folder / "keys.txt", "--rate", "0.01", "--burst", "6"]
    return {
        "open": ([*files, "--ranker", "blend", "--encoder", "none", "--store", open_store], environment),
        "keys": ([*files, "--ranker", "popularity", "--store", keys_store, *keys], environment),
        "texts": ([*files, "--ranker", "embedding", "--store", texts_store], environment),
    }


def asked(client: httpx.Client, request: Mapping[str, Any]) -> dict[str, Any]:
    """Ask as it was recorded, and return the answer in plain values.

    A request has `method`, `path`, and perhaps `headers`, `body` (JSON), `text` (a body as it is) or `filler` (a body
    of so many spaces).
    """
    content: Any = {"content": request["text"].encode()} if "text" in request else {}
    if "filler" in request:
        content = {"content": b" " * request["filler"]}
    if "body" in request:
        content = {"json": request["body"]}
    answer = client.request(request["method"], request["path"], headers=request.get("headers"), **content)
    kind = answer.headers.get("content-type", "")
    told: Any = None
    if kind == "application/json":
        told = answer.json() if answer.content else None
    elif kind.startswith("text/event-stream"):
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        told = [line if line == "[DONE]" else json.loads(line) for line in lines]
    elif request["path"] == "/metrics":
        named = (line.split()[2:4] for line in answer.text.splitlines() if line.startswith("# TYPE"))
        told = dict(named) or None
    elif not request["path"].startswith("/page") and request["path"] != "/":
        told = answer.text
    if request["path"] == "/openapi.json" and answer.status_code == 200:
        told = outline_of(told)
    headers = {name: answer.headers[name] for name in _HEADERS if name in answer.headers}
    if "retry-after" in answer.headers:
        headers["retry-after"] = ANY
    return {"status": answer.status_code, "headers": headers, "answer": veiled(told)}


def answers_of(requests: Sequence[Mapping[str, Any]], address: str) -> list[dict[str, Any]]:
    """One answer after the other, since what is asked changes what is known."""
    with httpx.Client(base_url=address, timeout=60) as client:
        return [asked(client, one) for one in requests]


def outline_of(described: dict[str, Any]) -> dict[str, Any]:
    """What programs rely on in a description of an API: addresses, parameters, statuses, and names of fields."""
    routes = {
        f"{method.upper()} {path}": {
            "parameters": {
                f"{one['in']} {one['name']}": one.get("required", False) for one in own.get("parameters", ())
            },
            "statuses": dict.fromkeys(own["responses"], True),
            "body": json.dumps(own.get("requestBody", {}).get("content", {}), sort_keys=True),
        }
        for path, methods in described["paths"].items()
        for method, own in methods.items()
    }
    fields = {
        name: {
            "fields": dict.fromkeys(own.get("properties", ()), True),
            "required": {one: one in own.get("required", ()) for one in own.get("properties", ())},
        }
        for name, own in described["components"]["schemas"].items()
    }
    return {"routes": routes, "schemas": fields}


def command_of(arguments: Sequence[str], said: str | None = None) -> dict[str, Any]:
    """What a command answers, in the folder that is the current one; of `--json` in plain values."""
    done = CliRunner().invoke(app, list(arguments), input=said)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    told = json.loads(done.stdout) if "--json" in arguments and done.stdout.strip() else None
    return {
        "exit": done.exit_code,
        "json": veiled(told, Path.cwd()),
        "stdout": done.stdout.replace(str(Path.cwd()), WHERE) if told is None else "",
    }


def options_of(command: Any, name: str = "genrec") -> dict[str, list[str]]:
    """The options and arguments of every command, by its name."""
    own = [text for one in command.params for text in (*one.opts, *one.secondary_opts)]
    found = {name: sorted(own)}
    for part, under in getattr(command, "commands", {}).items():
        found |= options_of(under, f"{name} {part}")
    return found


def lines_of(run: Path) -> list[dict[str, Any]]:
    """Every line of a run's parts, in order."""
    parts = sorted((run / "parts").glob("*.parquet"))
    return plain([line for part in parts for line in pq.read_table(part).to_pylist()])


def failures_of(run: Path) -> list[dict[str, Any]]:
    """Every row of a run that failed."""
    files = sorted((run / "failed").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def run_of(run: Path, home: Path) -> dict[str, Any]:
    """What lies in a run's folder, but for what comes and goes while it is worked on."""
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    record = sorted((run / "done").glob("*.json"))
    facts = {name: ANY if name in ("genrec",) else one for name, one in manifest["facts"].items()}
    files = {f"{one.parent.name}/{one.name}" for one in run.rglob("*") if one.is_file() and one.name[0] != "."}
    return veiled(
        plain(
            {
                "manifest": {**manifest, "facts": facts, "sha256": ANY},
                "files": sorted(files),
                "records": [sorted(json.loads(one.read_text(encoding="utf-8"))) for one in record],
                "lines": lines_of(run),
                "failures": failures_of(run),
                "status": BatchRun.open(run).status(),
            }
        ),
        home,
    )


def answerer(tokenizer: HuggingFaceTokenizer) -> TextAnswerer:
    """What writes the texts of the recorded run."""
    backend = TableBackend(tokenizer.vocab_size, seed=2)
    return TextAnswerer(backend, tokenizer, MessageReading("tiny"), style=Style(max_tokens=5), batch_size=2)


# Recordings, opened and replayed


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A copy of everything that was recorded; runs in it know that they were moved."""
    home = tmp_path / "recorded"
    shutil.copytree(RECORDED, home)
    for run in (home / "batch").iterdir():
        move(run, home, recorded("batch")["home"])
    return home


def move(run: Path, home: Path, before: str) -> None:
    """Let a run that was copied find its rows: its manifest names paths, and the version that began it, under a seal.

    The seal is the SHA-256 of all else in the manifest, as JSON in one line. Leases that were left behind are old.
    """
    path = run / "manifest.json"
    text = path.read_text(encoding="utf-8").replace(before, str(home))
    manifest = json.loads(text)
    del manifest["sha256"]
    if "genrec" in manifest["facts"]:
        manifest["facts"]["genrec"] = version("genrec")
    manifest["sha256"] = sha256(json.dumps(manifest).encode()).hexdigest()
    path.write_text(json.dumps(manifest), encoding="utf-8")
    for name in ("parts", "failed", "done", "leases"):
        (run / name).mkdir(exist_ok=True)
    for lease in (run / "leases").iterdir():
        os.utime(lease, (1, 1))


def keep(home: Path, cache: Path) -> Path:
    """The recorded cache, with this machine's models."""
    (home / "cache").mkdir(exist_ok=True)
    if not (home / "cache" / "models").exists():
        (home / "cache" / "models").symlink_to(cache / "models", target_is_directory=True)
    return home / "cache"


def kept_in(cache: Path) -> dict[str, str]:
    """Every file of a cache but the models', and its SHA-256."""
    files = (one for kind in ("indexes", "vectors", "counts", "priors") for one in (cache / kind).rglob("*"))
    return {str(one.relative_to(cache)): sha256(one.read_bytes()).hexdigest() for one in files if one.is_file()}


def test_the_recorded_tables_are_read_as_they_were(home: Path) -> None:
    """Another fingerprint loses every cache, index and run of every user; another value is another recommendation."""
    assert mismatches(recorded("tables"), tables_of(home)) == []


def test_a_recorded_store_tells_what_was_put_into_it(home: Path) -> None:
    """Events that were acknowledged are lost, or somebody who was forgotten is known again."""
    assert mismatches(recorded("store"), store_of(home / "store.sqlite")) == []


def test_a_recorded_store_is_written_as_before(home: Path, tmp_path: Path) -> None:
    """Two releases that share one database would count events twice, or stand on different tables."""
    schema = schema_of(home / "store.sqlite")
    with Store.open(f"sqlite:///{tmp_path / 'new.sqlite'}"):
        pass
    assert schema_of(tmp_path / "new.sqlite") == schema
    with Store.open(f"sqlite:///{home / 'store.sqlite'}") as store:
        assert store.add([Event("ann", "i1", 5.0, event_id="order 1")]) == 0, "it is there already"
        assert store.add([Event("ann", "i1", 5.0, event_id="order 99")]) == 1
        assert store.forget("ann") == recorded("store_changes")["forget ann"]
        before = store.revision()
        assert store.revise([Item("late", "Late Lamp", {"price": 1.0, "day": date(2024, 2, 29)})], ["i2"]) == before + 1
        put, withdrawn = store.revisions()
        assert plain(put[-1]) == {
            "item_id": "late",
            "title": "Late Lamp",
            "attributes": {"price": 1.0, "day": "2024-02-29"},
        }
        assert withdrawn[-1] == "i2"
    assert schema_of(home / "store.sqlite") == schema


def test_recorded_indexes_are_found_whole_and_made_alike(
    home: Path, tokenizer: HuggingFaceTokenizer, minilm: Path, tmp_path: Path
) -> None:
    """A saved index that is refused, or written otherwise, has to be built again wherever one is served."""
    expected = recorded("index")
    catalog, _ = shop(home)
    titles = CatalogIndex.load(home / "index" / "titles", tokenizer=tokenizer)
    encoder = SentenceEncoder(minilm)
    identifiers = SemanticIdentifiers.load(home / "codes", encoder)
    codes = CatalogIndex.load(home / "index" / "codes", tokenizer=tokenizer)
    now = {
        "titles": index_of(titles),
        "titles updated": index_of(updated(titles, TitleIdentifiers(), tokenizer)),
        "codes": index_of(codes),
        "codes updated": index_of(updated(codes, identifiers, tokenizer)),
        "codes fingerprint": identifiers.fingerprint,
        "titles fingerprint": TitleIdentifiers().fingerprint,
        "tokenizer fingerprint": tokenizer.fingerprint,
        "encoder": encoder.name,
    }
    assert mismatches(expected, now) == []
    for name, own in (("titles", TitleIdentifiers()), ("codes", identifiers)):
        made = CatalogIndex.build(catalog, own, tokenizer)
        made.save(tmp_path / name)
        assert mismatches(expected[name], index_of(made)) == []
        old, new = (folder / name for folder in (home / "index", tmp_path))
        assert sorted(one.name for one in old.iterdir()) == sorted(one.name for one in new.iterdir())
        facts = [json.loads((folder / "manifest.json").read_text(encoding="utf-8")) for folder in (old, new)]
        for one in facts:
            one["files"]["catalog.parquet"] = one["checksum"] = ANY  # another pyarrow may write other bytes
        assert facts[0] == facts[1]


def test_a_recorded_prior_is_read_and_measured_alike(home: Path) -> None:
    """Minutes of measuring are lost, or every score is moved by a prior that is of something else."""
    expected = np.array(recorded("prior")["steps"], dtype=np.float32)
    catalog, _ = shop(home)
    read, measured = prior_of(catalog), prior_of(catalog)
    read.load(home / "prior")
    measured.fill()
    assert np.array_equal(read.steps, expected)
    np.testing.assert_allclose(measured.steps, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["counting", "texts", "model"])
def test_what_was_cached_is_found_again(
    name: str, home: Path, cache: Path, tokenizer: HuggingFaceTokenizer, minilm: Path
) -> None:
    """Under another name it is made again: minutes for a model's prior, at every user's first start."""
    kept, told = keep(home, cache), list[str]()
    before = kept_in(kept)
    assert before == recorded("cache")["files"]
    backend = TableBackend(tokenizer.vocab_size)
    backend.name = recorded("cache")["model"]  # what is kept is found by it, and this one is asked nothing
    settings = {"counting": COUNTING, "texts": TEXTS, "model": Settings(fill_priors=True)}[name]
    made = open_recommender(
        *shop(home),
        cache=kept,
        settings=settings,
        backend=backend if name == "model" else None,
        on_progress=lambda what, *_: told.append(what),
    )
    assert [step.source for step in made.ladder] == recorded("cache")["ladders"][name]
    assert told == [], "this was made again"
    assert kept_in(kept) == before


def test_what_is_cached_gets_the_recorded_names(
    home: Path, cache: Path, tokenizer: HuggingFaceTokenizer, minilm: Path
) -> None:
    """Two releases that run beside each other would make everything twice, and never find what the other made."""
    expected = recorded("cache")
    shutil.rmtree(home / "cache")
    kept = keep(home, cache)
    for settings in (COUNTING, TEXTS):
        open_recommender(*shop(home), cache=kept, settings=settings)
    backend = TableBackend(tokenizer.vocab_size)
    backend.name = expected["model"]
    open_recommender(*shop(home), cache=kept, settings=Settings(fill_priors=True), backend=backend)
    assert sorted(kept_in(kept)) == sorted(expected["files"])


def test_the_shipped_adapter_is_what_it_was(smollm2: Path) -> None:
    """An adapter under another name, or whose facts are lost, is refused where it served."""
    assert mismatches(recorded("adapter"), adapter_of(smollm2)) == []


@pytest.mark.parametrize("name", ["counting", "texts"])
def test_people_get_the_recorded_lists(name: str, home: Path, cache: Path, minilm: Path) -> None:
    """Whoever updates genrec must not see other recommendations, nor other reasons for them."""
    settings = {"counting": COUNTING, "texts": TEXTS}[name]
    made = open_recommender(*shop(home), cache=keep(home, cache), settings=settings)
    tolerance = 1e-6 if name == "counting" else 1e-4  # words are read by a model in float32
    assert mismatches(recorded("recommendations")[name], lists_of(made), tolerance=tolerance) == []


@pytest.mark.parametrize("name", list(GENERATING))
def test_a_language_model_gives_the_recorded_lists(
    name: str, home: Path, cache: Path, tokenizer: HuggingFaceTokenizer
) -> None:
    """Prompts, search, prior or evidence are not what they were; each moves the scores of a real model too."""
    made = generating(home, keep(home, cache), name, tokenizer)
    assert mismatches(recorded("recommendations")[f"generative {name}"], generated_of(made)) == []


@pytest.mark.parametrize("name", ["open", "keys", "texts"])
def test_the_server_gives_the_recorded_answers(name: str, home: Path, cache: Path, tmp_path: Path) -> None:
    """A shop's pages, chat clients and probes rely on every status, code and field."""
    requests = recorded("http")[name]
    arguments, environment = servers_of(home, keep(home, cache), tmp_path)[name]
    with serving(tmp_path, arguments, **environment) as address:
        answers = answers_of([one["request"] for one in requests], address)
    tolerance = 1e-4 if name == "texts" else 1e-6  # words are read by a model in float32
    wrong = {
        f"{number}: {one['request']['method']} {one['request']['path']}": found
        for number, (one, now) in enumerate(zip(requests, answers, strict=True))
        if (found := mismatches({key: one[key] for key in now}, now, tolerance=tolerance))
    }
    assert wrong == {}


def test_the_command_line_gives_the_recorded_answers(
    home: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: HuggingFaceTokenizer
) -> None:
    """Scripts read `--json` and exit codes; people are told in words, which are free."""
    monkeypatch.setenv("GENREC_CACHE", str(keep(home, cache)))
    monkeypatch.chdir(home)
    wrong = {}
    for one in recorded("cli"):
        now = command_of(one["argv"], one.get("input"))
        expected = {"exit": one["exit"], "json": one["json"]}
        found = mismatches(expected, now)
        found += [] if bool(one["stdout"]) == bool(now["stdout"]) else [f"stdout was {one['stdout']!r:.200}"]
        for name, kept in one.get("saved", {}).items():
            found += mismatches(kept, veiled(json.loads(Path(name).read_text(encoding="utf-8")), home))
        if found:
            wrong[" ".join(one["argv"])] = found
    assert wrong == {}


def test_no_recorded_option_is_gone() -> None:
    """A script that ran yesterday ends today with a usage error."""
    now = options_of(typer.main.get_command(app))
    missing = {name: sorted(set(own) - set(now.get(name, []))) for name, own in recorded("cli_options").items()}
    assert {name: own for name, own in missing.items() if own} == {}


@pytest.mark.parametrize("name", ["done", "failed", "mended"])
def test_a_recorded_run_is_whole(name: str, home: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A night's work is taken for damaged, or its lists are read otherwise than they were written."""
    monkeypatch.setenv("GENREC_CACHE", str(keep(home, cache)))
    run, expected = home / "batch" / name, recorded("batch")[name]
    assert mismatches(expected["before"], run_of(run, home)) == []
    found = BatchRun.open(run)
    found.check_source()
    assert found.verify() == []
    for command in ("resume", "status", "verify", "retry-failed"):
        now = command_of(["batch", command, str(run), "--json"])
        assert mismatches(expected[command], {"exit": now["exit"], "json": now["json"]}) == [], command
    assert mismatches(expected["after"], run_of(run, home)) == []


@pytest.mark.parametrize("name", ["done", "failed"])
def test_a_recorded_run_is_what_would_be_begun_today(
    name: str, home: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command is refused in the folder that it began, or makes other lists from the same rows."""
    monkeypatch.setenv("GENREC_CACHE", str(keep(home, cache)))
    monkeypatch.chdir(home)
    expected = recorded("batch")[name]
    parts = {one.name: one.read_bytes() for one in (home / "batch" / name / "parts").iterdir()}
    assert command_of(expected["argv"])["exit"] == expected["retry-failed"]["exit"]
    assert {one.name: one.read_bytes() for one in (home / "batch" / name / "parts").iterdir()} == parts
    command_of([f"again/{name}" if one == f"batch/{name}" else one for one in expected["argv"]])
    assert mismatches(expected["before"], run_of(home / "again" / name, home)) == []


def test_an_interrupted_run_of_lists_goes_on(home: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever updates in the middle of a run loses what is done, or ends with rows of two kinds."""
    monkeypatch.setenv("GENREC_CACHE", str(keep(home, cache)))
    run, expected = home / "batch" / "half", recorded("batch")["half"]
    assert mismatches(expected["before"], run_of(run, home)) == []
    first = {one.name: one.read_bytes() for one in (run / "parts").iterdir()}
    now = command_of(["batch", "resume", str(run), "--json"])
    assert mismatches(expected["resume"], {"exit": now["exit"], "json": now["json"]}) == []
    assert mismatches(expected["after"], run_of(run, home)) == []
    assert {name: (run / "parts" / name).read_bytes() for name in first} == first, "what was done was done again"


def test_an_interrupted_run_of_texts_goes_on(home: Path, tokenizer: HuggingFaceTokenizer) -> None:
    """A prompt, a seed or a lease of another kind would write other texts in the second half."""
    run, expected = home / "batch" / "texts", recorded("batch")["texts"]
    assert mismatches(expected["before"], run_of(run, home)) == []
    assert BatchRun.open(run).work(answerer(tokenizer)).finished
    assert mismatches(expected["after"], run_of(run, home)) == []
    assert BatchRun.open(run).verify() == []


@pytest.mark.parametrize(
    ("recorded_value", "now", "same"),
    [
        ({"a": 1}, {"a": 1, "new": 2}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"message": "one way"}, {"message": "another"}, True),
        ({"message": "one way"}, {"message": 5}, False),
        ({"notices": ["a"]}, {"notices": ["b"]}, True),
        ({"notices": ["a"]}, {"notices": []}, False),
        ({"message": {"content": "a"}}, {"message": {"content": "b"}}, False),
        (1.0, 1.0000001, True),
        (1.0, 1.001, False),
        (1, 1.0, False),
        ([1, 2], [2, 1], False),
        (ANY, {"x": None}, True),
        (None, 0, False),
    ],
)
def test_a_recording_allows_new_words_and_fields_and_nothing_else(recorded_value: Any, now: Any, same: bool) -> None:
    """A comparison that sees nothing proves nothing."""
    assert matches(recorded_value, now) is same
