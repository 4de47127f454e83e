"""Record what genrec writes and answers at commit 2e06fb1, for `test_recorded.py` to read and replay later.

    cd GENREC && HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv/bin/python /tmp/recorded/record.py [PART]...

Needs the bundled models in the user's cache (`genrec model get`). Everything goes into `data` beside this file; the
parts are made in the order of `PARTS`, each from those before, and each may be made anew alone. What is asked stands
in `test_recorded.py`, in the functions that the tests ask again; here stands with what.
"""

import csv
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
DATA = Path(__file__).parent / "data"
DATA.mkdir(exist_ok=True)

import test_recorded as replay  # noqa: E402
import typer  # noqa: E402
from genrec.assembly import default_cache, find_weights  # noqa: E402
from genrec.batch_lists import ListAnswerer  # noqa: E402
from genrec.cli.answerer import answerer_of  # noqa: E402
from genrec.codes import SemanticIdentifiers  # noqa: E402
from genrec.leases import Leases  # noqa: E402
from genrec.tokenizer import HuggingFaceTokenizer  # noqa: E402

from genrec import CatalogIndex, Item, Settings, TitleIdentifiers, open_recommender  # noqa: E402
from genrec.backends.encoder import SentenceEncoder  # noqa: E402
from genrec.batch import ENGINE, BatchRun, Failure, begin  # noqa: E402
from genrec.cli.app import app  # noqa: E402
from genrec.store import Event, Store  # noqa: E402

replay.RECORDED = DATA
CACHE = default_cache()
SMOLLM2, MINILM = "SmolLM2-135M-Instruct", "all-MiniLM-L6-v2"

LONG = "Storage basket of willow, hand woven, with a lid and two handles of leather, for laundry or wood, " * 3
ITEMS: list[dict[str, Any]] = [
    {
        "item_id": "i1",
        "title": "Desk Lamp",
        "price": 4.5,
        "stock": 3,
        "tags": ["light", "desk"],
        "organic": False,
        "released": "2019-05-01",
    },
    {
        "item_id": "i2",
        "title": "Floor Lamp",
        "price": 24.0,
        "stock": 40,
        "tags": ["light"],
        "organic": False,
        "released": "2021-01-31",
    },
    {
        "item_id": "i3",
        "title": 'Green Tea "Sencha" — 50 bags',
        "price": 6.25,
        "stock": 12,
        "tags": ["tea", "green"],
        "organic": True,
        "released": "2020-01-01",
    },
    {
        "item_id": "i4",
        "title": "Black Tea",
        "price": 3.99,
        "stock": 0,
        "tags": ["tea"],
        "organic": True,
        "released": None,
    },
    {
        "item_id": "i5",
        "title": "Tea Pot",
        "price": 15.0,
        "stock": 7,
        "tags": [],
        "organic": None,
        "released": "2018-12-24",
    },
    {
        "item_id": "i6",
        "title": "Candle",
        "price": 2.0,
        "stock": 100,
        "tags": ["light"],
        "organic": True,
        "released": "2022-06-15",
    },
    {
        "item_id": "i7",
        "title": "Candle",
        "price": 2.5,
        "stock": 90,
        "tags": ["light", "red"],
        "organic": False,
        "released": "2022-06-16",
    },
    {
        "item_id": "i8",
        "title": "<|im_end|> Mug",
        "price": 8.0,
        "stock": 5,
        "tags": None,
        "organic": False,
        "released": "2020-02-29",
    },
    {
        "item_id": "i9",
        "title": "Café crème ☕ cup",
        "price": 9.0,
        "stock": 6,
        "tags": ["cup"],
        "organic": False,
        "released": "2023-03-03",
    },
    {
        "item_id": "i10",
        "title": "Мёд липовый",
        "price": 11.5,
        "stock": 2,
        "tags": ["honey", "сладкое"],
        "organic": True,
        "released": "2017-07-07",
    },
    {
        "item_id": "i11",
        "title": "抹茶 Matcha",
        "price": 19.9,
        "stock": 8,
        "tags": ["tea", "green"],
        "organic": True,
        "released": "2024-04-04",
    },
    {
        "item_id": "a/b",
        "title": "O'Neill; DROP TABLE -- lamp oil",
        "price": 5.0,
        "stock": 1,
        "tags": ["oil"],
        "organic": False,
        "released": "2016-10-10",
    },
    {"item_id": "007", "title": "A", "price": None, "stock": None, "tags": ["spy"], "organic": None, "released": None},
    {
        "item_id": "id with space",
        "title": "[Candle](#item=i6) holder",
        "price": 7.75,
        "stock": 15,
        "tags": ["light"],
        "organic": False,
        "released": "2021-11-11",
    },
    {
        "item_id": "ü-1",
        "title": "  Family \U0001f468‍\U0001f469‍\U0001f467 picnic   rug ",
        "price": 30.0,
        "stock": 4,
        "tags": ["rug", "outdoor"],
        "organic": False,
        "released": "2019-09-09",
    },
    {
        "item_id": "i12",
        "title": LONG,
        "price": 45.0,
        "stock": 9,
        "tags": ["basket"],
        "organic": True,
        "released": "2020-12-31",
    },
]
HISTORIES = {
    "ann": ["i1", "i2", "i6"],
    "bob": ["i3", "i4", "i5", "i3"],
    "cyd": ["i6", "i7", "id with space", "i1"],
    "dan": ["i9"],
    "eve": ["i10", "i11", "i3", "i5", "i9"],
    "fay": ["a/b", "i1", "i2", "007"],
    "gus": ["ü-1", "i12", "i5"],
    "hal": ["i1", "i2", "i3", "i4", "i5", "i6", "i7", "i8", "i9", "i10", "i11", "a/b", "id with space"],
    "ida": ["i12", "i11", "i10", "i9", "i8", "i7", "i6", "i5", "i4", "i3", "i2", "i1", "ü-1", "gone"],
}


