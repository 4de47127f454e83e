"""`genrec serve`: the HTTP API and the chat page."""

import os
import socket
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import first_ranker, loading, model_downloads, options, terminal
from genrec.cli.settings_options import RANKER_PANEL, setting_options
from genrec.errors import EngineError, InputError, ModelMissingError, StoreError, missing_packages

if TYPE_CHECKING:
    from genrec.pipeline import Pipeline
    from genrec.recommender import Recommender
    from genrec.serve.auth import ApiKeys
    from genrec.serve.service import Service
    from genrec.settings import Settings
    from genrec.store.event_store import Store

_KEYS_VARIABLE = "GENREC_KEYS"
_FAST_MAX_QUEUE, _LLM_MAX_QUEUE = 48, 16  # queued requests, if a list takes milliseconds, and if it takes seconds
_WARMUP_TIMEOUT = 120.0  # seconds for the first list: it loads the model and compiles kernels
_MAX_PRIOR_ITEMS = 20_000  # larger catalogs do not compute all priors at the start: it would take minutes
_REQUIRED_PACKAGES = ("fastapi", "uvicorn", "httptools", "sqlalchemy", "prometheus_client")
_SERVER_PANEL = "Server"

Host = Annotated[str, typer.Option("--host", help="Address to listen on.", rich_help_panel=_SERVER_PANEL)]
Port = Annotated[
    int,
    typer.Option(
        "--port",
        min=0,
        max=65535,
        help="Port to listen on; 0 chooses a free one and prints it.",
        rich_help_panel=_SERVER_PANEL,
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="FILE",
        help=f"API keys, one per line; or set the environment variable {_KEYS_VARIABLE}, separated by commas.",
        rich_help_panel=_SERVER_PANEL,
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Database of events: sqlite:///FILE or postgresql://...",
        show_default="a file in your home folder",
        rich_help_panel=_SERVER_PANEL,
    ),
]
Rate = Annotated[
    float | None,
    typer.Option("--rate", help="Sustained requests per second for each key.", rich_help_panel=_SERVER_PANEL),
]
Burst = Annotated[
    float,
    typer.Option(
        "--burst", help="Requests that each key may send at once under --rate.", rich_help_panel=_SERVER_PANEL
    ),
]
MaxQueue = Annotated[
    int | None,
    typer.Option(
        "--max-queue",
        "--waiting",
        min=1,
        help="Maximum number of queued requests; further ones are rejected.",
        show_default=f"{_LLM_MAX_QUEUE}, or {_FAST_MAX_QUEUE} without a language model",
        rich_help_panel=_SERVER_PANEL,
    ),
]
Ranker = Annotated[
    str,
    typer.Option(
        "--ranker",
        metavar="CHOICE",
        help=f"First ranker of the fallback chain: {', '.join(first_ranker.RANKERS)}.",
        rich_help_panel=RANKER_PANEL,
    ),
]


@options.with_options(options.DATA_OPTIONS, setting_options(), options.ADVISOR_OPTIONS)
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8080,
    keys: KeyFile = None,
    store: StoreUrl = None,
    rate: Rate = None,
    burst: Burst = 20.0,
    max_queue: MaxQueue = None,
    ranker: Ranker = "generative",
    **given: Any,
) -> None:
    """Serve recommendations and conversations over HTTP, and a chat page at /.

    Without keys, the server accepts requests from this machine only.
    """
    _require_packages()
    from genrec.cache import default_cache
    from genrec.chat.loading import check_advisor_options
    from genrec.serve.admission import is_loopback
    from genrec.store.event_store import Store

    api_keys = _collect_keys(keys, rate, burst)
    if not len(api_keys) and not is_loopback(host):
        raise InputError(
            f"--host {host} is reachable from other machines and needs keys; add --keys FILE, or set {_KEYS_VARIABLE}"
        )
    first_ranker.check_ranker(ranker)
    need_model = loading.names_model(given)
    given = first_ranker.without_unused_models(given, ranker)
    settings, cache = loading.settings_from_options(given), default_cache()
    source, chat_options = loading.DataSource.from_options(given), loading.advisor_options(given)
    check_advisor_options(**chat_options)
    model_downloads.fetch_models(settings, cache)
    listener = _bind(host, port)  # before the slow work; connections are refused until the server starts
    with Store.open(store or _default_store_url(source)) as opened:
        remaining = replace(source, store=opened)  # users who were forgotten are left out of all that is computed
        pipeline = _open_pipeline(remaining, settings, cache, ranker, need_model=need_model)
        service = _build_service(pipeline, opened, max_queue, chat_options)
        _run_server(service, source.name, api_keys, host, listener)


