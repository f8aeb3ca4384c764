"""How often a tenant may order: each order has the platform start processes to check it, for everybody. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque

MOST_A_MINUTE = 30
_MINUTE_S = 60.0
_MOST_TENANTS = 4096


class OrderRate:
    def __init__(self, most_a_minute: int = MOST_A_MINUTE) -> None:
        self._most = most_a_minute
        self._orders: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, tenant: str, now_s: float) -> float:
        """0 where the tenant may order now, which counts; else how long it has to wait."""
        orders = self._orders.setdefault(tenant, deque())
        self._orders.move_to_end(tenant)
        if len(self._orders) > _MOST_TENANTS:
            self._orders.popitem(last=False)
        while orders and now_s - orders[0] >= _MINUTE_S:
            orders.popleft()
        if len(orders) >= self._most:
            return _MINUTE_S - (now_s - orders[0])
        orders.append(now_s)
        return 0.0
