"""What a client prefers (RFC 7240): that its request is answered later, and how long it waits before that. Pure."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_WAIT_S = 60.0
RESPOND_ASYNC = "respond-async"


@dataclass(frozen=True, slots=True)
class LaterAnswer:
    """`wait_s`: an answer that has come by then is answered as always."""

    wait_s: float = 0.0

    @property
    def applied(self) -> str:
        """For `Preference-Applied`."""
        return f"{RESPOND_ASYNC}, wait={self.wait_s:g}" if self.wait_s else RESPOND_ASYNC


def later_answer(prefer: str) -> LaterAnswer | None:
    """None where it is not preferred; of a `wait` that is no number of seconds nothing is honoured."""
    found: dict[str, str] = {}
    for preference in prefer.split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    if RESPOND_ASYNC not in found:
        return None
    wait = found.get("wait", "")
    seconds = float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 7 else 0.0
    return LaterAnswer(min(LONGEST_WAIT_S, seconds))
