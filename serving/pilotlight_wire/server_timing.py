"""The `Server-Timing` header: write one phase, read all of them. Pure. Source: W3C Server Timing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """One timed phase of a request."""

    name: str
    duration_ms: float
    description: str = ""


def format_phase(phase: Phase) -> str:
    """`activate;dur=12.3;desc="demo-predictor"`."""
    text = f"{phase.name};dur={phase.duration_ms:.1f}"
    return f'{text};desc="{phase.description}"' if phase.description else text


def server_timing_header(phases: Mapping[str, float]) -> str:
    """The whole header of phases with their milliseconds."""
    return ", ".join(f"{phase};dur={milliseconds:.3f}" for phase, milliseconds in phases.items())


def parse_phases(headers: Iterable[str]) -> list[Phase]:
    """Every phase with a duration, in the order of the headers; what cannot be read is left out."""
    phases = []
    for entry in ",".join(headers).split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        values = dict(part.split("=", 1) for part in parameters if "=" in part)
        try:
            duration_ms = float(values["dur"].strip('"'))
        except (KeyError, ValueError):
            continue
        if name:
            phases.append(Phase(name, duration_ms, values.get("desc", "").strip('"')))
    return phases


def parse_server_timing(value: str) -> dict[str, float]:
    """`queue;dur=1.5, activate;dur=20;desc="p"` to {"queue": 1.5, 'activate;desc="p"': 20.0}; no duration, no entry.

    The description stays with the name: each hop has an `activate` of its own.
    """
    return {
        f'{phase.name};desc="{phase.description}"' if phase.description else phase.name: phase.duration_ms
        for phase in parse_phases([value])
    }
