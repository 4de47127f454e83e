"""Additions to the OpenAPI schema that FastAPI generates: error responses, streaming and API keys."""

from typing import Any

from fastapi import FastAPI

from genrec.serve.admission import PUBLIC_PATHS
from genrec.serve.schemas import ErrorResponse

_COMMON_STATUSES = (400, 401, 403, 408, 413, 429, 431, 500)  # AdmissionMiddleware and body validation
CHAT_RESPONSES: dict[str, Any] = {
    "description": "A chat completion. If `stream` is true, its chunks as server-sent events.",
    "content": {
        "application/json": {"schema": {"type": "object"}},
        "text/event-stream": {"schema": {"type": "string"}},
    },
}
"""The response of a chat completion, whole or streamed."""

# FastAPI would document the errors of a plain text route as plain text.
_ERROR_CONTENT = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}}
PLAIN_TEXT_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": "An error.", **_ERROR_CONTENT} for status in _COMMON_STATUSES
}
"""The error responses of a route whose response is plain text."""


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route: the common ones and `statuses`, all in the format of OpenAI's API."""
    return {status: {"model": ErrorResponse} for status in sorted({*_COMMON_STATUSES, *statuses})}


def customize_openapi(app: FastAPI, requires_key: bool) -> None:
    """Correct the generated schema: invalid requests get status 400, not 422, and routes may require an API key.

    Args:
        app: the app, with all its routes.
        requires_key: whether routes require an API key.
    """
    generate = app.openapi

    def customized() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = generate()
        for path, route in schema["paths"].items():
            for operation in route.values():
                operation["responses"].pop("422", None)
                if requires_key and path not in PUBLIC_PATHS:
                    operation["security"] = [{"key": []}]
        if requires_key:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return schema

    app.openapi = customized  # type: ignore[method-assign]
