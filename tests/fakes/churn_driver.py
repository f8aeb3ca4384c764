"""Random requests for many models on few slots while engines, the service and predictors are killed; counts and judges.

Every completed response is compared with the model's own answer, decided before the run (churn_models). What counts as
wrong, in `Tally.wrong`: another answer, a cached prefix on an engine that has just changed hands, a request that
outlives its deadline, a stream that ends without a reason, a failure nobody caused, a lease or a process left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from churn_models import OUTPUT_TOKENS, Endpoint
from churn_pool import ChurnPool, ThinPredictor
from pilotlight_protocol import engine_frames as f
from warmup_pool import Holder

REQUEST_DEADLINE_S = 60.0
LEASE_DEADLINE_S = 40.0
READY_DEADLINE_S = 90.0
SETTLE_DEADLINE_S = 30.0
# How long after a kill a broken connection is still its doing: start of the service, of its zygote, of a predictor.
BLAME_S = 20.0
CLEAN_STATUSES = {429, 503, 504}
PARAMETERS = {"max_tokens": OUTPUT_TOKENS, "temperature": 0.0, "ignore_eos": True}


class CleanFailure(Exception):
    """An answer that says what happened: a typed status, an error event, a lease's end with its reason."""


@dataclass(frozen=True)
class ChurnPlan:
    duration_s: float
    kill_every_s: float
    clients: int = 8
    think_s: float = 0.8
    seed: int = 7
    kinds: tuple[str, ...] = ("engine", "agent", "predictor", "engine", "zygote")


@dataclass
class Tally:
    """`waits_s`: from asking to an engine, by path; `completed` by how it was asked."""

    completed: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    waits_s: dict[str, list[float]] = field(default_factory=dict)
    took_s: list[float] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def all_waits_s(self) -> list[float]:
        return sorted(wait_s for waits_s in self.waits_s.values() for wait_s in waits_s)


def percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


