"""Header rules of the ingress: which headers end at this hop, which are added. Pure. Source: RFC 9110 section 7.6.1."""

from collections.abc import Iterable, Mapping

from pilotlight_wire.server_timing import Phase, format_phase, parse_phases

RawHeader = tuple[bytes, bytes]

PROGRESS = "x-pilotlight-progress"
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# The edge reads and answers `Expect`; how long a body is it says by itself.
_ENDS_HERE = (b"expect", PROGRESS.encode())


def end_to_end(headers: Iterable[RawHeader], also_drop: Iterable[bytes] = ()) -> list[RawHeader]:
    """The headers that go on to the next hop, repeated ones kept, in their order."""
    given = list(headers)
    named = {
        token.strip().lower() for name, value in given if name.lower() == b"connection" for token in value.split(b",")
    }
    dropped = HOP_BY_HOP | named | set(also_drop)
    return [(name, value) for name, value in given if name.lower() not in dropped]


def request_head(method: str, target: bytes, headers: Iterable[RawHeader], request_id: str) -> tuple[bytes, bool]:
    """The head the pod gets: the client's end-to-end headers and a request id; and whether the body goes in chunks."""
    given = list(headers)
    kept = end_to_end(given, _ENDS_HERE)
    chunked = any(name == b"transfer-encoding" for name, _ in given)
    if chunked:
        kept = [(name, value) for name, value in kept if name != b"content-length"]
        kept.append((b"transfer-encoding", b"chunked"))
    if not any(name == b"x-request-id" for name, _ in kept):
        kept.append((b"x-request-id", request_id.encode("ascii")))
    lines = [method.encode("ascii") + b" " + target + b" HTTP/1.1", *(name + b": " + value for name, value in kept)]
    return b"\r\n".join(lines) + b"\r\n\r\n", chunked


def answer_headers(headers: Iterable[RawHeader], request_id: str, held: Phase) -> tuple[list[RawHeader], list[Phase]]:
    """The pod's end-to-end headers with this hop's phase before the pod's own, and all phases."""
    given = list(headers)
    timings = [value.decode("latin-1") for name, value in given if name.lower() == b"server-timing"]
    phases = [held, *parse_phases(timings)]
    # The edge dates its answers itself.
    kept = end_to_end(given, (b"server-timing", b"date"))
    kept.append((b"server-timing", ", ".join(map(format_phase, phases)).encode("latin-1")))
    names = {name.lower() for name, _ in kept}
    defaults = ((b"x-request-id", request_id.encode("ascii")), (b"server", b"pilotlight"))
    return [*kept, *(pair for pair in defaults if pair[0] not in names)], phases


def wants_progress(headers: Mapping[str, str]) -> bool:
    """Whether the client asked for progress lines while it waits."""
    return headers.get(PROGRESS) == "1" and "text/event-stream" in headers.get("accept", "").lower()
