"""What the description of the routes (OpenAPI) tells beside what FastAPI finds by itself."""

from typing import Any

from fastapi import FastAPI

from genrec.serve.admission import OPEN
from genrec.serve.schemas import Failure

_ALWAYS = (400, 401, 403, 408, 413, 429, 431, 500)  # what the door and a body that cannot be read are told as
REPLIES: dict[str, Any] = {
    "description": "A chat completion; where `stream` is true, its chunks as server-sent events.",
    "content": {
        "application/json": {"schema": {"type": "object"}},
        "text/event-stream": {"schema": {"type": "string"}},
    },
}
"""What a chat completion answers, whole or streamed."""

# Where an answer is plain text, FastAPI would describe refusals as that, too.
_REFUSAL = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}}
TOLD_PLAINLY: dict[int | str, dict[str, Any]] = {
    status: {"description": "A refusal.", **_REFUSAL} for status in _ALWAYS
}
"""What a route may answer beside 200 where that is plain text."""


def told(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer beside 200; all of it in OpenAI's shape."""
    return {status: {"model": Failure} for status in sorted({*_ALWAYS, *statuses})}


def describe(app: FastAPI, locked: bool) -> None:
    """Tell that what cannot be read is told as 400, and where a key is asked for.

    Args:
        app: with all its routes.
        locked: there are keys.
    """
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        found = plain()
        for path, route in found["paths"].items():
            for operation in route.values():
                operation["responses"].pop("422", None)
                if locked and path not in OPEN:
                    operation["security"] = [{"key": []}]
        if locked:
            found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return found

    app.openapi = described  # type: ignore[method-assign]
