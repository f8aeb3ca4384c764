"""What runs in a text's worker: one tokenizer and its templates, asked one thing after the other.

It gives up what it does not need before it reads its first byte of them, as workers of templates do. Each thing it is
asked brings its own limits.
"""

from __future__ import annotations

import ctypes
import os
import resource

import msgspec
import tokenizers

from pilotlight_engine.process.limited_worker import (
    BEGUN,
    OUT_OF_MEMORY,
    give_up,
    limit_cpu,
    read_frame,
    write_all,
    write_frame,
)
from pilotlight_text.templates.worker_main import REFUSED, TEXT, Renderer, rehearse
from pilotlight_text.text_workers.tokenizer_loading import TextRefused, compiled_templates, loaded
from pilotlight_text.text_workers.worker_jobs import FAILED, LIMITS, LOAD, NO_ROOM, RENDER, TextSource
from pilotlight_text.tokenization.tokenizer_jobs import Job, NoRoom, done

_LARGE_BYTES = 256 * 1024
_STATM_FD = 1

_source = msgspec.msgpack.Decoder(TextSource).decode
_job = msgspec.msgpack.Decoder(Job).decode
_encode = msgspec.msgpack.Encoder().encode


def main(most_memory_bytes: int) -> None:
    try:
        _run(most_memory_bytes)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def _run(most_memory_bytes: int) -> None:
    rehearse()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    statm = os.open("/proc/self/statm", os.O_RDONLY)
    os.dup2(statm, _STATM_FD)  # nothing else is written there
    give_up(resource.RLIMIT_AS, _in_use_bytes() + most_memory_bytes)
    asked = _Asked()
    write_all(0, BEGUN)
    while (frame := read_frame(0)) is not None:
        cpu_s, memory_bytes = LIMITS.unpack_from(frame)
        limit = min(memory_bytes, most_memory_bytes)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (min(_in_use_bytes() + limit, hard), hard))
        limit_cpu(cpu_s)
        answer = asked.answer(frame[LIMITS.size : LIMITS.size + 1], frame[LIMITS.size + 1 :])
        limit_cpu(0)
        large = len(frame) + len(answer) > _LARGE_BYTES
        del frame
        write_frame(0, answer)
        del answer
        if large:
            ctypes.CDLL(None).malloc_trim(0)


class _Asked:
    def __init__(self) -> None:
        self._renderer = Renderer()
        self._tokenizer: tokenizers.Tokenizer | None = None

    def answer(self, kind: bytes, asked: bytes) -> bytes:
        if kind == RENDER:
            return self._renderer.answer(asked)
        try:
            if kind == LOAD:
                source = _source(asked)
                for digest, template in compiled_templates(source.templates):
                    self._renderer.keep(digest, template)
                self._tokenizer, tokens = loaded(source)
                return TEXT + _encode(tokens)
            assert self._tokenizer is not None
            return TEXT + _encode(done(self._tokenizer, _job(asked)))
        except NoRoom:
            return NO_ROOM
        except TextRefused as refusal:
            return REFUSED + str(refusal).encode("utf-8", "replace")
        except MemoryError:
            raise
        except BaseException as error:  # what panics in the library is no Exception
            return FAILED + str(error)[:500].encode("utf-8", "replace")


def _in_use_bytes() -> int:
    """Of address space."""
    return int(os.pread(_STATM_FD, 32, 0).split()[0]) * resource.getpagesize()
