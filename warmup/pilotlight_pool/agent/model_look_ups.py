"""Look-ups into models' folders, each in a thread and with a deadline: a folder that hangs holds up who asks for it.

A thread in a file system that hangs cannot be ended; a model has a few threads at most, so that it never has them all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.manifest import without_secrets

_AT_ONCE = 16
_AT_ONCE_PER_MODEL = 2
_DEADLINE_S = 10.0
_RETRY_AFTER_S = 5.0
_Result = TypeVar("_Result")


@dataclass
class _Model:
    """`users`: threads that look, and who waits."""

    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE_PER_MODEL))
    users: int = 0


class ModelLookUps:
    """Belongs to one event loop."""

    def __init__(self, deadline_s: float = _DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._threads = ThreadPoolExecutor(_AT_ONCE, "look-up")
        self._models: dict[str, _Model] = {}

    async def look(
        self, uri: str, work: Callable[[], _Result], give_back: Callable[[_Result], None] = lambda _: None
    ) -> _Result:
        """What `work` returns or raises; Unavailable where that takes too long. `give_back` gets what nobody waits for
        any more."""
        model = self._models.setdefault(uri, _Model())
        model.users += 1
        asked = asyncio.timeout(self._deadline_s)
        try:
            async with asked:
                return await self._in_thread(uri, model, work, give_back)
        except TimeoutError as error:
            if not asked.expired():
                raise
            raise Unavailable(
                f"{without_secrets(uri)} was not read within {self._deadline_s:g} s: its file system hangs, or this "
                "node is overloaded",
                retry_after_s=_RETRY_AFTER_S,
            ) from error
        finally:
            self._leave(uri, model)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(
        self, uri: str, model: _Model, work: Callable[[], _Result], give_back: Callable[[_Result], None]
    ) -> _Result:
        await model.turns.acquire()
        model.users += 1
        loop = asyncio.get_running_loop()

        def ended() -> None:
            model.turns.release()
            self._leave(uri, model)

        def tell(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may have ended without us
                loop.call_soon_threadsafe(ended)

        try:
            job = self._threads.submit(work)
        except RuntimeError as error:
            ended()
            raise Unavailable("the pool is shutting down") from error
        # Its turn is over when the thread's work is, not when nobody waits for it any more.
        job.add_done_callback(tell)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            job.add_done_callback(lambda _: None if job.cancelled() or job.exception() else give_back(job.result()))
            raise

    def _leave(self, uri: str, model: _Model) -> None:
        model.users -= 1
        if not model.users:
            del self._models[uri]