def _require_packages() -> None:
    if missing := missing_packages(_REQUIRED_PACKAGES):
        raise ModelMissingError(f"{missing[0]} is not installed; run: pip install 'genrec[serve]'")


def _bind(host: str, port: int) -> socket.socket:
    from genrec.serve.uvicorn_server import bind_socket

    try:
        return bind_socket(host, port)
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error


def _build_service(
    pipeline: "Pipeline", store: "Store", max_queue: int | None, chat_options: dict[str, Any]
) -> "Service":
    """Create the service and warm it up."""
    from genrec.chat.loading import advisor_builder
    from genrec.serve.service import Service, ServiceConfig
    from genrec.serve.state import ServingState
    from genrec.serve.telemetry import Metrics

    if pipeline.embedding is not None:
        pipeline.embedding.enable_quantization()
    state = ServingState(pipeline, store)
    fast = pipeline.llm is None
    config = ServiceConfig(
        max_queue=max_queue or (_FAST_MAX_QUEUE if fast else _LLM_MAX_QUEUE), max_batch_size=8 if fast else 4
    )
    service = Service(
        state, store, build_advisor=advisor_builder(state.recommender, **chat_options), config=config, metrics=Metrics()
    )
    try:
        service.check(_WARMUP_TIMEOUT)  # do the work of the first request now
    except EngineError as error:
        terminal.print_notice(f"note: {error}; later stages of the fallback chain serve until then")
    return service


def _run_server(service: "Service", name: str, keys: "ApiKeys", host: str, listener: socket.socket) -> None:
    """Print the address, and serve until the process is stopped."""
    from genrec.serve.admission import Limits
    from genrec.serve.app import create_app
    from genrec.serve.uvicorn_server import serve as run

    audience = "clients with a key" if len(keys) else "this machine only, because no keys are configured"
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
    listener.listen()  # before the address is printed: clients may connect at once
    terminal.print_notice(f"{name}: {len(service.catalog):,} items at {address} for {audience}; press Ctrl+C to stop")
    run(create_app(service, keys=keys, limits=Limits()), listener)


def _open_pipeline(
    data_source: loading.DataSource, settings: "Settings", cache: Path, ranker: str, need_model: bool
) -> "Pipeline":
    """Open the pipeline and drop the stages before `ranker`."""
    from genrec.pipeline import LlmStage

    def check(recommender: "Recommender") -> None:
        first_ranker.check_data(ranker, recommender, data_source.name)

    pipeline = loading.load_pipeline(data_source, settings, cache, need_model=need_model, check=check)
    if isinstance(pipeline.llm, LlmStage) and len(pipeline.catalog) <= _MAX_PRIOR_ITEMS:
        with terminal.progress() as progress:  # otherwise the first lists would take seconds longer
            pipeline.llm.ranker.compute_priors(lambda done, total: progress("Computing priors", done, total))
    for notice in pipeline.notices:
        terminal.print_notice(f"note: {notice}")
    available = [stage.source for stage in pipeline.stages]
    if ranker not in (first_ranker.GENERATIVE, *available):
        raise first_ranker.unavailable_ranker_error(ranker, data_source.name, available)
    if ranker in (first_ranker.EMBEDDING, first_ranker.POPULARITY):
        pipeline = replace(pipeline, collaborative=None, ensemble=None)
    return replace(pipeline, embedding=None) if ranker == first_ranker.POPULARITY else pipeline


def _collect_keys(file: Path | None, rate: float | None, burst: float) -> "ApiKeys":
    """The keys of a file and of the environment."""
    from genrec.serve.auth import ApiKeys, read_keys

    found = [key.strip() for key in os.environ.get(_KEYS_VARIABLE, "").split(",") if key.strip()]
    found += [] if file is None else read_keys(file)
    if rate is not None and not found:
        raise InputError(f"--rate {rate} applies to API keys, but there are none; add --keys FILE, or omit --rate")
    return ApiKeys(found, rate=rate, burst=burst, clock=time.monotonic)


def _default_store_url(data_source: loading.DataSource) -> str:
    """A database file for each catalog, readable by this user only."""
    path = data_source.items or data_source.index
    name = data_source.name if path is None else f"{path.stem}-{sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    folder = Path(state) / "genrec"
    file = folder / f"{name}.db"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)  # before SQLite opens it: its log and index files take the same mode
        file.chmod(0o600)
    except OSError as error:
        raise StoreError(f"cannot create the database {file}: {error.strerror}; choose another --store") from error
    return f"sqlite:///{file}"
