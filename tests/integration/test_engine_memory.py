"""The fences around an engine's memory hold in a real process."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration


def child(code):
    """Run in a process of its own, limited to a quarter of a GiB beside what a process has before a model."""
    before = (
        "import os, time; from pilotlight_engine.process import memory_limit as m\n"
        "def over(reason): print(reason, flush=True); os._exit(7)\n"
        "limit = m.MemoryLimit(2**28, 'its slot has', True, {growth})\n"
    )
    return lambda growth: subprocess.run(
        [sys.executable, "-c", before.format(growth=growth) + code], capture_output=True, text=True, timeout=60
    )


def test_an_absurd_allocation_fails_before_anything_is_touched() -> None:
    ended = child("m.enforce(limit, 0, over)\ntry: bytearray(2**40)\nexcept MemoryError: print('refused')")(2**28)
    assert ended.stdout == "refused\n", ended.stderr


def test_who_grows_slowly_is_ended_with_the_reason() -> None:
    ended = child(
        "m.enforce(limit, 0, over)\nkept = bytearray(300 * 2**20)\nkept[::4096] = kept[::4096]\ntime.sleep(30)"
    )
    ended = ended(None)
    assert ended.returncode == 7, ended.stderr
    assert ended.stdout.startswith("the engine took 0.3 GiB of memory, its slot has 0.2 GiB")
