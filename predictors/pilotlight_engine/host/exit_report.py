"""How every engine host ends: its failure is the last frame, and nothing of vLLM or torch outlives it."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from pilotlight_engine.host.host_sockets import HolderStalled, Outbox
from pilotlight_engine.process.process_group import kill_own_group
from pilotlight_protocol.engine_frames import Failed
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.frame_codec import encode

_LAST_FRAME_DEADLINE_S = 2.0


def run_to_end(outbox: Outbox, serve: Callable[[], object]) -> NoReturn:
    """Run `serve`, then end the process: 0 when it returned, 1 when it raised; `outbox` then carries `Failed`.

    What it returns is held until the process is gone: an engine that goes out of scope collects all it has, which takes
    longer than a fork of the next one.
    """
    exit_code = 0
    try:
        _kept = serve()
    except (HolderStalled, BrokenPipeError, ConnectionResetError) as error:
        sys.stderr.write(f"engine host ends: {error}\n")
        exit_code = 1
    except BaseException as error:
        traceback.print_exc()
        _tell(outbox, error)
        exit_code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    outbox.drain(_LAST_FRAME_DEADLINE_S)
    # Not sys.exit: nothing that vLLM or torch left behind may keep a failed engine alive.
    os._exit(exit_code)


def end_now(outbox: Outbox, reason: str, *, misconfigured: bool) -> None:
    """End this process and its group from any thread, whatever the engine's is doing."""
    sys.stderr.write(f"engine host ends: {reason}\n")
    with contextlib.suppress(OSError, HolderStalled):
        outbox.send(encode(Failed(reason, misconfigured)), wait=False)
        outbox.drain(_LAST_FRAME_DEADLINE_S)
    kill_own_group()


def _tell(outbox: Outbox, error: BaseException) -> None:
    misconfigured = isinstance(error, PilotlightError) and not error.retryable
    reason = error.message if isinstance(error, PilotlightError) else f"{type(error).__name__}: {error}"
    try:
        outbox.send(encode(Failed(reason, misconfigured)))
    except (OSError, HolderStalled):
        sys.stderr.write("engine host: nobody heard why\n")
