"""Random requests for many models on few slots while engines, the service, predictors and a gateway are killed.

Clients ask by lease, through a predictor or through a gateway's short way; some are ill-mannered: they hang up, give up
in the queue, or hold a lease and fall silent. Some are curious: they send what another tenant has just sent and look at
what was cached. The tally judges; wrong is also a request that outlives its deadline, a stream that ends without a
reason, and a broken connection to something that was not killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from warmup_pool import Holder

from churn_harness.gateway_door import GatewayDoor
from churn_harness.invariants import Watch
from churn_harness.kills import Killer
from churn_harness.lease import (
    CLEAN_STATUSES,
    BrokenConnection,
    CleanFailure,
    WrongEngine,
    answer_of,
    generate_by_lease,
    welcomed,
)
from churn_harness.models import SHAPE, SHARED_PROMPT_TOKENS, Endpoint
from churn_harness.pool import ChurnPool, ThinPredictor
from churn_harness.tally import Tally

REQUEST_DEADLINE_S = 60.0
LEASE_DEADLINE_S = 40.0
READY_DEADLINE_S = 90.0
SETTLE_DEADLINE_S = 30.0
HELD = ("queued", "placing", "active", "idle")
KINDS = ("engine", "service", "predictor", "stream", "pause", "zygote", "engine", "freeze", "stream")
APART_KINDS = ("engine", "coordinator", "predictor", "stream", "agent", "pause", "zygote", "coordinator", "freeze")


@dataclass(frozen=True)
class ChurnPlan:
    """`ill_mannered`, `curious`, `through_the_gateway` (of the rest, where there is one): shares of
    requests. On a machine with other work: `answers_per_kill` must have been
    completed since the last kill before the next, and a run that is not `enough` goes on for `patience_s` at the most.
    """

    duration_s: float
    kill_every_s: float
    clients: int = 8
    think_s: float = 0.8
    seed: int = 7
    kinds: tuple[str, ...] = KINDS
    ill_mannered: float = 0.08
    curious: float = 0.05
    through_the_gateway: float = 0.5
    answers_per_kill: int = 0
    enough: Callable[[Tally], bool] = lambda tally: True
    patience_s: float = 0.0


class Churn:
    """One run. `predictors` serve some of `endpoints`; the rest is leased directly, by the driver itself. `twins` are
    pairs of endpoints of different tenants on one model. `door`: through which some of the requests go."""

    def __init__(
        self,
        pool: ChurnPool,
        predictors: Sequence[ThinPredictor],
        endpoints: Sequence[Endpoint],
        plan: ChurnPlan,
        twins: Sequence[tuple[Endpoint, Endpoint]] = (),
        door: GatewayDoor | None = None,
    ) -> None:
        self._door = door
        self.pool, self.predictors, self.endpoints, self.plan, self.twins = pool, predictors, endpoints, plan, twins
        self.tally = Tally()
        self.tally.knows(endpoints)
        self._killer = Killer(pool, predictors, self.tally, random.Random(f"{plan.seed}-killer"), door)
        self._thin = {predictor.endpoint.name: predictor for predictor in predictors}

    async def run(self) -> Tally:
        """The service runs already. Ends it, and the predictors."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_DEADLINE_S)
        watch = Watch(self.pool, self.tally)
        async with aiohttp.ClientSession(timeout=timeout) as self.session:
            kubelet = asyncio.create_task(self._keep_predictors())
            await self._all_ready()
            self.tally.began_s = time.monotonic()
            self._end_s = self.tally.began_s + self.plan.duration_s
            watching = asyncio.create_task(watch.run())
            await asyncio.gather(self._killing(), *(self._client(number) for number in range(self.plan.clients)))
            await self._settle()
            watching.cancel()
            kubelet.cancel()
            for predictor in self.predictors:
                if not await predictor.stop():
                    self.tally.is_wrong(f"the predictor of {predictor.endpoint.name} did not end on SIGTERM")
            if self._door is not None and not await self._door.stop():
                self.tally.is_wrong("the gateway did not end on SIGTERM")
            await self._nothing_is_held()
            watch.judge_running()
            watch.judge_ended(await self.pool.stop())
        return self.tally

    # ---- clients

    async def _client(self, number: int) -> None:
        dice = random.Random(f"{self.plan.seed}-{number}")
        while self._left_s() > 0:
            await asyncio.sleep(dice.expovariate(1 / self.plan.think_s))
            # A fifth of the requests go through predictors, which are few.
            by_predictor = self.predictors and dice.random() < 0.2
            chosen = dice.choice([p.endpoint for p in self.predictors] if by_predictor else self.endpoints)
            prompt, priority = dice.randrange(len(chosen.prompts)), dice.choice(["interactive", "normal", "batch"])
            mood = dice.random()
            if mood < self.plan.curious and self.twins:
                await self._guarded(self._spy(*dice.choice(self.twins), dice))
            elif mood < self.plan.curious + self.plan.ill_mannered:
                manner = dice.choice([self._hang_up, self._hang_up, self._give_up, self._give_up, self._fall_silent])
                await self._guarded(manner(chosen, dice))
            else:
                by_gateway = self._door is not None and dice.random() < self.plan.through_the_gateway
                await self.one(chosen, prompt, priority, by_gateway=by_gateway)

    async def one(self, endpoint: Endpoint, prompt: int, priority: str, *, by_gateway: bool = False) -> None:
        thin = self._thin.get(endpoint.name)
        began_s = time.monotonic()
        how = "gateway" if by_gateway else "predictor" if thin else "lease"
        if by_gateway:
            work = self._through_the_door(endpoint, prompt)
        else:
            work = self._stream(thin, prompt) if thin else self._lease(endpoint, prompt, priority)
        tokens = await self._guarded(work, f"{endpoint.name} by {how}", how)
        if tokens is not None:
            self.tally.completes(endpoint, prompt, tokens, how, time.monotonic() - began_s)

    async def _guarded(self, work: Any, what: str = "a client", how: str = "client") -> Any:
        """The result of `work`, None where it failed; counts the failure, or finds it wrong."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(REQUEST_DEADLINE_S):
                return await work
        except TimeoutError:
            self.tally.is_wrong(f"{what}: hangs for over {REQUEST_DEADLINE_S:.0f} s")
        except CleanFailure as failure:
            self.tally.fails(f"{how}: {failure}")
        except WrongEngine as error:
            self.tally.is_wrong(str(error))
        except BrokenConnection as broken:
            self.tally.fails(f"{how}: broken connection ({broken.kind})")
            # A kill may come just after what it causes was noticed here.
            await asyncio.sleep(0.3)
            if not self.tally.is_excused(broken.suspect, began_s):
                self.tally.is_wrong(f"{what}: broken though nothing was killed: {broken}")
        return None

    @contextlib.asynccontextmanager
    async def _leased(self, endpoint: Endpoint, priority: str) -> Any:
        """A lease that serves, and is given back."""
        began_s = time.monotonic()
        lease = await self._call("POST", "/v1/leases", self._wish(endpoint, priority, LEASE_DEADLINE_S))
        try:
            if lease["state"] not in ("active", "idle"):
                raise CleanFailure(f"still {lease['state']} when its deadline came")
            self.tally.waited(lease["path"], time.monotonic() - began_s)
            self.tally.served(f"{self.pool.starts}:{lease['endpoint']}", endpoint.tenant, endpoint.isolation)
            try:
                yield lease
            except (OSError, EOFError) as error:
                raise BrokenConnection("engine", error) from error
        finally:
            # Gone already (410, 404 after a restart) or nobody there: either way it is not held any more.
            with contextlib.suppress(CleanFailure, BrokenConnection):
                await self._call("DELETE", f"/v1/leases/{lease['lease_id']}")

    async def _lease(self, endpoint: Endpoint, prompt: int, priority: str) -> list[int]:
        async with self._leased(endpoint, priority) as lease:
            self.tally.asks(endpoint)
            answer = await generate_by_lease(lease, endpoint, endpoint.prompts[prompt], endpoint.output_tokens)
            self.tally.cached(endpoint, answer.cached, lease["path"])
            return answer.tokens

    async def _stream(self, thin: ThinPredictor, prompt: int) -> list[int]:
        endpoint, tokens, shot = thin.endpoint, list[int](), False
        self.tally.asks(endpoint)
        async with self._asked(thin, prompt) as answer:
            async for event in _events(answer, endpoint.name):
                if event.get("error"):
                    self.tally.resumed["ended with an error event"] += shot
                    raise CleanFailure(f"error event {event.get('status')} from the predictor")
                tokens += event["output_ids"]
                self.tally.cached(endpoint, event.get("cached_tokens", 0), "")
                if event.get("finish_reason") is not None:
                    self.tally.resumed["went on, token-exact"] += shot and endpoint.agrees(prompt, tokens)
                    return tokens
                if self._killer.aim and not shot and len(tokens) < endpoint.output_tokens // 2:
                    shot = await self._shoot(endpoint)
        self.tally.is_wrong(f"{endpoint.name}: the stream was cut off after {len(tokens)} tokens, without a reason")
        raise CleanFailure("the stream was cut off")

    async def _through_the_door(self, endpoint: Endpoint, prompt: int) -> list[int]:
        assert self._door is not None
        tokens, shot = list[int](), False
        self.tally.asks(endpoint)
        try:
            async for some in self._door.answer(self.session, endpoint, prompt):
                tokens += some
                if self._killer.aim and not shot and 0 < len(tokens) < endpoint.output_tokens // 2:
                    shot = await self._shoot(endpoint)
        except CleanFailure:
            self.tally.resumed["ended with an error event"] += shot
            raise
        self.tally.resumed["went on, token-exact"] += shot and endpoint.agrees(prompt, tokens)
        return tokens

    async def _shoot(self, endpoint: Endpoint) -> bool:
        """Kill the engine under a stream that runs."""
        self._killer.aim = False
        lines = (await self._call("GET", "/v1/leases"))["leases"]
        slots = [line["slot"] for line in lines if line["model_name"] == endpoint.name and line["slot"] is not None]
        return bool(slots) and await self._killer.shoot(slots[0])

    # ---- ill-mannered and curious clients

    async def _hang_up(self, endpoint: Endpoint, dice: random.Random) -> None:
        """Leave in the middle of a stream."""
        thin = self._thin.get(endpoint.name)
        self.tally.asks(endpoint)
        self.tally.manners["hung up"] += 1
        if thin is not None:
            async with self._asked(thin, 0) as answer:
                await answer.content.readany()
            return
        async with self._leased(endpoint, "normal") as lease, Holder.open(lease) as holder:
            await welcomed(holder, endpoint)
            holder.ask(endpoint.output_tokens, list(endpoint.prompts[0]))
            await holder.frame()

    async def _give_up(self, endpoint: Endpoint, dice: random.Random) -> None:
        """Hang up while the lease waits, or take it back: in both cases before anybody is served."""
        self.tally.manners["gave up waiting"] += 1
        if dice.random() < 0.5:
            wish = self._wish(endpoint, "batch", LEASE_DEADLINE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(dice.uniform(0.02, 0.5)):
                    lease = await self._call("POST", "/v1/leases", wish)
                    await self._call("DELETE", f"/v1/leases/{lease['lease_id']}")
            return
        lease = await self._call("POST", "/v1/leases", self._wish(endpoint, "batch", 0.0))
        await asyncio.sleep(dice.uniform(0.0, 0.2))
        await self._call("DELETE", f"/v1/leases/{lease['lease_id']}")

    async def _fall_silent(self, endpoint: Endpoint, dice: random.Random) -> None:
        """Hold a lease, send no heartbeat: it must end, and its connection with it."""
        self.tally.manners["fell silent"] += 1
        lease = await self._call("POST", "/v1/leases", self._wish(endpoint, "interactive", LEASE_DEADLINE_S))
        if lease["state"] not in ("active", "idle"):
            return
        self.tally.served(f"{self.pool.starts}:{lease['endpoint']}", endpoint.tenant, endpoint.isolation)
        grace_s = lease["expires_s"] + 8.0
        try:
            async with asyncio.timeout(grace_s), Holder.open(lease) as holder:
                while True:
                    await holder.frame()
        except TimeoutError:
            self.tally.is_wrong(f"{endpoint.name}: a silent holder still has its connection after {grace_s:.0f} s")
        except (OSError, EOFError):
            return

    async def _spy(self, owner: Endpoint, other: Endpoint, dice: random.Random) -> None:
        """One tenant sends a prompt nobody else can know, twice; then another sends it to the same model."""
        secret = [dice.randrange(SHAPE.vocab_size) for _ in range(SHARED_PROMPT_TOKENS)]
        async with self._leased(owner, "normal") as lease, Holder.open(lease) as holder:
            await welcomed(holder, owner)
            first = await answer_of(holder, secret, 1)
            again = await answer_of(holder, secret, 1)
        if first.cached > 0:
            self.tally.is_wrong(f"{owner.name}: {first.cached} tokens of a new prompt were cached")
        if again.cached == 0:
            self.tally.is_wrong(f"{owner.name}: nothing of its own prompt was cached, so the probe is blind")
        async with self._leased(other, "normal") as lease, Holder.open(lease) as holder:
            await welcomed(holder, other)
            seen = await answer_of(holder, secret, 1)
        self.tally.probes[lease["path"]] += 1
        if seen.cached > 0:
            self.tally.is_wrong(f"{other.tenant} finds {seen.cached} tokens cached that only {owner.tenant} has sent")
        if seen.tokens != first.tokens:
            self.tally.is_wrong(f"{other.name} answers {seen.tokens}, {owner.name} on the same model {first.tokens}")

    # ---- the wire

    def _wish(self, endpoint: Endpoint, priority: str, wait_s: float) -> dict[str, Any]:
        return {
            "model": endpoint.model,
            "model_name": endpoint.name,
            "tenant": endpoint.tenant,
            "priority": priority,
            "isolation": endpoint.isolation,
            "deadline_s": LEASE_DEADLINE_S,
            "wait_s": wait_s,
            "engine_args": endpoint.engine_args,
        }

    async def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        try:
            async with self.session.request(method, self.pool.url + path, json=body) as answer:
                content: dict[str, Any] = await answer.json() if answer.content_type == "application/json" else {}
        except (aiohttp.ClientError, OSError) as error:
            raise BrokenConnection("service", error) from error
        if answer.status < 300:
            return content
        if answer.status in CLEAN_STATUSES | {404, 410} and content.get("error"):
            raise CleanFailure(f"{answer.status} from the service")
        self.tally.is_wrong(f"{method} {path}: {answer.status} {content}")
        raise CleanFailure(f"{answer.status} from the service, unexpected")

    @contextlib.asynccontextmanager
    async def _asked(self, thin: ThinPredictor, prompt: int) -> Any:
        """A stream of the predictor that has begun."""
        endpoint = thin.endpoint
        parameters = {"max_tokens": endpoint.output_tokens, "temperature": 0.0, "ignore_eos": True}
        body = {"input_ids": list(endpoint.prompts[prompt]), "parameters": parameters}
        try:
            async with self.session.post(thin.url, json=body) as answer:
                if answer.status == 200:
                    yield answer
                    return
                text = await answer.text()
        except (aiohttp.ClientError, OSError) as error:
            raise BrokenConnection(endpoint.name, error) from error
        if answer.status in CLEAN_STATUSES and json.loads(text).get("error"):
            raise CleanFailure(f"{answer.status} from the predictor")
        self.tally.is_wrong(f"{endpoint.name}: {answer.status} {text[:300]}")
        raise CleanFailure(f"{answer.status} from the predictor, unexpected")

    # ---- around the traffic

    async def _killing(self) -> None:
        dice = random.Random(f"{self.plan.seed}-kinds")
        deck: list[str] = []
        completed = 0
        while self._left_s() > self.plan.kill_every_s:
            await asyncio.sleep(self.plan.kill_every_s)
            if self.tally.completed.total() < completed + self.plan.answers_per_kill:
                continue
            completed = self.tally.completed.total()
            if not deck:
                deck = [kind for kind in self.plan.kinds if self.predictors or kind not in ("predictor", "stream")]
                dice.shuffle(deck)
            await self._killer.kill(deck.pop())

    def _left_s(self) -> float:
        more_s = 0.0 if self.plan.enough(self.tally) else self.plan.patience_s
        return self._end_s + more_s - time.monotonic()

    async def _keep_predictors(self) -> None:
        while True:
            for predictor in self.predictors:
                if predictor.keep_alive():
                    self.tally.blames(predictor.endpoint.name)
            if self._door is not None and self._door.keep_alive():
                self.tally.blames(self._door.name)
            await asyncio.sleep(0.5)

    async def _all_ready(self) -> None:
        urls = [f"http://127.0.0.1:{predictor.port}" for predictor in self.predictors]
        await asyncio.gather(*map(self._until_ready, urls if self._door is None else [*urls, self._door.url]))

    async def _until_ready(self, url: str) -> None:
        async with asyncio.timeout(READY_DEADLINE_S):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with self.session.get(f"{url}/v2/health/ready") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.2)

    async def _settle(self) -> None:
        """Once nobody kills any more every endpoint answers."""
        self._killer.aim = False
        await self._all_ready()
        before = self.tally.failures.total()
        sample = random.Random(self.plan.seed).sample(self.endpoints, min(4, len(self.endpoints)))
        asked = [*sample, *(predictor.endpoint for predictor in self.predictors)]
        await asyncio.gather(*(self.one(endpoint, 0, "interactive") for endpoint in asked))
        if self._door is not None:
            await asyncio.gather(*(self.one(endpoint, 0, "interactive", by_gateway=True) for endpoint in asked))
        if self.tally.failures.total() > before:
            self.tally.is_wrong(f"requests fail after the last kill: {dict(self.tally.failures)}")

    async def _nothing_is_held(self) -> None:
        """Leases end and slots come to rest: an engine may just be stopped, because nobody wants it any more."""
        end_s = time.monotonic() + SETTLE_DEADLINE_S
        while True:
            held = [line for line in (await self._call("GET", "/v1/leases"))["leases"] if line["state"] in HELD]
            slots = (await self._call("GET", "/v1/slots"))["slots"]
            bound = [slot for slot in slots if slot["lease_id"] is not None or slot["state"] not in ("idle", "empty")]
            if not held and not bound:
                break
            if time.monotonic() > end_s:
                self.tally.is_wrong(f"leases nobody holds: {held}; slots that are not free: {bound}")
                break
            await asyncio.sleep(0.2)
        self.tally.invariants["leases held"] = str(len(held))
        self.tally.invariants["slots"] = ", ".join(sorted(slot["state"] for slot in slots))


async def _events(answer: aiohttp.ClientResponse, name: str) -> Any:
    try:
        async for line in answer.content:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
    except aiohttp.ClientError as error:
        raise BrokenConnection(name, error) from error
