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
    from genrec.pipeline import Pipeline
    from genrec.serve.auth import ApiKeys
    from genrec.serve.service import Service
    from genrec.settings import Settings
    from genrec.store.event_store import Store

_KEYS_VARIABLE = "GENREC_KEYS"
_GENERATIVE, _BLEND, _EMBEDDING, _POPULARITY = _RANKERS = ("generative", "blend", "embedding", "popularity")
_FAST_MAX_QUEUE, _LLM_MAX_QUEUE = 48, 16  # lists that may wait where a list takes milliseconds, and where seconds
_WARMUP_TIMEOUT = 120.0  # seconds that the first list may take: the model is read, and loops are compiled
_MAX_PRIOR_ITEMS = 20_000  # items whose priors are measured before the first request: at most some minutes, once
_REQUIRED_PACKAGES = ("fastapi", "uvicorn", "httptools", "sqlalchemy", "prometheus_client")
_SERVER_PANEL = "Server"

Host = Annotated[str, typer.Option("--host", help="The address to listen at.", rich_help_panel=_SERVER_PANEL)]
Port = Annotated[
    int,
    typer.Option("--port", min=0, max=65535, help="0 takes a free one, which is said.", rich_help_panel=_SERVER_PANEL),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="FILE",
        help=f"Keys that callers show, one a line; or the environment variable {_KEYS_VARIABLE}, separated by commas.",
        rich_help_panel=_SERVER_PANEL,
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Where events are kept: sqlite:///FILE or postgresql://...",
        show_default="a file of this user's",
        rich_help_panel=_SERVER_PANEL,
    ),
]
Rate = Annotated[
    float | None,
    typer.Option("--rate", help="Requests a second that each key may make for long.", rich_help_panel=_SERVER_PANEL),
]
Burst = Annotated[
    float, typer.Option("--burst", help="Requests that may come at once under --rate.", rich_help_panel=_SERVER_PANEL)
]
Waiting = Annotated[
    int | None,
    typer.Option(
        "--waiting", min=1, help="Lists that may wait to be ranked; more are refused.", rich_help_panel=_SERVER_PANEL
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
    fusion_weight: options.FusionWeight = None,
    candidates: options.Candidates = None,
    reader: options.Reader = None,
    replies: options.Replies = None,
    patience: options.Patience = None,
) -> None:
    """Serve lists and conversations over HTTP, and a page to talk with at /.

    Without keys it answers this machine alone.
    """
    _require_packages()
    from genrec.cache import default_cache
    from genrec.serve.admission import is_loopback
    from genrec.store.event_store import Store

    known = _collect_keys(keys, rate, burst)
    if not len(known) and not is_loopback(host):
        raise InputError(
            f"--host {host} can be reached from elsewhere and needs keys; add --keys FILE, or set {_KEYS_VARIABLE}"
        )
    if ranker not in _RANKERS:
        raise InputError(f"--ranker is {ranker!r}; choose one of {', '.join(_RANKERS)}")
    options: dict[str, Any] = {
        "model": model if ranker == _GENERATIVE else "none",
        "adapter": adapter,
        "encoder": "none" if ranker == _POPULARITY else encoder,
        "strategy": strategy,
        "fusion_weight": fusion_weight,
        "candidates": candidates,
    }
    chosen, cache = loading.settings_from_options(options), default_cache()
    named = loading.DataSource.from_options(data, items, interactions, columns)
    loading.fetch_models([chosen.model, chosen.encoder], cache)
    listening = _bind(host, port)  # before what takes long; until then connections are refused
    with Store.open(store or _default_store_url(named)) as opened:
        parts = _open_pipeline(named, chosen, cache, ranker, need_model=bool(model or adapter))
        service = _build_service(
            parts, opened, waiting, loading.without_none(parser=reader, reply_mode=replies, ranking_timeout=patience)
        )
        _run_server(service, named.name, known, host, listening)


def _require_packages() -> None:
    missing = [name for name in _REQUIRED_PACKAGES if find_spec(name) is None]
    if missing:
        raise ModelMissingError(f"{missing[0]} is not installed; run: pip install 'genrec[serve]'")


def _bind(host: str, port: int) -> socket.socket:
    from genrec.serve.uvicorn_protocol import bind_socket

    try:
        return bind_socket(host, port)
    except OSError as error:
        raise InputError(f"cannot listen at {host}:{port}: {error.strerror}; name another --port or --host") from error


def _build_service(
    pipeline: "Pipeline", store: "Store", max_queue: int | None, chat_options: dict[str, Any]
) -> "Service":
    """What answers, warm."""
    from genrec.chat.loading import advisor_builder
    from genrec.serve.service import Service, ServiceConfig
    from genrec.serve.state import ServingState
    from genrec.serve.telemetry import Metrics

    if pipeline.embedding is not None:
        pipeline.embedding.enable_quantization()
    live = ServingState(pipeline, store)
    quick = pipeline.llm is None
    load = ServiceConfig(
        max_queue=max_queue or (_FAST_MAX_QUEUE if quick else _LLM_MAX_QUEUE), max_batch_size=8 if quick else 4
    )
    service = Service(
        live, store, build_advisor=advisor_builder(live.recommender, **chat_options), config=load, metrics=Metrics()
    )
    try:
        service.check(_WARMUP_TIMEOUT)  # what is made at the first request is made now
    except EngineError as error:
        terminal.print_notice(f"note: {error}; lists come from further down the ladder meanwhile")
    return service


def _run_server(service: "Service", name: str, keys: "ApiKeys", host: str, listening: socket.socket) -> None:
    """Say where, and answer until the process is told to end."""
    from genrec.serve.admission import Limits
    from genrec.serve.app import create_app
    from genrec.serve.uvicorn_protocol import serve as run

    whom = "whoever shows a key" if len(keys) else "this machine alone, since no keys are configured"
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
    listening.listen()  # whoever is told the address may knock at once
    terminal.print_notice(f"{name}: {len(service.catalog):,} items at {address} for {whom}; Ctrl+C ends it")
    run(create_app(service, keys=keys, limits=Limits()), listening)


def _open_pipeline(
    data_source: loading.DataSource, settings: "Settings", cache: Path, ranker: str, need_model: bool
) -> "Pipeline":
    """What ranks, from a step of the ladder on."""
    parts = loading.load_pipeline(data_source, settings, cache, need_model=need_model)
    if parts.llm is not None and len(parts.catalog) <= _MAX_PRIOR_ITEMS:
        with terminal.progress() as progress:  # once: a list that has to measure them first takes seconds longer
            parts.llm.ranker.compute_priors(lambda done, total: progress("Computing priors", done, total))
    for notice in parts.notices:
        terminal.print_notice(f"note: {notice}")
    steps = [step.source for step in parts.stages]
    if ranker not in (_GENERATIVE, *steps):
        raise InputError(
            f"--ranker {ranker} has nothing to go on in {data_source.name}; choose from {', '.join(steps)}"
        )
    if ranker in (_EMBEDDING, _POPULARITY):
        parts = replace(parts, collaborative=None, ensemble=None)
    return replace(parts, embedding=None) if ranker == _POPULARITY else parts


def _collect_keys(file: Path | None, rate: float | None, burst: float) -> "ApiKeys":
    """Those of a file and of the environment."""
    from genrec.serve.auth import ApiKeys, read_keys

    found = [key.strip() for key in os.environ.get(_KEYS_VARIABLE, "").split(",") if key.strip()]
    found += [] if file is None else read_keys(file)
    if rate is not None and not found:
        raise InputError(f"--rate {rate} is a limit for each key, and there are none; add --keys FILE, or leave it out")
    return ApiKeys(found, rate=rate, burst=burst, clock=time.monotonic)


def _default_store_url(data_source: loading.DataSource) -> str:
    """A file of this user's that nobody else may read, one for each catalog."""
    place = next((path for path in (data_source.items, data_source.index) if path is not None), None)
    name = (
        data_source.name if place is None else f"{place.stem}-{sha256(str(place.resolve()).encode()).hexdigest()[:12]}"
    )
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
