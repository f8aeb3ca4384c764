"""Hears of endpoints from the platform: a long poll over its control socket, again and again until cancelled.

While the platform does not answer, what was heard last stays true. It must not know what endpoints are for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from pilotlight_gateway.directory.control_socket import asked
from pilotlight_protocol.back_off import BackOff
from pilotlight_protocol.endpoint_directory import LONGEST_WAIT_S, DirectoryAnswer
from pilotlight_protocol.errors import PilotlightError
from pilotlight_wire.http_connection import ConnectionLost, Silence

BACK_OFF = BackOff(first_s=0.05, longest_s=2.0)
SILENCE_S = LONGEST_WAIT_S + 10.0
_OK = 200
_ANSWERS = msgspec.json.Decoder(DirectoryAnswer)

_log = logging.getLogger("pilotlight.gateway")


async def watch(socket: Path, tell: Callable[[DirectoryAnswer], None], wait_s: float = LONGEST_WAIT_S) -> None:
    """Calls `tell` with every answer, the first one at once."""
    failures, epoch, version = 0, "", 0
    while True:
        try:
            answer = await _asked(socket, urlencode({"epoch": epoch, "after": version, "wait_s": wait_s}))
        except (OSError, TimeoutError, ConnectionLost, Silence, PilotlightError, msgspec.DecodeError) as error:
            failures += 1
            if failures == 1:
                _log.warning("the platform does not tell of its endpoints (%s); it is asked again", error)
            await asyncio.sleep(BACK_OFF.delay_s(failures))
            continue
        failures, epoch, version = 0, answer.epoch, answer.version
        tell(answer)


async def _asked(socket: Path, query: str) -> DirectoryAnswer:
    status, body = await asked(socket, "GET", f"/endpoints?{query}", silence_s=SILENCE_S)
    if status != _OK:
        raise OSError(f"it answers {status}")
    return _ANSWERS.decode(body)
