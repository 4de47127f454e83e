"""A real browser on the page of a real server, and helpers that read what it shows.


The Chromium of the system is driven through Playwright. Where there is none the tests are skipped, but in CI that is a
failure.
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
_BUFFER_SIZE = 1 << 16  # bytes at once


class NetworkProxy:
    """What lies between a browser and a server: by default nothing, but it can be slow, and break.

    Attributes:
        event_delay: seconds that each event of a streamed reply takes.
        disconnect_after: events of a streamed reply after which the connection breaks; None for never.
        pause_after: events of a streamed reply after which nothing comes until this is None.
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
        """Take no more connections."""
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
        """Carry what the server says, an event at a time."""
        left, told = math.inf, 0
        with server, client, contextlib.suppress(OSError):
            while left > 0 and (data := server.recv(_BUFFER_SIZE)):
                if data.startswith(b"HTTP/"):
                    left, told = math.inf if self.disconnect_after is None else self.disconnect_after, 0
                *events, rest = data.split(_EVENT_END)
                for event in events:
                    time.sleep(self.event_delay)
                    while self.pause_after is not None and told >= self.pause_after:
                        time.sleep(0.01)
                    left, told = left - 1, told + 1
                    client.sendall(event + _EVENT_END if left > 0 else b"")
                client.sendall(rest if left > 0 else b"")
            # The other thread may wait in one of the two, which then does not close.
            for end in (client, server):
                end.shutdown(socket.SHUT_RDWR)


def _forward_request(client: socket.socket, server: socket.socket) -> None:
    """Carry what the browser says."""
    with contextlib.suppress(OSError):
        while data := client.recv(_BUFFER_SIZE):
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; skips, or fails in CI, where there is none."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("there is no chromium on the PATH; install it: in CI the page is tested")
        pytest.skip("there is no chromium on the PATH; install it to test the page")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class PageRecorder:
    """Opens pages and keeps an eye on them.

    Attributes:
        pages: that are open.
        problems: whatever they complained of, or asked of others than their server.
        requests: "METHOD path" of every request.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.pages: list[Page] = []
        self.problems: list[str] = []
        self.requests: list[str] = []

    def open(self, address: str, allowed_console: str, **options: Any) -> Page:
        """A page in a profile of its own; what it may say on its console is a pattern."""
        options = {"viewport": {"width": 1200, "height": 800}, "locale": "en-GB", **options}
        page = self._browser.new_context(**options).new_page()
        page.set_default_timeout(15_000)

        def note(kind: str, text: str) -> None:
            if not allowed_console or not re.search(allowed_console, text):
                self.problems.append(f"{kind}: {text}")

        def watch(request: Request) -> None:
            self.requests.append(f"{request.method} {urlsplit(request.url).path}")
            if not request.url.startswith(f"{address}/"):
                self.problems.append(f"a request to {request.url}")

        page.on("console", lambda said: note(said.type, said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: note("exception", str(error)))
        page.on("dialog", lambda dialog: (self.problems.append(f"dialog: {dialog.message}"), dialog.dismiss())[1])
        page.on("request", watch)
        page.goto(address)
        self.pages.append(page)
        return page

    def close(self) -> None:
        """Close them all."""
        for page in self.pages:
            page.context.close()


OpenPage = Callable[..., Page]


def message_box(page: Page) -> Locator:
    """The message box."""
    return page.get_by_role("textbox", name="What are you looking for?")


def send_message(page: Page, text: str) -> None:
    """Type, send, and wait for the answer."""
    message_box(page).fill(text)
    message_box(page).press("Enter")
    wait_for_reply(page)


def wait_for_reply(page: Page) -> None:
    """Wait until the answer is whole."""
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible(timeout=15_000)


def titles(page: Page) -> list[str]:
    """Of the cards, in their order."""
    return page.locator("#cards h3").all_text_contents()


def prices(page: Page) -> list[float]:
    """On the cards."""
    return [float(text.removeprefix("Price ")) for text in page.locator("#cards .price").all_text_contents()]


def preference_labels(page: Page) -> list[str]:
    """What was understood, as it is shown."""
    return [text.removeprefix("Remove: ") for text in page.locator("#preference-list button").all_text_contents()]
