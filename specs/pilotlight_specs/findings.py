"""What is wrong, unknown or not honoured in the applied files, each by file, line, object and JSON path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

PLACES_SHOWN = 2

Severity = Literal["error", "unsupported", "unknown", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark. `error`: the object is not applied. `unsupported`: valid on a cluster, not honoured here.

    `unknown`: no such field (kubectl's strict validation refuses it). `warning`: applied, but worth a look.
    """

    severity: Severity
    source: str  # the file's name
    object: str  # "InferenceService default/demo"
    path: str  # "spec.predictor.nodeSelector"
    reason: str
    line: int = 0  # where the path, or the nearest thing above it, stands in the file; 0: unknown

    @property
    def place(self) -> str:
        """`quickstart.yaml:12`, as editors open it."""
        return f"{self.source}:{self.line}" if self.line else self.source

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.place, self.object, self.path) if part)
        return f"{self.severity}: {where}: {self.reason}"


def summarize(findings: Iterable[Finding]) -> tuple[str, ...]:
    """One line per field and reason, in the order in which they were found, naming the first places and a count."""
    groups: dict[tuple[Severity, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.path.rpartition(".")[2], finding.reason), []).append(finding)
    lines = []
    for (severity, name, reason), group in groups.items():
        if len(group) == 1:
            lines.append(str(group[0]))
            continue
        places = ", ".join(f"{finding.place} {finding.path}" for finding in group[:PLACES_SHOWN])
        more = f" and {len(group) - PLACES_SHOWN} more" if len(group) > PLACES_SHOWN else ""
        lines.append(f"{severity}: {name} in {len(group)} places: {reason} ({places}{more})")
    return tuple(lines)


@dataclass(slots=True)
class Report:
    """Collects the findings of one object while it is read."""

    source: str
    object: str
    lines: Mapping[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def error(self, path: str, reason: str) -> None:
        self._add("error", path, reason)

    def unsupported(self, path: str, reason: str) -> None:
        self._add("unsupported", path, reason)

    def unknown(self, path: str, nearest: str = "") -> None:
        """`nearest`: what was meant, as `did_you_mean` says it."""
        self._add("unknown", path, f"unknown field{nearest or '; check the spelling and the indentation'}")

    def warning(self, path: str, reason: str) -> None:
        self._add("warning", path, reason)

    @property
    def failed(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    def _add(self, severity: Severity, path: str, reason: str) -> None:
        self.findings.append(Finding(severity, self.source, self.object, path, reason, self._line(path)))

    def _line(self, path: str) -> int:
        """Of `path`, or of the nearest mapping above it: what is missing has no line of its own."""
        while path not in self.lines:
            if not path:
                return 0
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines[path]
