"""The routes: each checks what came, calls one method of `Service` or `Talk`, and says what came of it."""

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
from genrec.serve.admission import App, Door, Room
from genrec.serve.auth import Keys
from genrec.serve.chat import MODEL, Talk
from genrec.serve.error_handlers import refuse_well
from genrec.serve.errors import RefusedError
from genrec.serve.openapi import REPLIES, TOLD_PLAINLY, describe, told
from genrec.serve.responses import Answer, write_json
from genrec.serve.schemas import (
    CatalogAnswer,
    ChatBody,
    EventsBody,
    Forgotten,
    HistoryAnswer,
    ItemAnswer,
    ItemBody,
    ItemsAnswer,
    ItemsBody,
    Kept,
    Met,
    Name,
    Recommend,
    Related,
    Search,
)
from genrec.serve.service import Service
from genrec.types import Item

_PAGE = resources.files("genrec.serve") / "page"
_POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
_MOST_LISTED = 1000


def _decoded(text: str) -> str:
    """An id of an address: it may hold whatever is percent-encoded there, a slash too."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("Input should be percent-encoded UTF-8") from None


class _Json(JSONResponse):
    """As all JSON here is written."""

    def render(self, content: Any) -> bytes:
        """A body."""
        return write_json(content)


PathId = Annotated[Name, BeforeValidator(_decoded), Path()]


def create_app(
    service: Service,
    *,
    keys: Keys,
    room: Room,
    now: Callable[[], float] = time.time,
) -> App:
    """The server as an ASGI app; it ends the service when it shuts down.

    Args:
        service: what it serves.
        keys: who may ask; without any, this machine alone.
        room: how much is let in.
        now: seconds since 1970, of events that do not say theirs.
    """
    talk = Talk(service, now=now)

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
        default_response_class=_Json,
    )
    refuse_well(app)
    _rank(app, service)
    _remember(app, service, now)
    _change(app, service)
    _talk(app, talk)
    _watch(app, service)
    _show(app)
    describe(app, locked=len(keys) > 0)
    return Door(app, keys=keys, room=room, is_full=service.is_full, metrics=service.metrics, clock=service.clock)


def _rank(app: FastAPI, service: Service) -> None:
    async def ranked(ask: Recommend) -> Response:
        # The store may take its time, or all of it; who needs none does not wait for it.
        asked = service.ask(ask) if ask.user_id is None else await run_in_threadpool(service.ask, ask)
        # FastAPI would check what is ours once more.
        return _Json(await asyncio.wrap_future(service.rank(ask, asked)))

    @app.post("/v1/recommend", response_model=Answer, responses=told(503))
    async def recommend(body: Recommend) -> Response:
        """A list for somebody, known or not."""
        return await ranked(body)

    @app.post("/v1/search", response_model=Answer, responses=told(503))
    async def search(body: Search) -> Response:
        """A list for words, and for a history beside them."""
        return await ranked(body)

    @app.post("/v1/related", response_model=Answer, responses=told(503))
    async def related(body: Related) -> Response:
        """A list beside one item."""
        service.catalog.index_of(body.item_id)
        return await ranked(Recommend(history=[body.item_id], **{**body.options, "k": body.k}))


def _remember(app: FastAPI, service: Service, now: Callable[[], float]) -> None:
    @app.post("/v1/events", responses=told(503))
    async def events(body: EventsBody) -> Kept:
        """Keep what people did: all of it or nothing. The next list knows of it."""
        return Kept(added=await run_in_threadpool(service.keep, body.events, now()))

    @app.get("/v1/users/{user_id}/history", responses=told(503))
    async def history(user_id: PathId) -> HistoryAnswer:
        """What somebody met, oldest first."""
        met = await run_in_threadpool(service.history_of, user_id)
        return HistoryAnswer(user_id=user_id, items=[Met(item_id=item.item_id, title=item.title) for item in met])

    @app.delete("/v1/users/{user_id}", responses=told(503))
    async def forget(user_id: PathId) -> Forgotten:
        """Remove somebody from everywhere that they are kept; what the files know of them is not used again."""
        return Forgotten(user_id=user_id, removed=await run_in_threadpool(service.store.forget, user_id))


def _change(app: FastAPI, service: Service) -> None:
    def shown(item: Item) -> ItemAnswer:
        return ItemAnswer(item_id=item.item_id, title=item.title, attributes=dict(item.attributes))

    def total() -> CatalogAnswer:
        return CatalogAnswer(total=len(service.catalog))

    @app.get("/v1/catalog/items", responses=told())
    async def items(
        start: Annotated[int, Query(ge=0, le=2**31)] = 0,
        limit: Annotated[int, Query(ge=1, le=_MOST_LISTED)] = 100,
    ) -> ItemsAnswer:
        """Items in the catalog's order."""
        catalog = service.catalog
        found = catalog.items_at(np.arange(start, max(start, min(start + limit, len(catalog)))))
        return ItemsAnswer(items=[shown(item) for item in found], total=len(catalog))

    @app.post("/v1/catalog/items", responses=told(503))
    async def put_items(body: ItemsBody) -> CatalogAnswer:
        """Add items, or put them in the place of those of the same ids; all or none."""
        found = [Item(one.item_id, one.title, one.attributes) for one in body.items]
        await run_in_threadpool(service.put, found)
        return total()

    @app.get("/v1/catalog/items/{item_id}", responses=told(404))
    async def item(item_id: PathId) -> ItemAnswer:
        """One item."""
        with _missing():
            catalog = service.catalog
            return shown(catalog[catalog.index_of(item_id)])

    @app.put("/v1/catalog/items/{item_id}", responses=told(503))
    async def put_item(item_id: PathId, body: ItemBody) -> CatalogAnswer:
        """Add an item, or put it in the place of the one of this id."""
        await run_in_threadpool(service.put, [Item(item_id, body.title, body.attributes)])
        return total()

    @app.delete("/v1/catalog/items/{item_id}", responses=told(404, 503))
    async def withdraw(item_id: PathId) -> CatalogAnswer:
        """Withdraw an item: it is not recommended any more."""
        with _missing():
            await run_in_threadpool(service.withdraw, item_id)
        return total()


