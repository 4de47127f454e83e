"""A real browser for tests of the page: Chromium, controlled by Playwright.

If Chromium is not installed, tests are skipped, or fail in CI.
"""

import contextlib
import math
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, expect, sync_playwright

_EVENT_END = b"\n\n"
_SEVERITIES = ("error", "warning")
_BUFFER_SIZE = 1 << 16  # bytes per read


class NetworkProxy:
    """A proxy between browser and server that can delay, pause and break streamed replies.

    Attributes:
        event_delay: seconds before each event of a streamed reply.
        disconnect_after: number of events after which the connection is closed; None for never.
        pause_after: number of events after which the reply pauses, until this is None.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self.event_delay: float = 0.0
        self.disconnect_after: int | None = None
        self.pause_after: int | None = None
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._listening.close()

    def _accept(self) -> None:
        host, port = self._server.removeprefix("http://").rstrip("/").split(":")
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection((host, int(port)))
                threading.Thread(target=_forward_request, args=(client, server), daemon=True).start()
                threading.Thread(target=self._forward_response, args=(server, client), daemon=True).start()

    def _forward_response(self, server: socket.socket, client: socket.socket) -> None:
        """Forward the response, event by event."""
        remaining, forwarded = math.inf, 0
        with server, client, contextlib.suppress(OSError):
            while remaining > 0 and (data := server.recv(_BUFFER_SIZE)):
                if data.startswith(b"HTTP/"):
                    remaining, forwarded = math.inf if self.disconnect_after is None else self.disconnect_after, 0
                *events, rest = data.split(_EVENT_END)
                for event in events:
                    time.sleep(self.event_delay)
                    while self.pause_after is not None and forwarded >= self.pause_after:
                        time.sleep(0.01)
                    remaining, forwarded = remaining - 1, forwarded + 1
                    client.sendall(event + _EVENT_END if remaining > 0 else b"")
                client.sendall(rest if remaining > 0 else b"")
            # A socket that the other thread is reading does not close until it is shut down.
            for connection in (client, server):
                connection.shutdown(socket.SHUT_RDWR)


def _forward_request(client: socket.socket, server: socket.socket) -> None:
    """Forward the request."""
    with contextlib.suppress(OSError):
        while data := client.recv(_BUFFER_SIZE):
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; if it is not installed, the test is skipped, or fails in CI."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not on the PATH; install it, because CI must test the page")
        pytest.skip("chromium is not on the PATH; install it to test the page")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class PageRecorder:
    """Opens pages and records their requests and problems.

    Attributes:
        pages: the open pages.
        problems: console errors, exceptions, dialogs, and requests to other hosts.
        requests: "METHOD path" of every request.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.pages: list[Page] = []
        self.problems: list[str] = []
        self.requests: list[str] = []

    def open(self, address: str, allowed_console: str, **options: Any) -> Page:
        """Open a page in a new profile; console messages that match `allowed_console` are no problems."""
        options = {"viewport": {"width": 1200, "height": 800}, "locale": "en-GB", **options}
        page = self._browser.new_context(**options).new_page()
        page.set_default_timeout(15_000)

        def report(kind: str, text: str) -> None:
            if not allowed_console or not re.search(allowed_console, text):
                self.problems.append(f"{kind}: {text}")

        def record(request: Request) -> None:
            self.requests.append(f"{request.method} {urlsplit(request.url).path}")
            if not request.url.startswith(f"{address}/"):
                self.problems.append(f"a request to {request.url}")

        page.on("console", lambda message: report(message.type, message.text) if message.type in _SEVERITIES else None)
        page.on("pageerror", lambda error: report("exception", str(error)))
        page.on("dialog", lambda dialog: (self.problems.append(f"dialog: {dialog.message}"), dialog.dismiss())[1])
        page.on("request", record)
        page.goto(address)
        self.pages.append(page)
        return page

    def close(self) -> None:
        """Close all pages."""
        for page in self.pages:
            page.context.close()


OpenPage = Callable[..., Page]


def message_box(page: Page) -> Locator:
    """The message box."""
    return page.get_by_role("textbox", name="What are you looking for?")


def send_message(page: Page, text: str) -> None:
    """Type and send a message, and wait for the reply."""
    message_box(page).fill(text)
    message_box(page).press("Enter")
    wait_for_reply(page)


def wait_for_reply(page: Page) -> None:
    """Wait until the reply is complete."""
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible(timeout=15_000)


def titles(page: Page) -> list[str]:
    """The titles of the cards, in order."""
    return page.locator("#cards h3").all_text_contents()


def prices(page: Page) -> list[float]:
    """The prices on the cards, in order."""
    return [float(text.removeprefix("Price ")) for text in page.locator("#cards .price").all_text_contents()]


def preference_labels(page: Page) -> list[str]:
    """The labels of the preferences, as shown."""
    return [text.removeprefix("Remove: ") for text in page.locator("#preference-list button").all_text_contents()]
