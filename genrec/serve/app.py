"""The ASGI app and its routes. Each route calls one method of `Service` or `ChatService`."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib import resources
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

import numpy as np
from fastapi import FastAPI, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BeforeValidator

from genrec.errors import UnknownItemError
from genrec.serve.admission import AdmissionMiddleware, Limits
from genrec.serve.auth import ApiKeys
from genrec.serve.chat import MODEL_NAME, ChatService
from genrec.serve.chat_schemas import ChatBody
from genrec.serve.error_handlers import add_error_handlers
from genrec.serve.errors import ApiError, log_failure
from genrec.serve.openapi import CHAT_RESPONSES, PLAIN_TEXT_ERRORS, customize_openapi, error_responses
from genrec.serve.responses import RecommendResponse, notice_fields, to_json_bytes
from genrec.serve.schemas import (
    CatalogResponse,
    EventsBody,
    EventsResponse,
    ForgetResponse,
    HistoryItem,
    HistoryResponse,
    ItemBody,
    ItemResponse,
    ItemsBody,
    ItemsResponse,
    Name,
    RecommendBody,
    RelatedBody,
    SearchBody,
)
from genrec.serve.service import Service
from genrec.types import Item

_PAGE_FOLDER = resources.files("genrec.serve") / "page"
_CONTENT_SECURITY_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
)
_MAX_LISTED_ITEMS = 1000
_STORE_THREADS = 16  # a store has no more connections
_Result = TypeVar("_Result")


def _decode_path_id(text: str) -> str:
    """The decoded id of a path segment; it may contain any character, including a slash."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("Input should be percent-encoded UTF-8") from None


class _JsonResponse(JSONResponse):
    """A JSON response written by `to_json_bytes`."""

    def render(self, content: Any) -> bytes:
        """The response body."""
        return to_json_bytes(content)


class _StoreThreads:
    """Runs calls that read or write the store, so that the event loop never waits for it.

    The threads are not those of Starlette, which read the files of the page: a store that hangs delays nothing else.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="store")

    async def run(self, call: Callable[..., _Result], *arguments: object) -> _Result:
        """The result of a call."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)

    def close(self) -> None:
        """Cancel the calls that have not started."""
        self._pool.shutdown(wait=False, cancel_futures=True)


PathId = Annotated[Name, BeforeValidator(_decode_path_id), Path()]


def create_app(
    service: Service,
    *,
    keys: ApiKeys,
    limits: Limits,
    now: Callable[[], float] = time.time,
) -> AdmissionMiddleware:
    """The server as an ASGI app. It closes the service when it shuts down.

    Args:
        service: the service behind the routes.
        keys: the accepted API keys; if empty, only requests from this machine are accepted.
        limits: limits on requests.
        now: seconds since 1970, the timestamp of events without one.
    """
    chat, threads = ChatService(service, now=now), _StoreThreads()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        chat.close()
        threads.close()
        await run_in_threadpool(service.close)  # waits for the batch in process

    app = FastAPI(
        title="genrec",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        default_response_class=_JsonResponse,
    )
    add_error_handlers(app)
    _add_ranking_routes(app, service, threads)
    _add_user_routes(app, service, threads, now)
    _add_catalog_routes(app, service, threads)
    _add_chat_routes(app, chat)
    _add_monitoring_routes(app, service, threads)
    _add_page_routes(app)
    customize_openapi(app, requires_key=len(keys) > 0)
    return AdmissionMiddleware(
        app, keys=keys, limits=limits, is_full=service.is_full, metrics=service.metrics, clock=service.clock
    )


def _add_ranking_routes(app: FastAPI, service: Service, threads: _StoreThreads) -> None:
    async def rank(body: RecommendBody) -> Response:
        # Only requests with a user id read the store, so no others wait for it.
        context = (
            service.request_context(body) if body.user_id is None else await threads.run(service.request_context, body)
        )
        # A response object skips FastAPI's validation of the response.
        return _JsonResponse(await asyncio.wrap_future(service.rank(body, context)))

    @app.post("/v1/recommend", response_model=RecommendResponse, responses=error_responses(503))
    async def recommend(body: RecommendBody) -> Response:
        """Recommend items to a known user, to a new user, or for a history."""
        return await rank(body)

    @app.post("/v1/search", response_model=RecommendResponse, responses=error_responses(503))
    async def search(body: SearchBody) -> Response:
        """Recommend items for a text query, and optionally for a user or a history."""
        return await rank(body)

    @app.post("/v1/related", response_model=RecommendResponse, responses=error_responses(503))
    async def related(body: RelatedBody) -> Response:
        """Recommend items that are related to one item."""
        await run_in_threadpool(service.check_named, body.item_id)  # the first lookup in a catalog sorts its ids
        return await rank(RecommendBody(history=[body.item_id], **{**body.options, "k": body.k}))


def _add_user_routes(app: FastAPI, service: Service, threads: _StoreThreads, now: Callable[[], float]) -> None:
    @app.post("/v1/events", responses=error_responses(503))
    async def events(body: EventsBody) -> EventsResponse:
        """Store interactions of users, all or none. They affect the next list."""
        result = await threads.run(service.add_events, body.events, now())
        return EventsResponse(added=result.added, **notice_fields(result.notices))

    @app.get("/v1/users/{user_id}/history", responses=error_responses(503))
    async def history(user_id: PathId) -> HistoryResponse:
        """Get the items in a user's history, oldest first."""
        seen = await threads.run(service.history_of, user_id)
        return HistoryResponse(
            user_id=user_id, items=[HistoryItem(item_id=item.item_id, title=item.title) for item in seen]
        )

    @app.delete("/v1/users/{user_id}", responses=error_responses(503))
    async def forget(user_id: PathId) -> ForgetResponse:
        """Delete all stored data of a user, and all that was computed from their history in the interactions file."""
        return ForgetResponse(user_id=user_id, removed=await threads.run(service.forget, user_id))


