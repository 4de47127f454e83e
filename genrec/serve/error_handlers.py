"""Makes an answer of whatever keeps a route from giving its own."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from genrec.errors import GenrecError
from genrec.serve.errors import ApiError

_EXPECTED_ERRORS = (GenrecError, ApiError)
_LOGGER = logging.getLogger(__name__)


def add_error_handlers(app: FastAPI) -> None:
    """Tell every refusal in OpenAI's shape."""

    def answered(refusal: ApiError) -> Response:
        # Escaped, since a message may quote what cannot be written otherwise.
        return Response(refusal.body, refusal.status, dict(refusal.headers), "application/json")

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return answered(_validation_error(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette names the methods of the first route of this address alone
            headers["allow"] = ", ".join(sorted(_allowed_methods(app, request)))
        return answered(ApiError.from_status(error.status_code, headers))

    async def failed(_: Request, error: Exception) -> Response:
        refusal = ApiError.from_exception(error)
        if isinstance(error, _EXPECTED_ERRORS) and refusal.status >= 500:  # of others the door tells the log
            _LOGGER.error("a request failed", exc_info=error)
        return answered(refusal)

    for kind in (*_EXPECTED_ERRORS, Exception):
        app.add_exception_handler(kind, failed)


def _validation_error(detail: dict[str, Any]) -> ApiError:
    """What a check of FastAPI's found first, by the names of what was sent and none of ours."""
    # Which of several types, and which function checks one, stands in brackets or behind a dash.
    names = [str(part) for part in detail["loc"][1:] if isinstance(part, int) or str(part).isidentifier()]
    place = ".".join(names)
    if detail["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON, from character {detail['loc'][-1]} on", "invalid_request")
    if not place and detail["type"] in ("model_attributes_type", "missing"):
        told = "the body is no JSON object; send one, with Content-Type: application/json"
        return ApiError(400, told, "invalid_request")
    return ApiError(400, f"{place or 'the body'}: {detail['msg']}", "invalid_request", param=place or None)


def _allowed_methods(app: FastAPI, request: Request) -> set[str]:
    """What an address understands."""
    found: set[str] = set()
    for route in app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return found
