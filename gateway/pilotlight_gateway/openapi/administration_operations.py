"""What the document says of endpoints on demand, usage, routes, tenants and keys. Pure."""

from __future__ import annotations

from pilotlight_gateway.endpoints.endpoint_spec import EndpointSpec
from pilotlight_gateway.endpoints.shown_endpoint import DeletedEndpoint, ShownEndpoint, ShownEndpoints
from pilotlight_gateway.routing.route_list import ShownRoutes
from pilotlight_gateway.tenants.admin_routes import (
    Deleted,
    KeyList,
    NewKey,
    NewTenant,
    Revoked,
    Rotation,
    ShownKey,
    ShownTenant,
    TenantList,
)
from pilotlight_gateway.tenants.tenant_records import TENANT_NAME, TenantSettings
from pilotlight_gateway.usage.usage_report import COLUMNS, UsageReport
from pilotlight_wire.openapi_operations import BODY_ERRORS, Operation, Schema

_NAME: Schema = {"type": "string", "pattern": f"^{TENANT_NAME}$"}
_OF_TENANT = {"tenant": _NAME}
_IF_MATCH: Schema = {"type": "string", "pattern": r'^(\*|(W/)?"[0-9]{1,15}")$'}
_DAY: Schema = {"type": "string", "format": "date"}
_ENDPOINT = "/v1/endpoints/{name}"
_TENANT = "/v1/tenants/{tenant}"
_KEY = f"{_TENANT}/keys/{{key}}"

ENDPOINTS = (
    Operation(
        *("get", "/v1/endpoints", "list_endpoints", "your endpoints", ShownEndpoints, (400, 403)), query=_OF_TENANT
    ),
    Operation(
        *("post", "/v1/endpoints", "create_endpoint", "the endpoint; 200 where it was there already", ShownEndpoint),
        (*BODY_ERRORS, 403, 409),
        EndpointSpec,
        query=_OF_TENANT,
        statuses=(200, 201),
    ),
    Operation(*("get", _ENDPOINT, "get_endpoint", "the endpoint", ShownEndpoint, (400, 403, 404)), query=_OF_TENANT),
    Operation(
        *("patch", _ENDPOINT, "change_endpoint", "the endpoint", ShownEndpoint, (*BODY_ERRORS, 403, 409, 412)),
        body={"type": "object", "minProperties": 1},
        description="A JSON merge patch (RFC 7396) of what it was created with.",
        query=_OF_TENANT,
        headers={"If-Match": _IF_MATCH},
    ),
    Operation(
        *("delete", _ENDPOINT, "delete_endpoint", "it is no more", DeletedEndpoint, (400, 403, 404, 409, 412)),
        query=_OF_TENANT,
        headers={"If-Match": _IF_MATCH},
    ),
)
USAGE = (
    Operation(
        *("get", "/v1/usage", "usage", "what was taken, and what it costs", UsageReport, (400, 403, 429)),
        media={"text/csv": {"type": "string"}},
        query={
            "from": _DAY,
            "to": _DAY,
            "by": {"type": "string", "description": f"of {', '.join(COLUMNS)}, with commas between"},
            "endpoint": {"type": "string"},
            "tenant": {"type": "string"},
        },
    ),
)
ROUTES = (
    Operation(
        *("get", "/v1/routes", "list_routes", "every route, and how its canary does", ShownRoutes, (400, 403)),
        query={"name": {"type": "string"}},
    ),
)
TENANTS = (
    Operation("get", "/v1/tenants", "list_tenants", "who there is", TenantList, (403,)),
    Operation(
        *("post", "/v1/tenants", "create_tenant", "the tenant", ShownTenant, (*BODY_ERRORS, 403, 409), NewTenant),
        statuses=(201,),
    ),
    Operation("delete", _TENANT, "delete_tenant", "its keys are revoked", Deleted, (403, 404)),
    Operation(
        *("post", f"{_TENANT}/settings", "change_tenant", "the tenant", ShownTenant, (*BODY_ERRORS, 403)),
        TenantSettings,
    ),
    Operation("get", f"{_TENANT}/keys", "list_keys", "its keys, without their secrets", KeyList, (403,)),
    Operation(
        *("post", f"{_TENANT}/keys", "create_key", "the key, told this once", ShownKey, (*BODY_ERRORS, 403), NewKey),
        body_required=False,
        statuses=(201,),
    ),
    Operation(
        *("post", f"{_KEY}/rotate", "rotate_key", "its successor", ShownKey, (*BODY_ERRORS, 403, 409), Rotation),
        body_required=False,
        statuses=(201,),
    ),
    Operation("delete", _KEY, "revoke_key", "it is good no more", Revoked, (403, 404)),
)
