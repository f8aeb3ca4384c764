"""The embedded platform behind `EndpointPlatform`: orders over its control socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from pilotlight_gateway.directory.control_socket import asked
from pilotlight_protocol.endpoint_orders import (
    Applied,
    ApplyOrder,
    Deleted,
    HeldEndpoint,
    HeldEndpoints,
    NotApplied,
)
from pilotlight_protocol.errors import PilotlightError, Unavailable
from pilotlight_wire.http_connection import ConnectionLost, Silence

ANSWER_WITHIN_S = 60.0
"""To check an order, the platform asks the components about their arguments, in processes."""

_Answer = TypeVar("_Answer")
_DOWN = "the platform that runs the endpoints does not answer at the moment; send it again"


class SocketPlatform:
    """Implements EndpointPlatform."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def held(self, namespace: str | None) -> list[HeldEndpoint]:
        query = "" if namespace is None else f"?{urlencode({'namespace': namespace})}"
        return list((await self._asked("GET", f"/services{query}", HeldEndpoints)).endpoints)

    async def apply(
        self, namespace: str, name: str, manifest: dict[str, Any], spec: bytes, generation: int
    ) -> Applied | NotApplied:
        order = msgspec.json.encode(ApplyOrder(manifest, msgspec.Raw(spec), generation))
        return await self._asked_or_not("PUT", _path(namespace, name), Applied, order)

    async def delete(self, namespace: str, name: str, generation: int | None) -> Deleted | NotApplied:
        query = "" if generation is None else f"?{urlencode({'generation': generation})}"
        return await self._asked_or_not("DELETE", _path(namespace, name) + query, Deleted)

    async def _asked(self, method: str, target: str, kind: type[_Answer]) -> _Answer:
        answer = await self._asked_or_not(method, target, kind)
        if isinstance(answer, NotApplied):
            raise Unavailable(_DOWN)
        return answer

    async def _asked_or_not(
        self, method: str, target: str, kind: type[_Answer], body: bytes = b""
    ) -> _Answer | NotApplied:
        try:
            status, answer = await asked(self._socket, method, target, body, silence_s=ANSWER_WITHIN_S)
            if status in (409, 422):
                return msgspec.json.decode(answer, type=NotApplied)
            if status == 200:
                return msgspec.json.decode(answer, type=kind)
        except (OSError, TimeoutError, ConnectionLost, Silence, PilotlightError, msgspec.DecodeError) as error:
            raise Unavailable(_DOWN) from error
        raise Unavailable(_DOWN)


def _path(namespace: str, name: str) -> str:
    return f"/services/{quote(namespace, safe='')}/{quote(name, safe='')}"
