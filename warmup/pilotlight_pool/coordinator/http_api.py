"""The lease API over HTTP: routes, bodies, errors. Decides nothing.

    POST   /v1/leases                   201 a lease with its secret; held for `wait_s` until it is active
    GET    /v1/leases/{id}?wait_s=      200 the lease, without the secret
    POST   /v1/leases/{id}/heartbeat    200, or 410 with the reason, or 404
    DELETE /v1/leases/{id}              204
    GET    /v1/leases, /v1/slots, /v1/models, /v1/slot_times
    POST   /v1/prewarm                  202
    POST   /v1/proofs                   200 a proof of swaps, when it is made
    GET    /v1/proofs                   what is proven, refuted, not proven yet
    GET    /metrics, /healthz, /readyz

With lease keys every route under /v1 wants `Authorization: Bearer KEY`; a tenant sees its own leases and times, and
slots and models are the operator's. Errors are `{"error": "…"}` with the protocol's statuses and `Retry-After`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from pilotlight_pool.coordinator.coordinator import Coordinator
from pilotlight_pool.policy.leases.access import Caller
from pilotlight_protocol.errors import ClientGone, Forbidden, InvalidInput, PayloadTooLarge, PilotlightError
from pilotlight_protocol.json_bodies import read_json
from pilotlight_protocol.leases import LONGEST_WAIT_S, ErrorBody, LeaseRequest, PrewarmRequest, ProofRequest

log = logging.getLogger(__name__)
_MOST_BODY_BYTES = 64 * 1024
_LEASE = msgspec.json.Decoder(LeaseRequest)
_PREWARM = msgspec.json.Decoder(PrewarmRequest)
_PROOF = msgspec.json.Decoder(ProofRequest)
_Body = TypeVar("_Body")
_Result = TypeVar("_Result")


def build_app(coordinator: Coordinator, is_ready: Callable[[], bool], caller_of: Callable[[str], Caller]) -> FastAPI:
    """`is_ready`: what /readyz answers, for supervisors; leases are taken from the first moment. `caller_of`: whose an
    `Authorization` header is; raises Unauthorized."""
    app = FastAPI(title="Pilotlight leases", docs_url=None, redoc_url=None)
    lease_service = coordinator.lease_service

    def who(request: Request) -> Caller:
        return caller_of(request.headers.get("authorization", ""))

    @app.post("/v1/leases", status_code=201)
    async def ask(request: Request) -> Response:
        caller, asked = who(request), await _read(request, _LEASE, "a lease request")
        return _json(await _while_connected(request, lease_service.request(asked, caller)), 201)

    @app.get("/v1/leases/{lease_id}")
    async def poll(request: Request, lease_id: str) -> Response:
        wait_s = _wait_s(request.query_params.get("wait_s", "0"))
        return _json(await _while_connected(request, lease_service.poll(lease_id, wait_s, who(request))))

    @app.post("/v1/leases/{lease_id}/heartbeat")
    async def heartbeat(request: Request, lease_id: str) -> Response:
        return _json(lease_service.heartbeat(lease_id, who(request)))

    @app.delete("/v1/leases/{lease_id}", status_code=204)
    async def release(request: Request, lease_id: str) -> Response:
        lease_service.release(lease_id, who(request))
        return Response(status_code=204)

    @app.get("/v1/leases")
    async def leases(request: Request) -> Response:
        caller = who(request)
        return _json({"leases": [line for line in coordinator.leases() if caller.owns(line.tenant)]})

    @app.get("/v1/slots")
    async def slots(request: Request) -> Response:
        _operator(who(request))
        return _json({"slots": coordinator.slots()})

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        _operator(who(request))
        return _json({"models": coordinator.models()})

    @app.get("/v1/slot_times")
    async def slot_times(request: Request) -> Response:
        return _json(coordinator.slot_times(who(request)))

    @app.post("/v1/prewarm", status_code=202)
    async def prewarm(request: Request) -> Response:
        caller, asked = who(request), await _read(request, _PREWARM, "a prewarm request")
        return _json(await _while_connected(request, coordinator.prewarm(asked, caller)), 202)

    @app.post("/v1/proofs")
    async def prove(request: Request) -> Response:
        _operator(who(request))
        asked = await _read(request, _PROOF, "a request for a proof")
        return _json(await _while_connected(request, coordinator.prove(asked)))

    @app.get("/v1/proofs")
    async def proofs(request: Request) -> Response:
        _operator(who(request))
        return _json(coordinator.proofs())

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(coordinator.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/healthz")
    async def alive() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz")
    async def ready() -> Response:
        return _json({"ready": is_ready()}, 200 if is_ready() else 503)

    @app.exception_handler(PilotlightError)
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, PilotlightError)
        return _refusal(error)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _json(ErrorBody(f"{request.method} {request.url.path}: {error.detail}"), error.status_code)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _json(ErrorBody("internal error; the log of the warm pool has the details"), 500)

    return app


async def _read(request: Request, decoder: msgspec.json.Decoder[_Body], what: str) -> _Body:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BODY_BYTES:
            raise PayloadTooLarge(f"the body has more than {_MOST_BODY_BYTES} bytes")
    return read_json(decoder, body, what)


async def _while_connected(request: Request, work: Awaitable[_Result]) -> _Result:
    """The result of `work`, cancelled when the client hangs up: frameworks let it run on for nobody."""
    doing = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return await doing
        raise ClientGone("the client hung up")
    finally:
        for task in (doing, gone):
            task.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _operator(caller: Caller) -> None:
    if not caller.operator:
        raise Forbidden("what the pool's slots and models are is the operator's to see")


def _wait_s(text: str) -> float:
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = -1.0
    if not 0.0 <= wait_s <= LONGEST_WAIT_S:
        raise InvalidInput(f"wait_s is {text!r}; it is a number of seconds from 0 to {LONGEST_WAIT_S:g}")
    return wait_s


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _refusal(error: PilotlightError) -> Response:
    headers = {"Retry-After": error.retry_after_header} if error.retry_after_header is not None else {}
    return Response(
        msgspec.json.encode(ErrorBody(error.message)), error.http_status, headers, media_type="application/json"
    )
