"""How many jobs there may be, and for how long. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pilotlight_gateway.configuration.section import Section

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=30 * 86_400.0)]


class JobSettings(Section, frozen=True):
    """`kept_of_tenant`, `bytes_of_tenant`: its jobs with their requests and results, waiting and ended; `kept`,
    `kept_bytes`: everybody's. `running`, `running_of_tenant`: at once. `attempts`: how often one is run that was cut
    by the end of a gateway. `deadline_s`: one that has not begun to be answered by then fails. `result_s`: how long
    a result can be read."""

    kept_of_tenant: _Count = 256
    bytes_of_tenant: _Count = 256 << 20
    kept: _Count = 16_384
    kept_bytes: _Count = 4 << 30
    running: _Count = 64
    running_of_tenant: _Count = 16
    attempts: _Count = 3
    deadline_s: _Seconds = 86_400.0
    result_s: _Seconds = 86_400.0
