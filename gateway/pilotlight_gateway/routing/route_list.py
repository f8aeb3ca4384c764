"""`GET /v1/routes`: every route, and how its canary does; for an admin."""

from __future__ import annotations

import msgspec

from pilotlight_gateway.gateway_app import OwnRoute
from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.rollout.rollout import RolloutState
from pilotlight_gateway.routing.route_spec import RouteSpec
from pilotlight_gateway.routing.routes import Routes
from pilotlight_protocol.errors import Forbidden, InvalidInput
from pilotlight_wire.handlers import Reply, RequestContext

MOST_LISTED = 1000


class ShownCanary(msgspec.Struct, frozen=True, omit_defaults=True):
    """`percent`: now."""

    percent: float
    rollout: RolloutState | None = None


class ShownRoute(msgspec.Struct, frozen=True, omit_defaults=True):
    route: RouteSpec
    canary: ShownCanary | None = None


class ShownRoutes(msgspec.Struct, frozen=True):
    routes: list[ShownRoute]
    has_more: bool


class RouteList:
    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    def routes(self) -> list[OwnRoute]:
        return [OwnRoute("GET", "/v1/routes", self._list)]

    async def _list(self, context: RequestContext, caller: Caller) -> Reply:
        if caller.role != "admin":
            raise Forbidden("this needs an admin's key; `pilotlight key create TENANT --role admin` makes one")
        asked = context.query
        if unknown := asked.keys() - {"name"}:
            raise InvalidInput(f"'{min(unknown)}' is not known here; `name` is", param=min(unknown)[:64])
        name = asked.get("name")
        found = [spec for spec in self._routes.all() if name in (None, spec.name)]
        shown = [self._shown(spec) for spec in found[:MOST_LISTED]]
        return Reply(msgspec.json.encode(ShownRoutes(shown, len(found) > MOST_LISTED)))

    def _shown(self, spec: RouteSpec) -> ShownRoute:
        rollouts = self._routes.rollouts
        canary = None if spec.canary is None else ShownCanary(rollouts.share(spec), rollouts.state(spec))
        return ShownRoute(spec, canary)