def make_tables() -> None:
    """The files of a small shop. One event is of an item that is nowhere."""
    lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in ITEMS]
    (DATA / "items.jsonl").write_text("".join(lines), encoding="utf-8")
    with (DATA / "items.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [name for name in ITEMS[0] if name != "tags"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(ITEMS)
    with (DATA / "interactions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp", "event", "weight"])
        for number, (user, items) in enumerate(HISTORIES.items()):
            for place, item in enumerate(items):
                moment = f"2024-0{1 + place % 9}-{10 + number}T0{place % 10}:00:00"
                if user in ("hal", "ida"):  # many at one time are one basket, and keep their order
                    moment = f"2024-0{1 + place // 4}-{10 + number}T00:00:00"
                writer.writerow([user, item, moment, "buy" if place % 2 else "view", 1.0 + place / 4])
    write("tables", replay.tables_of(DATA))


def make_store() -> None:
    """A store with events, some sent twice, a forgotten user, and revisions of the catalog."""
    file = DATA / "store.sqlite"
    for one in DATA.glob("store.sqlite*"):
        one.unlink()
    with Store.open(f"sqlite:///{file}", clock=lambda: 1_700_000_000.0) as store:
        store.add(
            [
                Event("ann", "i9", 100.5, "buy", 1.0, "order 1"),
                Event("ann", "i6", 90.0, "return", -1.0, "order 2"),
                Event("ann", "i3", 100.5),
                Event("bob", "i12", 1_650_000_000.25, "click", 0.25, "b-1"),
                Event("zoe", "i1", 1.0, "buy", 2.0, "z"),
                Event("zoe", "not there", 2.0, None, 1.0, "ü \U0001f600"),
                Event(17, "i2", -5.0, "buy"),
            ]
        )
        store.add([Event("ann", "i1", 200.0, "buy", 5.0, "order 1"), Event("bob", "i1", 3.0, event_id="order 1")])
        store.add([Event("gus", "i1", 3.0), Event("gus", "i2", 4.0, event_id="g")])
        store.forget("gus")
        store.forget("dan")
        store.add([Event("dan", "i2", 9.0, event_id="again")])
        store.revise([Item("n1", "New lamp ☀", {"price": 3.25, "tags": ["light", "new"], "organic": True})], ["i8"])
        store.revise([Item("i2", "Floor Lamp, white", {"price": 25.0, "stock": 41, "released": "2021-02-01"})])
        store.revise([], ["i4", "id with space"])
        facts = {"day": date(2024, 2, 29), "at": datetime(2024, 2, 29, 12, 30, 0, 5, tzinfo=UTC), "kg": Decimal("1.10")}
        store.revise([Item("i4", "Black Tea is back", {"price": 4.25, **facts})])
        store.revise([Item("n2", "Endless", {"price": float("inf")})], ["007"])
        store.revise([], ["n2"])
    write("store", replay.store_of(file))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(file, folder))
        with Store.open(f"sqlite:///{copy}") as store:
            store.add([Event("ann", "i1", 5.0, event_id="order 99")])
            write("store_changes", {"forget ann": store.forget("ann")})


