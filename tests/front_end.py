"""The real front end in a headless Chromium, driven by playwright (both only for developers)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from chromium import chromium
from playwright.sync_api import Page, sync_playwright

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def front_end(address: str, width: int = 1600, height: int = 1000) -> Iterator[Page]:
    """A page with the front end of the ComfyUI at `address`, loaded and without the template dialog."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(120_000)  # a busy machine may take long for a click
        enter(page, address)
        yield page
        browser.close()


def enter(page: Page, address: str) -> None:
    """Load the front end, again if need be."""
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_function("window.app?.graph && app.extensionManager && !!window.LiteGraph", timeout=120_000)
    page.wait_for_function("Object.keys(LiteGraph.registered_node_types).length > 100", timeout=120_000)
    page.wait_for_timeout(2000)
    page.keyboard.press("Escape")
