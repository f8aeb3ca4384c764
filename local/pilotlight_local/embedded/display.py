"""Shows a person what the platform does: a live table on a terminal, plain lines elsewhere.

Implements `controller.PlatformEvents` and `routing_table.RequestEvents`. Must not: know how anything is decided, or
hold the platform up.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pilotlight_local.controller.platform_status import ComponentStatus
from pilotlight_local.embedded.display_lines import failure_lines, ready_line, scaling_line, waterfall_lines
from pilotlight_local.embedded.status_table import status_table
from pilotlight_local.pods.live_pod import PodFailure
from pilotlight_wire.hop_headers import Phase

REFRESH_PERIOD_S = 0.25


def slots_table(pool: Mapping[str, Any]) -> Table:
    """The warm pool's slots, each with the lease it serves; `pool` as `WarmPool.describe` gives it.

    Below them what this CPU kind costs: why the slots' weights are exchanged the slow way, or not at all.
    """
    waiting = [lease for lease in pool["leases"] if lease["state"] == "queued"]
    table = Table(box=None, pad_edge=False, title=f"warm pool: {pool['state']}", title_justify="left")
    for heading in ("SLOT", "STATE", "SINCE", "LEASE", "TENANT", "MODEL", "PATH", "SWAPS"):
        table.add_column(heading, overflow="fold", no_wrap=heading not in ("TENANT", "MODEL"))
    by_id = {lease["lease_id"]: lease for lease in pool["leases"]}
    for slot in pool["slots"]:
        lease = by_id.get(slot.get("lease_id"), {})
        table.add_row(
            slot["slot"],
            slot["state"],
            f"{slot['since_s']:.0f} s",
            str(lease.get("state", "")),
            str(lease.get("tenant") or slot.get("tenant") or ""),
            escape(str(lease.get("model_name") or "")),
            str(lease.get("path", "")),
            slot.get("swap_path", "").partition(":")[0],
        )
    for lease in waiting:
        table.add_row(
            "", "", f"{lease['age_s']:.0f} s", lease["state"], lease["tenant"], escape(lease["model_name"]), ""
        )
    slower = {path for slot in pool["slots"] if (path := slot.get("swap_path", "copied")) not in ("", "copied")}
    lines = [f"weights are {path}" for path in sorted(slower)]
    lines += [f"swaps of {proof['name']} are refuted, it is booted: {proof['reason']}"
              for proof in pool.get("proofs", ()) if proof["verdict"] == "refuted"]  # fmt: skip
    lines += [f"swaps of {line['name']} are not proven yet" for line in pool.get("unproven", ()) if not line["swapped"]]
    table.caption = escape("\n".join(dict.fromkeys(lines))) or None
    table.caption_justify = "left"
    return table


class Display:
    """Prints events; on a terminal keeps a table of all endpoints below them."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self, text: str) -> None:
        """One event, with the time of day."""
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False, highlight=False, soft_wrap=True)

    def scaling(self, revision: str, before: int, after: int, reasons: Sequence[str]) -> None:
        self.line(scaling_line(revision, before, after, reasons))

    def pod_ready(self, pod: str, after_s: float) -> None:
        self.line(ready_line(pod, after_s))

    def pod_failed(self, pod: str, failure: PodFailure) -> None:
        for text in failure_lines(pod, failure.reason, failure.log_lines):
            self.line(text)

    def pod_error(self, pod: str, message: str) -> None:
        self.line(f"{pod}: {message}")

    def cold_request(self, revision: str, status: int, duration_s: float, phases: Sequence[Phase]) -> None:
        title = f"cold request to {revision}: status {status}"
        for text in waterfall_lines(title, phases, duration_s * 1000):
            self.line(text)

    async def run(self, rows: Callable[[], Iterable[ComponentStatus]], port: int) -> None:
        """Keep the table fresh until cancelled; returns at once where there is no terminal."""
        if not self._console.is_terminal:
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(
                    status_table(rows(), port, self._console.width, max(3, self._console.height - 4)), refresh=True
                )
                await asyncio.sleep(REFRESH_PERIOD_S)
