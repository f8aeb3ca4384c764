"""The frames between a front and its engine host, and their framing. No I/O is done here.

A frame is a 4-byte little-endian length followed by one msgpack message. The front opens with `Configure`; the host
answers with `Progress` while it boots and `Ready` when it has generated its first token. From then on everything is
multiplexed by `stream`, a number the front gives to each request; the host sends at most one `Step` per engine step.

    front -> host   Configure  Generate  Abort  Metrics  Check  Shutdown
    host  -> front  Progress  Ready  Step  Refused  MetricsText  Checked  Failed
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec
from pilotlight_protocol.generation import TokenDelta

from pilotlight_predictor.engine.contract import EngineInfo, EngineStats, GenerateRequest

MAX_FRAME_BYTES = 64 * 2**20
_HEADER = struct.Struct("<I")


class Configure(msgspec.Struct, array_like=True, tag=0):
    """What to boot. `arguments` are vLLM's, as (field name of EngineArgs, text); `loras` are (name, directory)."""

    model_dir: str
    model_name: str
    arguments: list[tuple[str, str]]
    loras: list[tuple[str, str]]


class Generate(msgspec.Struct, array_like=True, tag=1):
    stream: int
    request: GenerateRequest


class Abort(msgspec.Struct, array_like=True, tag=2):
    stream: int


class Metrics(msgspec.Struct, array_like=True, tag=3):
    call: int


class Check(msgspec.Struct, array_like=True, tag=4):
    """Answered by the thread that steps the engine, so an answer proves that it is not stuck."""

    call: int


class Shutdown(msgspec.Struct, array_like=True, tag=5):
    """End at once; the front has drained or given up on its requests."""


class Progress(msgspec.Struct, array_like=True, tag=32):
    """A boot phase began."""

    phase: str


class Ready(msgspec.Struct, array_like=True, tag=33):
    info: EngineInfo
    stats: EngineStats


class Step(msgspec.Struct, array_like=True, tag=34):
    """All tokens of one engine step as (stream, delta)."""

    deltas: list[tuple[int, TokenDelta]]
    stats: EngineStats


class Refused(msgspec.Struct, array_like=True, tag=35):
    """The engine will not go on with this one request; `status` is the HTTP status to answer with."""

    stream: int
    status: int
    message: str


class MetricsText(msgspec.Struct, array_like=True, tag=36):
    call: int
    text: bytes


class Checked(msgspec.Struct, array_like=True, tag=37):
    call: int


class Failed(msgspec.Struct, array_like=True, tag=38):
    """The host's last words. `misconfigured`: booting it again the same way would fail again."""

    reason: str
    misconfigured: bool = False


FrontFrame = Configure | Generate | Abort | Metrics | Check | Shutdown
HostFrame = Progress | Ready | Step | Refused | MetricsText | Checked | Failed

_encoder = msgspec.msgpack.Encoder()


def encode(frame: FrontFrame | HostFrame) -> bytearray:
    """The frame with its length in front, ready to be written."""
    buffer = bytearray(_HEADER.size)
    _encoder.encode_into(frame, buffer, _HEADER.size)
    _HEADER.pack_into(buffer, 0, len(buffer) - _HEADER.size)
    return buffer


class FrameSplitter:
    """Cuts a byte stream into message bodies. A body is valid until the next call; nothing is copied when a read holds
    whole frames.

    Raises ValueError on a frame longer than MAX_FRAME_BYTES: the peer does not speak this protocol.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[memoryview]:
        if self._rest:
            self._rest += data
            data = bytes(self._rest)
        view = memoryview(data)
        start, end = 0, len(data)
        while end - start >= _HEADER.size:
            (length,) = _HEADER.unpack_from(view, start)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
            body = start + _HEADER.size
            if end - body < length:
                break
            start = body + length
            yield view[body:start]
        self._rest = bytearray(view[start:])
