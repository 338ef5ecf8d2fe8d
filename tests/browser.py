"""A headless browser for tests that check pages: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
# A container has neither a sandbox nor a GPU; the other flags prevent requests for updates.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser that ends with the block; skip the test if none is installed."""
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Seen:
    """The events of an open page.

    Attributes:
        errors: the console's errors and the scripts' exceptions.
        requests: the addresses of all requests except `data:` URLs.
    """

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def opened(
    browser: Browser, address: str, width: int = 1280, height: int = 900, offline: bool = False
) -> Iterator[tuple[Page, Seen]]:
    """Load a page in a fresh profile; yield the page and its events.

    Args:
        browser: the browser, from `chromium`.
        address: the http:// or file:// URL.
        width: the width of the window in pixels.
        height: the height of the window in pixels.
        offline: whether the network is cut.
    """
    context = browser.new_context(viewport=ViewportSize(width=width, height=height), offline=offline)
    try:
        page, seen = context.new_page(), Seen()
        page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on(
            "request", lambda request: None if request.url.startswith("data:") else seen.requests.append(request.url)
        )
        page.goto(address)
        yield page, seen
    finally:
        context.close()
