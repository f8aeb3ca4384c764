"""HTTP/1.1 through the ingress: find the endpoint, hold the request in its activator, stream both ways. ASGI.

Bytes are passed on as they arrive, status and headers of the pod unchanged, `Server-Timing: activate` added. A client
that leaves cancels the request, which closes the connection to the pod. Must not: know how pods are started, or
decide about scale.
"""

import asyncio
import logging
import time

from pilotlight_local.errors import PlatformEnding, UnknownHost
from pilotlight_local.ingress.pod_exchange import PodConnections, PodExchange, wants_progress
from pilotlight_local.ingress.progress import answer_with_progress
from pilotlight_local.ingress.routes import Destination, EndpointName, EndpointTable
from pilotlight_protocol.errors import InternalError, PilotlightError
from pilotlight_specs.desired import Role
from pilotlight_wire.edge_bounds import EdgeBounds
from pilotlight_wire.http_exchange import Asgi, BodyAborted, HttpAnswer, Receive, Scope, Send

_ALL_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

_log = logging.getLogger("pilotlight.ingress")


class HttpIngress:
    """Answers every HTTP/1.1 request that reaches the ingress, or a component's in-cluster address (`service`)."""

    def __init__(self, table: EndpointTable, bounds: EdgeBounds) -> None:
        self._table = table
        self._bounds = bounds
        self._connections = PodConnections()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request on the ingress port: routed by host, then by path."""
        target = _target(scope)
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        await self._answer(scope, receive, send, self._table.find(host, target))

    def service(self, endpoint: EndpointName, component: Role) -> Asgi:
        """The app of a component's in-cluster address: the listener decides, not the host."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self._answer(scope, receive, send, Destination(endpoint, component, _target(scope)))

        return app

    async def _answer(self, scope: Scope, receive: Receive, send: Send, destination: Destination | None) -> None:
        path = scope["path"] if destination is None else destination.path
        answer = HttpAnswer(scope, receive, send, self._bounds.cors, path)
        answer.cancel_when_gone()
        try:
            if scope["method"] == "OPTIONS" and await answer.options(_ALL_METHODS):
                return
            if destination is not None:
                await self._forward(scope["method"], destination, answer)
            else:
                await self._answer_here(scope, answer)
        except asyncio.CancelledError:
            if not answer.client_gone:
                await answer.fail(PlatformEnding("the platform is ending"))
        except BodyAborted:
            pass
        except PilotlightError as error:
            await answer.fail(error)
        except Exception:
            _log.exception("request %s failed", answer.request_id)
            await answer.fail(InternalError("the ingress failed on this request; the platform's log has the details"))
        finally:
            answer.over()

    async def _forward(self, method: str, destination: Destination, answer: HttpAnswer) -> None:
        route = self._table.choose(destination.endpoint, destination.component)
        started = time.monotonic()
        exchange = PodExchange(
            route, self._connections, method, destination.path, answer, self._bounds.body_stall_timeout_s
        )
        status = 499
        try:
            if wants_progress(answer.headers) and route.is_cold():
                await answer_with_progress(answer, exchange, route.progress)
            else:
                await exchange.run()
            status = answer.status
        except PilotlightError as error:
            status = error.http_status
            raise
        finally:
            self._table.record(route, status, time.monotonic() - started, exchange.server_timing)

    async def _answer_here(self, scope: Scope, answer: HttpAnswer) -> None:
        """The platform's own routes; anything else is nobody's."""
        path = scope["path"]
        if scope["method"] in ("GET", "HEAD"):
            text = self._own_text(path)
            if text is not None:
                await answer.reply(200, "text/plain; version=0.0.4; charset=utf-8", text.encode())
                return
        host = answer.headers.get("host", "")
        raise UnknownHost(f"no endpoint for host {host!r} and {_target(scope)!r}; `pilotlight status` lists them")

    def _own_text(self, path: str) -> str | None:
        if path == "/":
            return "Pilotlight. Endpoints: /serving/NAMESPACE/NAME/; `pilotlight status` lists them.\n"
        if path == "/healthz":
            return "ok\n"
        return self._table.metrics_text() if path == "/metrics" else None

    def close(self) -> None:
        """Drop the idle connections to pods."""
        self._connections.close()


def _target(scope: Scope) -> str:
    query: bytes = scope["query_string"]
    target: bytes = scope["raw_path"]
    return (target + b"?" + query if query else target).decode("latin-1")
