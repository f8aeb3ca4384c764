"""What passes of a stream of pods, however its bytes are cut, and what is known of it."""

from __future__ import annotations

import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.pods_way.event_feed import LONGEST_EVENT_BYTES, MOST_RECORD_BYTES, EventFeed
from pilotlight_gateway.request_steps import TokenUsage
from pilotlight_protocol.errors import Unavailable

SHOWN = b'data: {"a":":~"}\n\ndata: 2\n\ndata: 3\n\ndata: [DONE]\n\n'
TOLD = (
    b":~begin\n:~prompt 7\n"
    b':~tokens 5 1 0 [[{"output_ids":[1]}]]\ndata: {"a":":~"}\n\n'
    b':~tokens 5 2 0 [[{"output_ids":[2]}]]\n:~tokens 5 3 0 [[{"output_ids":[3]}]]\ndata: 2\n\ndata: 3\n\n'
    b":~time 12\ndata: [DONE]\n\n:~end\n"
)
LASTS = (b"data: [DONE]",)


def fed(stream: bytes, cuts: list[int], usage: TokenUsage, lasts: tuple[bytes, ...] = LASTS) -> tuple[EventFeed, bytes]:
    feed, out, places = EventFeed(usage, lasts), b"", sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    for begin, end in pairwise(places):
        events = feed.feed(stream[begin:end])
        assert not events or events.endswith(b"\n\n")
        out += events
    return feed, out + feed.rest()


@given(st.lists(st.integers(0, 1000), max_size=12))
def test_what_is_told_stays_here_however_it_comes(cuts: list[int]) -> None:
    usage = TokenUsage()
    feed, out = fed(TOLD, cuts, usage)
    assert out == SHOWN
    assert feed.ended
    assert (usage.prompt_tokens, usage.output_tokens) == (5, 3)
    resumption, body = feed.go_on(b"{}")
    assert resumption is not None
    assert (resumption.body_bytes, resumption.sent, resumption.crc) == (2, len(SHOWN), zlib.crc32(SHOWN))
    assert body.startswith(b'{}prompt 7\ntokens 5 1 0 [[{"output_ids":[1]}]]\ntokens 5 2')


@given(st.lists(st.integers(0, 1000), max_size=12), st.integers(1, TOLD.index(b":~end")))
def test_a_stream_that_is_cut_has_not_ended_and_passes_no_half_event(cuts: list[int], length: int) -> None:
    feed, out = fed(TOLD[:length], cuts, TokenUsage())
    assert SHOWN.startswith(out)
    assert not out or out.endswith(b"\n\n")
    assert not feed.may_end


@given(st.lists(st.integers(0, 1000), max_size=12))
def test_what_follows_a_loss_is_no_event(cuts: list[int]) -> None:
    stream = b':~begin\ndata: 1\n\n:~tokens 5 1 0 []\n:~lost the engine\ndata: {"error":{}}\n\n'
    feed, out = fed(stream, cuts, TokenUsage())
    assert out == b"data: 1\n\n"
    assert feed.lost == "the engine"
    assert feed.can_go_on


def test_a_stream_that_tells_nothing_cannot_go_on_behind_its_first_byte() -> None:
    usage = TokenUsage()
    feed, out = fed(SHOWN, [], usage)
    assert out == SHOWN
    assert feed.ended
    assert not feed.can_go_on
    assert usage.output_tokens == 4
    assert EventFeed(usage, LASTS).can_go_on


def test_usage_that_a_stream_tells_is_taken_from_it() -> None:
    usage = TokenUsage()
    fed(b'data: 1\n\ndata: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":30}}\n\n', [], usage)
    assert (usage.prompt_tokens, usage.output_tokens) == (9, 30)
    usage = TokenUsage()
    first = b'event: message_start\ndata: {"message":{"usage":{"input_tokens":4,"output_tokens":1}}}\n\n'
    fed(first + b'data: {"usage":{"output_tokens":12}}\n\ndata: {"type":"message_stop"}\n\n', [], usage)
    assert usage.prompt_tokens == 4
    assert usage.output_tokens == 12


def test_a_record_that_is_too_long_is_dropped_and_counts_go_on() -> None:
    usage = TokenUsage()
    feed = EventFeed(usage, LASTS)
    feed.feed(b":~begin\ndata: 1\n\n")
    line = b":~tokens 5 %d 0 [" + b"x" * 100_000 + b"]\ndata: 1\n\n"
    for number in range(MOST_RECORD_BYTES // 100_000 + 1):
        feed.feed(line % number)
    assert not feed.can_go_on
    assert usage.output_tokens == MOST_RECORD_BYTES // 100_000


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b"data: "])), st.lists(st.integers(0, 1000), max_size=12))
def test_an_event_ends_where_its_blank_line_does_however_it_comes(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"data: 1" + b"".join(parts)
    feed, passed = EventFeed(TokenUsage(), LASTS), b""
    for begin, end in pairwise(sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})):
        passed += feed.feed(stream[begin:end])
        ends = [passed, *(stream[:place] for place in range(len(passed), end + 1) if _is_blank(stream[:place]))]
        assert passed == max(ends, key=len)


def _is_blank(stream: bytes) -> bool:
    return stream.endswith((b"\n\n", b"\r\n\r\n"))


def test_an_event_without_an_end_is_given_up() -> None:
    feed, piece = EventFeed(TokenUsage(), LASTS), b"x" * (1 << 20)
    for _ in range(LONGEST_EVENT_BYTES // len(piece)):
        assert not feed.feed(piece)
    with pytest.raises(Unavailable, match="without an end"):
        feed.feed(piece)
