"""Header rules of the ingress: which headers end at this hop, which are added. Pure. Source: RFC 9110 section 7.6.1."""

from collections.abc import Iterable, Mapping

from multidict import CIMultiDict, CIMultiDictProxy

REQUEST_ID = "x-request-id"
PROGRESS = "x-pilotlight-progress"
SERVER_TIMING = "Server-Timing"
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def end_to_end(headers: CIMultiDictProxy[str], also_drop: Iterable[str] = ()) -> CIMultiDict[str]:
    """The headers that go on to the next hop, repeated ones kept, in their order."""
    named = {token.strip().lower() for value in headers.getall("connection", ()) for token in value.split(",")}
    dropped = HOP_BY_HOP | named | set(also_drop)
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


def request_headers(headers: CIMultiDictProxy[str], request_id: str) -> CIMultiDict[str]:
    """What the pod gets: the client's end-to-end headers and a request id. `Expect` is answered by the ingress."""
    kept = end_to_end(headers, ("expect", PROGRESS))
    kept.setdefault(REQUEST_ID, request_id)
    return kept


def wants_progress(headers: Mapping[str, str]) -> bool:
    """Whether the client asked for progress lines while it waits."""
    return headers.get(PROGRESS) == "1" and "text/event-stream" in headers.get("accept", "").lower()
