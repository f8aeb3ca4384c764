"""One Redis as the gateway uses it: scripts and commands with a deadline each, and whether it is there at all.

A call that is not answered in time says little: its answer may be large, every connection in use, this process behind.
A PING over a connection of its own then says whether Redis is there. Once it is not, nobody waits for the next call:
all are refused at once until a PING has come back, which is tried several times a second. It must not know what is kept
there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from pilotlight_gateway.redis_calls import RedisAway, ScriptCall
from pilotlight_protocol.errors import InvalidInput

DEADLINE_S = 0.25
"""Of one call: many times what a script takes, and short beside a first token."""
LARGE_DEADLINE_S = 1.0
"""Where answers of some megabytes are read."""
PROBE_S = 0.2
MOST_CONNECTIONS = 32
AWAY_RETRY_S = 1.0
_log = logging.getLogger("pilotlight.gateway.redis")


class RedisLink:
    """Implements RedisCalls, between `start` and `close`. `url`: with its secret, which is in no message. `connect`: a
    client of so many connections at most."""

    def __init__(
        self,
        url: str,
        deadline_s: float = DEADLINE_S,
        connect: Callable[[str, float, int], Any] | None = None,
    ) -> None:
        self._deadline_s = deadline_s
        connect = connect or _client
        self._client: Any = connect(url, deadline_s, MOST_CONNECTIONS)
        self._prober: Any = connect(url, deadline_s, 1)
        self._asking: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._gone.set()
        self._on_return: list[Callable[[], None]] = []
        self._watching: asyncio.Task[None] | None = None
        self._last_refusal = ""

    @property
    def there(self) -> bool:
        return not self._gone.is_set()

    def on_return(self, returned: Callable[[], None]) -> None:
        self._on_return.append(returned)

    async def start(self) -> None:
        """Returns also where it is not there: it may come."""
        await self._probe()
        if not self.there:
            _log.error("Redis does not answer; it is tried again until it does")
        self._watching = asyncio.create_task(self._watch(), name="Redis")

    async def close(self) -> None:
        for task in (self._watching, self._asking):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        for client in (self._client, self._prober):
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(self._deadline_s):
                    await client.aclose()

    async def call(self, call: ScriptCall) -> Any:
        return (await self._in_time(lambda: self._run([call])))[0]

    async def call_all(self, calls: Sequence[ScriptCall]) -> list[Any]:
        answers: list[Any] = await self._in_time(lambda: self._run(calls))
        return answers

    async def _in_time(self, run: Callable[[], Any]) -> Any:
        if not self.there:
            raise _away()
        try:
            async with asyncio.timeout(self._deadline_s):
                try:
                    return await run()
                except RedisConnectionError:
                    # A connection may be closed under a call by a server that is well.
                    return await run()
        except ResponseError as error:
            # It is there and says no: out of memory, a read-only replica. Others need not wait for it.
            self._refused(error)
            raise _away() from error
        except (TimeoutError, RedisTimeoutError) as error:
            self._doubted()
            raise _away() from error
        except (RedisError, OSError) as error:
            self._lost(error)
            raise _away() from error

    def _doubted(self) -> None:
        if self.there and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask(), name="Redis: is it there")

    async def _ask(self) -> None:
        try:
            await self._ping()
        except (RedisError, OSError, TimeoutError) as error:
            self._lost(error)

    def _refused(self, error: ResponseError) -> None:
        if str(error) != self._last_refusal:
            self._last_refusal = str(error)
            _log.error("Redis refuses: %s", error)

    async def _run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        answers = await self._sent(calls)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            for text in {call.script.text for call in calls}:
                await self._client.execute_command("SCRIPT LOAD", text)
            answers = await self._sent(calls)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _sent(self, calls: Sequence[ScriptCall]) -> list[Any]:
        if len(calls) == 1:
            try:
                return [await self._client.execute_command(*calls[0].words)]
            except NoScriptError as error:
                return [error]
        async with self._client.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.execute_command(*call.words)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    def _lost(self, error: BaseException) -> None:
        if self.there:
            self._gone.set()
            _log.error("Redis does not answer: %s", error or type(error).__name__)

    async def _watch(self) -> None:
        while True:
            await self._gone.wait()
            await asyncio.sleep(PROBE_S)
            await self._probe()

    async def _probe(self) -> None:
        try:
            await self._ping()
        except (RedisError, OSError, TimeoutError) as error:
            _log.debug("Redis is not back: %s", error or type(error).__name__)
            return
        self._gone.clear()
        _log.info("Redis answers")
        for returned in self._on_return:
            returned()

    async def _ping(self) -> None:
        async with asyncio.timeout(self._deadline_s):
            try:
                await self._prober.execute_command("PING")
            except RedisConnectionError:  # it may have been closed since the last one
                await self._prober.execute_command("PING")


def _client(url: str, deadline_s: float, most_connections: int) -> Redis:
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=most_connections,
            timeout=None,  # to wait for one is part of a call's time, and not a connection that is lost
            # Each call has its deadline here; with one of its own redis-py sends under `wait_for`, which on Python 3.11
            # may swallow that its task was cancelled.
            socket_timeout=None,
            socket_connect_timeout=deadline_s,
            retry=Retry(NoBackoff(), 0),
            client_name="pilotlight-gateway",
        )
    except (ValueError, TypeError):
        raise InvalidInput("the Redis URL must be redis://, rediss:// or unix://; it is not shown here") from None
    return Redis.from_pool(pool)


def _away() -> RedisAway:
    return RedisAway(
        "what replicas know together cannot be asked for at the moment; try again", retry_after_s=AWAY_RETRY_S
    )
