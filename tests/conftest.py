"""What every test run needs."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest

_OWN_FOLDER = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    # Else pytest-asyncio makes a loop for the first test only to put it back, and nobody closes it.
    asyncio.set_event_loop(None)
    # Sockets lie below tmp_path, and a socket's path has 107 bytes. Pytest's own folder has a number in its name that
    # grows with every run of this user: after a thousand runs the paths were a byte too long.
    if config.option.basetemp is None:
        config.option.basetemp = config.stash[_OWN_FOLDER] = Path(tempfile.mkdtemp(prefix="pt-"))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    own = session.config.stash.get(_OWN_FOLDER, None)
    if own is not None and exitstatus != pytest.ExitCode.TESTS_FAILED:
        shutil.rmtree(own, ignore_errors=True)
