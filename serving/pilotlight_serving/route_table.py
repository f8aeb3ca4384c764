"""Finds the route of a request: a tree of path segments, built once. Pure.

A request path is matched in its raw form and each segment is unquoted by itself, so that a model name may hold a slash
written as `%2F`. One trailing slash is tolerated. HEAD is answered by the GET route.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from pilotlight_wire.handlers import Route


@dataclass(slots=True)
class _Node:
    children: dict[str, _Node] = field(default_factory=dict)
    wild: _Node | None = None
    wild_name: str = ""
    routes: dict[str, Route] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """`route` is None when the path exists but not for this method; `allowed` lists the methods then."""

    route: Route | None
    parameters: dict[str, str]
    allowed: tuple[str, ...] = ()


class RouteTable:
    def __init__(self, routes: Sequence[Route]) -> None:
        self._root = _Node()
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in _segments(route.path):
            if segment.startswith("{"):
                if node.wild is None:
                    node.wild = _Node()
                    node.wild_name = segment[1:-1]
                node = node.wild
            else:
                node = node.children.setdefault(segment, _Node())
        if route.method in node.routes:
            raise ValueError(f"two routes for {route.method} {route.path}")
        node.routes[route.method] = route

    def find(self, method: str, raw_path: str) -> Match | None:
        """The match for `method` on `raw_path` (percent-encoded, without the query), None for an unknown path."""
        node = self._root
        parameters: dict[str, str] = {}
        for segment in _segments(raw_path):
            child = node.children.get(segment)
            if child is not None:
                node = child
            elif node.wild is not None and segment:
                parameters[node.wild_name] = unquote(segment) if "%" in segment else segment
                node = node.wild
            else:
                return None
        if not node.routes:
            return None
        route = node.routes.get("GET" if method == "HEAD" else method)
        if route is not None:
            return Match(route, parameters)
        allowed = sorted(node.routes) + (["HEAD"] if "GET" in node.routes else [])
        return Match(None, parameters, tuple(allowed))


def _segments(path: str) -> list[str]:
    segments = path.split("/")[1:]
    if segments and not segments[-1]:
        segments.pop()
    return segments
