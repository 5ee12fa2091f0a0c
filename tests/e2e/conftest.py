"""Fixtures of the tests of whole programs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.helpers.browser import Browser, browser
from tests.helpers.serve_command import Served, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    """A server with the real model, for all tests that can share one."""
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """A browser for all the tests of a file: each has a page of its own."""
    async with browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found
