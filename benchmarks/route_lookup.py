"""How long the gateway takes to find the endpoint of a name: 100,000 routes over 1,000 endpoints, one core.

python benchmarks/route_lookup.py [--routes N] [--endpoints N]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

from pilotlight_gateway.configuration.gateway_config import GatewayConfig
from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.request_steps import Caller, Place
from pilotlight_gateway.rollout.rollouts import Rollouts
from pilotlight_gateway.routing.mirrors import Mirrors
from pilotlight_gateway.routing.route_spec import CanarySpec, HeaderMatch, RouteSpec, RuleSpec
from pilotlight_gateway.routing.route_table import RouteTable
from pilotlight_gateway.routing.routes import Routes
from pilotlight_gateway.routing.target_waits import EndpointFacts, TargetWaits
from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry, PodsAddress
from pilotlight_wire.handlers import RequestContext

PATH = "/v1/chat/completions"
PLACE = Place("POST", PATH, PATH, PATH, PATH, None)
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "Why is the sky blue?"}], "user": "u1"}'
GOLD = RuleSpec(targets=("prod/e0",), headers=(HeaderMatch(name="x-tier", values=("gold",)),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--routes", type=int, default=100_000)
    parser.add_argument("--endpoints", type=int, default=1_000)
    given = parser.parse_args()
    entries = [entry(number) for number in range(given.endpoints)]
    endpoints = EndpointTable()
    began_s = time.perf_counter()
    endpoints.apply(DirectoryAnswer("e", 1, whole=True, changed=tuple(entries)))
    print(f"{given.endpoints} endpoints told of in {time.perf_counter() - began_s:.3f} s")
    specs = tuple(route(number, given.endpoints) for number in range(given.routes))
    table = RouteTable(specs)
    facts = EndpointFacts(lambda key: True, lambda key: 0.0, lambda entry, way, woken: None)
    routes = Routes(endpoints, Mirrors(lambda: False), Rollouts(), TargetWaits(facts))
    began_s = time.perf_counter()
    routes.apply(GatewayConfig(routes=specs))
    print(f"{given.routes} routes applied in {time.perf_counter() - began_s:.3f} s")
    chance = random.Random(1)
    names = [f"route-{chance.randrange(given.routes)}" for _ in range(10_000)]
    caller = Caller("team")
    context = RequestContext("r1", {"x-session-id": "s1"}, BODY)
    show("which route a name means", names, lambda name: table.find(caller, name))
    show("a name that is no route", [f"no-{name}" for name in names], lambda name: table.find(caller, name))
    plain = [name for name in names if not int(name.removeprefix("route-")) % 2]
    split = [name for name in names if int(name.removeprefix("route-")) % 2]
    show("the whole decision, two targets", plain, lambda name: routes.find(caller, name, PLACE, context))
    show("with a rule and a canary", split, lambda name: routes.find(caller, name, PLACE, context))
    admin = Caller("prod")
    own = [f"e{chance.randrange(given.endpoints)}" for _ in range(10_000)]
    show("which endpoint a name means", own, lambda name: endpoints.find(admin, name))


def show(what: str, names: list[str], find: Callable[[str], object]) -> None:
    best_us = min(timed(names, find) for _ in range(7))
    print(f"{what}: {best_us:.2f} µs")


def timed(names: list[str], find: Callable[[str], object]) -> float:
    began_s = time.perf_counter()
    for name in names:
        find(name)
    return (time.perf_counter() - began_s) / len(names) * 1e6


def entry(number: int) -> EndpointEntry:
    pods = PodsAddress("http://127.0.0.1:9", f"e{number}.prod.localhost")
    return EndpointEntry("prod", f"e{number}", (f"org/model-{number}",), "d", pods, pods_ready=1)


def route(number: int, endpoints: int) -> RouteSpec:
    targets = (f"prod/e{number % endpoints}", f"prod/e{(number + 1) % endpoints}")
    if not number % 2:
        return RouteSpec(name=f"route-{number}", targets=targets)
    canary = CanarySpec(targets=(f"prod/e{(number + 2) % endpoints}",), percent=5)
    return RouteSpec(name=f"route-{number}", targets=targets, rules=(GOLD,), canary=canary)


if __name__ == "__main__":
    main()
