"""Makes a Python process traceable by `scripts/trace_request.py`, which puts this folder on its path. Never installed.

SIGUSR2 begins to note which files are entered, in all threads; the next one writes them to $PILOTLIGHT_REQUEST_TRACE.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

folder = os.environ.get("PILOTLIGHT_REQUEST_TRACE")
entered: dict[str, str] = {}
armed = False
window = 0


def note(frame: Any, event: str, argument: Any) -> None:
    if armed and event == "call":
        code = frame.f_code
        entered.setdefault(code.co_filename, code.co_qualname)


def toggle(number: int, frame: Any) -> None:
    global armed, window
    if not armed:
        entered.clear()
        armed = True
        sys.setprofile(note)
        return
    armed = False
    sys.setprofile(None)
    window += 1
    path = os.path.join(folder or "", f"{os.getpid()}.{window}")  # noqa: PTH118  # a process that imports little
    with open(path + ".part", "w") as file:  # noqa: PTH123
        json.dump(entered, file)
    os.replace(path + ".part", path)  # noqa: PTH105


def announce() -> None:
    global window
    window = 0
    signal.signal(signal.SIGUSR2, toggle)
    with open(os.path.join(folder or "", f"{os.getpid()}.here"), "w") as file:  # noqa: PTH118, PTH123
        file.write("")


# A pod's init forwards every signal, and no request passes it.
if folder and not any("process_init" in argument for argument in sys.orig_argv):
    threading.setprofile(note)
    os.register_at_fork(after_in_child=announce)
    announce()
