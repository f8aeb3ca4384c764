"""A request as the endpoint's pods get it: the model as they call it, of its headers no hop's and no key. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from pilotlight_gateway.pods_way.cache_salts import FIELD, needs_salt, salt_for
from pilotlight_gateway.request_steps import GatewayRequest
from pilotlight_gateway.surfaces import model_path
from pilotlight_protocol.answer_record import RESUME, TELL
from pilotlight_protocol.errors import InvalidInput
from pilotlight_wire.hop_headers import OUTPUT_TOKENS, TIMEOUT_HEADER, told_seconds

_KEPT_HERE = frozenset(
    ("authorization", "x-api-key", "api-key", "host", "content-length", "content-encoding", "accept-encoding")
    + ("expect", "connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer")
    + ("transfer-encoding", "upgrade", "cookie", "forwarded", "idempotency-key", "last-event-id")
    + (TELL, RESUME, OUTPUT_TOKENS, TIMEOUT_HEADER)
)
_FORWARDED = "x-forwarded-"


@dataclass(frozen=True, slots=True)
class PodsRequest:
    """`headers`: all but the length of the body and the host, and the time that is left. `ends_s`: by
    `time.monotonic`, until when its sender waits, None where nobody says."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    ends_s: float | None = None

    def raw(self, host: str, now_s: float) -> bytes:
        """For the replica that is called so."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        if self.ends_s is not None:
            lines += f"{TIMEOUT_HEADER}: {told_seconds(self.ends_s - now_s)}\r\n"
        head = (
            f"{self.method} {self.target} HTTP/1.1\r\nhost: {host}\r\n{lines}content-length: {len(self.body)}\r\n\r\n"
        )
        return head.encode("latin-1") + self.body


def pods_request(request: GatewayRequest) -> PodsRequest:
    named = model_path(request.place.path)
    target, body = request.place.target, request.context.body
    if named is not None:
        query = request.place.target[len(request.place.path) :]
        target = f"/v2/models/{quote(request.model_name, safe='')}{named.tail}{query}"
    elif body and (request.asked.model != request.model_name or needs_salt(request)):
        body = _for_pods(body, request)
    return PodsRequest(request.place.method, target, _headers(request), body, request.context.ends_s)


def _headers(request: GatewayRequest) -> dict[str, str]:
    given = request.context.headers
    headers = {
        name: value for name, value in given.items() if name not in _KEPT_HERE and not name.startswith(_FORWARDED)
    }
    headers["x-request-id"] = request.context.request_id
    return headers


def _for_pods(body: bytes, request: GatewayRequest) -> bytes:
    """The body with its `model` as the pods call it, and whose prefixes it may find; everything else byte for byte."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except RecursionError as error:  # how deeply one may read depends on how deeply one is called
        raise InvalidInput("the body is nested too deeply") from error
    fields["model"] = msgspec.Raw(msgspec.json.encode(request.model_name))
    if needs_salt(request):
        fields[FIELD] = msgspec.Raw(msgspec.json.encode(salt_for(request, fields.get(FIELD))))
    return msgspec.json.encode(fields)
