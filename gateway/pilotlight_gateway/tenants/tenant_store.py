"""The seam below tenants: where they and their keys are kept. SQLite stands behind it; Postgres or Secrets can.

No I/O is done here. Every change has a number, and `changes` tells what came after one, so that a process which keeps
all of it in memory reads no more than what is new. A change is decided by a pure function (`tenant_orders`) inside the
store's transaction, so that two at once cannot both be right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from pilotlight_gateway.tenants.tenant_records import KeyRecord, TenantRecord


class Changes(msgspec.Struct, frozen=True):
    """`upto` is asked for next."""

    upto: int
    tenants: list[TenantRecord]
    keys: list[KeyRecord]


class Change(msgspec.Struct, frozen=True):
    """What is written: whole records in place of those of their names and ids."""

    tenant: TenantRecord | None = None
    keys: tuple[KeyRecord, ...] = ()


Decide = Callable[[TenantRecord | None, Sequence[KeyRecord]], Change]


class TenantStore(Protocol):
    """Blocking, from any thread: who has an event loop asks from another one. Raises Unavailable where it fails."""

    def changes(self, after: int) -> Changes | None:
        """None, at next to no cost, where there are none."""
        ...

    def tenants(self) -> list[TenantRecord]:
        """All that ever were, by name."""
        ...

    def keys(self, tenant: str) -> list[KeyRecord]:
        """The oldest first."""
        ...

    def change(self, tenant: str, decide: Decide) -> Change:
        """Write what `decide` makes of the tenant and its keys; what it raises is raised, and nothing written."""
        ...

    def close(self) -> None: ...
