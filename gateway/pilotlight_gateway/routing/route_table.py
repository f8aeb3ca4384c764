"""Which route a name means to a caller. Immutable: a new configuration is a new table. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.routing.route_spec import RouteSpec

_NONE: Mapping[str, RouteSpec] = {}


class RouteTable:
    """A tenant's own route comes before one of the same name that is everybody's."""

    def __init__(self, routes: Iterable[RouteSpec] = ()) -> None:
        self._of_all: dict[str, RouteSpec] = {}
        self._of_tenant: dict[str, dict[str, RouteSpec]] = {}
        for route in routes:
            if route.tenants is None:
                self._of_all[route.name] = route
            for tenant in route.tenants or ():
                self._of_tenant.setdefault(tenant, {})[route.name] = route

    def find(self, caller: Caller, name: str) -> RouteSpec | None:
        if caller.allowed_models is not None and name not in caller.allowed_models:
            return None
        return self._of_tenant.get(caller.tenant, _NONE).get(name) or self._of_all.get(name)

    def visible(self, caller: Caller) -> Iterator[RouteSpec]:
        for name in sorted(self._of_all.keys() | self._of_tenant.get(caller.tenant, _NONE).keys()):
            if (route := self.find(caller, name)) is not None:
                yield route
