"""Which job runs next: the tenant that runs fewest, its oldest one first. Pure: the time is passed in."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Protocol


class AtOnce(Protocol):
    """How many may run, and how many of one tenant's."""

    @property
    def running(self) -> int: ...

    @property
    def running_of_tenant(self) -> int: ...


class JobQueue:
    """`running` and `of` count what was taken by `next` and not given back by `left`."""

    def __init__(self) -> None:
        self.running = 0
        self._running_of: dict[str, int] = {}
        self._waiting: dict[str, OrderedDict[str, None]] = {}
        self._later: list[tuple[float, str, str]] = []
        self._later_ids: set[str] = set()

    def put(self, tenant: str, job_id: str, not_before_s: float = 0.0) -> None:
        if not_before_s:
            heapq.heappush(self._later, (not_before_s, tenant, job_id))
            self._later_ids.add(job_id)
        else:
            self._waiting.setdefault(tenant, OrderedDict())[job_id] = None

    def remove(self, tenant: str, job_id: str) -> None:
        """Where it waits."""
        self._later_ids.discard(job_id)
        waiting = self._waiting.get(tenant)
        if waiting is not None:
            waiting.pop(job_id, None)
            if not waiting:
                del self._waiting[tenant]

    def knows(self, tenant: str, job_id: str) -> bool:
        return job_id in self._later_ids or job_id in self._waiting.get(tenant, ())

    def next(self, most: AtOnce, now_s: float) -> tuple[str, str] | None:
        """Tenant and job."""
        while self._later and self._later[0][0] <= now_s:
            _, tenant, job_id = heapq.heappop(self._later)
            if job_id in self._later_ids:
                self._later_ids.discard(job_id)
                self.put(tenant, job_id)
        if self.running >= most.running:
            return None
        free = [tenant for tenant in self._waiting if self.of(tenant) < most.running_of_tenant]
        if not free:
            return None
        tenant = min(free, key=self.of)
        job_id, _ = self._waiting[tenant].popitem(last=False)
        # Behind the others that run as few.
        rest = self._waiting.pop(tenant)
        if rest:
            self._waiting[tenant] = rest
        self.running += 1
        self._running_of[tenant] = self.of(tenant) + 1
        return tenant, job_id

    def left(self, tenant: str) -> None:
        self.running -= 1
        count = self.of(tenant) - 1
        if count:
            self._running_of[tenant] = count
        else:
            del self._running_of[tenant]

    def of(self, tenant: str) -> int:
        return self._running_of.get(tenant, 0)

    def next_at_s(self) -> float | None:
        """When one that was put back may be tried again."""
        return self._later[0][0] if self._later else None
