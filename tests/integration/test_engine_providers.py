"""What every engine provider does, whatever is behind it: our own child, a lease of a warm pool, the scripted fake.

The first two run a real host process, its engine replaced by one that counts (scripted_host.py), so that every provider
behaves alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pool_agent import Host, exec_host, private_dir
from scripted_engine import LOST, REFUSED, ScriptedProvider
from scripted_pool import ScriptedPool, lease
from waiting import until_async

from pilotlight_engine.client import pool_client
from pilotlight_engine.client.child_provider import ChildEngineProvider, ChildSettings
from pilotlight_engine.contract import Engine, EngineProvider, GenerateRequest
from pilotlight_engine.leasing.lease_client import Lease, LeaseAsk
from pilotlight_engine.leasing.lease_provider import LeaseDeadlines, LeaseProvider
from pilotlight_engine.leasing.pool_http import Answer
from pilotlight_protocol.engine_frames import HostConfig
from pilotlight_protocol.errors import InvalidInput, Unavailable
from pilotlight_protocol.generation import GenerationParameters
from pilotlight_protocol.leases import LeaseRequest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

HOST = Path(__file__).parents[1] / "fakes" / "scripted_host.py"
SECRET = "s" * 64


class Kind:
    """One kind of provider, and what a test must reach behind it."""

    provider: EngineProvider

    def lose(self) -> None:
        """End the engine under the provider."""
        raise NotImplementedError

    def given_back(self) -> bool:
        """Whether nothing of the engine that was released is left."""
        raise NotImplementedError


class Scripted(Kind):
    def __init__(self, boot_s: float, deadline_s: float) -> None:
        self.provider = self.scripted = ScriptedProvider(step_s=0.001, boot_s=boot_s, deadline_s=deadline_s)

    def lose(self) -> None:
        self.scripted.engines[-1].lose("the test ended it")

    def given_back(self) -> bool:
        return [id(engine) for engine in self.scripted.released] == [id(engine) for engine in self.scripted.engines]


class Child(Kind):
    def __init__(self, boot_s: float, deadline_s: float) -> None:
        config = HostConfig(model_dir="/m", model_name="demo", engine_args={"boot_s": str(boot_s)})
        argv = (sys.executable, str(HOST))
        self._before = children()
        self.provider = self.child = ChildEngineProvider(
            ChildSettings(config, os.environ, deadline_s, shutdown_grace_s=1.0, argv=argv)
        )

    def lose(self) -> None:
        assert self.child.pid is not None
        os.kill(self.child.pid, signal.SIGKILL)

    def given_back(self) -> bool:
        return self.child.pid is None and children() == self._before


class Leased(Kind):
    """Every lease is of a host of its own, which this is the agent of."""

    def __init__(self, folder: Path, boot_s: float, deadline_s: float) -> None:
        self._folder = private_dir(folder / "run")
        self.hosts: list[tuple[subprocess.Popen[bytes], Host]] = []
        grants: list[Any] = [self._grant] * 3 if boot_s < deadline_s else [lease("queued")]
        self.pool = ScriptedPool(*grants)
        wish, deadlines = LeaseRequest("file:///m", "demo"), LeaseDeadlines(deadline_s, deadline_s)
        self.provider = LeaseProvider(
            "demo", lambda s: LeaseAsk(wish, self.pool, s), deadlines, self.pool, self._connect
        )

    def lose(self) -> None:
        self.hosts[-1][0].kill()

    def given_back(self) -> bool:
        return self.pool.given_back == [f"L{number}" for number in range(1, len(self.hosts) + 1)]

    def close(self) -> None:
        for process, host in self.hosts:
            host.sock.close()
            process.wait(10)

    def _grant(self, body: object) -> Answer:
        number = len(self.hosts) + 1
        listen = f"unix://{self._folder}/{number}.sock"
        config = HostConfig(model_dir="/m", model_name="demo", listen=listen)
        process, host = exec_host(config, self._folder, self._folder / "log", (sys.executable, str(HOST)))
        self.hosts.append((process, host))
        host.wait_booted(10.0)
        host.grant(f"L{number}", SECRET, "tenant")
        return lease(lease_id=f"L{number}", endpoint=listen, secret=SECRET)

    async def _connect(self, granted: Lease) -> pool_client.PoolEngineClient:
        return await pool_client.connect(granted.endpoint, granted.lease_id, granted.secret)


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


Make = Callable[..., Kind]


@pytest.fixture(params=["scripted", "child", "leased"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes a kind; `boot_s` and `deadline_s` as its engine's and its provider's."""
    with contextlib.ExitStack() as closing:

        def made(boot_s: float = 0.0, deadline_s: float = 20.0) -> Kind:
            if request.param == "scripted":
                return Scripted(boot_s, deadline_s)
            if request.param == "child":
                return Child(boot_s, deadline_s)
            leased = Leased(tmp_path, boot_s, deadline_s)
            closing.callback(leased.close)
            return leased

        yield made


@contextlib.asynccontextmanager
async def held(kind: Kind) -> AsyncIterator[Engine]:
    engine = await kind.provider.acquire()
    try:
        yield engine
    finally:
        await kind.provider.release(engine)


def ask(*prompt: int, **parameters: Any) -> GenerateRequest:
    return GenerateRequest("r", list(prompt), GenerationParameters(**parameters))


async def tokens(engine: Engine, request: GenerateRequest) -> list[int]:
    async with contextlib.aclosing(engine.generate(request)) as stream:
        return [token async for deltas in stream for delta in deltas for token in delta.token_ids]


