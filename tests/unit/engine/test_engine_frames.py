import msgspec
import pytest

from pilotlight_engine.contract import EngineStats, GenerateRequest
from pilotlight_protocol.engine_frames import (
    Abort,
    Check,
    Checked,
    Failed,
    Generate,
    LeaseFrame,
    LeaseHostFrame,
    Metrics,
    MetricsText,
    Pool,
    Pooled,
    Refused,
    Step,
)
from pilotlight_protocol.frame_codec import MAX_FRAME_BYTES, FrameSplitter, encode
from pilotlight_protocol.generation import GenerationParameters, TokenDelta, TokenLogprob
from pilotlight_protocol.pooling import PooledVector, PoolingParameters, PoolRequest

REQUEST = GenerateRequest("r", [1, 2], GenerationParameters(max_tokens=3, temperature=0.5, seed=7), lora="a")


@pytest.mark.parametrize(
    "frame",
    [
        Generate(1, REQUEST),
        Pool(1, PoolRequest("r", [1, 2], PoolingParameters(task="embed", dimensions=3), 1)),
        Abort(1),
        Metrics(2),
        Check(3),
    ],
)
def test_holders_frames_survive_the_wire(frame: LeaseFrame) -> None:
    (body,) = FrameSplitter().feed(bytes(encode(frame)))
    assert msgspec.msgpack.decode(body, type=LeaseFrame) == frame


@pytest.mark.parametrize(
    "frame",
    [
        Step(
            [(4, TokenDelta(0, [1, 2], "stop", 2, [TokenLogprob(1, -0.5, [(1, -0.5)])], 5, 1))], EngineStats(1, 2, 0.5)
        ),
        Pooled([(4, PooledVector(b"\x00\x00\x80\x3f", 2, 1))]),
        Refused(1, 400, "no"),
        MetricsText(2, b"vllm:x 1"),
        Checked(3),
        Failed("out of memory", True),
    ],
)
def test_host_frames_survive_the_wire(frame: LeaseHostFrame) -> None:
    (body,) = FrameSplitter().feed(bytes(encode(frame)))
    assert msgspec.msgpack.decode(body, type=LeaseHostFrame) == frame


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 7, 100])
def test_frames_come_out_whole_however_the_bytes_are_cut(cut: int) -> None:
    frames: list[LeaseHostFrame] = [MetricsText(1, b"a"), Refused(1, 400, "x" * 50), Checked(9)]
    data = b"".join(bytes(encode(frame)) for frame in frames)
    splitter = FrameSplitter()
    decoded: list[LeaseHostFrame] = []
    for start in range(0, len(data), cut):
        decoded += [
            msgspec.msgpack.decode(body, type=LeaseHostFrame) for body in splitter.feed(data[start : start + cut])
        ]
    assert decoded == frames


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="over the limit"):
        list(FrameSplitter().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "little")))
