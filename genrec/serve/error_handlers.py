"""Makes an answer of whatever keeps a route from giving its own."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from genrec.errors import GenrecError
from genrec.serve.errors import RefusedError

_PLAIN = (GenrecError, RefusedError)
_LOGGER = logging.getLogger(__name__)


def refuse_well(app: FastAPI) -> None:
    """Tell every refusal in OpenAI's shape."""

    def answered(refusal: RefusedError) -> Response:
        # Escaped, since a message may quote what cannot be written otherwise.
        return Response(refusal.body, refusal.status, dict(refusal.headers), "application/json")

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return answered(_invalid(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette names the methods of the first route of this address alone
            headers["allow"] = ", ".join(sorted(_methods(app, request)))
        return answered(RefusedError.plain(error.status_code, headers))

    async def failed(_: Request, error: Exception) -> Response:
        refusal = RefusedError.of(error)
        if isinstance(error, _PLAIN) and refusal.status >= 500:  # of others the door tells the log
            _LOGGER.error("a request failed", exc_info=error)
        return answered(refusal)

    for kind in (*_PLAIN, Exception):
        app.add_exception_handler(kind, failed)


def _invalid(fault: dict[str, Any]) -> RefusedError:
    """What a check of FastAPI's found first, by the names of what was sent and none of ours."""
    # Which of several types, and which function checks one, stands in brackets or behind a dash.
    names = [str(part) for part in fault["loc"][1:] if isinstance(part, int) or str(part).isidentifier()]
    place = ".".join(names)
    if fault["type"] == "json_invalid":
        return RefusedError(400, f"the body is no JSON, from character {fault['loc'][-1]} on", "invalid_request")
    if not place and fault["type"] in ("model_attributes_type", "missing"):
        told = "the body is no JSON object; send one, with Content-Type: application/json"
        return RefusedError(400, told, "invalid_request")
    return RefusedError(400, f"{place or 'the body'}: {fault['msg']}", "invalid_request", param=place or None)


def _methods(app: FastAPI, request: Request) -> set[str]:
    """What an address understands."""
    found: set[str] = set()
    for route in app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return found
