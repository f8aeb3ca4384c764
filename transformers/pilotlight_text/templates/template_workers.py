"""Renders templates in workers that are killed and replaced when one does not end or takes too much.

Responsible for whom a misbehaving template can hold up: nobody whose template has rendered before. Those that have not
rendered yet, or were stopped lately, share one worker and take turns there. One of these serves any number of models.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec

from pilotlight_text.templates.chat_template import refused, too_long
from pilotlight_text.templates.limited_process import MIB, ProcessEnded, ProcessLimits
from pilotlight_text.templates.template_sources import TemplateSource
from pilotlight_text.templates.worker_connection import WorkerConnection, start_worker
from pilotlight_text.templates.worker_lane import Lane, Start
from pilotlight_text.templates.worker_main import REFUSED, TEXT, TOO_LONG, UNKNOWN

RENDER_LIMITS = ProcessLimits(cpu_s=0.5, wall_s=5.0, memory_bytes=256 * MIB)
SUSPECT_S = 300.0
_REMEMBERED = 4096

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


async def start_renderer() -> WorkerConnection:
    return await start_worker(RENDER_LIMITS)


class TemplateWorkers:
    """Implements `chat_template.TemplateRunner`. `size`: workers for templates that have rendered.

    Workers start when they are needed; `close` ends them.
    """

    def __init__(
        self,
        start: Start = start_renderer,
        *,
        size: int = 1,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._usual = Lane(start, size)
        self._doubtful = Lane(start, 1)
        self._proven: dict[str, None] = {}
        self._probed: dict[str, bytes] = {}
        self._suspect_until: dict[str, float] = {}
        self._now_s = now_s

    def warm_up(self) -> None:
        """Start a worker ahead of the first conversation."""
        self._doubtful.start_one()

    async def render(self, template: TemplateSource, context: bytes, max_chars: int) -> str:
        head = b'{"template":"%s","max_chars":%d,"context":%s' % (template.digest.encode(), max_chars, context)
        answer = await self._answer(template, head, proves=True)
        kind, rest = answer[:1], answer[1:]
        if kind == TEXT:
            return rest.decode()
        if kind == TOO_LONG:
            raise too_long(max_chars)
        raise refused(rest.decode("utf-8", "replace") if kind == REFUSED else "ended without an answer")

    async def probe(self, template: TemplateSource, special_tokens: bytes) -> bytes:
        digest = template.digest
        if digest not in self._probed:
            head = b'{"template":"%s","probe":%s' % (digest.encode(), special_tokens)
            answer = await self._answer(template, head, proves=False)
            if answer[:1] != TEXT:
                raise refused(answer[1:].decode("utf-8", "replace"))
            _remember(self._probed, digest, answer[1:])
        return self._probed[digest]

    async def _answer(self, template: TemplateSource, head: bytes, *, proves: bool) -> bytes:
        """`proves`: an answer says that the template can be trusted with conversations."""
        digest = template.digest
        while True:
            lane = self._usual if self._is_trusted(digest) else self._doubtful
            worker = await lane.acquire(digest)
            if digest in worker.known:
                job = head + b"}"
            else:
                worker.known.add(digest)
                job = head + b',"source":' + _encode(template.source) + b"}"
            answering = worker.ask(job)
            answering.add_done_callback(partial(self._answered, lane, worker, digest, proves))
            try:
                # A client that goes leaves its render to end by itself, and the worker whole.
                answer = await asyncio.shield(answering)
            except ProcessEnded as stopped:
                raise refused(f"{stopped} on these messages and was stopped") from stopped
            if answer != UNKNOWN:
                return answer
            worker.known.discard(digest)

    def _answered(
        self, lane: Lane, worker: WorkerConnection, digest: str, proves: bool, answer: asyncio.Future[bytes]
    ) -> None:
        if answer.exception() is not None:
            _remember(self._suspect_until, digest, self._now_s() + SUSPECT_S)
        elif lane is self._doubtful and proves:
            _remember(self._proven, digest, None)
            self._usual.start_one()  # where this template goes next
        lane.give_back(worker, digest)

    def _is_trusted(self, digest: str) -> bool:
        return digest in self._proven and self._now_s() >= self._suspect_until.get(digest, 0.0)

    async def close(self) -> None:
        await asyncio.gather(self._usual.close(), self._doubtful.close())


def _remember(memory: dict[str, T], digest: str, value: T) -> None:
    """The latest `_REMEMBERED`, the oldest first."""
    memory.pop(digest, None)
    memory[digest] = value
    if len(memory) > _REMEMBERED:
        del memory[next(iter(memory))]
