"""`genrec serve`: the HTTP API and the page."""

import os
import socket
import time
from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import loading, options, terminal
from genrec.errors import EngineError, InputError, ModelMissingError, StoreError

if TYPE_CHECKING:
    from genrec.pipeline import Parts
    from genrec.serve.auth import Keys
    from genrec.serve.service import Service
    from genrec.settings import Settings
    from genrec.store.event_store import Store

_KEYS = "GENREC_KEYS"
_GENERATIVE, _BLEND, _EMBEDDING, _POPULARITY = _RANKERS = ("generative", "blend", "embedding", "popularity")
_QUICK_WAITING, _SLOW_WAITING = 48, 16  # lists that may wait where a list takes milliseconds, and where seconds
_FIRST = 120.0  # seconds that the first list may take: the model is read, and loops are compiled
_PRIORS = 20_000  # items whose priors are measured before the first request: at most some minutes, once
_PACKAGES = ("fastapi", "uvicorn", "httptools", "sqlalchemy", "prometheus_client")
_SERVER = "Server"

Host = Annotated[str, typer.Option("--host", help="The address to listen at.", rich_help_panel=_SERVER)]
Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="0 takes a free one, which is said.", rich_help_panel=_SERVER)
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="FILE",
        help=f"Keys that callers show, one a line; or the environment variable {_KEYS}, separated by commas.",
        rich_help_panel=_SERVER,
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Where events are kept: sqlite:///FILE or postgresql://...",
        show_default="a file of this user's",
        rich_help_panel=_SERVER,
    ),
]
Rate = Annotated[
    float | None,
    typer.Option("--rate", help="Requests a second that each key may make for long.", rich_help_panel=_SERVER),
]
Burst = Annotated[
    float, typer.Option("--burst", help="Requests that may come at once under --rate.", rich_help_panel=_SERVER)
]
Waiting = Annotated[
    int | None,
    typer.Option(
        "--waiting", min=1, help="Lists that may wait to be ranked; more are refused.", rich_help_panel=_SERVER
    ),
]
Ranker = Annotated[str, typer.Option("--ranker", metavar="CHOICE", help=f"The first to rank: {', '.join(_RANKERS)}.")]


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8080,
    keys: KeyFile = None,
    store: StoreUrl = None,
    rate: Rate = None,
    burst: Burst = 20.0,
    waiting: Waiting = None,
    ranker: Ranker = "generative",
    data: options.Data = None,
    items: options.Items = None,
    interactions: options.Interactions = None,
    columns: options.Columns = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    encoder: options.Encoder = None,
    strategy: options.Strategy = None,
    evidence: options.Evidence = None,
    candidates: options.Candidates = None,
    reader: options.Reader = None,
    replies: options.Replies = None,
    patience: options.Patience = None,
) -> None:
    """Serve lists and conversations over HTTP, and a page to talk with at /.

    Without keys it answers this machine alone.
    """
    _need_packages()
    from genrec.cache import default_cache
    from genrec.serve.admission import is_loopback
    from genrec.store.event_store import Store

    known = _keys(keys, rate, burst)
    if not len(known) and not is_loopback(host):
        raise InputError(f"--host {host} can be reached from elsewhere and needs keys; add --keys FILE, or set {_KEYS}")
    if ranker not in _RANKERS:
        raise InputError(f"--ranker is {ranker!r}; choose one of {', '.join(_RANKERS)}")
    options: dict[str, Any] = {
        "model": model if ranker == _GENERATIVE else "none",
        "adapter": adapter,
        "encoder": "none" if ranker == _POPULARITY else encoder,
        "strategy": strategy,
        "evidence": evidence,
        "candidates": candidates,
    }
    chosen, cache = loading.settings(options), default_cache()
    named = loading.Source.of(data, items, interactions, columns)
    loading.fetch([chosen.model, chosen.encoder], cache)
    listening = _bind(host, port)  # before what takes long; until then connections are refused
    with Store.open(store or _default_store(named)) as opened:
        parts = _open(named, chosen, cache, ranker, need_model=bool(model or adapter))
        service = _service(parts, opened, waiting, loading.given(reader=reader, replies=replies, patience=patience))
        _run(service, named.name, known, host, listening)


