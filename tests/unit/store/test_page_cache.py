"""What of a file is in memory, asked window by window."""

import os
from pathlib import Path

from pilotlight_store.published.page_cache import MEASURED_BYTES, PAGE_BYTES, load, resident_bytes


def test_pages_are_counted_on_both_sides_of_a_windows_border_and_holes_are_not(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for start in (0, MEASURED_BYTES - PAGE_BYTES, MEASURED_BYTES, MEASURED_BYTES + 4 * PAGE_BYTES):
            os.pwrite(file.fileno(), b"x" * PAGE_BYTES, start)
        os.truncate(file.fileno(), 3 * MEASURED_BYTES + 1)
    assert resident_bytes(path) == 4 * PAGE_BYTES


def test_what_was_loaded_is_resident_to_its_last_byte(tmp_path: Path) -> None:
    path = tmp_path / "file"
    arrived: list[int] = []
    path.write_bytes(b"x" * (2 * PAGE_BYTES + 1))
    load(path, lambda: False, arrived.append)
    assert sum(arrived) == resident_bytes(path) == 2 * PAGE_BYTES + 1
    path.write_bytes(b"")
    assert resident_bytes(path) == 0
