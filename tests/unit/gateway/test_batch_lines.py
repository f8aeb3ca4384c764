"""The lines of a batch: what is asked for, what is written of each, and what an earlier process wrote of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_gateway.batches.batch_lines import (
    BadLine,
    BatchLine,
    LineReader,
    answered_line,
    bad_line,
    numbers_written,
)
from pilotlight_gateway.batches.file_folder import FileFolder, new_id

BATCH = "batch_" + "0" * 32
ENDPOINT = "/v1/chat/completions"


def reader() -> LineReader:
    return LineReader(ENDPOINT, 1000)


def asked(**changes: object) -> bytes:
    return json.dumps({"custom_id": "a", "method": "POST", "url": ENDPOINT, "body": {"model": "m"}, **changes}).encode()


@settings(max_examples=200)
@given(st.binary(max_size=1200) | st.text(max_size=300).map(str.encode))
def test_whatever_stands_in_a_line_it_is_one_line_of_json(line: bytes) -> None:
    read = reader().read(3, line)
    assert isinstance(read, BadLine)
    written = bad_line(BATCH, read)
    assert written.endswith(b"\n")
    assert json.loads(written)["error"]["line"] == 3
    assert numbers_written(BATCH, written.splitlines(keepends=True)) == {3}


@settings(max_examples=200)
@given(st.text(min_size=1, max_size=100), st.binary(max_size=200))
def test_whatever_was_answered_it_is_one_line_of_json(custom_id: str, body: bytes) -> None:
    written = answered_line(BATCH, BatchLine(7, custom_id, b"{}"), 200, "r", body)
    assert (written.count(b"\n"), written[-1:]) == (1, b"\n")
    found = json.loads(written)
    assert found["custom_id"] == custom_id
    assert numbers_written(BATCH, [written]) == {7}


def test_an_answer_of_several_lines_is_one() -> None:
    written = answered_line(BATCH, BatchLine(1, "a", b"{}"), 200, "r", b'{\n "a": "x\\ny",\r\n "b": 1}')
    assert json.loads(written)["response"]["body"] == {"a": "x\ny", "b": 1}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"custom_id": ""}, "invalid_custom_id"),
        ({"custom_id": "x" * 513}, "invalid_custom_id"),
        ({"custom_id": 3}, "invalid_json_line"),
        ({"method": "GET"}, "invalid_method"),
        ({"url": "/v1/embeddings"}, "invalid_url"),
        ({"url": "http://elsewhere/v1/chat/completions"}, "invalid_url"),
        ({"body": {"stream": True}}, "stream_not_supported"),
        ({"body": {"stream": "yes"}}, "invalid_request"),
        ({"body": []}, "invalid_request"),
        ({"body": "x" * 1000}, "line_too_long"),
    ],
)
def test_what_is_wrong_with_a_line_is_named(changes: dict[str, object], code: str) -> None:
    read = reader().read(1, asked(**changes))
    assert isinstance(read, BadLine)
    assert read.code == code


def test_the_first_line_of_a_custom_id_counts() -> None:
    lines = reader()
    assert isinstance(lines.read(1, asked()), BatchLine)
    second = lines.read(2, asked())
    assert isinstance(second, BadLine)
    assert second.code == "duplicate_custom_id"


@settings(max_examples=60)
@given(st.integers(0, 6), st.integers(0, 40))
def test_what_was_written_whole_is_found_again_and_the_rest_is_cut(
    tmp_path_factory: pytest.TempPathFactory, number: int, cut: int
) -> None:
    folder, file_id = FileFolder(tmp_path_factory.mktemp("files")), new_id("batch_")
    lines = [answered_line(file_id, BatchLine(each, "a", b""), 200, "r", b"{}") for each in range(1, number + 1)]
    torn = answered_line(file_id, BatchLine(99, "a", b""), 200, "r", b"{}")[:cut]
    with folder.writer(file_id, "output") as writer:
        writer.write(b"".join(lines) + torn)
    assert numbers_written(file_id, folder.written(file_id, "output")) == set(range(1, number + 1))
    with folder.writer(file_id, "output") as writer:
        writer.write(b"next\n")
    assert list(folder.written(file_id, "output")) == [*lines, b"next\n"]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_lines_of_a_file_are_bounded(tmp_path: Path, ending: bytes) -> None:
    folder, file_id = FileFolder(tmp_path), new_id("file-")
    with folder.writer(file_id, "upload") as writer:
        writer.write(ending.join([b"a", b"", b"x" * 3_000_000, b"y" * 10, b" ", b"last"]))
    folder.publish(file_id, "upload", file_id)
    found = [(number, len(line)) for number, line in folder.lines(file_id, 10)]
    assert found == [(1, 1), (3, 11), (4, 10), (6, 4)]


def test_publishing_twice_is_publishing_once(tmp_path: Path) -> None:
    folder, batch_id, file_id = FileFolder(tmp_path), new_id("batch_"), new_id("file-")
    with folder.writer(batch_id, "output") as writer:
        writer.write(b"a\n")
    assert [folder.publish(batch_id, "output", file_id) for _ in range(2)] == [2, 2]
    assert folder.publish(batch_id, "errors", new_id("file-")) == 0
    assert [path.name for path in tmp_path.iterdir()] == [file_id]


@pytest.mark.parametrize("name", ["../x", "file-..", "/etc/passwd", "file-" + "0" * 31, ""])
def test_no_name_of_a_clients_becomes_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssertionError):
        FileFolder(tmp_path).opened(name)
