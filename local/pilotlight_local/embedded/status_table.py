"""Endpoints and their phase as a table that fits its width: columns give way, names and reasons are never cut.

Must not: print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pilotlight_local.controller.platform_status import ComponentStatus

LEAST_REASON_COLUMNS = 24
COLUMN_GAP = 2
PHASE_STYLE = {
    "Ready": "green",
    "Starting": "yellow",
    "Mounting": "yellow",
    "Waiting": "yellow",
    "NotReady": "red",
    "Failed": "bold red",
    "Draining": "cyan",
    "Zero": "dim",
}
_SHORT_REVISION = "REVISION "  # without the endpoint's name, which stands beside it
# The widest that fits is taken; in the narrowest names are folded.
_LAYOUTS = (
    ("ENDPOINT", "COMPONENT", "REVISION", "PHASE", "PODS", "REQUESTS", "TRAFFIC", "URL"),
    ("ENDPOINT", "COMPONENT", "REVISION", "PHASE", "PODS", "REQUESTS", "TRAFFIC"),
    ("ENDPOINT", _SHORT_REVISION, "PHASE", "PODS", "REQUESTS", "TRAFFIC"),
    ("ENDPOINT", _SHORT_REVISION, "PHASE", "PODS", "REQUESTS"),
    ("ENDPOINT", _SHORT_REVISION, "PHASE", "PODS"),
)


def status_table(rows: Iterable[ComponentStatus], port: int, width: int, most_rows: int | None = None) -> Group:
    """The table for `width` columns; with `most_rows` those at zero are left out first."""
    shown = list(rows)
    left_out = 0
    if most_rows is not None and len(shown) > most_rows:
        shown.sort(key=lambda row: row.phase == "Zero")
        left_out = len(shown) - most_rows
        shown = shown[:most_rows]
    cells = _cells(port)
    layout, free = _layout(cells, shown, width)
    reasons = [row.reason for row in shown if row.reason]
    beside = bool(reasons) and free >= COLUMN_GAP + min(LEAST_REASON_COLUMNS, max(map(len, reasons)))
    table = Table(box=None, pad_edge=False, caption=f"and {left_out} more" if left_out else None)
    for heading in layout:
        table.add_column(heading, overflow="fold", no_wrap=free >= 0)
    if beside:
        table.add_column("REASON", overflow="fold")
    for row in shown:
        texts = [_styled(heading, escape(cells[heading](row))) for heading in layout]
        table.add_row(*texts, *([escape(row.reason)] if beside else []))
    below = [] if beside else [Text(f"{row.revision}: {row.reason}", overflow="fold") for row in shown if row.reason]
    return Group(table, *below)


def _cells(port: int) -> Mapping[str, Callable[[ComponentStatus], str]]:
    return {
        "ENDPOINT": lambda row: f"{row.namespace}/{row.endpoint}",
        "COMPONENT": lambda row: row.component,
        "REVISION": lambda row: row.revision,
        _SHORT_REVISION: lambda row: row.revision.removeprefix(f"{row.endpoint}-"),
        "PHASE": lambda row: row.phase,
        "PODS": lambda row: f"{row.ready}/{row.desired}",
        "REQUESTS": lambda row: f"{row.running}+{row.queued}" if row.queued else str(row.running),
        "TRAFFIC": lambda row: f"{row.traffic_percent}%",
        "URL": lambda row: f"http://127.0.0.1:{port}{row.path}" if row.path else "",
    }


def _layout(
    cells: Mapping[str, Callable[[ComponentStatus], str]], rows: Sequence[ComponentStatus], width: int
) -> tuple[tuple[str, ...], int]:
    """The columns, and how many of `width` they leave over; negative when not even the fewest fit."""
    free = 0
    for layout in _LAYOUTS:
        needed = (max([len(heading.strip()), *(len(cells[heading](row)) for row in rows)]) for heading in layout)
        free = width - sum(needed) - COLUMN_GAP * (len(layout) - 1)
        if free >= 0:
            break
    return layout, free


def _styled(heading: str, text: str) -> str:
    style = PHASE_STYLE.get(text, "") if heading == "PHASE" else ""
    return f"[{style}]{text}[/]" if style else text
