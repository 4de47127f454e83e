"""Error responses in the format of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`.

Messages may quote the caller's own input. Internal errors are reported by their kind only, and logged in full under the
id of the request, so no message contains a path of this machine, a prompt or a secret. Source: OpenAI's API reference,
"Error codes" and "Debugging requests".
"""

import json
import logging
import uuid
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from genrec.errors import (
    DeadlineExceededError,
    EngineError,
    GenrecError,
    InputError,
    QueueFullError,
    StoreError,
    UnknownUserError,
)

_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_RETRY_AFTER = 1  # seconds
_REQUEST_ID = "genrec.request_id"  # a key of the ASGI scope
_LOGGER = logging.getLogger(__name__)


@dataclass(eq=False)
class ApiError(Exception):
    """An error response.

    Attributes:
        status: the HTTP status.
        message: a sentence for the caller.
        code: for programs; "invalid_request" if the request does not match the OpenAPI schema, "invalid_value" if it
            does but a value cannot be used, such as an item that is not in the catalog.
        param: the field of the request that caused the error.
        headers: additional response headers.
        reason: the code of the genrec error behind it, such as "unknown_item"; None if there is none.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None

    @property
    def body(self) -> bytes:
        """The response body, as JSON."""
        return json.dumps({"error": self.error_object}).encode()

    @property
    def error_object(self) -> dict[str, str | None]:
        """The `error` object of the body."""
        kind = _ERROR_TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code, "reason": self.reason}

    @classmethod
    def from_exception(cls, error: Exception) -> "ApiError":
        """The response for an exception."""
        match error:
            case ApiError():
                return error
            case QueueFullError():
                return cls.overloaded()
            case UnknownUserError():
                told = error.revised(remedy='send on_unknown: "fallback" to treat the user as new')
                return cls(400, str(told), "invalid_value", reason=error.code)
            case InputError():
                return cls(400, str(error), "invalid_value", reason=error.code)
            case StoreError():
                message = "the event store is unavailable; try again later"
                return cls(503, message, "store_unavailable", reason=error.code)
            case DeadlineExceededError():
                message = "the request was not answered in time; send fewer or shorter messages, or try again later"
                return cls(503, message, "deadline_exceeded", reason=error.code)
            case EngineError():
                return cls(503, "the model is unavailable; try again later", "engine_unavailable", reason=error.code)
            case GenrecError():
                message = (
                    "the server is misconfigured; find the cause in its log, under the x-request-id of this response"
                )
                return cls(500, message, "misconfigured", reason=error.code)
        message = "internal server error; find the cause in the server's log, under the x-request-id of this response"
        return cls(500, message, "internal_error")

    @classmethod
    def overloaded(cls, retry_after: int = _RETRY_AFTER) -> "ApiError":
        """Status 429: the server is at capacity.

        Args:
            retry_after: seconds for the Retry-After header.
        """
        message = "the server is at capacity; retry after the seconds in the Retry-After header"
        return cls(429, message, "overloaded", headers={"retry-after": str(retry_after)})

    @classmethod
    def too_large(cls, max_bytes: int) -> "ApiError":
        """Status 413; closes the connection, because the rest of the body would be read as the next request."""
        message = f"the request body is too large; send at most {max_bytes:,} bytes"
        return cls(413, message, "too_large", headers={"connection": "close"})

    @classmethod
    def from_status(cls, status: int, headers: Mapping[str, str] | None = None) -> "ApiError":
        """An HTTP status with its standard phrase."""
        phrase = HTTPStatus(status).phrase
        return cls(status, phrase.lower(), phrase.lower().replace(" ", "_"), headers=dict(headers or {}))


def assign_request_id(scope: MutableMapping[str, Any]) -> str:
    """Give a request a new id, under which its failures are logged."""
    request_id = scope[_REQUEST_ID] = uuid.uuid4().hex
    return request_id


def log_failure(scope: Mapping[str, Any], error: Exception) -> None:
    """Log why a request failed, with its id, its route and the traceback. Ids in its path are not logged."""
    route = getattr(scope.get("route"), "path", "unknown")
    _LOGGER.error("request %s failed: %s %s", scope[_REQUEST_ID], scope["method"], route, exc_info=error)
