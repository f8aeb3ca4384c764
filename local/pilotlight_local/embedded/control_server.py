"""The control API of a running platform: JSON over HTTP on a Unix socket that only its owner can open.

    POST /apply   {"paths": [...]}                 -> {"applied": [[name, verb]], "findings": [...], "errors": [...]}
    POST /delete  {"namespace": ..., "name": ...}  -> {"deleted": bool, "running": n}   requests that still run
    GET  /endpoints?epoch=&after=&wait_s=          -> a DirectoryAnswer, for the gateway
    GET  /services, PUT, DELETE /services/NS/NAME  -> `pilotlight_protocol.endpoint_orders`, for the gateway
    GET  /status                                   -> {"port": n, "pid": n, "components": [...], "pool": {...}}
    POST /down                                     -> {}   and the platform ends

Must not: decide anything.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
from aiohttp import web

from pilotlight_local.controller.controller import DELETE_GRACE_S, Controller
from pilotlight_local.controller.platform_status import ComponentStatus
from pilotlight_local.embedded.applying import Applier
from pilotlight_local.embedded.endpoint_news import EndpointNews
from pilotlight_local.embedded.endpoint_orders import EndpointOrders
from pilotlight_local.embedded.warm_pool import WarmPool
from pilotlight_local.errors import RefusedError
from pilotlight_local.ingress.routes import EndpointName
from pilotlight_protocol.endpoint_names import told
from pilotlight_protocol.endpoint_orders import ApplyOrder, NotApplied
from pilotlight_wire.unix_paths import short_unix_path

LAST_ANSWERS_TIMEOUT_S = 2.0
# Longer than a pod without requests takes to end, stuck or not; requests that run may take minutes.
DELETE_PATIENCE_S = DELETE_GRACE_S + 5.0


class ControlServer:
    """Answers `pilotlight status|apply|delete|down|prove|proofs`."""

    def __init__(
        self,
        controller: Controller,
        applier: Applier,
        orders: EndpointOrders,
        news: EndpointNews,
        pool: WarmPool | None,
        port: int,
        end: Callable[[], None],
    ) -> None:
        self._controller = controller
        self._applier = applier
        self._orders = orders
        self._news = news
        self._pool = pool
        self._port = port
        self._end = end

    async def serve(self, path: Path) -> None:
        """Listen on `path`, mode 0600, until `close`."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with short_unix_path(path) as address:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address)  # noqa: PTH108 - the address of a path that is too long is not a path
            mask = os.umask(0o177)
            try:
                listener.bind(address)
            finally:
                os.umask(mask)
        listener.listen()
        listener.setblocking(False)
        self._http = web.Server(self._handle)
        self._server = await asyncio.get_running_loop().create_unix_server(self._http, sock=listener)

    async def close(self) -> None:
        """Stop listening, once answers that are due have been sent."""
        self._server.close()
        self._http.pre_shutdown()
        await self._http.shutdown(timeout=LAST_ANSWERS_TIMEOUT_S)

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        match request.method, request.path:
            case "GET", "/status":
                rows = [row.as_json() for row in with_names(self._controller.status(), self._news.held_by_others())]
                pool = await self._pool.describe() if self._pool is not None else None
                return web.json_response({"port": self._port, "pid": os.getpid(), "components": rows, "pool": pool})
            case "GET", "/endpoints":
                query = request.query
                answer = await self._news.after(
                    query.get("epoch", ""), int(query.get("after", "0")), float(query.get("wait_s", "0"))
                )
                return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
            case ("GET" | "POST") as method, "/proofs":
                if self._pool is None:
                    return web.json_response({"error": "this platform has no warm pool"}, status=404)
                status, body = await self._pool.proofs(method, await request.read())
                return web.Response(body=body, status=status, content_type="application/json")
            case "POST", "/apply":
                return await self._apply(await request.json())
            case "POST", "/delete":
                order = await request.json()
                name = EndpointName(order["namespace"], order["name"])
                await self._orders.forget(name)
                running = await self._controller.delete(name, DELETE_PATIENCE_S)
                return web.json_response({"deleted": running is not None, "running": running or 0})
            case "POST", "/down":
                self._end()
                return web.json_response({})
            case _, path if path.startswith("/services"):
                return await self._services(request)
        return web.json_response({"error": f"no {request.method} {request.path}"}, status=404)

    async def _services(self, request: web.BaseRequest) -> web.Response:
        namespace = request.query.get("namespace")
        match request.method, request.path.split("/")[2:]:
            case "GET", []:
                return _encoded(self._orders.held(namespace))
            case "PUT", [namespace, name]:
                try:
                    order = msgspec.json.decode(await request.read(), type=ApplyOrder)
                    return _encoded(await self._orders.apply(EndpointName(namespace, name), order))
                except (RefusedError, OSError) as error:
                    return web.json_response({"error": str(error)}, status=503)
                except msgspec.MsgspecError as error:
                    return web.json_response({"error": str(error)}, status=400)
            case "DELETE", [namespace, name]:
                given = request.query.get("generation")
                generation = None if given is None else int(given)
                return _encoded(await self._orders.delete(EndpointName(namespace, name), generation))
        return web.json_response({"error": f"no {request.method} {request.path}"}, status=404)

    async def _apply(self, order: dict[str, list[str]]) -> web.Response:
        try:
            result = await self._applier.apply([Path(path) for path in order["paths"]])
        except RefusedError as error:
            return web.json_response({"applied": [], "findings": [], "errors": list(error.messages)})
        return web.json_response({"applied": list(result.applied), "findings": list(result.findings), "errors": []})


def with_names(
    rows: Iterable[ComponentStatus], held: Mapping[tuple[str, str], Mapping[str, str]]
) -> Iterator[ComponentStatus]:
    """Where nothing worse is wrong, who has a name that an endpoint does not answer to."""
    for row in rows:
        others = held.get((row.namespace, row.endpoint)) if row.path and not row.reason else None
        yield row if others is None else replace(row, reason=told(others))


def _encoded(answer: object) -> web.Response:
    status = 200
    if isinstance(answer, NotApplied):
        status = 422 if answer.refused else 409
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json", status=status)
