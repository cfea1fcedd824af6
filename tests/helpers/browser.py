"""A real Chromium, driven by Playwright, for pages. The variable KINTSUGI_CHROMIUM names it; otherwise it is found."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "KINTSUGI_CHROMIUM"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    found = os.environ.get(VARIABLE) or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip(f"there is no Chromium here: apt-get install chromium, or let {VARIABLE} name one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which(found) or found, args=["--no-sandbox"] * (os.getuid() == 0)
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Any]:
    """A function that opens a file or an address. At the end, no script of the page has failed or been refused."""
    pages, messages = [], list[str]()

    def opened(place: Path | str, width: int = 1200, **options: Any) -> Any:
        page = chromium.new_page(viewport={"width": width, "height": 900}, **options)
        page.set_default_timeout(60_000)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(place.as_uri() if isinstance(place, Path) else place)
        pages.append(page)
        return page

    opened.messages = messages  # type: ignore[attr-defined]
    yield opened
    for page in pages:
        page.close()
    assert messages == []
