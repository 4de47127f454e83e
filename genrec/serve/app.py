"""The routes: each checks what came, calls one method of `Service` or `ChatService`, and says what came of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import resources
from typing import Annotated, Any
from urllib.parse import unquote

import numpy as np
from fastapi import FastAPI, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BeforeValidator

from genrec.errors import UnknownItemError
from genrec.serve.admission import AdmissionMiddleware, AsgiApp, Limits
from genrec.serve.auth import ApiKeys
from genrec.serve.chat import MODEL_NAME, ChatService
from genrec.serve.error_handlers import add_error_handlers
from genrec.serve.errors import ApiError
from genrec.serve.openapi import CHAT_RESPONSES, PLAIN_TEXT_ERRORS, customize_openapi, error_responses
from genrec.serve.responses import RecommendResponse, to_json_bytes
from genrec.serve.schemas import (
    CatalogResponse,
    ChatBody,
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


def _decode_path_id(text: str) -> str:
    """An id of an address: it may hold whatever is percent-encoded there, a slash too."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("Input should be percent-encoded UTF-8") from None


class _JsonResponse(JSONResponse):
    """As all JSON here is written."""

    def render(self, content: Any) -> bytes:
        """A body."""
        return to_json_bytes(content)


PathId = Annotated[Name, BeforeValidator(_decode_path_id), Path()]


def create_app(
    service: Service,
    *,
    keys: ApiKeys,
    limits: Limits,
    now: Callable[[], float] = time.time,
) -> AsgiApp:
    """The server as an ASGI app; it ends the service when it shuts down.

    Args:
        service: what it serves.
        keys: who may ask; without any, this machine alone.
        limits: how much is let in.
        now: seconds since 1970, of events that do not say theirs.
    """
    talk = ChatService(service, now=now)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        talk.close()
        await run_in_threadpool(service.close)  # which waits for what is being ranked

    app = FastAPI(
        title="genrec",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        default_response_class=_JsonResponse,
    )
    add_error_handlers(app)
    _add_ranking_routes(app, service)
    _add_user_routes(app, service, now)
    _add_catalog_routes(app, service)
    _add_chat_routes(app, talk)
    _add_monitoring_routes(app, service)
    _add_page_routes(app)
    customize_openapi(app, requires_key=len(keys) > 0)
    return AdmissionMiddleware(
        app, keys=keys, limits=limits, is_full=service.is_full, metrics=service.metrics, clock=service.clock
    )


def _add_ranking_routes(app: FastAPI, service: Service) -> None:
    async def ranked(ask: RecommendBody) -> Response:
        # The store may take its time, or all of it; who needs none does not wait for it.
        asked = (
            service.request_context(ask)
            if ask.user_id is None
            else await run_in_threadpool(service.request_context, ask)
        )
        # FastAPI would check what is ours once more.
        return _JsonResponse(await asyncio.wrap_future(service.rank(ask, asked)))

    @app.post("/v1/recommend", response_model=RecommendResponse, responses=error_responses(503))
    async def recommend(body: RecommendBody) -> Response:
        """A list for somebody, known or not."""
        return await ranked(body)

    @app.post("/v1/search", response_model=RecommendResponse, responses=error_responses(503))
    async def search(body: SearchBody) -> Response:
        """A list for words, and for a history beside them."""
        return await ranked(body)

    @app.post("/v1/related", response_model=RecommendResponse, responses=error_responses(503))
    async def related(body: RelatedBody) -> Response:
        """A list beside one item."""
        service.catalog.index_of(body.item_id)
        return await ranked(RecommendBody(history=[body.item_id], **{**body.options, "k": body.k}))


def _add_user_routes(app: FastAPI, service: Service, now: Callable[[], float]) -> None:
    @app.post("/v1/events", responses=error_responses(503))
    async def events(body: EventsBody) -> EventsResponse:
        """Keep what people did: all of it or nothing. The next list knows of it."""
        return EventsResponse(added=await run_in_threadpool(service.add_events, body.events, now()))

    @app.get("/v1/users/{user_id}/history", responses=error_responses(503))
    async def history(user_id: PathId) -> HistoryResponse:
        """What somebody met, oldest first."""
        met = await run_in_threadpool(service.history_of, user_id)
        return HistoryResponse(
            user_id=user_id, items=[HistoryItem(item_id=item.item_id, title=item.title) for item in met]
        )

    @app.delete("/v1/users/{user_id}", responses=error_responses(503))
    async def forget(user_id: PathId) -> ForgetResponse:
        """Remove somebody from everywhere that they are kept; what the files know of them is not used again."""
        return ForgetResponse(user_id=user_id, removed=await run_in_threadpool(service.store.forget, user_id))


