"""Files of somebody's model folder: what is read, what is refused, and that refusing costs nothing."""

from __future__ import annotations

import json
import os
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from pilotlight_models.folder_files import (
    LIMITS,
    MAX_NESTING,
    FileRefused,
    check_folder,
    read_beginning,
    read_file,
    read_object,
    read_text,
    read_weights_header,
)
from pilotlight_protocol.fingerprint import HeaderInvalid


def sparse(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(size_bytes)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def linked_to_a_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to("fifo")


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (os.mkfifo, "not a regular file"),
    "link to a fifo": (linked_to_a_fifo, "not a regular file"),
    "directory": (Path.mkdir, "not a regular file"),
    "socket": (listening, "not a regular file"),
    "device that never ends": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "link to itself": (lambda path: path.symlink_to(path.name), "cannot be opened"),
    "sparse": (lambda path: sparse(path, 3 * 2**30), "3221225472 bytes; at most 4194304"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("read", [read_object, read_text, read_file])
def test_what_blocks_or_has_no_end_is_refused_unread(tmp_path: Path, kind: str, read: Callable[[Path], object]) -> None:
    path = tmp_path / "config.json"
    make, reason = ODD[kind]
    make(path)
    tracemalloc.start()
    try:
        with pytest.raises(FileRefused, match=reason) as refused:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert str(tmp_path) not in refused.value.message


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "socket", "device that never ends", "sparse"])
def test_a_folder_with_one_of_them_is_given_to_nobody(tmp_path: Path, kind: str) -> None:
    make, reason = ODD[kind]
    make(tmp_path / "config.json")
    with pytest.raises(FileRefused, match=reason):
        check_folder(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "model.safetensors.index.json", "quant_config.json"])
def test_what_vllm_opens_by_itself_is_of_bounded_size(tmp_path: Path, name: str) -> None:
    sparse(tmp_path / name, 3 * 2**30)
    with pytest.raises(FileRefused, match=f"{name} has 3221225472 bytes"):
        check_folder(tmp_path)


def test_a_folder_may_have_folders_large_weights_and_links_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "gone.json").symlink_to("nowhere")
    sparse(tmp_path / "model.safetensors", 2**40)
    sparse(tmp_path / "README.md", 2**30)
    sparse(tmp_path / "trainer_state.json", 2**30)
    (tmp_path / "real").write_text("{}")
    (tmp_path / "config.json").symlink_to("real")
    regular = {"model.safetensors", "README.md", "trainer_state.json", "real", "config.json"}
    assert {path.name for path in check_folder(tmp_path)} == regular
    assert len(read_beginning(tmp_path / "README.md", 10)) == 10


@pytest.mark.parametrize("path", ["nothing.json", "link.json", "file/config.json"])
def test_what_is_not_there_is_none(tmp_path: Path, path: str) -> None:
    (tmp_path / "link.json").symlink_to("nowhere")
    (tmp_path / "file").write_text("")
    assert read_object(tmp_path / path) is None
    assert read_text(tmp_path / path) is None
    assert read_beginning(tmp_path / path, 10) == b""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 1_000_000, "nested too deeply"),
        (json.dumps({"a": json.loads("[" * MAX_NESTING + "]" * MAX_NESTING)}).encode(), "levels deep"),
        (b"\xff{}", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_what_is_no_sane_object_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(FileRefused, match=reason):
        read_object(tmp_path / "config.json")


def test_an_object_as_deep_as_it_may_be_is_read(tmp_path: Path) -> None:
    content = {"a": json.loads("[" * (MAX_NESTING - 1) + "]" * (MAX_NESTING - 1))}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_object(tmp_path / "config.json") == content


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(FileRefused, match="not valid UTF-8"):
        read_text(tmp_path / "chat_template.jinja")


def test_a_file_that_becomes_shorter_or_longer_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.json"
    read = os.read

    def changed_to(size_bytes: int) -> Callable[[int, int], bytes]:
        def one(descriptor: int, count: int) -> bytes:
            os.truncate(path, size_bytes)
            return read(descriptor, count)

        return one

    path.write_text("{}" + " " * 1000)
    monkeypatch.setattr(os, "read", changed_to(10))
    with pytest.raises(FileRefused, match="became shorter"):
        read_file(path)
    path.write_text("{}" + " " * 1000)
    monkeypatch.setattr(os, "read", changed_to(LIMITS["config.json"] * 2))
    assert len(read_file(path)) == 1002


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "at least 8"),
        (b"\x01", "at least 8"),
        ((1000).to_bytes(8, "little") + b"{}", "ends inside its header"),
        ((2**62).to_bytes(8, "little"), "claims"),
        ((1000).to_bytes(8, "little") + b" " * 1000, "at most 100 more"),
    ],
)
def test_a_weights_header_longer_than_its_file_or_the_limit(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(HeaderInvalid, match=reason):
        read_weights_header(tmp_path / "model.safetensors", 100)


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        with pytest.raises(FileRefused):
            read_file(tmp_path / "config.json")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
