"""A download's progress for a person (a bar on a terminal, a line now and then in a log), or for a program (a file)."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pilotlight_protocol.byte_sizes import shown_size
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.prefetch_report import PrefetchReport, encode_report

if TYPE_CHECKING:
    from pilotlight_store import Progress

PLAIN_LINE_PERIOD_S = 2.0
REPORT_PERIOD_S = 0.5


@contextlib.contextmanager
def shown_progress(uri: str) -> Iterator[Callable[[Progress], None]]:
    """On stderr, without what is secret in `uri`."""
    from pilotlight_protocol.manifest import without_secrets

    shown = without_secrets(uri)
    if not sys.stderr.isatty():
        yield _PlainLines(shown).report
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("listing", total=None)

        def report(progress: Progress) -> None:
            total = progress.total_bytes or None
            bar.update(task, description=progress.state, completed=progress.done_bytes, total=total)

        yield report


@contextlib.contextmanager
def kept_report(path: Path) -> Iterator[Callable[[Progress], None]]:
    """In a file that is replaced at every change of state, and twice a second; it says too why the download failed."""
    written = ("", -REPORT_PERIOD_S)

    def report(progress: Progress) -> None:
        nonlocal written
        now_s = time.monotonic()
        if progress.state != written[0] or now_s - written[1] >= REPORT_PERIOD_S:
            written = (progress.state, now_s)
            write_report(
                path,
                PrefetchReport(state=progress.state, done_bytes=progress.done_bytes, total_bytes=progress.total_bytes),
            )

    try:
        yield report
    except (PilotlightError, OSError) as error:
        why = error.message if isinstance(error, PilotlightError) else error.strerror or str(error)
        write_report(path, PrefetchReport(state="failed", error=why))
        raise


def write_report(path: Path, report: PrefetchReport) -> None:
    """A reader sees this report or the one before, never a part of either."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_bytes(encode_report(report))
    unfinished.replace(path)


class _PlainLines:
    """A line every few seconds and at every change of state, for logs."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._state = ""
        self._started = (time.monotonic(), 0)
        self._shown_s = -PLAIN_LINE_PERIOD_S

    def report(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.state != self._state:
            self._state, self._started = progress.state, (now, progress.done_bytes)
        elif now - self._shown_s < PLAIN_LINE_PERIOD_S:
            return
        self._shown_s = now
        line = f"{progress.state} {self._uri}"
        if progress.total_bytes:
            line += f"  {shown_size(progress.done_bytes)} of {shown_size(progress.total_bytes)}"
            rate = (progress.done_bytes - self._started[1]) / max(now - self._started[0], 1e-9)
            if rate > 0 and now > self._started[0] and progress.state != "ready":
                left_s = (progress.total_bytes - progress.done_bytes) / rate
                line += f"  {shown_size(rate)}/s  {left_s:.0f} s left"
        click.echo(line, err=True)