def _add_catalog_routes(app: FastAPI, service: Service) -> None:
    def shown(item: Item) -> ItemResponse:
        return ItemResponse(item_id=item.item_id, title=item.title, attributes=dict(item.attributes))

    def total() -> CatalogResponse:
        return CatalogResponse(total=len(service.catalog))

    @app.get("/v1/catalog/items", responses=error_responses())
    async def items(
        start: Annotated[int, Query(ge=0, le=2**31)] = 0,
        limit: Annotated[int, Query(ge=1, le=_MAX_LISTED_ITEMS)] = 100,
    ) -> ItemsResponse:
        """Items in the catalog's order."""
        catalog = service.catalog
        found = catalog.items_at(np.arange(start, max(start, min(start + limit, len(catalog)))))
        return ItemsResponse(items=[shown(item) for item in found], total=len(catalog))

    @app.post("/v1/catalog/items", responses=error_responses(503))
    async def put_items(body: ItemsBody) -> CatalogResponse:
        """Add items, or put them in the place of those of the same ids; all or none."""
        found = [Item(one.item_id, one.title, one.attributes) for one in body.items]
        await run_in_threadpool(service.put_items, found)
        return total()

    @app.get("/v1/catalog/items/{item_id}", responses=error_responses(404))
    async def item(item_id: PathId) -> ItemResponse:
        """One item."""
        with _item_not_found():
            catalog = service.catalog
            return shown(catalog[catalog.index_of(item_id)])

    @app.put("/v1/catalog/items/{item_id}", responses=error_responses(503))
    async def put_item(item_id: PathId, body: ItemBody) -> CatalogResponse:
        """Add an item, or put it in the place of the one of this id."""
        await run_in_threadpool(service.put_items, [Item(item_id, body.title, body.attributes)])
        return total()

    @app.delete("/v1/catalog/items/{item_id}", responses=error_responses(404, 503))
    async def withdraw(item_id: PathId) -> CatalogResponse:
        """Withdraw an item: it is not recommended any more."""
        with _item_not_found():
            await run_in_threadpool(service.withdraw_item, item_id)
        return total()


def _add_chat_routes(app: FastAPI, chat: ChatService) -> None:
    def described() -> dict[str, Any]:
        return {"id": MODEL_NAME, "object": "model", "created": 0, "owned_by": "genrec"}

    @app.get("/v1/models", responses=error_responses())
    async def models() -> dict[str, Any]:
        """What can be named as the model: the recommender."""
        return {"object": "list", "data": [described()]}

    @app.get("/v1/models/{model}", responses=error_responses(404))
    async def model(model: PathId) -> dict[str, Any]:
        """The recommender."""
        if model != MODEL_NAME:
            raise ApiError(404, f"there is no such model; there is {MODEL_NAME!r}", "model_not_found", param="model")
        return described()

    @app.post("/v1/chat/completions", response_model=None, responses=error_responses(404, 503) | {200: CHAT_RESPONSES})
    async def complete(body: ChatBody) -> Response:
        """The next reply of a conversation, whole or streamed; the items that it names are in `genrec.items`."""
        if body.model not in (None, MODEL_NAME):
            raise ApiError(404, f"there is no such model; there is {MODEL_NAME!r}", "model_not_found", param="model")
        if not body.stream:
            return _JsonResponse(await chat.complete(body))
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(await chat.stream(body), media_type="text/event-stream", headers=headers)


def _add_monitoring_routes(app: FastAPI, service: Service) -> None:
    looking: asyncio.Future[None] | None = None

    @app.head("/health/live", include_in_schema=False)
    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @app.head("/health/ready", include_in_schema=False)
    @app.get("/health/ready", responses=error_responses(503))
    async def ready() -> dict[str, str]:
        """The store answers, and the first step of the ladder ranked something lately, or did so just now."""
        nonlocal looking
        if looking is None or looking.done():  # many who ask at once are one who looks
            looking = asyncio.ensure_future(run_in_threadpool(service.check))
            looking.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(looking)
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse, responses=PLAIN_TEXT_ERRORS)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page_routes(app: FastAPI) -> None:
    with resources.as_file(_PAGE_FOLDER) as folder:
        files = StaticFiles(directory=folder)

    async def page(request: Request, name: str) -> Response:
        answer = await files.get_response(name, request.scope)
        answer.headers["content-security-policy"] = _CONTENT_SECURITY_POLICY
        answer.headers["cache-control"] = "no-cache"
        return answer

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return await page(request, "index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(request: Request, name: str) -> Response:
        return await page(request, name)


@contextmanager
def _item_not_found() -> Iterator[None]:
    """An unknown item of the address is not found; one within a body would be a bad request."""
    try:
        yield
    except UnknownItemError as error:
        raise ApiError(404, str(error), "item_not_found", param="item_id") from None
