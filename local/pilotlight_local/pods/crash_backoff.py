"""When a pod that ended is started again: kubelet's back-off. Pure, the time is an argument.

10 s after the first crash, doubling with each one up to 5 minutes, forgotten once a pod ran for 10 minutes. A pod that
had been ready is started again at once after its first crash, as kubelet does; one that never was is not: the
requests that waited for it were told why it failed, and a second boot at once helps nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class BackoffSpec:
    """Kubelet's constants (`MaxContainerBackOff`, `backOffPeriod`)."""

    first_s: float = 10.0
    most_s: float = 300.0
    forgotten_after_s: float = 600.0


@dataclass(frozen=True, slots=True)
class PodEnd:
    """A pod that just ended by itself: it ran for `lived_s`. Pods that were told to stop are no crashes, nor is one
    that lost its port to another program (`blameless`)."""

    lived_s: float
    was_ready: bool = False
    blameless: bool = False


@dataclass(frozen=True, slots=True)
class BackoffState:
    """Crashes in a row and when the next start is allowed."""

    crashes: int = 0
    not_before_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BackoffDecision:
    """Whether a pod may start now; if not, after `wait_s`."""

    may_start: bool
    wait_s: float
    crashes: int


def decide(
    spec: BackoffSpec, ended: PodEnd | None, state: BackoffState, now_s: float
) -> tuple[BackoffDecision, BackoffState]:
    """May a pod start at `now_s`? `ended` is the crash to count, once, None when there is none since the last call."""
    if ended is not None and not ended.blameless:
        crashes = 1 if ended.lived_s >= spec.forgotten_after_s else state.crashes + 1
        # The exponent is capped so that a pod that crashes for weeks does not overflow the float.
        delay_s = min(spec.most_s, spec.first_s * 2.0 ** min(crashes - 1, 32))
        if ended.was_ready and crashes == 1:
            delay_s = 0.0
        state = replace(state, crashes=crashes, not_before_s=now_s + delay_s)
    wait_s = max(0.0, state.not_before_s - now_s)
    return BackoffDecision(may_start=wait_s == 0.0, wait_s=wait_s, crashes=state.crashes), state
