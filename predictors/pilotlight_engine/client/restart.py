"""When a lost engine may be booted again: exponential back-off, forgotten after it has run well. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackOff:
    """Kubernetes' crash back-off has the same shape (10 s doubling to 300 s, reset after 600 s); an endpoint that
    someone waits for starts lower."""

    first_delay_s: float = 1.0
    factor: float = 2.0
    longest_delay_s: float = 60.0
    forgiven_after_s: float = 120.0


@dataclass(frozen=True)
class Failures:
    """`count` failures in a row; no boot before `not_before_s` (monotonic)."""

    count: int = 0
    not_before_s: float = 0.0


def after_failure(policy: BackOff, failures: Failures, ran_s: float, now_s: float) -> Failures:
    """A boot failed (`ran_s` 0) or an engine was lost after `ran_s` of service."""
    count = 1 if ran_s >= policy.forgiven_after_s else failures.count + 1
    exponent = min(count - 1, 64)
    delay_s = min(policy.longest_delay_s, policy.first_delay_s * policy.factor**exponent)
    return Failures(count, now_s + delay_s)


def wait_s(failures: Failures, now_s: float) -> float:
    """Seconds until the next boot may begin."""
    return max(0.0, failures.not_before_s - now_s)
