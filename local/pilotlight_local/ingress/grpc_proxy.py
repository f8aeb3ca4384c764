"""gRPC (HTTP/2 with prior knowledge) through the ingress: one connection of a client is spliced to one pod.

The first request's :authority decides the endpoint; its stream waits in the activator. From then on frames pass
unchanged both ways. Further streams of the connection go to the same pod, each when the pod has room for it
(`grpc_stream_places`). A pod that drains, or that is full while another one is not, makes the client open another
connection (GOAWAY), and so does idleness. A REST request is told where REST is spoken. Must not: decode messages, or
rewrite headers (so paths are never stripped here).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from pilotlight_local.activator.activator import Backend
from pilotlight_local.errors import UnknownHost, UpstreamFailed
from pilotlight_local.ingress.grpc_stream_places import StreamPlaces
from pilotlight_local.ingress.routes import Destination, EndpointTable, Route, needs_model
from pilotlight_protocol.errors import InvalidInput, PilotlightError
from pilotlight_wire.h2_frames import (
    EMPTY_SETTINGS,
    FLOOD_GOAWAY,
    GRACEFUL_GOAWAY,
    NO_ERROR,
    PREFACE,
    Flag,
    Frame,
    FrameReader,
    FrameType,
    StreamLedger,
    grpc_refusal,
    grpc_trailers,
    is_flood,
    ping_answer,
    reset_stream,
)
from pilotlight_wire.http2_requests import FirstRequest, is_grpc, rest_refusal

LARGEST_HELD_BYTES = 1 << 20

IDLE_TIMEOUT_S = 75.0
"""Of a connection without a call, as of one of HTTP/1.1 without a request."""

Find = Callable[[str, str], Destination]


def find_by_host(table: EndpointTable) -> Find:
    """Destinations of the ingress port: by :authority. Raises UnknownHost or InvalidInput."""

    def find(authority: str, path: str) -> Destination:
        destination = table.find(authority, path)
        if destination is None:
            raise UnknownHost(f"no endpoint for host {authority!r}; set :authority to NAME.NAMESPACE.localhost")
        if destination.path != path:
            raise InvalidInput("HTTP/2 is routed by host only; set :authority to NAME.NAMESPACE.localhost")
        return destination

    return find


class GrpcClientSide(asyncio.Protocol):
    """The client's connection: holds it until a pod is found, then splices. `on_closed`: called when it has ended."""

    def __init__(self, table: EndpointTable, find: Find, on_closed: Callable[[], None]) -> None:
        self._table = table
        self._find = find
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader()
        self._ledger = StreamLedger()
        self._preface_left = len(PREFACE)
        self._own_settings_acked = False
        self._first: FirstRequest | None = FirstRequest()
        self._held: list[tuple[Frame, int]] = []
        self._held_bytes = 0
        self._route: Route | None = None
        self._backend: Backend | None = None
        self._pod: _PodSide | None = None
        self._places: StreamPlaces | None = None
        self._batch: list[bytes] | None = None
        self._activation: asyncio.Task[None] | None = None
        self._idle_end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        # gRPC clients send nothing before they have seen the server's settings; the pod's own follow later.
        self.transport.write(EMPTY_SETTINGS)
        self._watch_idleness()

    def data_received(self, data: bytes) -> None:
        if self._preface_left:
            skipped = min(self._preface_left, len(data))
            self._preface_left -= skipped
            data = data[skipped:]
        received = self._reader.feed(data)
        if is_flood(received):
            self.transport.write(FLOOD_GOAWAY)
            self.transport.close()
            return
        frames = [(frame, self._ledger.from_client(frame)) for frame in received if self._is_for_pod(frame)]
        self._watch_idleness()
        if self._pod is not None:
            self._pass_on(frames)
            return
        for frame, _ in frames:
            self._look_for_destination(frame)
        self._held += frames
        self._held_bytes += sum(len(frame.raw) for frame, _ in frames)
        if self._held_bytes > LARGEST_HELD_BYTES:
            self.transport.pause_reading()

    def _is_for_pod(self, frame: Frame) -> bool:
        """Whether the pod has to see this frame; what concerns this hop alone is answered here."""
        if frame.kind == FrameType.SETTINGS and frame.flags & Flag.ACK and not self._own_settings_acked:
            self._own_settings_acked = True
            return False
        if self._pod is None and frame.kind == FrameType.PING and not frame.flags & Flag.ACK:
            self.transport.write(ping_answer(frame))
            return False
        return True

    def _look_for_destination(self, frame: Frame) -> None:
        if self._first is None:
            return
        try:
            fields = self._first.take(frame)
        except InvalidInput as error:
            self._refuse(error)
            return
        if fields is None:
            return
        self._first = None
        if is_grpc(fields):
            authority, path = fields.get(":authority", fields.get("host", "")), fields.get(":path", "")
            self._activation = self._loop.create_task(self._activate(frame.stream_id, authority, path))
        else:
            self.transport.write(rest_refusal(frame.stream_id))
            self.transport.close()

    def _watch_idleness(self) -> None:
        """Without a call the connection ends after a while; the client makes another one for its next call."""
        if self._ledger.open_streams:
            self._stop_watching()
        elif self._idle_end is None:
            self._idle_end = self._loop.call_later(IDLE_TIMEOUT_S, self._end_idle)

    def _stop_watching(self) -> None:
        if self._idle_end is not None:
            self._idle_end.cancel()
            self._idle_end = None

    def _end_idle(self) -> None:
        self.transport.write(GRACEFUL_GOAWAY)
        self.transport.close()

    def _pass_on(self, frames: Sequence[tuple[Frame, int]]) -> None:
        assert self._places is not None
        assert self._pod is not None
        self._batch = []
        for frame, change in frames:
            self._places.pass_on(frame, change)
        batch, self._batch = self._batch, None
        self._pod.transport.writelines(batch)

    def _write_to_pod(self, frames: list[bytes]) -> None:
        if self._batch is not None:
            self._batch += frames
        elif self._pod is not None:
            self._pod.transport.writelines(frames)

    def count_from_pod(self, frame: Frame) -> None:
        """A frame of the pod may end a stream."""
        if self._places is None:
            return
        if self._ledger.from_server(frame):
            self._places.end(frame.stream_id)
            self._watch_idleness()
        elif frame.kind == FrameType.HEADERS:
            self._places.answered(frame.stream_id)

    async def _activate(self, stream_id: int, authority: str, path: str) -> None:
        try:
            destination = self._find(authority, path)
            self._route = self._table.choose(destination.endpoint, destination.component)
            deadline_s = self._loop.time() + self._route.timeout_s
            backend = await self._route.activator.acquire(deadline_s, lambda: needs_model("POST", path))
            try:
                _, pod = await self._loop.create_connection(lambda: _PodSide(self), "127.0.0.1", backend.port)
            except BaseException as error:
                self._route.activator.release(backend)
                if isinstance(error, OSError):
                    self._route.activator.suspect(backend)
                    raise UpstreamFailed(f"{backend.name} does not accept connections; try again") from error
                raise
            self._splice(stream_id, backend, pod, deadline_s)
        except PilotlightError as error:
            self._refuse(error)

    def _splice(self, stream_id: int, backend: Backend, pod: "_PodSide", deadline_s: float) -> None:
        assert self._route is not None
        self._backend = backend
        self._pod = pod
        self._places = StreamPlaces(
            self._route, backend, self._write_to_pod, self._end_stream, crowded=self.ask_to_reconnect
        )
        self._places.grant(stream_id, deadline_s)
        backend.on_drain.add(self.ask_to_reconnect)
        pod.transport.write(PREFACE)
        self._pass_on(self._held)
        self._held.clear()
        self.transport.resume_reading()

    def ask_to_reconnect(self) -> None:
        """The pod takes no new requests: open streams go on, the next one needs another connection."""
        if self._pod is not None:
            self._pod.insert_goaway()

    def _refuse(self, error: PilotlightError) -> None:
        for stream_id in sorted(self._ledger.open_streams):
            self._end_stream(stream_id, error, answered=False)
        self.transport.write(GRACEFUL_GOAWAY)
        self.transport.close()

    def _end_stream(self, stream_id: int, error: PilotlightError, answered: bool) -> None:
        status = grpc_trailers if answered else grpc_refusal
        self.transport.write(status(stream_id, error.grpc_code, error.message) + reset_stream(stream_id, NO_ERROR))
        self._ledger.open_streams.discard(stream_id)
        self._watch_idleness()

    def pause_writing(self) -> None:
        if self._pod is not None:
            self._pod.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._pod is not None:
            self._pod.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._activation is not None:
            self._activation.cancel()
        if self._pod is not None:
            self._pod.transport.abort()
        self._stop_watching()
        self._forget_pod()
        self._on_closed()

    def pod_lost(self) -> None:
        """The pod's connection ended: what it sent is flushed, then the client's ends too."""
        self._forget_pod()
        self.transport.close()

    def _forget_pod(self) -> None:
        if self._backend is None or self._places is None:
            return
        self._backend.on_drain.discard(self.ask_to_reconnect)
        self._places.close()
        self._backend = None


class _PodSide(asyncio.Protocol):
    """The connection to the pod."""

    def __init__(self, client: GrpcClientSide) -> None:
        self._client = client
        self._reader = FrameReader()
        self._settings_seen = False
        self._goaway_due = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        frames = self._reader.feed(data)
        for frame in frames:
            self._client.count_from_pod(frame)
        if frames:
            self._client.transport.writelines([frame.raw for frame in frames])
            self._settings_seen = True
            self._write_goaway()

    def insert_goaway(self) -> None:
        """Send GOAWAY to the client between two frames of the pod, not before its settings."""
        self._goaway_due = True
        self._write_goaway()

    def _write_goaway(self) -> None:
        if self._goaway_due and self._settings_seen:
            self._goaway_due = False
            self._client.transport.write(GRACEFUL_GOAWAY)

    def pause_writing(self) -> None:
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        self._client.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.pod_lost()
