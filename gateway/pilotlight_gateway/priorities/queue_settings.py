"""How much may run and wait before an endpoint. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pilotlight_gateway.configuration.section import Section

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class QueueSettings(Section, frozen=True):
    """`in_flight`: requests that one replica answers at once, None: as many as its predictor takes in a batch.

    `waiting`, `waiting_bytes`: of all tenants before one endpoint; `…_of_tenant`: of one of them. `longest_wait_s`:
    who has waited that long is told to come back. `high_reserve`: the share of the capacity that is kept for high
    priority while there is any, so that it waits for nobody's end. `idle_share`: idle work starts below this share of
    the capacity. `normal_share`, `low_share`: what these get while more urgent requests wait.
    """

    in_flight: _Count | None = None
    waiting: _Count = 1024
    waiting_bytes: _Count = 256 << 20
    waiting_of_tenant: _Count = 256
    waiting_bytes_of_tenant: _Count = 32 << 20
    longest_wait_s: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] = 60.0
    high_reserve: _Share = 0.04
    idle_share: _Share = 0.5
    normal_share: _Share = 0.15
    low_share: _Share = 0.05
