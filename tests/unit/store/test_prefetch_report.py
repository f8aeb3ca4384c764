"""What a download says of itself to the program that started it."""

import contextlib
from pathlib import Path

import pytest

from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.prefetch_report import PrefetchReport, decode_report
from pilotlight_store import Progress
from pilotlight_store.prefetch_progress import kept_report, write_report


def test_the_newest_report_is_read(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(path, PrefetchReport(state="downloading", done_bytes=1, total_bytes=2))
    write_report(path, PrefetchReport(state="ready", folder="/store/a  b\nError: c"))
    assert decode_report(path.read_bytes()) == PrefetchReport(state="ready", folder="/store/a  b\nError: c")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_a_download_reports_every_change_of_state_and_why_it_failed(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with contextlib.suppress(Unavailable), kept_report(path) as report:
        report(Progress("listing"))
        assert decode_report(path.read_bytes()) == PrefetchReport(state="listing")
        report(Progress("downloading", 5, 10))
        assert decode_report(path.read_bytes()) == PrefetchReport(state="downloading", done_bytes=5, total_bytes=10)
        report(Progress("downloading", 6, 10))
        assert decode_report(path.read_bytes()) == PrefetchReport(state="downloading", done_bytes=5, total_bytes=10), (
            "not every byte"
        )
        raise Unavailable("the hub is away")
    assert decode_report(path.read_bytes()) == PrefetchReport(state="failed", error="the hub is away")


def test_a_full_disk_is_said_without_a_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"), kept_report(tmp_path / "report.json"):
        raise OSError(28, "No space left on device", "/somebody's/folder")
    assert decode_report((tmp_path / "report.json").read_bytes()) == PrefetchReport(
        state="failed", error="No space left on device"
    )
