"""Redirects of a model's server: they are named and not followed, because the key would go to another server."""

from typing import Any
from urllib.parse import urljoin, urlsplit

from genrec.errors import EngineError


def redirect_target(url: str, response: Any) -> str:
    """Where a response of httpx redirects a request to `url`, without what a log may not show; "" if it does not."""
    location = response.headers.get("location")
    if not 300 <= response.status_code < 400 or not location:
        return ""
    try:
        parts = urlsplit(urljoin(url, location))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        return ""


def redirect_error(server: str, path: str, status: int, target: str) -> EngineError:
    """The error for a redirect, with the URL to give instead.

    Args:
        server: names the server.
        path: of the request, below the base URL.
        status: of the response.
        target: see `redirect_target`.
    """
    where = f"redirects to {target}" if target else "redirects without naming a target"
    base = target.removesuffix("/").removesuffix(path).removesuffix("/")
    if not target:
        remedy = "give the URL at which the API answers without a redirect"
    elif base != target.removesuffix("/"):
        remedy = f"if you trust that server, give {base} as the URL"
    else:
        remedy = "that is no address of the API; check the URL, or sign in to the network or the gateway in between"
    return EngineError(f"{server} {where} ({status})", remedy=remedy, status=status)