async def test_an_engine_is_ready_when_it_is_acquired_and_gone_when_it_is_released(make: Make) -> None:
    kind = make()
    async with held(kind) as engine:
        await engine.check()
        assert engine.info.vocab_size > 0
        assert b"vllm:num_requests_running" in await engine.metrics()
        assert not engine.lost.done()
        assert not kind.given_back()
    assert kind.given_back()


async def test_it_generates_and_tells_the_prompts_size_first_and_the_reason_last(make: Make) -> None:
    async with held(make()) as engine, contextlib.aclosing(engine.generate(ask(5, 6, max_tokens=4))) as stream:
        deltas = [delta async for some in stream for delta in some]
    assert [token for delta in deltas for token in delta.token_ids] == [7, 8, 9, 10]
    assert [delta.prompt_tokens for delta in deltas if delta.prompt_tokens >= 0] == [2]
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["length"]


async def test_two_streams_at_once_do_not_mix(make: Make) -> None:
    async with held(make()) as engine:
        answers = await asyncio.gather(tokens(engine, ask(10, max_tokens=30)), tokens(engine, ask(500, max_tokens=30)))
    assert list(answers) == [list(range(11, 41)), list(range(501, 531))]


@pytest.mark.parametrize("read", [0, 1])
async def test_closing_a_stream_ends_its_request_and_no_other(make: Make, read: int) -> None:
    async with held(make()) as engine:
        other = asyncio.create_task(tokens(engine, ask(1, max_tokens=50)))
        async with contextlib.aclosing(engine.generate(ask(1, max_tokens=100_000, ignore_eos=True))) as stream:
            for _ in range(read):
                await anext(stream)
        assert await other == list(range(2, 52))
        # A count that a host sends with its steps; the fake has no steps and no count.
        await tokens(engine, ask(1, max_tokens=2))
        assert engine.stats.running == 0


async def test_a_cancelled_reader_ends_its_request(make: Make) -> None:
    async with held(make()) as engine:
        reading = asyncio.create_task(tokens(engine, ask(1, max_tokens=100_000, ignore_eos=True)))
        await asyncio.sleep(0.02)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await tokens(engine, ask(1, max_tokens=2)) == [2, 3]
        assert engine.stats.running == 0


async def test_a_refused_request_is_the_clients_fault_and_fails_alone(make: Make) -> None:
    async with held(make()) as engine:
        good = asyncio.create_task(tokens(engine, ask(1, max_tokens=20)))
        with pytest.raises(InvalidInput, match="refuses this request"):
            await tokens(engine, ask(REFUSED, max_tokens=20))
        assert await good == list(range(2, 22))
        assert not engine.lost.done()


async def test_a_lost_engine_fails_everything_as_unavailable_and_is_replaced(make: Make) -> None:
    kind = make()
    async with held(kind) as engine:
        running = asyncio.create_task(tokens(engine, ask(1, max_tokens=100_000, ignore_eos=True)))
        await asyncio.sleep(0.02)
        kind.lose()
        with pytest.raises(Unavailable):
            await running
        async with asyncio.timeout(10):
            assert await engine.lost
        for call in (engine.check(), tokens(engine, ask(1))):
            with pytest.raises(Unavailable):
                await call
    assert kind.given_back()
    async with held(kind) as next_engine:
        assert await tokens(next_engine, ask(1, max_tokens=2)) == [2, 3]


async def test_a_killed_child_says_by_what_and_the_next_one_waits() -> None:
    kind = Child(boot_s=0.0, deadline_s=20.0)
    async with held(kind) as engine:
        kind.lose()
        assert "killed by signal 9" in await engine.lost
    began_s = time.monotonic()
    async with held(kind):
        assert time.monotonic() - began_s > 1.0


async def test_what_came_before_a_loss_is_read_and_then_the_loss(make: Make) -> None:
    async with held(make()) as engine, contextlib.aclosing(engine.generate(ask(LOST, 1, max_tokens=9))) as stream:
        seen: list[int] = []
        while len(seen) < 2:
            seen += [token for delta in await anext(stream) for token in delta.token_ids]
        assert seen == [2, 3]
        with pytest.raises(Unavailable):
            await anext(stream)


async def test_released_twice_is_released_once(make: Make) -> None:
    kind = make()
    engine = await kind.provider.acquire()
    await kind.provider.release(engine)
    await kind.provider.release(engine)
    assert kind.given_back()
    async with held(kind) as again:
        await kind.provider.release(engine)
        assert await tokens(again, ask(1, max_tokens=2)) == [2, 3], "the first engine is nobody's any more"
    assert again.lost.done()
    assert kind.given_back()


async def test_a_released_engine_answers_nobody(make: Make) -> None:
    kind = make()
    async with held(kind) as engine:
        pass
    with pytest.raises(Unavailable):
        await engine.check()


async def test_one_engine_at_a_time(make: Make) -> None:
    kind = make()
    async with held(kind) as engine:
        with pytest.raises(Unavailable, match="in use"):
            await kind.provider.acquire()
        assert await tokens(engine, ask(1, max_tokens=2)) == [2, 3]


async def test_an_engine_that_is_not_there_in_time_is_unavailable_and_leaves_nothing(make: Make) -> None:
    kind = make(boot_s=60.0, deadline_s=0.5)
    async with asyncio.timeout(15):
        with pytest.raises(Unavailable, match="within"):
            await kind.provider.acquire()
    assert getattr(kind, "pool", None) is not None or kind.given_back()


async def test_giving_up_on_an_acquisition_leaves_nothing(make: Make) -> None:
    kind = make(boot_s=60.0, deadline_s=60.0)
    acquiring = asyncio.create_task(kind.provider.acquire())
    await asyncio.sleep(0.1)
    acquiring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acquiring
    if isinstance(kind, Leased):
        await until_async(lambda: kind.pool.given_back == ["L1"])
    else:
        assert kind.given_back()
