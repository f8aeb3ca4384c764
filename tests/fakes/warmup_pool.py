"""A running warm pool for tests: the service as a process, its HTTP API, and a holder's end of the data endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from waiting import DEADLINE_S, until_async

from pilotlight_protocol import engine_frames as f
from pilotlight_protocol.frame_codec import FrameSplitter, encode
from pilotlight_protocol.generation import GenerationParameters

FAKE_POOL = Path(__file__).parents[1] / "fakes" / "fake_pool.py"


def fake_model(folder: Path, number: int, *, hidden_size: int = 8, **behaviour: Any) -> Path:
    """A model folder for fake engines; its engines answer with token `number`."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": hidden_size}))
    header = json.dumps({"w": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes([number % 256] * 8))
    (folder / "fake.json").write_text(json.dumps({"tokens": [number]} | behaviour))
    return folder


def fine_tunes(folder: Path, count: int) -> list[Path]:
    """AWQ fine-tunes of the demo model; each introduces itself by its own name ("I am tenant-00.")."""
    script = [sys.executable, str(Path(__file__).parents[2] / "scripts" / "make_models.py"), "--out", str(folder)]
    subprocess.run([*script, "--from-demo", "--count", str(count), "--quantization", "awq"], check=True, timeout=300)
    return sorted(folder.iterdir())


@dataclass
class Answer:
    status: int
    body: dict[str, Any]
    headers: dict[str, str]


class Pool:
    """One service process. `argv`: what runs it, without --listen and --run_dir."""

    def __init__(self, folder: Path, *argv: str) -> None:
        self.run_dir = folder / "run"
        self._log_path = folder / "log"
        self._argv = [sys.executable, *argv, "--listen", "tcp://127.0.0.1:0", "--run_dir", str(self.run_dir)]

    async def __aenter__(self) -> Pool:
        environment = os.environ | {"PILOTLIGHT_TEST_POOL": str(self.run_dir)}
        self._marker = f"PILOTLIGHT_TEST_POOL={self.run_dir}".encode()
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220  (it only starts it)
                self._argv, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120))
        await self.until(lambda: b"leases at http" in self._log_path.read_bytes(), 20)
        found = re.search(r"leases at (http://\S+),", self.log())
        assert found is not None
        self.url = found[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                await asyncio.to_thread(self.process.wait, 15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        self.process.wait()
        await self.until(lambda: not self.children(), 5)

    def log(self) -> str:
        return self._log_path.read_text()

    async def call(self, method: str, path: str, body: object = None, key: str = "") -> Answer:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self.session.request(method, self.url + path, json=body, headers=headers) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return Answer(response.status, json.loads(text) if is_json else {"text": text}, dict(response.headers))

    async def ask(self, model: Path | str, *, name: str = "m", wait_s: float = 30.0, **more: Any) -> Answer:
        body = {"model": str(model), "model_name": name, "wait_s": wait_s, **more}
        return await self.call("POST", "/v1/leases", body)

    async def lease(self, model: Path | str, **more: Any) -> dict[str, Any]:
        answer = await self.ask(model, **more)
        assert answer.status == 201, answer
        assert answer.body["state"] == "active", answer
        return answer.body

    async def release(self, lease: dict[str, Any]) -> None:
        assert (await self.call("DELETE", f"/v1/leases/{lease['lease_id']}")).status == 204

    async def heartbeat(self, lease: dict[str, Any]) -> Answer:
        return await self.call("POST", f"/v1/leases/{lease['lease_id']}/heartbeat")

    async def slots(self) -> list[dict[str, Any]]:
        return list((await self.call("GET", "/v1/slots")).body["slots"])

    async def state_becomes(self, state: str, slot: int = 0, within_s: float = DEADLINE_S) -> None:
        def told() -> str:
            return f"the slot is not {state}\n{self.log()}"

        await until_async(self.slots, within_s, told, lambda slots: slots[slot]["state"] == state)

    async def until(self, done: Callable[[], object], within_s: float = DEADLINE_S) -> None:
        await until_async(done, within_s, self.log)

    def children(self) -> list[int]:
        """Every process that the service has started, and what those have started, as far as they live."""
        return children_marked(self._marker, self.process.pid)

    def zygote_pid(self) -> int:
        return int(re.findall(r"the zygote \(pid (\d+)\) is ready", self.log())[-1])

    def engine_pid(self, slot: str = "cpu:0") -> int:
        return int(re.findall(rf"the engine of {slot} is pid (\d+)", self.log())[-1])


def children_marked(marker: bytes, pid: int) -> list[int]:
    """Processes with `marker` in their environment, without `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != pid:
            with contextlib.suppress(OSError):
                if marker in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


class Holder:
    """The data connection of a lease."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._splitter = FrameSplitter()
        self._decoder = msgspec.msgpack.Decoder(f.LeaseHostFrame)
        self._frames: list[Any] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, lease: dict[str, Any], secret: str | None = None) -> AsyncIterator[Holder]:
        scheme, _, address = lease["endpoint"].partition("://")
        if scheme == "unix":
            reader, writer = await asyncio.open_unix_connection(address)
        else:
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(encode(f.Hello(lease["lease_id"], secret or lease["secret"])))
            yield cls(reader, writer)
        finally:
            writer.close()

    async def frame(self) -> Any:
        """The next frame; EOFError at the end of the connection."""
        async with asyncio.timeout(30):
            while not self._frames:
                data = await self._reader.read(65536)
                if not data:
                    raise EOFError
                self._frames += [self._decoder.decode(bytes(body)) for body in self._splitter.feed(data)]
        return self._frames.pop(0)

    def ask(
        self, max_tokens: int, prompt: list[int] | None = None, stream: int = 1, logprobs: int | None = None
    ) -> None:
        parameters = GenerationParameters(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, logprobs=logprobs)
        request = f.GenerateRequest(f"r{stream}", prompt or [1, 2, 3], parameters)
        self._writer.write(encode(f.Generate(stream, request)))

    async def tokens(self, max_tokens: int, prompt: list[int] | None = None) -> list[int]:
        self.ask(max_tokens, prompt)
        found: list[int] = []
        while True:
            frame = await self.frame()
            if isinstance(frame, f.Failed | f.Refused):
                raise EOFError(str(frame))
            if isinstance(frame, f.Step):
                for _, delta in frame.deltas:
                    found += delta.token_ids
                    if delta.finish_reason is not None:
                        return found


async def generate(lease: dict[str, Any], max_tokens: int, prompt: list[int] | None = None) -> list[int]:
    async with Holder.open(lease) as holder:
        welcome = await holder.frame()
        assert isinstance(welcome, f.Welcome)
        return await holder.tokens(max_tokens, prompt)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
