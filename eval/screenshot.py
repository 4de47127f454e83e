"""Take the screenshots of the README: run `genrec serve --port 8080`, and then `python -m eval.screenshot`."""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, expect, sync_playwright

DOCS = Path(__file__).parent.parent / "docs"
MESSAGES = ("Something for a tea party in the garden", "Under 5, and more like the second")
_TIMEOUT_MS = 120_000  # milliseconds for a reply


def run_conversation(page: Page) -> None:
    """Have a conversation of two turns, and wait until the page is idle."""
    for message in MESSAGES:
        page.get_by_role("textbox", name="What are you looking for?").fill(message)
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible(timeout=_TIMEOUT_MS)
    page.locator("#message").blur()
    page.wait_for_timeout(1000)


def main() -> None:
    """Screenshot the light theme on a desktop, and the dark theme on a phone with its suggestions in view."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", nargs="?", default="http://127.0.0.1:8080/")
    address = parser.parse_args().address
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        desktop = browser.new_page(viewport=ViewportSize(width=1200, height=750), color_scheme="light")
        desktop.goto(address)
        run_conversation(desktop)
        desktop.screenshot(path=DOCS / "page-light.png")
        phone = browser.new_page(
            viewport=ViewportSize(width=390, height=844),
            color_scheme="dark",
            device_scale_factor=1.5,
            is_mobile=True,
            has_touch=True,
        )
        phone.goto(address)
        run_conversation(phone)
        phone.locator("#preferences").evaluate("element => element.scrollIntoView({block: 'center'})")
        phone.wait_for_timeout(500)
        phone.screenshot(path=DOCS / "page-dark-phone.png")
        browser.close()


if __name__ == "__main__":
    main()
