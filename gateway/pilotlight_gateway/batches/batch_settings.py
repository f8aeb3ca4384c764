"""How large files and batches may be, and how much of them runs at once. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pilotlight_gateway.configuration.section import Section

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=400 * 86_400.0)]


class BatchSettings(Section, frozen=True):
    """`file_bytes`: of one; `files_of_tenant`, `bytes_of_tenant`: its files, what batches write among them, two files
    each; `files_bytes`: everybody's. `lines`, `line_bytes`: of a batch's input. `batches_of_tenant`: that have not
    ended. `running`, `running_of_tenant`: batches at once; `lines_at_once`: of one of them. `window_s`: how long a
    batch may take; `kept_s`: how long files and ended batches are kept."""

    file_bytes: _Count = 200 << 20
    files_of_tenant: _Count = 1000
    bytes_of_tenant: _Count = 2 << 30
    files_bytes: _Count = 16 << 30
    lines: _Count = 50_000
    line_bytes: _Count = 4 << 20
    batches_of_tenant: _Count = 64
    running: _Count = 32
    running_of_tenant: _Count = 2
    lines_at_once: _Count = 16
    window_s: _Seconds = 86_400.0
    kept_s: _Seconds = 30 * 86_400.0
