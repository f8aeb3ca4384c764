"""The platform's own routes on the ingress port: `/healthz`, `/metrics`, `/`. Must not: change anything."""

from aiohttp import web

from pilotlight_local.ingress.table import EndpointTable


def answer_platform_request(table: EndpointTable, request: web.BaseRequest) -> web.Response | None:
    """The answer when the path is one of the platform's own, else None."""
    if request.method not in ("GET", "HEAD"):
        return None
    if request.path == "/":
        return web.Response(text="Pilotlight. Endpoints: /serving/NAMESPACE/NAME/; `pilotlight status` lists them.\n")
    if request.path == "/healthz":
        return web.Response(text="ok\n")
    if request.path == "/metrics":
        return web.Response(
            body=table.metrics_text().encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )
    return None
