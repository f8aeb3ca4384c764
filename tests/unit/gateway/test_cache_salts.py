"""What a server that is not ours is sent for tenants who share it: each one's prefixes are its own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from endpoint_entries import entry
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.pipeline import asked_of
from pilotlight_gateway.pods_way.pods_request import pods_request
from pilotlight_gateway.request_steps import Caller, GatewayRequest, Place
from pilotlight_gateway.surfaces import model_path
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.errors import InvalidInput
from pilotlight_wire.handlers import RequestContext

FOREIGN = entry("chat", "owner", lease=None, text=None)
BODY = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
PATHS = [
    f"{prefix}/{path}"
    for prefix in ("/v1", "/openai/v1")
    for path in ("chat/completions", "completions", "responses", "messages", "embeddings", "rerank", "score")
]
_ANY: Any = st.none() | st.text(max_size=8)


def sent(
    body: dict[str, Any] | bytes,
    caller: Caller,
    path: str = "/v1/chat/completions",
    to: EndpointEntry = FOREIGN,
) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = model_path(path)
    place = Place("POST", path, path, path, path, None if named is None else named.model)
    request = GatewayRequest(RequestContext("r", {}, raw), place, asked_of(raw), caller, to, "chat")
    return pods_request(request).body


def salt(tenant: str, **fields: Any) -> str:
    return str(json.loads(sent({**BODY, **fields}, Caller(tenant, "k")))["cache_salt"])


@pytest.mark.parametrize("path", PATHS)
def test_who_shares_it_gets_a_salt_on_every_surface_that_makes_tokens(path: str) -> None:
    body = json.loads(sent(BODY, Caller("a", "k"), path))
    assert body == {**BODY, "cache_salt": salt("a")}
    assert 0 < len(body["cache_salt"]) <= 128, "vLLM takes no longer one"


@given(one=st.tuples(st.sampled_from("ab"), _ANY), other=st.tuples(st.sampled_from("ab"), _ANY))
def test_no_own_salt_finds_another_tenants_prefixes(one: tuple[str, str | None], other: tuple[str, str | None]) -> None:
    """Also not one that is what another's came to."""
    same = (one[0], one[1] or "") == (other[0], other[1] or "")
    assert (salt(one[0], cache_salt=one[1]) == salt(other[0], cache_salt=other[1])) == same
    assert salt("a", cache_salt=salt("b")) != salt("b")


@pytest.mark.parametrize(
    ("caller", "to"),
    [
        (Caller("owner", "k"), FOREIGN),
        (Caller("default", namespaces=None), FOREIGN),
        (Caller("a", "k"), entry("chat", "owner")),
        (Caller("a", "k"), entry("chat", "owner", lease=None, text=None, cache_salt="none")),
    ],
    ids=["its owner", "an open door", "our own pods salt by themselves", "it takes none"],
)
def test_else_a_body_is_what_its_client_sent(caller: Caller, to: EndpointEntry) -> None:
    body = b'{ "model":"chat",  "cache_salt": "mine" }'
    assert sent(body, caller, to=to) == body


@pytest.mark.parametrize("path", ["/v1/tokenize", "/v1/messages/count_tokens", "/v2/models/chat/generate"])
def test_what_makes_no_tokens_or_has_no_place_for_it_has_none(path: str) -> None:
    body = b'{ "model":"chat", "text_input": "hi" }'
    assert sent(body, Caller("a", "k"), path) == body


@pytest.mark.parametrize("wrong", [1, [], {}, True])
def test_a_salt_that_is_no_text_is_refused_by_name(wrong: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        sent({**BODY, "cache_salt": wrong}, Caller("a", "k"))
    assert refused.value.param == "cache_salt"
