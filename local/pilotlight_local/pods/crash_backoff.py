"""When a pod that ended is started again: kubelet's rules (`MaxContainerBackOff`, `backOffPeriod`), so that a spec that
crashes here behaves as it will on a cluster. Pure.

10 s after the first crash, doubling with each one up to 5 minutes, forgotten once a pod ran for 10 minutes. A pod that
had been ready is started again at once after its first crash, as kubelet does; one that never was is not: the
requests that waited for it were told why it failed, and a second boot at once helps nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pilotlight_protocol.back_off import BackOff, Failures, failed

KUBELET = BackOff(first_s=10.0, longest_s=300.0, forgotten_after_s=600.0)


@dataclass(frozen=True, slots=True)
class PodEnd:
    """A pod that just ended by itself: it ran for `lived_s`. Pods that were told to stop are no crashes, nor is one
    that lost its port to another program (`blameless`)."""

    lived_s: float
    was_ready: bool = False
    blameless: bool = False


def crashed(failures: Failures, ended: PodEnd, now_s: float, back_off: BackOff = KUBELET) -> Failures:
    if ended.blameless:
        return failures
    after = failed(back_off, failures, now_s, ended.lived_s)
    return replace(after, not_before_s=now_s) if ended.was_ready and after.count == 1 else after
