"""The lease API's edge: bodies that are wrong are refused with a 400 that names what is, and errors have one shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgi_client import ask

from pilotlight_pool.coordinator.coordinator import Coordinator, CoordinatorSettings
from pilotlight_pool.coordinator.http_api import build_app
from pilotlight_pool.policy.leases.access import TRUSTED

LEASE = {"model": "/m", "model_name": "m"}


def app() -> Any:
    coordinator = Coordinator(CoordinatorSettings(), lambda: 0.0, lambda: 0.0)
    return build_app(coordinator, lambda: True, lambda authorization: TRUSTED)


@pytest.mark.parametrize("path", ["/v1/leases", "/v1/prewarm"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"[]", "object"),
        (b'{"model":', "JSON"),
        (b'{"model": "\xff"}', "UTF-8"),
        ({"model_name": "m"}, "`model`"),
        ({**LEASE, "model": ""}, "$.model"),
        ({**LEASE, "model": 7}, "$.model"),
        ({**LEASE, "isolation": "none"}, "$.isolation"),
        ({**LEASE, "engine_args": {"max_model_len": 7}}, "$.engine_args"),
        ({**LEASE, "loras": [["a"]]}, "$.loras"),
        ({**LEASE, "dedline_s": 3}, "dedline_s"),
    ],
)
async def test_a_wrong_body_is_a_400_that_names_what_is_wrong(path: str, body: Any, words: str) -> None:
    answer = await ask(app(), "POST", path, body=body if isinstance(body, bytes) else json.dumps(body).encode())
    assert answer.status == 400
    assert words in answer.json["error"]


async def test_every_error_has_the_api_shape() -> None:
    for method, path, body, status in (
        ("GET", "/nothing", b"", 404),
        ("PUT", "/v1/leases", b"", 405),
        ("GET", "/v1/leases/none", b"", 404),
        ("POST", "/v1/leases/none/heartbeat", b"", 404),
        ("POST", "/v1/leases", b"x" * 70_000, 413),
    ):
        answer = await ask(app(), method, path, body=body)
        assert (answer.status, list(answer.json)) == (status, ["error"]), path
