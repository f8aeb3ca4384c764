"""Events of the platform as lines of text, the same for the live view and for a log. Pure."""

from collections.abc import Sequence

from pilotlight_wire.hop_headers import Phase

BAR_WIDTH = 40


def scaling_line(revision: str, before: int, after: int, reasons: Sequence[str]) -> str:
    """`demo-predictor-00001: 0 -> 1 pods (…)`."""
    why = f" ({reasons[-1]})" if reasons else ""
    return f"{revision}: {before} -> {after} pods{why}"


def ready_line(pod: str, boot_s: float) -> str:
    return f"{pod}: ready after {boot_s:.2f} s"


def failure_lines(pod: str, reason: str, log_lines: Sequence[str]) -> list[str]:
    """The reason and what the pod last said."""
    return [f"{pod}: {reason}", *(f"    | {line}" for line in log_lines)]


def waterfall_lines(title: str, phases: Sequence[Phase], total_ms: float, rest: str = "answer") -> list[str]:
    """A request's phases one below the other on a common time axis, then what no phase explains (`rest`), the total.

    Phases are drawn one after the other in the order of the header; `Server-Timing` carries no start times.
    """
    lines = [title]
    start_ms = 0.0
    scale = max(total_ms, sum(phase.duration_ms for phase in phases), 1.0)
    for phase in phases:
        lines.append(_bar(f"{phase.name} {phase.description}".strip(), start_ms, phase.duration_ms, scale))
        start_ms += phase.duration_ms
    if total_ms > start_ms:
        lines.append(_bar(rest, start_ms, total_ms - start_ms, scale))
    lines.append(f"  {'total':<22} {total_ms:>9.0f} ms")
    return lines


def _bar(label: str, start_ms: float, duration_ms: float, scale_ms: float) -> str:
    offset = round(start_ms / scale_ms * BAR_WIDTH)
    length = max(1, round(duration_ms / scale_ms * BAR_WIDTH))
    return f"  {label[:22]:<22} {duration_ms:>9.0f} ms  {' ' * min(offset, BAR_WIDTH - 1)}{'█' * length}"