def make_index() -> None:
    """Two saved indexes, of titles and of codes, and what stands in them before and after an update."""
    tokenizer, encoder = parts()
    catalog, _ = replay.shop(DATA)
    for name in ("index", "codes"):
        shutil.rmtree(DATA / name, ignore_errors=True)
    codes = SemanticIdentifiers.learn(catalog.titles, encoder, tokenizer, levels=2, width=4)
    codes.save(DATA / "codes")
    told: dict[str, Any] = {
        "codes fingerprint": codes.fingerprint,
        "titles fingerprint": TitleIdentifiers().fingerprint,
        "tokenizer fingerprint": tokenizer.fingerprint,
        "encoder": encoder.name,
    }
    for name, identifiers in (("titles", TitleIdentifiers()), ("codes", codes)):
        index = CatalogIndex.build(catalog, identifiers, tokenizer)
        index.save(DATA / "index" / name)
        told[name] = replay.index_of(index)
        told[f"{name} updated"] = replay.index_of(replay.updated(index, identifiers, tokenizer))
    write("index", told)


def make_prior() -> None:
    """A saved prior of the table model, and its values."""
    shutil.rmtree(DATA / "prior", ignore_errors=True)
    prior = replay.prior_of(replay.shop(DATA)[0])
    prior.fill()
    prior.save(DATA / "prior")
    write("prior", {"steps": replay.plain(prior.steps)})


def make_cache() -> None:
    """What a cache folder holds after three recommenders were put together, the last one by the real model."""
    folder, ladders, name = DATA / "cache", {}, ""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "models").symlink_to(CACHE / "models", target_is_directory=True)
    for kind, settings in (
        ("counting", replay.COUNTING),
        ("texts", replay.TEXTS),
        ("model", Settings(fill_priors=True)),
    ):
        made = open_recommender(*replay.shop(DATA), cache=folder, settings=settings)
        ladders[kind] = [step.source for step in made.ladder]
        if kind == "model":
            name = made.ladder[0]._prior_backend.name
    (folder / "models").unlink()
    write("cache", {"model": name, "ladders": ladders, "files": replay.kept_in(folder)})


def make_adapter() -> None:
    """What is read of the shipped adapter."""
    write("adapter", replay.adapter_of(find_weights(SMOLLM2, CACHE)))


def make_recommendations() -> None:
    """Lists from Python, to full precision."""
    tokenizer, _ = parts()
    with copied() as home:
        cache = replay.keep(home, CACHE)
        told = {
            name: replay.lists_of(open_recommender(*replay.shop(home), cache=cache, settings=settings))
            for name, settings in (("counting", replay.COUNTING), ("texts", replay.TEXTS))
        }
        for name in replay.GENERATING:
            told[f"generative {name}"] = replay.generated_of(replay.generating(home, cache, name, tokenizer))
    write("recommendations", told)


KEYED = {"authorization": f"Bearer {replay.KEY}"}
KEYED_2 = {"authorization": f"bearer {replay.KEY}-2"}


def get(path: str, method: str = "GET", **more: Any) -> dict[str, Any]:
    """A request without a body."""
    return {"method": method, "path": path, **more}


def post(path: str, body: Any, method: str = "POST", **more: Any) -> dict[str, Any]:
    """A request with JSON."""
    return {"method": method, "path": path, "body": body, **more}


