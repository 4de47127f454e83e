"""What the description of the routes (OpenAPI) tells beside what FastAPI finds by itself."""

from typing import Any

from fastapi import FastAPI

from genrec.serve.admission import PUBLIC_PATHS
from genrec.serve.schemas import ErrorResponse

_COMMON_STATUSES = (400, 401, 403, 408, 413, 429, 431, 500)  # what the door and a body that cannot be read are told as
CHAT_RESPONSES: dict[str, Any] = {
    "description": "A chat completion; where `stream` is true, its chunks as server-sent events.",
    "content": {
        "application/json": {"schema": {"type": "object"}},
        "text/event-stream": {"schema": {"type": "string"}},
    },
}
"""What a chat completion answers, whole or streamed."""

# Where an answer is plain text, FastAPI would describe refusals as that, too.
_ERROR_CONTENT = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}}
PLAIN_TEXT_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": "A refusal.", **_ERROR_CONTENT} for status in _COMMON_STATUSES
}
"""What a route may answer beside 200 where that is plain text."""


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer beside 200; all of it in OpenAI's shape."""
    return {status: {"model": ErrorResponse} for status in sorted({*_COMMON_STATUSES, *statuses})}


def customize_openapi(app: FastAPI, requires_key: bool) -> None:
    """Tell that what cannot be read is told as 400, and where a key is asked for.

    Args:
        app: with all its routes.
        requires_key: there are keys.
    """
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        found = plain()
        for path, route in found["paths"].items():
            for operation in route.values():
                operation["responses"].pop("422", None)
                if requires_key and path not in PUBLIC_PATHS:
                    operation["security"] = [{"key": []}]
        if requires_key:
            found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return found

    app.openapi = described  # type: ignore[method-assign]
