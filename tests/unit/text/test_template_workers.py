"""Who renders where: the workers' scheduling over workers of the test, and what a worker answers, in this process."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any, cast

import pytest

from pilotlight_engine.process import limited_worker
from pilotlight_engine.process.limited_worker import OUT_OF_MEMORY
from pilotlight_protocol.errors import ContextLengthExceeded, InvalidInput
from pilotlight_text.templates import worker_main
from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.templates.limited_process import MIB, ProcessEnded, ProcessLimits, command, ended
from pilotlight_text.templates.template_sources import template_source
from pilotlight_text.templates.template_workers import SUSPECT_S, TemplateWorkers
from pilotlight_text.templates.worker_connection import WorkerConnection
from pilotlight_text.templates.worker_main import Renderer, looked_at_templates, looked_at_tokenizer

HELLO = [{"role": "user", "content": "hello"}]
GOOD, BAD = "<{{ messages[0].content }}>", "bad {{ messages[0].content }}"


class Worker:
    """Renders in this process; a job with `bad` in its template ends it instead."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.ended = False
        self.jobs: list[dict[str, Any]] = []
        self._renderer = Renderer()

    def ask(self, job: bytes) -> asyncio.Future[bytes]:
        self.jobs.append(json.loads(job))
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        if "bad" in self.jobs[-1].get("source", ""):
            self.ended = True
            loop.call_soon(answer.set_exception, ProcessEnded("took too long"))
        else:
            loop.call_soon(answer.set_result, self._renderer.answer(job))
        return answer

    async def close(self) -> None:
        self.ended = True


class Bench:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.started: list[Worker] = []
        self.workers = TemplateWorkers(self._start, now_s=lambda: self.now_s)

    async def _start(self) -> WorkerConnection:
        self.started.append(Worker())
        return cast(WorkerConnection, self.started[-1])

    def template(self, source: str, limit: int = 100) -> ChatTemplate:
        return ChatTemplate({"default": template_source(source)}, {}, self.workers, max_output_chars=limit)


async def test_a_source_is_sent_once_to_each_worker() -> None:
    bench = Bench()
    for _ in range(4):
        assert await bench.template(GOOD).render(HELLO) == "<hello>"
    doubtful, usual = bench.started
    assert [("source" in job, "probe" in job) for job in doubtful.jobs] == [(True, True), (False, False)]
    assert ["source" in job for job in usual.jobs] == [True, False, False]


async def test_a_worker_that_forgot_a_template_is_told_again() -> None:
    bench = Bench()
    for _ in range(2):
        await bench.template(GOOD).render(HELLO)
    bench.started[1]._renderer = Renderer()
    assert await bench.template(GOOD).render(HELLO) == "<hello>"


async def test_a_template_that_was_stopped_is_apart_for_a_while() -> None:
    bench = Bench()
    await bench.template(GOOD).render(HELLO)
    with pytest.raises(InvalidInput, match="took too long on these messages and was stopped"):
        await bench.template(BAD).render(HELLO)
    assert not bench.workers._is_trusted(template_source(BAD).digest)
    bench.workers._proven[template_source(BAD).digest] = None
    assert not bench.workers._is_trusted(template_source(BAD).digest)
    bench.now_s = SUSPECT_S
    assert bench.workers._is_trusted(template_source(BAD).digest)


async def test_what_a_template_does_is_told() -> None:
    bench = Bench()
    for source, told in (("{% if %}", "does not compile"), ("{{ raise_exception('no') }}", "refused the messages: no")):
        with pytest.raises(InvalidInput, match=told):
            await bench.template(source).render(HELLO)
    with pytest.raises(ContextLengthExceeded):
        await bench.template(GOOD, limit=3).render(HELLO)


async def test_closing_ends_every_worker() -> None:
    bench = Bench()
    bench.workers.warm_up()
    await bench.template(GOOD).render(HELLO)
    await bench.workers.close()
    assert all(worker.ended for worker in bench.started)


def test_a_worker_keeps_the_latest_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_main, "_KEPT_TEMPLATES", 2)
    renderer = Renderer()

    def asked(name: str, **more: str) -> bytes:
        return renderer.answer(json.dumps({"template": name, "context": {}, "max_chars": 9, **more}).encode())

    for name in "abc":
        assert asked(name, source=name) == b"T" + name.encode()
    assert [asked(name) for name in "abc"] == [b"U", b"Tb", b"Tc"]


def test_looks_at_a_models_files() -> None:
    assert looked_at_templates(json.dumps({"a": "x", "b": "{% if %}"}).encode()).startswith(b"'b' does not compile")
    assert looked_at_templates(b'{"a": "x"}') == b""

    class Library:
        class Tokenizer:
            @staticmethod
            def from_buffer(data: bytes) -> Any:
                raise BaseException(data.decode())

    assert looked_at_tokenizer(Library, b"a panic") == b"a panic"


LIMITS = ProcessLimits(cpu_s=0.5, wall_s=5.0, memory_bytes=64 * MIB)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (None, "did not end within 5 s"),
        (-27, "more than 0.5 s of CPU time"),
        (OUT_OF_MEMORY, "more than 64 MiB of memory"),
        (-6, "more than 64 MiB of memory"),
        (-11, "ended its process with status -11"),
    ],
)
def test_why_a_process_ended(status: int | None, told: str) -> None:
    assert told in str(ended(status, LIMITS))


def test_a_limited_process_is_isolated() -> None:
    assert command("render", LIMITS)[1:3] == ["-I", "-S"]


@pytest.mark.parametrize("reads", [[b"abcd"], [b"ab", b"cd"]])
def test_frames_are_read_whole(reads: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    pending = [limited_worker.HEADER.pack(4), *reads]
    read: Callable[[int, int], bytes] = lambda fd, length: pending.pop(0) if pending else b""  # noqa: E731
    monkeypatch.setattr(os, "read", read)
    assert limited_worker.read_frame(0) == b"abcd"
    assert limited_worker.read_frame(0) is None