def _add_catalog_routes(app: FastAPI, service: Service, threads: _StoreThreads) -> None:
    def to_response(item: Item) -> ItemResponse:
        return ItemResponse(item_id=item.item_id, title=item.title, attributes=dict(item.attributes))

    def total() -> CatalogResponse:
        return CatalogResponse(total=len(service.catalog))

    @app.get("/v1/catalog/items", responses=error_responses())
    async def items(
        start: Annotated[int, Query(ge=0, le=2**31)] = 0,
        limit: Annotated[int, Query(ge=1, le=_MAX_LISTED_ITEMS)] = 100,
    ) -> ItemsResponse:
        """List items in catalog order."""
        catalog = service.catalog
        found = catalog.items_at(np.arange(start, max(start, min(start + limit, len(catalog)))))
        return ItemsResponse(items=[to_response(item) for item in found], total=len(catalog))

    @app.post("/v1/catalog/items", responses=error_responses(503))
    async def put_items(body: ItemsBody) -> CatalogResponse:
        """Add items, or replace the items with the same ids; all or none."""
        put = [Item(item.item_id, item.title, item.attributes) for item in body.items]
        await threads.run(service.put_items, put)
        return total()

    @app.get("/v1/catalog/items/{item_id}", responses=error_responses(404))
    async def item(item_id: PathId) -> ItemResponse:
        """Get one item."""
        with _item_not_found():
            catalog = service.catalog
            return to_response(catalog[await run_in_threadpool(catalog.index_of, item_id)])

    @app.put("/v1/catalog/items/{item_id}", responses=error_responses(503))
    async def put_item(item_id: PathId, body: ItemBody) -> CatalogResponse:
        """Add an item, or replace the item with this id."""
        await threads.run(service.put_items, [Item(item_id, body.title, body.attributes)])
        return total()

    @app.delete("/v1/catalog/items/{item_id}", responses=error_responses(404, 503))
    async def withdraw(item_id: PathId) -> CatalogResponse:
        """Withdraw an item, so that it is no longer recommended."""
        with _item_not_found():
            await threads.run(service.withdraw_item, item_id)
        return total()


def _add_chat_routes(app: FastAPI, chat: ChatService) -> None:
    def model_object() -> dict[str, Any]:
        return {"id": MODEL_NAME, "object": "model", "created": 0, "owned_by": "genrec"}

    @app.get("/v1/models", responses=error_responses())
    async def models() -> dict[str, Any]:
        """List the models: the recommender is the only one."""
        return {"object": "list", "data": [model_object()]}

    @app.get("/v1/models/{model}", responses=error_responses(404))
    async def model(model: PathId) -> dict[str, Any]:
        """Get the recommender as a model object."""
        if model != MODEL_NAME:
            raise ApiError(404, f"unknown model; use {MODEL_NAME!r}", "model_not_found", param="model")
        return model_object()

    @app.post("/v1/chat/completions", response_model=None, responses=error_responses(404, 503) | {200: CHAT_RESPONSES})
    async def complete(request: Request, body: ChatBody) -> Response:
        """Reply to a conversation, whole or streamed. The recommended items are in `genrec.items`."""
        if body.model not in (None, MODEL_NAME):
            raise ApiError(404, f"unknown model; use {MODEL_NAME!r}", "model_not_found", param="model")
        if not body.stream:
            return _JsonResponse(await chat.complete(body))
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        events = await chat.stream(body, on_failure=partial(log_failure, request.scope))
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def _add_monitoring_routes(app: FastAPI, service: Service, threads: _StoreThreads) -> None:
    pending_check: asyncio.Future[None] | None = None

    @app.head("/health/live", include_in_schema=False)
    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """Check that the process is running."""
        return {"status": "live"}

    @app.head("/health/ready", include_in_schema=False)
    @app.get("/health/ready", responses=error_responses(503))
    async def ready() -> dict[str, str]:
        """Check that the store is reachable and that the first stage of the fallback chain ranks."""
        nonlocal pending_check
        if pending_check is None or pending_check.done():  # concurrent probes share one check
            pending_check = asyncio.ensure_future(threads.run(service.check))
            pending_check.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(pending_check)
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse, responses=PLAIN_TEXT_ERRORS)
    async def metrics() -> Response:
        """Metrics in the text format of Prometheus."""
        return Response(service.metrics.text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page_routes(app: FastAPI) -> None:
    with resources.as_file(_PAGE_FOLDER) as folder:
        files = StaticFiles(directory=folder)

    async def page(request: Request, name: str) -> Response:
        response = await files.get_response(name, request.scope)
        response.headers["content-security-policy"] = _CONTENT_SECURITY_POLICY
        response.headers["cache-control"] = "no-cache"
        return response

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return await page(request, "index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(request: Request, name: str) -> Response:
        return await page(request, name)


@contextmanager
def _item_not_found() -> Iterator[None]:
    """Status 404 for an unknown item in the path; an unknown item in a body gets status 400."""
    try:
        yield
    except UnknownItemError as error:
        raise ApiError(404, str(error), "item_not_found", param="item_id") from None
