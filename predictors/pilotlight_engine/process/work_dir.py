"""Which directory the engine may write to, and making it. The choice is pure; `open_work_dir` touches the disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pilotlight_protocol.errors import InternalError


def candidates(work_dir: str | None, environment: Mapping[str, str]) -> list[Path]:
    """Places to try, best first. A directory that was asked for is the only one tried."""
    if work_dir:
        return [Path(work_dir)]
    temporary = environment.get("TMPDIR")
    return [*([Path(temporary)] if temporary else []), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")]  # noqa: S108


def choose(places: Sequence[Path], usable: Callable[[Path], bool]) -> Path:
    """The first usable place. Raises InternalError that names all of them."""
    for place in places:
        if usable(place):
            return place
    tried = ", ".join(map(str, places))
    raise InternalError(f"no directory to write to (tried {tried}); mount an emptyDir and pass --work_dir")


def open_work_dir(work_dir: str | None, environment: Mapping[str, str]) -> Path:
    """A private directory (0700, ours) with the layout the engine's environment names.

    Below a shared place it is `pilotlight-engine-<uid>`, the same for every run, so that compile caches are kept.
    """
    place = choose(candidates(work_dir, environment), _writable)
    root = place if work_dir else place / f"pilotlight-engine-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if not work_dir and not _is_private(root):
        raise InternalError(f"{root} is not a private directory of this user; remove it or pass --work_dir")
    for name in ("cache", "config", "tmp"):
        (root / name).mkdir(mode=0o700, exist_ok=True)
    # Whoever can write here can run code in every engine: compiled graphs are pickles.
    if not _is_private(root / "cache"):
        raise InternalError(f"{root / 'cache'} is not a private directory of this user; remove it")
    return root


def _is_private(directory: Path) -> bool:
    status = directory.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def _writable(place: Path) -> bool:
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
