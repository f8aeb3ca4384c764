"""What tests/unit/conftest.py refuses, and what it lets pass: a run of its own over tests that do it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import asyncio, socket, subprocess, time
import pytest
from waiting import until, until_async

def test_bad_sleep(): time.sleep(0.001)
async def test_bad_asyncio_sleep(): await asyncio.sleep(0.001)
async def test_bad_connection():
    with pytest.raises(OSError): await asyncio.open_connection("127.0.0.1", 9)
def test_bad_server():
    with socket.socket() as sock, pytest.raises(OSError): sock.bind(("127.0.0.1", 0))

async def test_good_pair_and_yield():
    ours, theirs = socket.socketpair()
    ours.close(), theirs.close()
    await asyncio.sleep(0)
@pytest.mark.looptime
async def test_good_virtual_time(): await asyncio.sleep(60)
async def test_good_end_of_a_timeout(): await asyncio.wait_for(asyncio.sleep(0), 60)
async def test_good_cancelled_sleep():
    sleeping = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    sleeping.cancel()
async def test_good_look():
    looks = iter([0, 0, 1])
    assert until(lambda: next(looks)) and await until_async(lambda: 1)
@pytest.mark.real_time
def test_good_real_time(): time.sleep(0.001)
"""


def test_what_is_refused_and_what_is_not(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    (tmp_path / "conftest.py").write_text(Path(__file__).parents[1].joinpath("conftest.py").read_text())
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-c", str(root / "pyproject.toml"), "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=60
    )
    refused = [line for line in done.stdout.splitlines() if line.startswith("ERROR ")]
    assert all("test_bad_" in line for line in refused), done.stdout
    assert len(refused) == TESTS.count("def test_bad_"), done.stdout
    assert " failed" not in done.stdout
