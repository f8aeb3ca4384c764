"""How a canary is rolled out: the part `rollout` of a route's canary in the configuration file. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pilotlight_gateway.configuration.section import Section

STEPS = (1.0, 5.0, 25.0, 50.0, 100.0)


class RolloutSpec(Section, frozen=True):
    """The canary's share goes from one of `steps` (percent) to the next, or back to 0 for good: until this file says
    something else of the canary.

    A step is over after `step_s`, when `min_requests` of the canary have ended in it. In each step the canary is
    compared with what the route's own targets do at that time: its errors (5xx, streams that broke), and how long
    streams take to begin, longer by more than `tolerated_ttft_ratio` being worse; engines that had to be got first do
    not count. `false_rollback`: the most probable it may be, over all steps, that one is taken back that does no worse.
    """

    steps: Annotated[tuple[Annotated[float, msgspec.Meta(gt=0, le=100)], ...], msgspec.Meta(min_length=1)] = STEPS
    step_s: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    min_requests: Annotated[int, msgspec.Meta(ge=1)] = 100
    tolerated_ttft_ratio: Annotated[float, msgspec.Meta(ge=1)] = 1.2
    false_rollback: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05

    def __post_init__(self) -> None:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError("the steps of a rollout must grow")
