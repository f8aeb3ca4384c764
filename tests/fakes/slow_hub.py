"""A hub that holds weights back after their first bytes until `go_on`, except of models named fast."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator

from aiohttp import web

_COMMIT = "c0ffee" + "0" * 34
_FIRST_BYTES = 10 * 2**20
_PIECE_BYTES = 2**18


def _weights(repository: str, size: int) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + hashlib.sha256(repository.encode()).digest() * (size // 32)


class SlowHub:
    """`sent`: bytes of weights by repository. `held`: how many answers wait for `go_on`."""

    def __init__(self, weights_bytes: int) -> None:
        self.url = ""
        self.sent: dict[str, int] = {}
        self.held = 0
        self.go_on = asyncio.Event()
        self._weights_bytes = weights_bytes

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, weights_bytes: int = 24 * 2**20) -> AsyncIterator[SlowHub]:
        hub = cls(weights_bytes)
        app = web.Application()
        app.router.add_get("/api/models/{repository:[^/]+/[^/]+}", hub._model)
        app.router.add_get("/{repository:[^/]+/[^/]+}/resolve/{commit}/{name}", hub._file, allow_head=False)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield hub
        finally:
            await runner.cleanup()

    def _files(self, repository: str) -> dict[str, bytes]:
        size = 32 if "/fast" in repository else self._weights_bytes
        return {"config.json": b'{"hidden_size": 8}', "model.safetensors": _weights(repository, size)}

    async def _model(self, request: web.Request) -> web.Response:
        repository = request.match_info["repository"]
        siblings: list[dict[str, object]] = []
        for name, body in self._files(repository).items():
            sibling: dict[str, object] = {"rfilename": name, "size": len(body)}
            sibling["blobId"] = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
            if name.endswith(".safetensors"):
                sibling["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 1}
            siblings.append(sibling)
        return web.json_response({"id": repository, "sha": _COMMIT, "siblings": siblings, "tags": []})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        repository, name = request.match_info["repository"], request.match_info["name"]
        body = self._files(repository)[name]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        start, end = (int(asked[1]), min(int(asked[2]) + 1, len(body))) if asked else (0, len(body))
        headers = {"ETag": f'"{name}"', "Content-Length": str(end - start)}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        response = web.StreamResponse(status=206 if asked else 200, headers=headers)
        await response.prepare(request)
        for position in range(start, end, _PIECE_BYTES):
            if name.endswith(".safetensors") and len(body) > _FIRST_BYTES and position >= _FIRST_BYTES:
                await self._hold()
            piece = body[position : min(position + _PIECE_BYTES, end)]
            await response.write(piece)
            if name.endswith(".safetensors"):
                self.sent[repository] = self.sent.get(repository, 0) + len(piece)
        return response

    async def _hold(self) -> None:
        self.held += 1
        try:
            await self.go_on.wait()
        finally:
            self.held -= 1
