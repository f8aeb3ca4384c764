"""The one reader of a model folder's files. They are untrusted: also those a shared process or the platform reads.

Only regular files are opened, whatever links lead there, and none blocks its opener (a FIFO would); how large a file of
its kind may be is asked before it is read, and never more is read than that. Blocking: not for an event loop.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.fingerprint import HEADER_LENGTH_BYTES, HeaderInvalid, header_length
from pilotlight_protocol.model_config import QUANTIZATION_FILES

_MIB = 2**20
INDEX_NAME = "model.safetensors.index.json"
LIMITS = {
    "config.json": 4 * _MIB,
    "generation_config.json": _MIB,
    "adapter_config.json": _MIB,
    "special_tokens_map.json": 4 * _MIB,
    "chat_template.jinja": 4 * _MIB,
    "tokenizer.json": 128 * _MIB,
}
"""Bytes by name, several times what the largest published models have."""
OTHER_LIMIT = 32 * _MIB
_OPENED_BY_VLLM = frozenset({
    INDEX_NAME, "tokenizer_config.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
    "spiece.model", "tekken.json", "params.json", "chat_template.json", "processor_config.json",
    "preprocessor_config.json", "modules.json", "config_sentence_transformers.json", *QUANTIZATION_FILES,
})  # fmt: skip
# Any other may be as large as it likes: a trainer's log, say.
MAX_NESTING = 64
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR})


class FileRefused(InvalidInput):
    """A file that is not read, or not what its name says; the message names it and the limit."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[int, int]]:
    """Descriptor and size of a regular file. Raises FileNotFoundError, FileRefused."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # some devices act on being opened
            raise FileRefused(f"{path.name} is not a regular file")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOT_THERE:
            raise FileNotFoundError(error.errno, error.strerror, path.name) from error
        raise FileRefused(f"{path.name} cannot be opened: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileRefused(f"{path.name} is not a regular file")
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


def read_file(path: Path) -> bytes:
    """A file as large as its kind may be. Raises FileNotFoundError, FileRefused."""
    with opened(path) as (descriptor, size_bytes):
        _check_size(path.name, size_bytes)
        return _read(descriptor, size_bytes, path.name)


def read_beginning(path: Path, most_bytes: int) -> bytes:
    """Of a file of any size, nothing where there is no such file. Raises FileRefused."""
    try:
        with opened(path) as (descriptor, size_bytes):
            return _read(descriptor, min(most_bytes, size_bytes), path.name)
    except FileNotFoundError:
        return b""


def read_text(path: Path) -> str | None:
    """None where there is no such file. Raises FileRefused."""
    try:
        return read_file(path).decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise FileRefused(f"{path.name} is not valid UTF-8: {error}") from error


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file. Raises FileRefused."""
    content = _read_json(path)
    if content is not None and not isinstance(content, dict):
        raise FileRefused(f"{path.name} is not a JSON object")
    return content


def read_list(path: Path) -> list[Any] | None:
    """A JSON array; None where there is no such file. Raises FileRefused."""
    content = _read_json(path)
    if content is not None and not isinstance(content, list):
        raise FileRefused(f"{path.name} is not a JSON array")
    return content


def _read_json(path: Path) -> Any:
    try:
        content = json.loads(read_file(path))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise FileRefused(f"{path.name} is not valid JSON: {reason}") from error
    if content is None:
        raise FileRefused(f"{path.name} says nothing but null")
    _check_nesting(content, path.name)
    return content


def read_weights_header(path: Path, most_bytes: int) -> tuple[bytes, int]:
    """The beginning of a safetensors file, as `fingerprint.tensor_spans` takes it, and the file's size.

    Raises FileNotFoundError, FileRefused, HeaderInvalid.
    """
    with opened(path) as (descriptor, size_bytes):
        prefix = _read(descriptor, min(HEADER_LENGTH_BYTES, size_bytes), path.name)
        length = header_length(prefix)
        if HEADER_LENGTH_BYTES + length > size_bytes:
            raise HeaderInvalid("the file ends inside its header")
        if HEADER_LENGTH_BYTES + length > most_bytes:
            raise HeaderInvalid(f"its header has {length} bytes; at most {most_bytes} more are read of this model")
        return prefix + _read(descriptor, length, path.name), size_bytes


def check_folder(folder: Path) -> dict[Path, os.stat_result]:
    """The folder's regular files. Raises OSError, and FileRefused for what other programs (vLLM) would open here and
    never come back from."""
    found: dict[Path, os.stat_result] = {}
    for path in folder.iterdir():
        try:
            status = path.stat()
        except OSError:
            continue  # a link to nowhere: whoever needs it says so
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise FileRefused(f"{path.name} is not a regular file")
        if path.name in LIMITS or path.name in _OPENED_BY_VLLM:
            _check_size(path.name, status.st_size)
        found[path] = status
    return found


def _check_size(name: str, size_bytes: int) -> None:
    limit = LIMITS.get(name, OTHER_LIMIT)
    if size_bytes > limit:
        raise FileRefused(f"{name} has {size_bytes} bytes; at most {limit} are read")


def _read(descriptor: int, size_bytes: int, name: str) -> bytes:
    pieces: list[bytes] = []
    left = size_bytes
    while left > 0:
        try:
            piece = os.read(descriptor, left)
        except OSError as error:
            raise FileRefused(f"{name} cannot be read: {error.strerror}") from error
        if not piece:
            raise FileRefused(f"{name} became shorter while it was read")
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _check_nesting(content: object, name: str) -> None:
    level = [content]
    for _ in range(MAX_NESTING):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise FileRefused(f"{name} is nested more than {MAX_NESTING} levels deep")
