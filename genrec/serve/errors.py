"""What a request is refused with, in the shape of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`.

Source: OpenAI's API reference, "Error codes". No message tells a path of this machine, a prompt or a secret: what the
caller passed is told in full, what failed behind it is told by its kind, and in full to the log.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from genrec.errors import EngineError, GenrecError, InputError, QueueFullError, StoreError

_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_RETRY_AFTER = 1  # seconds after which it is worth to ask again


@dataclass(eq=False)
class ApiError(Exception):
    """Why a request gets no answer.

    Attributes:
        status: of HTTP.
        message: for the caller.
        code: for programs; "invalid_request" where the description forbids what came, "invalid_value" where it is
            well formed and cannot be used, such as an item that is not in the catalog.
        param: which part of the request it is about.
        headers: that go with it.
        reason: the code of the genrec error behind it, such as "unknown_item"; None where there is none.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None

    @property
    def body(self) -> bytes:
        """As JSON."""
        return json.dumps({"error": self.error_object}).encode()

    @property
    def error_object(self) -> dict[str, str | None]:
        """Inside the body."""
        kind = _ERROR_TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code, "reason": self.reason}

    @classmethod
    def from_exception(cls, error: Exception) -> "ApiError":
        """What an error is to the caller."""
        match error:
            case ApiError():
                return error
            case QueueFullError():
                return cls.overloaded()
            case InputError():
                return cls(400, str(error), "invalid_value", reason=error.code)
            case StoreError():
                return cls(
                    503,
                    "the store of events cannot be reached; try again later",
                    "store_unavailable",
                    reason=error.code,
                )
            case EngineError():
                return cls(503, "the model cannot answer now; try again later", "engine_unavailable", reason=error.code)
            case GenrecError():
                return cls(
                    500,
                    "the server's own data do not fit each other; its log says more",
                    "misconfigured",
                    reason=error.code,
                )
        return cls(500, "the server failed; its log says more", "internal_error")

    @classmethod
    def overloaded(cls, retry_after: int = _RETRY_AFTER) -> "ApiError":
        """More is asked than can be answered in time; after some seconds it may be less."""
        message = "too many requests are being answered; try again after what Retry-After says"
        return cls(429, message, "overloaded", headers={"retry-after": str(retry_after)})

    @classmethod
    def too_large(cls, max_bytes: int) -> "ApiError":
        """A body has more bytes than it may; whatever comes behind it is the rest of it."""
        message = f"a request here may have {max_bytes:,} bytes; send less at once"
        return cls(413, message, "too_large", headers={"connection": "close"})

    @classmethod
    def from_status(cls, status: int, headers: Mapping[str, str] | None = None) -> "ApiError":
        """A status of HTTP without more to say."""
        phrase = HTTPStatus(status).phrase
        return cls(status, phrase.lower(), phrase.lower().replace(" ", "_"), headers=dict(headers or {}))
