"""Where a request goes, from its host name and path alone. Pure.

Hosts: `<isvc>.<ns>.localhost` (what clients use), `<isvc>-predictor.<ns>.localhost` and
`<isvc>-transformer.<ns>.localhost` (what a component is called inside a cluster). Paths: `/serving/<ns>/<isvc>/…` on
any other host, prefix removed.
Must not: know which endpoints exist beyond the names it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Component = Literal["predictor", "transformer"]
PATH_PREFIX = "/serving/"
DOMAIN = ".localhost"


@dataclass(frozen=True)
class EndpointName:
    """An InferenceService by namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Destination:
    """The endpoint a request is for; `component` is None for the endpoint's front, `path` is what the pod sees."""

    endpoint: EndpointName
    component: Component | None
    path: str


def find_destination(host: str, path: str, exists: Callable[[EndpointName], bool]) -> Destination | None:
    """Route by host first, by path else; None when no endpoint matches.

    Args:
        host: the Host header or :authority, with or without a port.
        path: the request target, with its query.
        exists: whether an endpoint has this name.
    """
    labels = _labels(host)
    if labels is not None:
        return _by_host(*labels, path, exists)
    destination = _by_path(path)
    return destination if destination is not None and exists(destination.endpoint) else None


def path_in_pod(path: str) -> str:
    """What a pod would see of a request target, whether or not there is such an endpoint."""
    destination = _by_path(path)
    return path if destination is None else destination.path


def _by_path(path: str) -> Destination | None:
    if not path.startswith(PATH_PREFIX):
        return None
    namespace, _, rest = path[len(PATH_PREFIX) :].partition("/")
    cut = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    remainder = rest[cut:] if rest[cut:].startswith("/") else "/" + rest[cut:]
    return Destination(EndpointName(namespace, rest[:cut]), None, remainder)


def _labels(host: str) -> tuple[str, str] | None:
    """`(name, namespace)` of a host below `.localhost`, None for any other host."""
    bare = host.lower().rstrip(".")
    if not bare.endswith("]"):
        bare = bare.rpartition(":")[0] or bare if bare.rpartition(":")[2].isdigit() else bare
    bare = bare.rstrip(".")
    if not bare.endswith(DOMAIN):
        return None
    name, dot, namespace = bare[: -len(DOMAIN)].partition(".")
    return (name, namespace) if dot and "." not in namespace else None


def _by_host(name: str, namespace: str, path: str, exists: Callable[[EndpointName], bool]) -> Destination | None:
    front = EndpointName(namespace, name)
    if exists(front):
        return Destination(front, None, path)
    components: tuple[Component, ...] = ("predictor", "transformer")
    for component in components:
        endpoint = EndpointName(namespace, name.removesuffix(f"-{component}"))
        if endpoint != front and exists(endpoint):
            return Destination(endpoint, component, path)
    return None


_GENERATING = (
    "/infer",
    "/generate",
    "/generate_stream",
    "/completions",
    "/responses",
    "/ModelInfer",
    "/ModelStreamInfer",
)


def needs_model(method: str, path: str) -> bool:
    """Whether a request will need the model behind a transformer, as far as method and path tell.

    Listings, metadata, metrics, health and what is at no known path are the transformer's own affair: they wake
    nothing else. A request that this misses wakes the model all the same, when its transformer calls it.
    """
    bare = path.partition("?")[0].rstrip("/")
    return method == "POST" and (bare.endswith(_GENERATING) or bare.endswith(":predict"))
