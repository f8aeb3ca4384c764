"""Endpoints from a file, where no platform tells of them: a JSON `DirectoryAnswer`. Blocking."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pilotlight_protocol.endpoint_directory import DirectoryAnswer
from pilotlight_protocol.errors import InvalidInput


def read_endpoints(path: Path) -> DirectoryAnswer:
    """Raises InvalidInput with what is wrong with it."""
    try:
        answer = msgspec.json.decode(path.read_bytes(), type=DirectoryAnswer)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"{path}: {error}") from error
    return msgspec.structs.replace(answer, whole=True)
