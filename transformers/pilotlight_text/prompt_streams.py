"""Many prompts streamed as one answer: their pieces as they come, from a bounded number of them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pilotlight_text.detokenization.text_stream import Piece, TextStream
from pilotlight_text.text_model import CONCURRENT_PROMPTS, TextModel, TextRequest

Part = tuple[int, TextStream, list[Piece]]
"""Position of the prompt, its stream, new pieces; a prompt ends with none."""


class PromptStreams:
    """Close it in `finally`."""

    def __init__(self, model: TextModel, requests: Sequence[TextRequest]) -> None:
        self._model = model
        self._requests = requests
        self._only: TextStream | None = None
        self._running = len(requests)
        self._places = asyncio.Semaphore(CONCURRENT_PROMPTS)
        self._arrived: asyncio.Queue[Part | Exception] = asyncio.Queue(CONCURRENT_PROMPTS)
        self._pumps: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """With one prompt it returns when its answer has started, and raises what the source does."""
        if len(self._requests) == 1:
            self._only = await self._model.stream(self._requests[0])
        else:
            self._pumps = [asyncio.create_task(self._pump(*numbered)) for numbered in enumerate(self._requests)]

    async def next_part(self) -> Part | None:
        """None when all have ended. Raises the first failure of any."""
        if self._running == 0:
            return None
        if self._only is not None:
            part: Part | Exception = (0, self._only, await self._only.pieces())
        else:
            part = await self._arrived.get()
        if isinstance(part, Exception):
            raise part
        self._running -= not part[2]
        return part

    async def _pump(self, position: int, request: TextRequest) -> None:
        try:
            async with self._places:
                text = await self._model.stream(request)
                try:
                    while pieces := await text.pieces():
                        await self._arrived.put((position, text, pieces))
                    await self._arrived.put((position, text, []))
                finally:
                    await text.close()
        except Exception as error:  # handed to the reader, who raises it
            await self._arrived.put(error)

    async def close(self) -> None:
        if self._only is not None:
            await self._only.close()
        for task in self._pumps:
            task.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
