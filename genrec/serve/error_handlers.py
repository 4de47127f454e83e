"""Exception handlers that turn errors of routes into OpenAI-style error responses."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from genrec.errors import GenrecError
from genrec.serve.errors import ApiError, log_failure

_EXPECTED_ERRORS = (GenrecError, ApiError)
_UNREADABLE_BODY = (
    "the body cannot be read: it is not UTF-8, contains a number with thousands of digits, or is nested too deeply; "
    "send JSON without these"
)


def add_error_handlers(app: FastAPI) -> None:
    """Register the handlers for validation errors, HTTP errors and exceptions."""

    def to_response(error: ApiError) -> Response:
        # `body` is ASCII: a message may quote text that UTF-8 cannot encode.
        return Response(error.body, error.status, dict(error.headers), "application/json")

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return to_response(_validation_error(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code >= 500:
            log_failure(request.scope, error)
        if error.status_code == 400:  # FastAPI's error for a body that its reader of JSON cannot take
            return to_response(ApiError(400, _UNREADABLE_BODY, "invalid_request"))
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette lists the methods of the first matching route only
            headers["allow"] = ", ".join(sorted(_allowed_methods(app, request)))
        return to_response(ApiError.from_status(error.status_code, headers))

    async def failed(request: Request, error: Exception) -> Response:
        api_error = ApiError.from_exception(error)
        # Starlette raises other exceptions again after the response, and AdmissionMiddleware logs them.
        if isinstance(error, _EXPECTED_ERRORS) and api_error.status >= 500:
            log_failure(request.scope, error)
        return to_response(api_error)

    for kind in (*_EXPECTED_ERRORS, Exception):
        app.add_exception_handler(kind, failed)


def _validation_error(detail: dict[str, Any]) -> ApiError:
    """The first validation error, with field names of the request and no internal names."""
    # `loc` also has names of union members and validators, which are no identifiers.
    names = [str(name) for name in detail["loc"][1:] if isinstance(name, int) or str(name).isidentifier()]
    field = ".".join(names)
    if detail["type"] == "json_invalid":
        return ApiError(400, f"the body is not valid JSON at character {detail['loc'][-1]}", "invalid_request")
    if not field and detail["type"] in ("model_attributes_type", "missing"):
        message = "the body is not a JSON object; send one, with Content-Type: application/json"
        return ApiError(400, message, "invalid_request")
    return ApiError(400, f"{field or 'the body'}: {detail['msg']}", "invalid_request", param=field or None)


def _allowed_methods(app: FastAPI, request: Request) -> set[str]:
    """The methods of all routes that match a path."""
    found: set[str] = set()
    for route in app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return found
