"""What every test run needs."""

from __future__ import annotations

import asyncio


def pytest_configure() -> None:
    # Else pytest-asyncio makes a loop for the first test only to put it back, and nobody closes it.
    asyncio.set_event_loop(None)
