"""The gateway's OpenAPI document: every route that there is, no other one, and no model but its caller's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from pilotlight_gateway.batches.batch_routes import Batches
from pilotlight_gateway.batches.file_routes import Files
from pilotlight_gateway.endpoints.endpoints_api import EndpointsApi
from pilotlight_gateway.gateway_app import GatewayRouter, OwnRoute
from pilotlight_gateway.jobs.job_routes import Jobs
from pilotlight_gateway.openapi.gateway_document import MOST_NAMED, gateway_document, with_models
from pilotlight_gateway.routing.route_list import RouteList
from pilotlight_gateway.short_way.endpoint_routes import any_endpoints_routes
from pilotlight_gateway.tenants.admin_routes import TenantAdministration
from pilotlight_gateway.usage.usage_api import UsageApi
from pilotlight_serving.http_app import RouteTable
from pilotlight_text.responses_api.response_store import KeptHere

NOTHING: Any = None
OWN: list[OwnRoute] = [
    *EndpointsApi(NOTHING, NOTHING, NOTHING, NOTHING).routes(),
    *UsageApi(NOTHING, NOTHING, NOTHING).routes(),
    *RouteList(NOTHING).routes(),
    *TenantAdministration(NOTHING, NOTHING, NOTHING, NOTHING).routes(),
    *Jobs(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING).routes(),
    *Files(NOTHING, NOTHING, NOTHING, NOTHING).routes(),
    *Batches(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING).routes(),
]
DOCUMENT = gateway_document({(route.method, route.path) for route in OWN})


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in item.keys() - {"parameters"}:
            yield method.upper(), path, item[method]


def tables() -> tuple[RouteTable, RouteTable]:
    class Door:
        caller = counted_caller = admit = None

    door: Any = Door()
    own = GatewayRouter(door, NOTHING, NOTHING, NOTHING, NOTHING, OWN)._own
    return own, any_endpoints_routes(KeptHere())


def routes_of(table: RouteTable) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    nodes = [table._root]
    while nodes:
        node = nodes.pop()
        found |= {(route.method, re.sub(r"\.\.\.\}", "}", route.path)) for route in node.routes.values()}
        nodes += node.children.values()
        nodes += [] if node.wild is None else [node.wild]
    return found


def test_it_has_every_route_and_no_other() -> None:
    described = {(method, path) for method, path, _ in operations(DOCUMENT)}
    assert described == set().union(*(routes_of(table) for table in tables()))


def test_what_is_not_there_is_not_described() -> None:
    document = gateway_document({("GET", "/v1/usage")})
    described = {path for _, path, _ in operations(document)}
    assert "/v1/usage" in described
    assert not {path for path in described if path.startswith(("/v1/jobs", "/v1/files", "/v1/tenants"))}
    assert not any("202" in operation["responses"] for _, _, operation in operations(document))


def test_names_of_operations_are_names_of_one() -> None:
    names = [operation["operationId"] for _, _, operation in operations(DOCUMENT)]
    assert len(set(names)) == len(names)


def test_what_it_refers_to_is_there() -> None:
    document = json.dumps(with_models(DOCUMENT, ["a"]))
    known = json.loads(document)["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', document)) <= known.keys()


@pytest.mark.parametrize(("names", "listed"), [([], None), (["a", "b"], ["a", "b"]), (["m"] * (MOST_NAMED + 1), None)])
def test_models_are_the_callers(names: list[str], listed: list[str] | None) -> None:
    shown = with_models(DOCUMENT, names)["components"]["schemas"]["ModelName"]
    assert shown.get("enum") == listed
    assert "ModelName" not in DOCUMENT["components"]["schemas"], "what one caller sees is not kept for others"


def test_every_operation_says_what_a_caller_may_be_refused_with() -> None:
    free = {"/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
    for _, path, operation in operations(DOCUMENT):
        assert path in free or {"401", "403"} <= operation["responses"].keys(), path