class Churn:
    """One run. `predictors` serve some of `endpoints`; the rest is leased directly, by the driver itself."""

    def __init__(
        self, pool: ChurnPool, predictors: Sequence[ThinPredictor], endpoints: Sequence[Endpoint], plan: ChurnPlan
    ) -> None:
        self.pool, self.predictors, self.endpoints, self.plan = pool, predictors, endpoints, plan
        self.tally = Tally()
        self._thin = {predictor.endpoint.name: predictor for predictor in predictors}
        self._killed_s = float("-inf")

    async def run(self) -> Tally:
        """The service runs already. Ends it, and the predictors."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_DEADLINE_S)
        async with aiohttp.ClientSession(timeout=timeout) as self.session:
            kubelet = asyncio.create_task(self._keep_predictors())
            await asyncio.gather(*(self._until_ready(predictor) for predictor in self.predictors))
            self._end_s = time.monotonic() + self.plan.duration_s
            clients = [self._client(number) for number in range(self.plan.clients)]
            await asyncio.gather(self._killer(), *clients)
            await self._settle()
            kubelet.cancel()
            for predictor in self.predictors:
                if not await predictor.stop():
                    self.tally.wrong.append(f"the predictor of {predictor.endpoint.name} did not end on SIGTERM")
            await self._nothing_is_held()
            self._left(await self.pool.stop(), "SIGTERM")
        return self.tally

    async def _client(self, number: int) -> None:
        dice = random.Random(f"{self.plan.seed}-{number}")
        while time.monotonic() < self._end_s:
            await asyncio.sleep(dice.expovariate(1 / self.plan.think_s))
            # A fifth of the requests go through predictors, which are few.
            chosen = dice.choice(
                [p.endpoint for p in self.predictors] if self.predictors and dice.random() < 0.2 else self.endpoints
            )
            await self._one(
                chosen, dice.randrange(len(chosen.prompts)), dice.choice(["interactive", "normal", "batch"])
            )

    async def _one(self, endpoint: Endpoint, prompt: int, priority: str) -> None:
        thin = self._thin.get(endpoint.name)
        how = "predictor" if thin else "lease"
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(REQUEST_DEADLINE_S):
                tokens = await (self._stream(thin, prompt) if thin else self._lease(endpoint, prompt, priority))
        except TimeoutError:
            self.tally.wrong.append(f"{endpoint.name} by {how}: hangs for over {REQUEST_DEADLINE_S:.0f} s")
        except CleanFailure as failure:
            self.tally.failures[f"{how}: {failure}"] += 1
        except (OSError, EOFError, aiohttp.ClientError) as error:
            kind = f"{how}: broken connection ({type(error).__name__})"
            self.tally.failures[kind] += 1
            # A kill may come just after what it causes was noticed here.
            await asyncio.sleep(0.2)
            if began_s - self._killed_s > BLAME_S:
                self.tally.wrong.append(f"{endpoint.name}: {kind} though nothing was killed: {error}")
        else:
            self._judge(endpoint, prompt, tokens, how)
            self.tally.took_s.append(time.monotonic() - began_s)

    def _judge(self, endpoint: Endpoint, prompt: int, tokens: list[int], how: str) -> None:
        assert endpoint.answers is not None
        if tuple(tokens) == endpoint.answers[prompt]:
            self.tally.completed[how] += 1
            self.tally.models.add(endpoint.name)
            return
        whose = [other.name for other in self.endpoints if other.answers and tuple(tokens) in other.answers]
        found = f"the answer of {whose[0]}" if whose else f"{tokens} and not {list(endpoint.answers[prompt])}"
        self.tally.wrong.append(f"{endpoint.name} by {how}: {found}")

    async def _lease(self, endpoint: Endpoint, prompt: int, priority: str) -> list[int]:
        body = {
            "model": str(endpoint.folder),
            "model_name": endpoint.name,
            "tenant": endpoint.tenant,
            "priority": priority,
            "deadline_s": LEASE_DEADLINE_S,
            "wait_s": LEASE_DEADLINE_S,
            "engine_args": endpoint.engine_args,
        }
        began_s = time.monotonic()
        lease = await self._call("POST", "/v1/leases", body)
        try:
            if lease["state"] not in ("active", "idle"):
                raise CleanFailure(f"still {lease['state']} when its deadline came")
            self.tally.waits_s.setdefault(lease["path"], []).append(time.monotonic() - began_s)
            return await generate_by_lease(lease, endpoint, prompt, self.tally)
        finally:
            # Gone already (410, 404 after a restart) or nobody there: either way it is not held any more.
            with contextlib.suppress(CleanFailure, aiohttp.ClientError, OSError):
                await self._call("DELETE", f"/v1/leases/{lease['lease_id']}")

    async def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        async with self.session.request(method, self.pool.url + path, json=body) as answer:
            content: dict[str, Any] = await answer.json() if answer.content_type == "application/json" else {}
            if answer.status < 300:
                return content
            if answer.status in CLEAN_STATUSES | {404, 410} and content.get("error"):
                raise CleanFailure(f"{answer.status} from the service")
            self.tally.wrong.append(f"{method} {path}: {answer.status} {content}")
            raise CleanFailure(f"{answer.status} from the service, unexpected")

    async def _stream(self, thin: ThinPredictor, prompt: int) -> list[int]:
        body = {"input_ids": list(thin.endpoint.prompts[prompt]), "parameters": PARAMETERS}
        tokens: list[int] = []
        async with self.session.post(thin.url, json=body) as answer:
            if answer.status != 200:
                text = await answer.text()
                if answer.status in CLEAN_STATUSES and json.loads(text).get("error"):
                    raise CleanFailure(f"{answer.status} from the predictor")
                self.tally.wrong.append(f"{thin.endpoint.name}: {answer.status} {text[:300]}")
                raise CleanFailure(f"{answer.status} from the predictor, unexpected")
            async for line in answer.content:
                if not line.startswith(b"data: "):
                    continue
                event = json.loads(line[6:])
                if event.get("error"):
                    raise CleanFailure(f"error event {event.get('status')} from the predictor")
                tokens += event["output_ids"]
                if event.get("finish_reason") is not None:
                    return tokens
        raise EOFError(f"the stream ended after {len(tokens)} tokens without a reason")

    async def _killer(self) -> None:
        dice = random.Random(f"{self.plan.seed}-killer")
        deck: list[str] = []
        while (wait_s := self._end_s - time.monotonic()) > self.plan.kill_every_s:
            await asyncio.sleep(min(wait_s, self.plan.kill_every_s))
            if not deck:
                deck = [kind for kind in self.plan.kinds if kind != "predictor" or self.predictors]
                dice.shuffle(deck)
            kind = deck.pop()
            self._killed_s = time.monotonic()
            if await self._kill(kind, dice):
                self.tally.kills[kind] += 1

    async def _kill(self, kind: str, dice: random.Random) -> bool:
        if kind == "predictor":
            dice.choice(self.predictors).kill()
            return True
        if kind == "agent":
            self._left(await self.pool.kill(), "SIGKILL")
            await self.pool.start()
            self._killed_s = time.monotonic()
            return True
        engines = [self.pool.engine(slot) for slot in dice.sample(range(self.pool.slots), self.pool.slots)]
        pids = [pid for pid in ([self.pool.zygote()] if kind == "zygote" else engines) if pid is not None]
        if not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGKILL)
            return True
        return False

    def _left(self, pids: list[int], signal_name: str) -> None:
        if pids:
            self.tally.wrong.append(f"processes left behind by the service after {signal_name}: {pids}")

    async def _keep_predictors(self) -> None:
        while True:
            for predictor in self.predictors:
                predictor.keep_alive()
            await asyncio.sleep(0.5)

    async def _until_ready(self, predictor: ThinPredictor) -> None:
        async with asyncio.timeout(READY_DEADLINE_S):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with self.session.get(f"http://127.0.0.1:{predictor.port}/v2/health/ready") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.2)

    async def _settle(self) -> None:
        """Once nobody kills any more every endpoint answers."""
        self._end_s = time.monotonic() + SETTLE_DEADLINE_S
        before = self.tally.failures.total()
        sample = random.Random(self.plan.seed).sample(self.endpoints, min(4, len(self.endpoints)))
        asked = [*sample, *(predictor.endpoint for predictor in self.predictors)]
        await asyncio.gather(*(self._one(endpoint, 0, "interactive") for endpoint in asked))
        if self.tally.failures.total() > before:
            self.tally.wrong.append(f"requests fail after the last kill: {dict(self.tally.failures)}")

    async def _nothing_is_held(self) -> None:
        end_s = time.monotonic() + SETTLE_DEADLINE_S
        while True:
            lines = (await self._call("GET", "/v1/leases"))["leases"]
            held = [line for line in lines if line["state"] in ("queued", "placing", "active", "idle")]
            if not held:
                return
            if time.monotonic() > end_s:
                self.tally.wrong.append(f"leases nobody holds: {held}")
                return
            await asyncio.sleep(0.2)


async def generate_by_lease(lease: dict[str, Any], endpoint: Endpoint, prompt: int, tally: Tally) -> list[int]:
    """The answer of the engine behind `lease`. Raises CleanFailure when it says why it gives none, else EOFError."""
    tokens: list[int] = []
    async with Holder.open(lease) as holder:
        welcome = await holder.frame()
        if isinstance(welcome, f.Failed):
            raise CleanFailure("the lease ended before it was used")
        if welcome.model_name != endpoint.name:
            tally.wrong.append(f"{endpoint.name}: its lease leads to an engine that is called {welcome.model_name}")
        holder.ask(OUTPUT_TOKENS, list(endpoint.prompts[prompt]))
        while True:
            frame = await holder.frame()
            if isinstance(frame, f.Failed):
                raise CleanFailure("the lease ended while it generated")
            if isinstance(frame, f.Refused):
                raise CleanFailure(f"{frame.status} from the engine")
            if not isinstance(frame, f.Step):
                continue
            for _, delta in frame.deltas:
                if delta.cached_tokens > 0 and lease["path"] != "loaded":
                    tally.wrong.append(f"{endpoint.name}: {delta.cached_tokens} cached tokens after a {lease['path']}")
                tokens += delta.token_ids
                if delta.finish_reason is not None:
                    return tokens
