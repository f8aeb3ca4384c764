"""How log lines look: one line each, on stderr, with UTC milliseconds; set up once by the composition root."""

from __future__ import annotations

import logging
import time


def log_to_stderr(level: str = "INFO") -> None:
    """Send the `pilotlight` loggers to stderr."""
    handler = logging.StreamHandler()
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger("pilotlight")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(level)