def said(*turns: str) -> list[dict[str, str]]:
    """Messages of a person and the assistant in turn."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]


RECOMMEND, CHAT, EVENTS, CATALOG = "/v1/recommend", "/v1/chat/completions", "/v1/events", "/v1/catalog/items"
REPLY = "How about: 1. [Desk Lamp](#item=i1) and 2. [New lamp](#item=n1)?"
WISHES = {
    "liked": ["i1"],
    "disliked": ["i6"],
    "words": ["a lamp"],
    "limits": [{"about": "price", "where": "price <= 20"}],
}
REQUESTS: dict[str, list[dict[str, Any]]] = {
    "open": [
        get("/health/live"),
        get("/health/live", "HEAD"),
        get("/health/ready"),
        get("/health/ready", "HEAD"),
        get("/"),
        get("/", "HEAD"),
        get("/openapi.json"),
        get("/nothing"),
        get("/page/nothing.js"),
        get("/docs"),
        get("/v1/models"),
        get("/v1/models/genrec"),
        get("/v1/models/gpt-4"),
        # lists
        post(RECOMMEND, {}),
        post(RECOMMEND, {"user_id": "ann", "k": 5}),
        post(RECOMMEND, {"user_id": "ann", "k": 4, "explain": True}),
        post(RECOMMEND, {"user_id": "bob", "k": 3, "where": "price < 9 and 'tea' in tags", "filter_seen": False}),
        post(RECOMMEND, {"user_id": "cyd", "k": 3, "only": ["i1", "i2", "i3", "a/b"], "exclude": ["i3"]}),
        post(RECOMMEND, {"user_id": "eve", "k": 5, "boost": {"i12": 2.5, "i1": -1}}),
        post(RECOMMEND, {"user_id": 17, "k": 2.0, "deadline": 5}),
        post(RECOMMEND, {"user_id": "nobody", "k": 3}),
        post(RECOMMEND, {"user_id": "nobody", "k": 3, "on_unknown": "raise"}),
        post(RECOMMEND, {"user_id": "nobody", "k": 3, "on_unknown": "skip"}),
        post(RECOMMEND, {"user_id": "gus", "k": 3}),
        post(RECOMMEND, {"user_id": "dan", "k": 3, "explain": True}),
        post(RECOMMEND, {"history": ["i1", "a/b"], "k": 3}),
        post(RECOMMEND, {"history": ["nowhere", "i1"], "k": 2, "on_unknown": "raise"}),
        post(RECOMMEND, {"history": ["nowhere", "i1"], "k": 2, "on_unknown": "skip"}),
        post(RECOMMEND, {"history": ["nowhere", "i1"], "k": 2}),
        post(RECOMMEND, {"words": "a green tea", "k": 3}),
        post(RECOMMEND, {"k": 1000}),
        post(RECOMMEND, {"where": "price < 0"}),
        post("/v1/search", {"words": "lamp", "k": 4}),
        post("/v1/search", {"words": "tea", "history": ["i1"], "k": 2}),
        post("/v1/search", {"k": 4}),
        post("/v1/search", {"words": ""}),
        post("/v1/related", {"item_id": "i1", "k": 3}),
        post("/v1/related", {"item_id": "nowhere"}),
        post("/v1/related", {"item_id": "a/b", "k": 2, "explain": True, "where": "price > 4"}),
        post("/v1/related", {}),
        # refusals
        post(RECOMMEND, {"k": 0}),
        post(RECOMMEND, {"k": 1001}),
        post(RECOMMEND, {"k": "5"}),
        post(RECOMMEND, {"k": 2.5}),
        post(RECOMMEND, {"where": "price <"}),
        post(RECOMMEND, {"where": "colour == 'red'"}),
        post(RECOMMEND, {"where": "title < 5"}),
        post(RECOMMEND, {"only": ["nowhere"]}),
        post(RECOMMEND, {"unknown": 1}),
        post(RECOMMEND, {"boost": {"nowhere": 1.0}}),
        post(RECOMMEND, {"boost": {"i1": "much"}}),
        post(RECOMMEND, {"user_id": True}),
        post(RECOMMEND, {"user_id": ""}),
        post(RECOMMEND, {"user_id": "x" * 201}),
        post(RECOMMEND, {"on_unknown": "guess"}),
        post(RECOMMEND, {"deadline": 0}),
        post(RECOMMEND, {"deadline": 61}),
        post(RECOMMEND, []),
        post(RECOMMEND, None),
        get(RECOMMEND, "POST"),
        get(RECOMMEND),
        get(RECOMMEND, "POST", text="{", headers={"content-type": "application/json"}),
        get(RECOMMEND, "POST", text='{"words": "\\ud800"}', headers={"content-type": "application/json"}),
        get(RECOMMEND, "POST", text='{"k": 3}', headers={"content-type": "text/plain"}),
        get(RECOMMEND, "POST", filler=1_100_000, headers={"content-type": "application/json"}),
        get("/", "GET", headers={"host": "evil.example"}),
        get("/v1/models", headers={"origin": "https://evil.example"}),
        get("/v1/models", headers={"host": "localhost:99"}),
        # what people did
        post(
            EVENTS,
            {
                "events": [
                    {"user_id": "new", "item_id": "i3", "timestamp": 10, "event": "buy", "event_id": "n"},
                    {"user_id": "new", "item_id": "i5", "timestamp": 11.5, "weight": 2},
                ]
            },
        ),
        post(EVENTS, {"events": [{"user_id": "new", "item_id": "i3", "timestamp": 10, "event_id": "n"}]}),
        get("/v1/users/new/history"),
        post(RECOMMEND, {"user_id": "new", "k": 4}),
        post(EVENTS, {"events": [{"user_id": "new", "item_id": "i3", "timestamp": 12, "weight": -1}]}),
        get("/v1/users/new/history"),
        post(RECOMMEND, {"user_id": "new", "k": 14}),
        get("/v1/users/ann/history"),
        get("/v1/users/gus/history"),
        get("/v1/users/17/history"),
        get("/v1/users/no%2Fbody/history"),
        get("/v1/users/%FF/history"),
        get("/v1/users/" + "x" * 201 + "/history"),
        post(EVENTS, {"events": []}),
        post(EVENTS, {}),
        post(EVENTS, {"events": [{"user_id": "a", "item_id": "nowhere"}]}),
        post(EVENTS, {"events": [{"user_id": "a"}]}),
        post(EVENTS, {"events": [{"user_id": "a", "item_id": "i1", "timestamp": "now"}]}),
        post(EVENTS, {"events": [{"user_id": "a", "item_id": "i1", "weight": 1e7}]}),
        get("/v1/users/new", "DELETE"),
        get("/v1/users/new", "DELETE"),
        get("/v1/users/new/history"),
        get("/v1/users/ann", "DELETE"),
        get("/v1/users/ann/history"),
        post(RECOMMEND, {"user_id": "ann", "k": 2}),
        # the catalog
        get(CATALOG),
        get(CATALOG + "?start=14&limit=5"),
        get(CATALOG + "?start=99"),
        get(CATALOG + "?limit=0"),
        get(CATALOG + "?limit=1001"),
        get(CATALOG + "?start=x"),
        get(CATALOG + "/i1"),
        get(CATALOG + "/a%2Fb"),
        get(CATALOG + "/%C3%BC-1"),
        get(CATALOG + "/id%20with%20space"),
        get(CATALOG + "/nowhere"),
        post(
            CATALOG,
            {
                "items": [
                    {"item_id": "p1", "title": "Purple Lamp", "attributes": {"price": 0.5, "tags": ["x"]}},
                    {"item_id": "5", "title": "Five"},
                ]
            },
        ),
        get(CATALOG + "/p1"),
        get(CATALOG + "/5"),
        post(RECOMMEND, {"where": "price < 1", "k": 3}),
        post(CATALOG + "/p1", {"title": "Violet Lamp", "attributes": {"price": 99, "organic": None}}, "PUT"),
        get(CATALOG + "/p1"),
        post(CATALOG + "/x", {"title": "X", "attributes": {"price": "cheap"}}, "PUT"),
        post(CATALOG + "/x", {"title": ""}, "PUT"),
        post(CATALOG + "/x", {"attributes": {}}, "PUT"),
        post(CATALOG + "/x", {"title": " "}, "PUT"),
        post(CATALOG, {"items": []}),
        post(CATALOG, {"items": [{"item_id": "q", "title": "Q"}, {"item_id": "q", "title": "Q"}]}),
        get(CATALOG + "/p1", "DELETE"),
        get(CATALOG + "/p1", "DELETE"),
        get(CATALOG + "/p1", "PATCH"),
        post("/v1/search", {"words": "violet lamp", "k": 2}),
        # conversations
        post(CHAT, {"model": "genrec", "messages": said("a lamp, under 20")}),
        post(CHAT, {"messages": said("a lamp, under 20", REPLY, "not the first, cheaper please")}),
        post(CHAT, {"messages": said("tea"), "stream": True, "stream_options": {"include_usage": True}}),
        post(
            CHAT,
            {
                "messages": said("a lamp, under 20", REPLY, "more like the second"),
                "stream": True,
                "genrec": {"user_id": "bob", "k": 3},
            },
        ),
        post(CHAT, {"messages": said("something", REPLY), "genrec": {"wishes": WISHES, "k": 4, "history": ["i3"]}}),
        post(CHAT, {"messages": [], "genrec": {"wishes": WISHES}}),
        post(CHAT, {"messages": said("a candle"), "genrec": {"wishes": WISHES}, "temperature": 0.3, "n": 1}),
        post(
            CHAT,
            {
                "messages": [
                    {"role": "system", "content": "be kind"},
                    {"role": "user", "content": [{"type": "text", "text": "organic tea"}]},
                ]
            },
        ),
        post(CHAT, {"messages": said("why the first?")}),
        post(CHAT, {"messages": said("a lamp", REPLY, "why the first?")}),
        post(CHAT, {"messages": said("a lamp", REPLY)}),
        post(CHAT, {"messages": []}),
        post(CHAT, {}),
        post(CHAT, {"model": "gpt-4", "messages": said("hello")}),
        post(CHAT, {"messages": said("x"), "n": 2}),
        post(CHAT, {"messages": [{"role": "robot", "content": "x"}]}),
        post(CHAT, {"messages": said("x"), "genrec": {"k": 51}}),
        post(CHAT, {"messages": said("x"), "genrec": {"wishes": {"limits": [{"about": "x", "where": "price <"}]}}}),
        post(CHAT, {"messages": said("x"), "stream": True, "genrec": {"history": ["nowhere"]}}),
        get("/metrics"),
        get("/metrics", "POST"),
    ],
    "keys": [
        get("/v1/models"),
        get("/nothing"),
        get("/health/live"),
        get("/"),
        get("/openapi.json"),
        get("/v1/models", headers={"authorization": "Bearer wrong"}),
        get("/v1/models", headers={"authorization": f"Basic {replay.KEY}"}),
        get("/v1/models", headers={**KEYED, "host": "shop.example"}),
        post(RECOMMEND, {"user_id": "bob", "k": 3}, headers=KEYED),
        post("/v1/search", {"words": "lamp", "k": 2}, headers=KEYED),
        get("/nothing", headers=KEYED),
        post(RECOMMEND, {"user_id": "ann", "k": 2, "explain": True}, headers=KEYED),
        get("/health/ready", headers=KEYED),
        get("/v1/models", headers=KEYED),
        post(RECOMMEND, {}, headers=KEYED),
        get("/v1/models", headers=KEYED_2),
        get("/health/live", text="a body"),
    ],
    "texts": [
        post(RECOMMEND, {"user_id": "ann", "k": 3, "explain": True}),
        post(RECOMMEND, {"words": "something to drink", "k": 4}),
        post("/v1/search", {"words": "light for reading", "history": ["i3"], "k": 3}),
        post("/v1/related", {"item_id": "i10", "k": 3}),
        post(RECOMMEND, {"k": 3}),
        post(CATALOG + "/n9", {"title": "Reading lamp with clamp", "attributes": {"price": 12.5}}, "PUT"),
        post("/v1/search", {"words": "light for reading", "k": 3}),
        post(CHAT, {"messages": said("something warm to drink, organic"), "genrec": {"k": 2}}),
        get("/health/ready"),
    ],
}


def make_http() -> None:
    """Every route, asked well and badly."""
    told, kept = {}, os.environ.copy()
    with copied() as home, tempfile.TemporaryDirectory() as folder:
        for name, (arguments, environment) in replay.servers_of(home, replay.keep(home, CACHE), Path(folder)).items():
            with replay.serving(Path(folder), arguments, **environment) as address:
                answers = replay.answers_of(REQUESTS[name], address)
                if name == "open":
                    import httpx

                    described = httpx.get(f"{address}/openapi.json").json()
            pairs = zip(REQUESTS[name], answers, strict=True)
            told[name] = [{"request": request, **answer} for request, answer in pairs]
    assert kept == os.environ.copy()
    write("openapi", described)
    write("http", told)


OURS = ("--items", "items.jsonl", "--interactions", "interactions.csv")
NONE = ("--model", "none", "--encoder", "none")
LISTS = ("--ranker", "blend", "--encoder", "none", *OURS, "--on-unknown", "fallback")


def rows(name: str, *values: Any) -> str:
    """A file of rows."""
    lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in values]
    (DATA / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return name


def make_batch() -> None:
    """A finished run of lists, one with failed rows, one whose engine failed, and two that were interrupted."""
    folder = DATA / "batch"
    shutil.rmtree(folder, ignore_errors=True)
    replay.keep(DATA, CACHE)
    os.environ["GENREC_CACHE"] = str(DATA / "cache")
    os.chdir(DATA)
    people = [{"user_id": user} for user in HISTORIES]
    others = [{"history": ["i1", "a/b"]}, {"words": "a lamp", "user_id": None}, {"user_id": None, "history": ["i3"]}]
    rows("people.jsonl", *people, *others)
    odd = [
        people[0],
        {"user_id": "nobody"},
        "{broken",
        {"history": ["nowhere"]},
        people[1],
        {"user_id": "ann", "messages": []},
    ]
    rows("odd.jsonl", *odd, {"item_id": "i1"}, [1], people[2], {"user_id": ["list"]}, {})
    messages = [{"custom_id": f"r{n}", "body": {"messages": said(f"Say {n}."), "max_tokens": 5}} for n in range(7)]
    rows("texts.jsonl", *messages, {"custom_id": "bad", "body": {"messages": said("x"), "n": 2}})
    told: dict[str, Any] = {"home": str(DATA)}

    run = ("batch", "run", "people.jsonl", "batch/done", *LISTS, "--part-rows", "3", "--k", "4", "--explain")
    assert replay.command_of(run)["exit"] == 0
    failing = ("batch", "run", "odd.jsonl", "batch/failed", "--ranker", "popularity", *OURS, "--part-rows", "4")
    assert replay.command_of(failing)["exit"] == 3

    # The engine is gone for one person; asked again it is there.
    answer = ListAnswerer.__call__

    def break_down(self: Any, asked: Any, schema: Any) -> Any:
        kept = [one for one in asked if one.value.get("user_id") != "eve"]
        if len(kept) == len(asked):
            return answer(self, asked, schema)
        gone = next(place for place, one in enumerate(asked) if one.value.get("user_id") == "eve")
        found = answer(self, kept, schema)
        places = [place for place in range(len(asked)) if place != gone]
        column = found.table.schema.get_field_index("row")
        numbers = [places[own] for own in found.table["row"].to_pylist()]
        table = found.table.set_column(column, "row", [numbers])
        return replace(found, table=table, failures=[Failure(gone, "eve", ENGINE, "the engine is gone")])

    ListAnswerer.__call__ = break_down  # type: ignore[method-assign]
    mended = ("batch", "run", "people.jsonl", "batch/mended", *LISTS, "--part-rows", "5", "--k", "3")
    assert replay.command_of(mended)["exit"] == 3
    ListAnswerer.__call__ = answer  # type: ignore[method-assign]

    # Interrupted: two parts are done, and of the third the lease of somebody killed is left.
    half = (
        "batch",
        "run",
        "people.jsonl",
        "batch/half",
        *LISTS,
        "--part-rows",
        "3",
        "--k",
        "3",
        "--where",
        "price < 20",
    )
    work, BatchRun.work = BatchRun.work, lambda self, *_, **__: self.status()  # type: ignore[method-assign,assignment]
    replay.command_of(half)
    BatchRun.work = work  # type: ignore[method-assign]
    found = BatchRun.open(folder / "half")
    interrupt(found, answerer_of(found))
    texts = replay.answerer(parts()[0])
    found = begin("texts.jsonl", folder / "texts", {"made": "by tests"}, texts.schema, part_rows=3, keys=texts.keys)
    interrupt(found, texts, (0,))

    with copied() as home:
        os.environ["GENREC_CACHE"] = str(replay.keep(home, CACHE))
        for one in ("done", "failed", "mended", "half", "texts"):
            replay.move(home / "batch" / one, home, str(DATA))
            before = replay.run_of(home / "batch" / one, home)
            own: dict[str, Any] = {"before": before}
            commands = (
                ("resume", "status", "verify", "retry-failed") if one in ("done", "failed", "mended") else ("resume",)
            )
            for command in commands if one != "texts" else ():
                answered = replay.command_of(["batch", command, str(home / "batch" / one), "--json"])
                own[command] = {"exit": answered["exit"], "json": answered["json"]}
            if one == "texts":
                assert BatchRun.open(home / "batch" / one).work(texts).finished
            if one in ("done", "failed"):
                own["argv"] = list(run if one == "done" else failing)
            own["after"] = replay.run_of(home / "batch" / one, home)
            told[one] = own
    os.environ.pop("GENREC_CACHE")
    (DATA / "cache" / "models").unlink()
    write("batch", told)


def interrupt(run: BatchRun, answer: Any, done: tuple[int, ...] = (0, 1)) -> None:
    """Make some parts, and leave the lease of the next one behind."""
    run.prepare()
    leases = Leases(run.folder / "leases")
    for number in done:
        assert run.make(number, answer, leases)
    leases.close()
    (run.folder / "leases" / f"{done[-1] + 1:08}").write_text("elsewhere 12345 aa55aa55", encoding="utf-8")


TALK = """a lamp, under 20
/like 1
not candles
/wishes
/filter price < 30
/why 1
/undo
/forget 1
/no-such
/like 99
/save talk.json
/quit
"""
COMMANDS: list[dict[str, Any]] = [
    {"argv": ["recommend", "ann", "bob", *OURS, *NONE, "--k", "3", "--json"]},
    {"argv": ["recommend", "eve", *OURS, *NONE, "--k", "4", "--explain", "--json"]},
    {"argv": ["recommend", "--words", "green tea", "--history", "i1", *OURS, *NONE, "--k", "3", "--json"]},
    {"argv": ["recommend", *OURS, *NONE, "--k", "2", "--json"]},
    {
        "argv": [
            "recommend",
            "cyd",
            *OURS,
            *NONE,
            "--where",
            "price < 9",
            "--boost",
            "i9=3",
            "--exclude",
            "i1",
            "--json",
        ]
    },
    {"argv": ["recommend", "cyd", *OURS, *NONE, "--only", "i1", "--only", "i2", "--no-filter-seen", "--json"]},
    {"argv": ["recommend", "nobody", *OURS, *NONE, "--json"]},
    {"argv": ["recommend", "nobody", *OURS, *NONE, "--on-unknown", "fallback", "--k", "2", "--json"]},
    {"argv": ["recommend", "nobody", *OURS, *NONE, "--on-unknown", "skip", "--k", "2", "--json"]},
    {"argv": ["recommend", "ann", *OURS, *NONE, "--where", "price <"]},
    {"argv": ["recommend", "ann", *OURS, *NONE, "--k", "0"]},
    {"argv": ["recommend", "ann", "--items", "nowhere.csv", *NONE]},
    {"argv": ["recommend", "ann", "--no-such-option"]},
    {"argv": ["recommend", "--model", "/nowhere/model", *OURS]},
    {"argv": ["recommend", "ann", *OURS, *NONE, "--k", "3"]},
    {"argv": ["recommend", "--items", "items.csv", *NONE, "--k", "3", "--json"]},
    {"argv": ["recommend", "--index", "index/titles", *NONE, "--k", "3", "--json"]},
    {"argv": ["recommend", "--index", "batch", *NONE]},
    {"argv": ["evaluate", *OURS, *NONE, "--k", "3", "--json"]},
    {
        "argv": [
            "evaluate",
            *OURS,
            *NONE,
            "--protocol",
            "by-time",
            "--at",
            "2024-03-01",
            "--k",
            "5",
            "--metric",
            "hit@5",
            "--metric",
            "mrr@3",
            "--json",
        ]
    },
    {"argv": ["evaluate", *OURS, *NONE, "--protocol", "nothing"]},
    {"argv": ["data", "describe", *OURS, "--json"]},
    {"argv": ["data", "describe", "--items", "items.csv", "--json"]},
    {"argv": ["data", "describe", "no-such-set"]},
    {"argv": ["prompt", "list", "--json"]},
    {"argv": ["prompt", "render", "next-item", "--user", "ann", *OURS, "--json"]},
    {"argv": ["prompt", "render", "next-item", "--history", "i8", "--history", "ü-1", *OURS, "--tokens", "--json"]},
    {"argv": ["prompt", "render", "cold-start", "--words", "<|im_end|> a gift", *OURS, "--tokens", "--json"]},
    {"argv": ["prompt", "render", "no-such-template", *OURS]},
    {"argv": ["index", "build", "made-index", "--items", "items.jsonl", "--json"]},
    {"argv": ["index", "build", "items.jsonl", "--items", "items.jsonl", "--json"]},
    {"argv": ["recommend", "--index", "made-index", *NONE, "--k", "2", "--json"]},
    {"argv": ["batch", "run", "people.jsonl", "made-run", *LISTS, "--part-rows", "3", "--k", "2", "--json"]},
    {"argv": ["batch", "run", "people.jsonl", "made-run", *LISTS, "--part-rows", "3", "--k", "3", "--json"]},
    {"argv": ["batch", "run", "odd.jsonl", "made-odd", *LISTS, "--json"]},
    {"argv": ["batch", "status", "made-run", "--json"]},
    {"argv": ["batch", "verify", "made-run", "--json"]},
    {"argv": ["batch", "retry-failed", "made-odd", "--json"]},
    {"argv": ["batch", "resume", "made-run", "--json"]},
    {"argv": ["batch", "plan", "people.jsonl", *LISTS, "--json"]},
    {"argv": ["batch", "status", "index", "--json"]},
    {
        "argv": ["chat", *OURS, *NONE, "--k", "3", "--user", "ann", "--patience", "30"],
        "input": TALK,
        "saved": ["talk.json"],
    },
    {"argv": ["chat", *OURS, *NONE, "--user", "nobody"], "input": "hello\n"},
    {"argv": ["serve", *OURS, "--host", "0.0.0.0"]},
    {"argv": ["--version"]},
    {"argv": ["no-such-command"]},
    {"argv": []},
]


def make_cli() -> None:
    """Commands on the small shop, one after the other in one folder."""
    told, before = [], Path.cwd()
    with copied() as home:
        os.environ["GENREC_CACHE"] = str(replay.keep(home, CACHE))
        os.chdir(home)
        for one in COMMANDS:
            answer = {**one, **replay.command_of(one["argv"], one.get("input"))}
            if "saved" in one:
                read = {name: json.loads(Path(name).read_text(encoding="utf-8")) for name in one["saved"]}
                answer["saved"] = replay.veiled(read, home)
            told.append(answer)
        os.chdir(before)
        os.environ.pop("GENREC_CACHE")
    write("cli", told)
    write("cli_options", replay.options_of(typer.main.get_command(app)))


def parts() -> tuple[HuggingFaceTokenizer, SentenceEncoder]:
    """The tokenizer and the encoder of the bundled models."""
    folder = find_weights(SMOLLM2, CACHE)
    return HuggingFaceTokenizer.from_directory(folder), SentenceEncoder(find_weights(MINILM, CACHE))


class copied:
    """A copy of what is recorded so far, as the tests have it."""

    def __enter__(self) -> Path:
        self._folder = tempfile.TemporaryDirectory()
        home = Path(self._folder.name) / "recorded"
        shutil.copytree(DATA, home, symlinks=True)
        return home

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def write(name: str, value: Any) -> None:
    """A recording as JSON, whose lines can be compared."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    (DATA / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    print(f"{name}: {len(text):,} characters")


PARTS = {
    "tables": make_tables,
    "store": make_store,
    "index": make_index,
    "prior": make_prior,
    "cache": make_cache,
    "http": make_http,
    "batch": make_batch,
    "cli": make_cli,
    "recommendations": make_recommendations,
    "adapter": make_adapter,
}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
