"""When a failed transfer is tried again. Pure: the random number and what the server asked for come in.

Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"), and a budget for the whole model beside the limit
for one range, so that a source that fails everywhere is given up on soon and one bad range is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pilotlight_protocol.back_off import BackOff

_DELAYS = BackOff(first_s=0.2, longest_s=20.0)


@dataclass(frozen=True)
class RetryRules:
    """`attempts` without progress per range, `budget` retries per model."""

    attempts: int = 6
    budget: int = 64
    back_off: BackOff = _DELAYS


@dataclass(frozen=True)
class RetryState:
    """`spent` retries of this model; `earned_bytes` since the last one was given back."""

    spent: int = 0
    earned_bytes: int = 0


@dataclass(frozen=True)
class GiveUp:
    reason: str


# One retry is earned back by this many bytes: a 70 GB model over a shaky line is not held to the budget of a small one.
BYTES_PER_RETRY = 256 * 1024 * 1024


def after_failure(
    rules: RetryRules, state: RetryState, failures: int, jitter: float, asked_s: float
) -> tuple[float | GiveUp, RetryState]:
    """Seconds to wait, or why to stop, after the `failures`-th failure in a row of one range (1 or more).

    `jitter` is uniform in [0, 1); `asked_s` the server's Retry-After (0: none), honoured up to its longest delay.
    """
    if failures >= rules.attempts:
        return GiveUp(f"{failures} attempts at one range brought nothing"), state
    if state.spent >= rules.budget:
        return GiveUp(f"{state.spent} retries were spent on this model"), state
    delay_s = rules.back_off.delay_s(failures, jitter)
    return max(delay_s, min(asked_s, rules.back_off.longest_s)), replace(state, spent=state.spent + 1)


def after_progress(state: RetryState, arrived_bytes: int) -> RetryState:
    """Bytes that arrived earn retries back, never more than were spent."""
    earned = state.earned_bytes + arrived_bytes
    return RetryState(max(0, state.spent - earned // BYTES_PER_RETRY), earned % BYTES_PER_RETRY)
