"""A form with a file, in whatever pieces it arrives."""

from __future__ import annotations

import io
import itertools
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_gateway.batches.file_records import fit_name
from pilotlight_gateway.batches.multipart_upload import Upload, read_upload
from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge, PilotlightError

TYPE = "multipart/form-data; boundary=b0und"


def form(content: bytes, name: str = "a.jsonl", purpose: str = "batch") -> bytes:
    return (
        b'--b0und\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n%b\r\n'
        b'--b0und\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n%b\r\n--b0und--\r\n"
    ) % (purpose.encode(), name.encode(), content)


async def received(pieces: Sequence[bytes], room: int = 10_000, kind: str = TYPE) -> tuple[Upload, bytes]:
    async def arriving() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    file = io.BytesIO()
    return await read_upload(arriving(), kind, file, room), file.getvalue()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(0, 700), max_size=8))
async def test_a_file_arrives_whole_in_whatever_pieces(content: bytes, cuts: list[int]) -> None:
    raw = form(content)
    if b"\r\n--b0und" in b"\r\n" + content:
        return
    places = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    upload, kept = await received([raw[one:other] for one, other in itertools.pairwise(places)])
    assert kept == content
    assert (upload.fields, upload.filename, upload.size_bytes) == ({"purpose": "batch"}, "a.jsonl", len(content))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 400))
async def test_whatever_arrives_is_read_or_refused(rubbish: bytes, place: int) -> None:
    raw = form(b"content")
    try:
        await received([raw[:place], rubbish, raw[place:]])
    except PilotlightError as error:
        assert error.http_status in (400, 413)


@pytest.mark.parametrize(
    ("raw", "room", "kind", "error"),
    [
        (form(b"x" * 101), 100, TYPE, PayloadTooLarge),
        (form(b"x") + b"y" * 400_000, 100, TYPE, PayloadTooLarge),
        (form(b"x")[:-12], 100, TYPE, InvalidInput),
        (form(b"x"), 100, "multipart/form-data", InvalidInput),
        (form(b"x"), 100, "multipart/form-data; boundary=" + "b" * 80, InvalidInput),
        (form(b"x"), 100, "application/json", InvalidInput),
        (form(b"x", purpose="y" * 2000), 100, TYPE, PayloadTooLarge),
        (form(b"x").replace(b'"purpose"', b'"file"'), 100, TYPE, InvalidInput),
        (b"--b0und\r\n" + b"h" * 20_000 + b": x\r\n", 100, TYPE, InvalidInput),
        (b"", 100, TYPE, InvalidInput),
    ],
)
async def test_forms_that_are_refused(raw: bytes, room: int, kind: str, error: type[PilotlightError]) -> None:
    with pytest.raises(error):
        await received([raw[place : place + 5000] for place in range(0, len(raw), 5000)], room, kind)


@pytest.mark.parametrize(
    ("given", "shown"),
    [("a.jsonl", "a.jsonl"), ("../../etc/passwd", "passwd"), ("C:\\x\\y", "y"), ("", "file.jsonl"), ("a\nb\0", "ab")],
)
def test_a_files_name_is_for_showing(given: str, shown: str) -> None:
    assert fit_name(given) == shown
