"""The file of lease keys, read again when it has changed. Adapter to the disk; what it says is policy.access."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from pilotlight_pool.policy.leases.access import Caller, parse_keys
from pilotlight_protocol.errors import InvalidInput, Unauthorized

log = logging.getLogger(__name__)
_LOOK_AGAIN_S = 2.0


class LeaseKeys:
    """Raises InvalidInput when the file cannot be read at the start; later changes that cannot are logged, and the
    keys that were read last stay."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._looked_s = clock()
        try:
            self._text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"--lease_keys {path}: {error}") from error
        self._callers = parse_keys(self._text)

    def caller(self, authorization: str) -> Caller:
        """Whose the `Authorization` header is. Raises Unauthorized."""
        self._look()
        scheme, _, key = authorization.partition(" ")
        # Looked up by its hash: how long that takes says nothing about the key.
        found = self._callers.get(hashlib.sha256(key.strip().encode()).hexdigest())
        if scheme.lower() != "bearer" or found is None:
            raise Unauthorized("this pool wants a key: set PILOTLIGHT_POOL_KEY to one of its lease keys")
        return found

    def _look(self) -> None:
        now_s = self._clock()
        if now_s - self._looked_s < _LOOK_AGAIN_S:
            return
        self._looked_s = now_s
        try:
            text = self._path.read_text()
            if text != self._text:
                self._callers = parse_keys(text)
                self._text = text
                log.info("lease keys were read again: %d", len(self._callers))
        except (OSError, UnicodeDecodeError, InvalidInput) as error:
            log.error("lease keys: %s; the earlier ones stay in force", error)
