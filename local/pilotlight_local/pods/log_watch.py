"""What a component's own log says that concerns the person at the terminal: new lines of a serious level.

Only lines in the form in which Pilotlight's processes log (`TIME LEVEL LOGGER: MESSAGE`, loggers `pilotlight…`) are
understood, and of those the first line; whatever else a container prints stays in its log. Must not: keep a file open,
or wait for one.
"""

import re
from collections.abc import Collection
from pathlib import Path

MOST_BYTES = 64 << 10
MOST_LINES = 5
LONGEST_LINE = 300
_LINE = re.compile(rb"^\S+(?: \S+)? (?P<level>[A-Z]+) pilotlight[\w.]*: (?P<message>.+)$", re.MULTILINE)


class LogWatch:
    """Reads on where it stopped; starts at the end of what the file holds when it is made."""

    def __init__(self, path: Path, levels: Collection[str]) -> None:
        self._path = path
        self._levels = {level.encode() for level in levels}
        self._inode, self._position = self._facts()

    def news(self) -> list[str]:
        """Messages at these levels since the last call; of many the last few, and how many were left out."""
        inode, size = self._facts()
        if inode != self._inode:
            self._inode, self._position = inode, 0
        start = max(self._position, size - MOST_BYTES)
        if start >= size:
            return []
        with self._path.open("rb") as log:
            log.seek(start)
            data = log.read(size - start)
        whole = data.rfind(b"\n") + 1
        self._position = start + whole
        messages = [
            match["message"].decode(errors="replace")[:LONGEST_LINE]
            for match in _LINE.finditer(data[:whole])
            if match["level"] in self._levels
        ]
        left_out = len(messages) - MOST_LINES
        return messages if left_out <= 0 else [f"({left_out} more are in the log)", *messages[left_out:]]

    def _facts(self) -> tuple[int, int]:
        try:
            facts = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return facts.st_ino, facts.st_size
