"""A headless Chromium, driven by Playwright."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.support.clients import DEADLINE

#: What Debian and others call it.
NAMES = ("chromium", "chromium-browser", "google-chrome")

#: It is to talk to the test's own server alone.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
)


@contextlib.contextmanager
def browsing(url: str, **options: Any) -> Iterator[Page]:
    """Open ``url`` in a browser of its own; give Playwright's page.

    ``options`` are those of its ``Browser.new_page``.
    """
    found = [path for name in NAMES if (path := shutil.which(name))]
    if not found:
        raise AssertionError(f"This test needs a browser: none of {', '.join(NAMES)} is installed")
    with (
        sync_playwright() as playwright,
        contextlib.closing(
            playwright.chromium.launch(executable_path=found[0], args=ARGUMENTS)
        ) as browser,
    ):
        page = browser.new_page(**options)
        page.set_default_timeout(DEADLINE * 1000)
        page.goto(url)
        yield page
