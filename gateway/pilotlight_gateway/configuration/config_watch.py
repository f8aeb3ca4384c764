"""Reads the configuration file again when it has changed, or at once on SIGHUP; off the event loop.

A file that is broken, or gone, leaves everything as it was. A change is read when the file has stood unchanged from one
look to the next: nobody wants the half that an editor has written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from pathlib import Path

from pilotlight_gateway.configuration.config_file import read_config
from pilotlight_gateway.configuration.current_config import CurrentConfig
from pilotlight_gateway.configuration.gateway_config import GatewayConfig
from pilotlight_gateway.metrics import CONFIG_BROKEN, config_reloads
from pilotlight_protocol.errors import PilotlightError

PERIOD_S = 1.0
_log = logging.getLogger("pilotlight.gateway.configuration")

Stamp = tuple[int, int, int] | None


class ConfigWatch:
    """Reads the file when it is made (blocking; raises BrokenConfig), and again between `start` and `close`."""

    def __init__(
        self, path: Path, *, read: Callable[[Path], GatewayConfig] = read_config, period_s: float = PERIOD_S
    ) -> None:
        self._path = path
        self._read = read
        self._period_s = period_s
        self._known = stamp_of(path)
        self.current = CurrentConfig(read(path))
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="configuration file")
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._asked.set)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)

    async def _run(self) -> None:
        seen = self._known
        while True:
            asked = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period_s):
                    await self._asked.wait()
                    asked = True
            self._asked.clear()
            before, seen = seen, await asyncio.to_thread(stamp_of, self._path)
            if asked or (seen != self._known and seen == before):
                self._known = seen
                await self._reload()

    async def _reload(self) -> None:
        try:
            config = await asyncio.to_thread(self._read, self._path)
            changed = config != self.current.config
            if changed:
                self.current.replace(config)
        except Exception as error:
            config_reloads("refused").inc()
            CONFIG_BROKEN.set(1)
            said = error.message if isinstance(error, PilotlightError) else str(error)
            _log.error("the configuration stays as it was: %s", said, exc_info=not _is_told(error))
            return
        CONFIG_BROKEN.set(0)
        config_reloads("applied" if changed else "unchanged").inc()
        _log.info("the configuration of %s %s", self._path, "is another one now" if changed else "is the same")


def _is_told(error: Exception) -> bool:
    """An operator's mistake and not ours."""
    return isinstance(error, PilotlightError | ValueError)


def stamp_of(path: Path) -> Stamp:
    """Another one when the file may have another content; None where there is none. Blocking."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
