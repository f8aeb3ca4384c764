"""The whole of the configuration file: one field for each section. Pure.

An empty file is a whole configuration: every section has a default that changes nothing.
"""

from __future__ import annotations

from pilotlight_gateway.configuration.section import Section
from pilotlight_gateway.routing.route_spec import RouteSpec, check_names


class GatewayConfig(Section, frozen=True):
    """`routes`: names that clients may ask for as `model`, beside those of endpoints."""

    routes: tuple[RouteSpec, ...] = ()

    def __post_init__(self) -> None:
        check_names(self.routes)
