"""A browser without a window, for tests that see a page as a user does: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
# In a container there is neither a sandbox nor a GPU; the rest keeps it from asking its maker for updates.
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
    """A browser that ends with the block; the test is skipped where there is none."""
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
    """What went on while a page was open.

    Attributes:
        errors: the console's errors, and what a script raised.
        requests: addresses that were asked for, those of the page's own `data:` left out.
    """

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def opened(
    browser: Browser, address: str, width: int = 1280, height: int = 900, offline: bool = False
) -> Iterator[tuple[Page, Seen]]:
    """A page in a profile of its own, loaded, and what went on in it so far.

    Args:
        browser: of `chromium`.
        address: http://, or file:// of a page on disk.
        width, height: of its window, pixels.
        offline: cut the network.
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
