"""Threads of their own for what is kept on disk: an upload or a slow disk must not keep those waiting who share the
loop's (keys are read there, and are not believed after three seconds)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_threads = ThreadPoolExecutor(4, thread_name_prefix="kept-on-disk")


async def on_disk(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """As `asyncio.to_thread`."""
    return await asyncio.get_running_loop().run_in_executor(_threads, lambda: work(*args, **kwargs))