def _need_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ModelMissingError(f"{missing[0]} is not installed; run: pip install 'genrec[serve]'")


def _bind(host: str, port: int) -> socket.socket:
    from genrec.serve.uvicorn_protocol import bind

    try:
        return bind(host, port)
    except OSError as error:
        raise InputError(f"cannot listen at {host}:{port}: {error.strerror}; name another --port or --host") from error


def _service(parts: "Parts", store: "Store", waiting: int | None, talking: dict[str, Any]) -> "Service":
    """What answers, warm."""
    from genrec.chat.advising import advising
    from genrec.serve.service import Load, Service
    from genrec.serve.state import Live
    from genrec.serve.telemetry import Metrics

    if parts.embedding is not None:
        parts.embedding.screen()
    live = Live(parts, store)
    quick = parts.generating is None
    load = Load(waiting=waiting or (_QUICK_WAITING if quick else _SLOW_WAITING), together=8 if quick else 4)
    service = Service(live, store, advise=advising(live.recommender, **talking), load=load, metrics=Metrics())
    try:
        service.check(_FIRST)  # what is made at the first request is made now
    except EngineError as error:
        terminal.say(f"note: {error}; lists come from further down the ladder meanwhile")
    return service


def _run(service: "Service", name: str, keys: "Keys", host: str, listening: socket.socket) -> None:
    """Say where, and answer until the process is told to end."""
    from genrec.serve.admission import Room
    from genrec.serve.app import create_app
    from genrec.serve.uvicorn_protocol import serve as run

    whom = "whoever shows a key" if len(keys) else "this machine alone, since no keys are configured"
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
    listening.listen()  # whoever is told the address may knock at once
    terminal.say(f"{name}: {len(service.catalog):,} items at {address} for {whom}; Ctrl+C ends it")
    run(create_app(service, keys=keys, room=Room()), listening)


def _open(named: loading.Source, chosen: "Settings", cache: Path, ranker: str, need_model: bool) -> "Parts":
    """What ranks, from a step of the ladder on."""
    parts = loading.load_parts(named, chosen, cache, need_model=need_model)
    if parts.generating is not None and len(parts.catalog) <= _PRIORS:
        with terminal.progress() as progress:  # once: a list that has to measure them first takes seconds longer
            parts.generating.ranker.fill_priors(lambda done, total: progress("prior", done, total))
    for notice in parts.notices:
        terminal.say(f"note: {notice}")
    steps = [step.source for step in parts.ladder]
    if ranker not in (_GENERATIVE, *steps):
        raise InputError(f"--ranker {ranker} has nothing to go on in {named.name}; choose from {', '.join(steps)}")
    if ranker in (_EMBEDDING, _POPULARITY):
        parts = replace(parts, learned=None, counting=None)
    return replace(parts, embedding=None) if ranker == _POPULARITY else parts


def _keys(file: Path | None, rate: float | None, burst: float) -> "Keys":
    """Those of a file and of the environment."""
    from genrec.serve.auth import Keys, read_keys

    found = [key.strip() for key in os.environ.get(_KEYS, "").split(",") if key.strip()]
    found += [] if file is None else read_keys(file)
    if rate is not None and not found:
        raise InputError(f"--rate {rate} is a limit for each key, and there are none; add --keys FILE, or leave it out")
    return Keys(found, rate=rate, burst=burst, clock=time.monotonic)


def _default_store(named: loading.Source) -> str:
    """A file of this user's that nobody else may read, one for each catalog."""
    place = next((path for path in (named.items, named.index) if path is not None), None)
    name = named.name if place is None else f"{place.stem}-{sha256(str(place.resolve()).encode()).hexdigest()[:12]}"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    folder = Path(state) / "genrec"
    file = folder / f"{name}.db"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)  # before SQLite makes it, whose log and index take its mode
        file.chmod(0o600)
    except OSError as error:
        raise StoreError(f"the store {file} cannot be made: {error.strerror}; name another place by --store") from error
    return f"sqlite:///{file}"
