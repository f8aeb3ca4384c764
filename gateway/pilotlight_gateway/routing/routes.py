"""The pipeline's step that knows routes: from the name that a request asks for to the endpoints that may answer it.

It stands on what the directory has told of and must not know how an endpoint is reached.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import msgspec

from pilotlight_gateway.configuration.gateway_config import GatewayConfig
from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.errors import no_such_model
from pilotlight_gateway.request_steps import (
    Answering,
    Attempted,
    Caller,
    Cascade,
    Choice,
    GatewayRequest,
    Place,
    Routed,
)
from pilotlight_gateway.rollout.rollouts import Rollouts
from pilotlight_gateway.routing.choosing import CANARY, OWN_TARGETS, Chosen, choose
from pilotlight_gateway.routing.cold_choice import TooLate, Wait, in_time_first, is_soon, may_be_in_time, order
from pilotlight_gateway.routing.mirrors import Mirrors
from pilotlight_gateway.routing.prompt_lengths import PromptLengths
from pilotlight_gateway.routing.request_facts import RequestFacts
from pilotlight_gateway.routing.route_spec import MirrorSpec, RouteSpec
from pilotlight_gateway.routing.route_table import RouteTable
from pilotlight_gateway.routing.target_waits import TargetWaits
from pilotlight_gateway.surfaces import component_path, model_path, without_version
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.errors import Unavailable
from pilotlight_wire.handlers import RequestContext
from pilotlight_wire.request_time import left_s


class Routes:
    """Implements `request_steps.Router`. `apply` takes a new configuration; `close` ends the mirrors' requests."""

    def __init__(
        self,
        endpoints: EndpointTable,
        mirrors: Mirrors,
        rollouts: Rollouts,
        waits: TargetWaits,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._endpoints = endpoints
        self._mirrors = mirrors
        self.rollouts = rollouts
        self._waits = waits
        self._chance = chance
        self._lengths = PromptLengths()
        self._table = RouteTable()
        self._specs: tuple[RouteSpec, ...] = ()

    def apply(self, config: GatewayConfig) -> None:
        self._table = RouteTable(config.routes)
        self._specs = config.routes
        self.rollouts.apply(config.routes)

    async def close(self) -> None:
        await self._mirrors.close()

    def all(self) -> tuple[RouteSpec, ...]:
        return self._specs

    def find(self, caller: Caller, name: str, place: Place, context: RequestContext) -> Routed | None:
        route = self._table.find(caller, name)
        if route is None:
            return None
        facts = RequestFacts(
            caller.tenant,
            context.headers,
            context.body,
            path_version=_version_of(place) if route.versions else "",
            fallback_identity=caller.key_id or context.request_id,
        )
        chosen = choose(route, facts, self.rollouts.share(route), self._lengths.ratio(name))
        if chosen is None:
            raise no_such_model(name, facts.version)
        cascade = self._cascade(route, chosen)
        choices, note = tuple(self._choices(chosen)), ""
        if cascade is None:  # whose first answer may be all that is needed
            choices, note = self._in_order(choices, route.patience_s, left_s(context))
        return Routed(
            name,
            route.label,
            choices,
            _unversioned(place) if route.versions else place,
            cascade,
            note,
            _said(route, facts),
            behind=partial(self._behind, context),
            observe=partial(self._observe, route),
            ended=partial(self._ended, route, facts),
            began=partial(self._began, route),
        )

    def _in_order(
        self, choices: tuple[Choice, ...], patience_s: float | None, most_s: float | None
    ) -> tuple[tuple[Choice, ...], str]:
        """As they are asked. Raises Unavailable where all are too late. What is too cold is woken."""
        if not choices:
            return choices, ""
        first = self._waits.wait(choices[0].entry, most_s)
        if not first.is_cold and is_soon(first, patience_s):
            return choices, ""
        waits = [first, *(self._waits.wait(choice.entry, most_s) for choice in choices[1:])]
        found = order(waits, patience_s)
        if isinstance(found, TooLate):
            raise self._too_late(choices[found.place].entry, waits[found.place])
        if found.note and waits[0].is_cold:
            self._waits.wake(choices[0].entry)
        return _marked(choices, waits, found.places), found.note

    def _behind(self, context: RequestContext, choices: Sequence[Choice]) -> Sequence[Choice]:
        waits = [self._waits.wait(choice.entry, left_s(context)) for choice in choices]
        return _marked(choices, waits, in_time_first(waits))

    def check_time(self, entry: EndpointEntry, context: RequestContext) -> None:
        wait = self._waits.wait(entry, left_s(context))
        if wait.is_cold and not may_be_in_time(wait):
            raise self._too_late(entry, wait)

    def _too_late(self, entry: EndpointEntry, wait: Wait) -> Unavailable:
        """It is woken, for who asks again."""
        self._waits.wake(entry)
        eta_s = wait.seconds or 0.0
        return Unavailable(
            f"nothing can answer within {wait.most_s:.3g} s: it takes {eta_s:.1f} s to start", retry_after_s=eta_s
        )

    def _cascade(self, route: RouteSpec, chosen: Chosen) -> Cascade | None:
        """Where neither a version nor a rule has chosen."""
        if route.cascade is None or next(iter(chosen.values())) not in (CANARY, OWN_TARGETS):
            return None
        first = tuple(self._choices(dict.fromkeys(route.cascade.first, "cascade")))
        return Cascade(route.cascade, first) if first else None

    def names(self, caller: Caller) -> list[str]:
        """Routes first; without those that have no endpoint now."""
        routes = {route.name: self._has_any(route) for route in self._table.visible(caller)}
        own = [name for name, _ in self._endpoints.names(caller) if name not in routes]
        return [*(name for name, answers in routes.items() if answers), *own]

    def knows(self, caller: Caller, name: str) -> bool:
        route = self._table.find(caller, name)
        return self._endpoints.find(caller, name) is not None if route is None else self._has_any(route)

    def _has_any(self, route: RouteSpec) -> bool:
        return any(True for _ in self._choices(dict.fromkeys(route.targets, "")))

    def _choices(self, chosen: Chosen) -> Iterator[Choice]:
        """Those that there are."""
        for place, (name, why) in enumerate(chosen.items()):
            # The route's right stands for the caller's.
            target = self._endpoints.of_namespace(name)
            if target is not None:
                yield Choice(target.entry, target.model_name, why, place)

    def _observe(self, route: RouteSpec, attempted: Attempted) -> None:
        choice = attempted.choice
        if attempted.start_s is not None:
            self._waits.started(choice.entry, attempted.start_s)
        elif attempted.eta_s is not None:
            self._waits.told(choice.entry, attempted.eta_s)
        # What is tried in place of another target says less of how that one does.
        if route.canary is not None and not choice.place and choice.why in (CANARY, OWN_TARGETS):
            self.rollouts.observe(route, choice.why == CANARY, attempted.failed, attempted.first_event_s)

    def _ended(self, route: RouteSpec, facts: RequestFacts, request: GatewayRequest) -> None:
        if facts.is_read and any(rule.depends_on_length for rule in route.rules):
            self._lengths.observe(route.name, facts.prompt_tokens(), request.usage.prompt_tokens)

    def _began(self, route: RouteSpec, request: GatewayRequest, answering: Answering) -> None:
        mirror = route.mirror
        if mirror is not None and self._chance() * 100 < mirror.percent:
            self._mirror(mirror, route.name, request, answering)

    def _mirror(self, mirror: MirrorSpec, route_name: str, request: GatewayRequest, answering: Answering) -> None:
        for choice in self._choices({mirror.target: "mirror"}):
            self._mirrors.begin(choice, route_name, mirror.most_running, request, answering)


def _marked(choices: Sequence[Choice], waits: Sequence[Wait], places: Sequence[int]) -> tuple[Choice, ...]:
    """In that order, each with whether it is cold."""
    return tuple(
        msgspec.structs.replace(choices[place], is_cold=True) if waits[place].is_cold else choices[place]
        for place in places
    )


def _said(route: RouteSpec, facts: RequestFacts) -> Mapping[str, str]:
    """Its version under a name that no header has."""
    said = {"": facts.version} if facts.version else {}
    for rule in route.rules:
        for match in rule.headers:
            if (value := facts.headers.get(match.name)) is not None:
                said[match.name] = value
    return said


def _version_of(place: Place) -> str:
    named = model_path(place.path)
    return "" if named is None else named.version


def _unversioned(place: Place) -> Place:
    """The version meant one of the route; the endpoints have their own."""
    path = without_version(place.path)
    if path == place.path:
        return place
    query = place.target[len(place.path) :]
    return replace(place, path=path, target=path + query, component_path=component_path(path))
