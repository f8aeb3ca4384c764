"""One endpoint with one revision, as the ingress sees the platform."""

from __future__ import annotations

import random

from pilotlight_local.activator.activator import Activator
from pilotlight_local.controller.routing_table import find_destination
from pilotlight_local.errors import UnknownHost
from pilotlight_local.ingress.routes import Destination, EndpointName, Route
from pilotlight_specs.desired import Role

DEMO = EndpointName("default", "demo")


class FakeRoute:
    revision = "demo-00001"
    component: Role = "predictor"

    def __init__(self, queue_depth: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.activator = Activator(self.revision, 0, random.Random(1), lambda: None, queue_depth=queue_depth)

    def is_cold(self) -> bool:
        return True

    def progress(self) -> tuple[str, float | None]:
        return "predictor-starting", 3.0


class FakeTable:
    """`statuses`: of the requests that have ended."""

    def __init__(self, route: FakeRoute) -> None:
        self.route = route
        self.statuses: list[int] = []

    def find(self, host: str, path: str) -> Destination | None:
        return find_destination(host, path, lambda name: name == DEMO)

    def choose(self, endpoint: EndpointName, component: Role | None) -> Route:
        if endpoint != DEMO:
            raise UnknownHost(f"no endpoint {endpoint}")
        return self.route

    def record(self, route: Route, status: int, duration_s: float, server_timing: str) -> None:
        self.statuses.append(status)

    def metrics_text(self) -> str:
        return "pilotlight_things 1\n"
