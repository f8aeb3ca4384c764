"""The whole of the configuration file: one field for each section. Pure.

An empty file is a whole configuration: every section has a default that changes nothing.
"""

from __future__ import annotations

from pilotlight_gateway.batches.batch_settings import BatchSettings
from pilotlight_gateway.configuration.section import Section
from pilotlight_gateway.endpoints.endpoint_rules import EndpointRules
from pilotlight_gateway.jobs.job_settings import JobSettings
from pilotlight_gateway.priorities.queue_settings import QueueSettings
from pilotlight_gateway.routing.route_spec import RouteSpec, check_names
from pilotlight_gateway.tenants.identity_section import IdentityProvider, check_providers
from pilotlight_gateway.usage.prices import PriceTable


class GatewayConfig(Section, frozen=True):
    """`routes`: names that clients may ask for as `model`, beside those of endpoints. `identity_providers`: whose
    tokens are taken beside keys. `endpoints`: what tenants may make on demand. `prices`: what requests and slots cost
    from now on. `queue`: what waits before an endpoint that is full. `jobs`, `batches`: what is kept of them, and how
    much of them runs."""

    routes: tuple[RouteSpec, ...] = ()
    identity_providers: tuple[IdentityProvider, ...] = ()
    endpoints: EndpointRules = EndpointRules()
    prices: PriceTable = PriceTable()
    queue: QueueSettings = QueueSettings()
    jobs: JobSettings = JobSettings()
    batches: BatchSettings = BatchSettings()

    def __post_init__(self) -> None:
        check_names(self.routes)
        check_providers(self.identity_providers)