def _talk(app: FastAPI, talk: Talk) -> None:
    def described() -> dict[str, Any]:
        return {"id": MODEL, "object": "model", "created": 0, "owned_by": "genrec"}

    @app.get("/v1/models", responses=told())
    async def models() -> dict[str, Any]:
        """What can be named as the model: the recommender."""
        return {"object": "list", "data": [described()]}

    @app.get("/v1/models/{model}", responses=told(404))
    async def model(model: PathId) -> dict[str, Any]:
        """The recommender."""
        if model != MODEL:
            raise RefusedError(404, f"there is no such model; there is {MODEL!r}", "model_not_found", param="model")
        return described()

    @app.post("/v1/chat/completions", response_model=None, responses=told(404, 503) | {200: REPLIES})
    async def complete(body: ChatBody) -> Response:
        """The next reply of a conversation, whole or streamed; the items that it names are in `genrec.items`."""
        if body.model not in (None, MODEL):
            raise RefusedError(404, f"there is no such model; there is {MODEL!r}", "model_not_found", param="model")
        if not body.stream:
            return _Json(await talk.complete(body))
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(await talk.stream(body), media_type="text/event-stream", headers=headers)


def _watch(app: FastAPI, service: Service) -> None:
    looking: asyncio.Future[None] | None = None

    @app.head("/health/live", include_in_schema=False)
    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @app.head("/health/ready", include_in_schema=False)
    @app.get("/health/ready", responses=told(503))
    async def ready() -> dict[str, str]:
        """The store answers, and the first step of the ladder ranked something lately, or did so just now."""
        nonlocal looking
        if looking is None or looking.done():  # many who ask at once are one who looks
            looking = asyncio.ensure_future(run_in_threadpool(service.check))
            looking.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(looking)
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse, responses=TOLD_PLAINLY)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _show(app: FastAPI) -> None:
    with resources.as_file(_PAGE) as folder:
        files = StaticFiles(directory=folder)

    async def page(request: Request, name: str) -> Response:
        answer = await files.get_response(name, request.scope)
        answer.headers["content-security-policy"] = _POLICY
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
def _missing() -> Iterator[None]:
    """An unknown item of the address is not found; one within a body would be a bad request."""
    try:
        yield
    except UnknownItemError as error:
        raise RefusedError(404, str(error), "item_not_found", param="item_id") from None
