"""How a path finds its route."""

from __future__ import annotations

import pytest

from pilotlight_serving.http_app import RouteTable, quoted_name
from pilotlight_wire.handlers import Reply, RequestContext, Route


async def handler(context: RequestContext) -> Reply:
    return Reply(b"")


TABLE = RouteTable(
    [
        Route("GET", "/", handler),
        Route("GET", "/v2", handler),
        Route("GET", "/v2/models", handler),
        Route("GET", "/v2/models/{model_name}", handler),
        Route("POST", "/v2/models/{model_name}/infer", handler),
        Route("POST", "/v2/models/{model_name}/versions/{version}/infer", handler),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "found", "parameters"),
    [
        ("GET", "/", "/", {}),
        ("GET", "/v2/", "/v2", {}),
        ("HEAD", "/v2", "/v2", {}),
        ("GET", "/v2/models/", "/v2/models", {}),
        ("GET", "/v2/models/m", "/v2/models/{model_name}", {"model_name": "m"}),
        ("GET", "/v2/models/org%2Fname", "/v2/models/{model_name}", {"model_name": "org/name"}),
        ("GET", "/v2/models/%E2%82%AC", "/v2/models/{model_name}", {"model_name": "€"}),
        ("POST", "/v2/models/m/infer", "/v2/models/{model_name}/infer", {"model_name": "m"}),
        (
            "POST",
            "/v2/models/m/versions/1/infer",
            "/v2/models/{model_name}/versions/{version}/infer",
            {"model_name": "m", "version": "1"},
        ),
    ],
)
def test_found(method: str, path: str, found: str, parameters: dict[str, str]) -> None:
    match = TABLE.find(method, path)
    assert match is not None
    assert match.route is not None
    assert (match.route.path, match.parameters) == (found, parameters)


@pytest.mark.parametrize(
    "path", ["/v1", "/v2/models/m/nothing", "/v2/models//infer", "/v2/models/m/versions", "//", ""]
)
def test_unknown_paths(path: str) -> None:
    match = TABLE.find("GET", path)
    assert match is None or (path == "" and match.route is not None)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("POST", "/v2", ("GET", "HEAD")), ("GET", "/v2/models/m/infer", ("POST",)), ("TRACE", "/", ("GET", "HEAD"))],
)
def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allowed: tuple[str, ...]) -> None:
    match = TABLE.find(method, path)
    assert match is not None
    assert (match.route, match.allowed) == (None, allowed)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/models/m", "m"),
        ("/v1/models/org/name:v1/", "org/name:v1"),
        ("/v1/models/org%2Fname", "org/name"),
        ("/v1/models/a/b/c", "a/b/c"),
    ],
)
def test_a_name_at_the_end_may_be_of_several_segments(path: str, name: str) -> None:
    table = RouteTable([Route("GET", f"/v1/models{rest}", handler) for rest in ("", "/{model_name...}")])
    match = table.find("GET", path)
    assert match is not None
    assert match.parameters == {"model_name": name}
    assert table.find("GET", "/v1/models/") == table.find("GET", "/v1/models")


@pytest.mark.parametrize(
    ("path", "quoted"),
    [
        ("/v2/models/org/name/infer", "/v2/models/org%2Fname/infer"),
        ("/v2/models/org/name", "/v2/models/org%2Fname"),
        ("/v2/models/org/na%3Ame/ready", "/v2/models/org%2Fna%3Ame/ready"),
        ("/v2/repository/models/org/name/load", "/v2/repository/models/org%2Fname/load"),
        ("/v2/models/org/names/infer", "/v2/models/org/names/infer"),
        ("/v2/models/plain/infer", "/v2/models/plain/infer"),
    ],
)
def test_a_served_name_is_quoted_whole(path: str, quoted: str) -> None:
    assert quoted_name(path, ["plain", "org/name", "org/na:me"]) == quoted


def test_two_routes_at_one_place_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two routes"):
        RouteTable([Route("GET", "/v2", handler), Route("GET", "/v2/", handler)])
