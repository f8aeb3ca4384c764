"""The holders' side of leases: ask, poll, renew, give back. Every wait has an end."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable

import msgspec

from pilotlight_pool.coordinator.errors import LeaseGone
from pilotlight_pool.coordinator.lease_record import LeaseRecord
from pilotlight_pool.coordinator.metrics import PoolMetrics
from pilotlight_pool.coordinator.model_search import Found
from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.coordinator.warm_orders import WarmOrder
from pilotlight_pool.engine_orders import EngineOrder, ModelOrder
from pilotlight_pool.policy.leases import access
from pilotlight_pool.policy.leases.access import Caller
from pilotlight_pool.policy.leases.lease_lifecycle import ENDED, LeaseEvent
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import is_served_elsewhere
from pilotlight_protocol.errors import ModelNotFound, PilotlightError, TooManyRequests, Unavailable
from pilotlight_protocol.leases import SERVING, Isolation, LeaseAnswer, LeaseRequest

log = logging.getLogger(__name__)
Describe = Callable[[ModelOrder], Awaitable[Found]]


class LeaseService:
    """`describe` finds out about a model, fetching it where it is not there. `isolation`: where a request has none.
    `settled_at_s`: until then an unknown lease may be one whose agent has yet to register."""

    def __init__(
        self,
        pool: Pool,
        describe: Describe,
        metrics: PoolMetrics,
        isolation: Isolation,
        settled_at_s: float = 0.0,
    ) -> None:
        self._pool = pool
        self._describe = describe
        self._metrics = metrics
        self._isolation = isolation
        self._settled_at_s = settled_at_s
        self._closing = False

    async def request(self, asked: LeaseRequest, caller: Caller) -> LeaseAnswer:
        """A new lease, with its secret. Cancelling gives it back, since nobody would know its id.

        Raises Unavailable (queue full, or never ready by its deadline), InvalidInput (also of a model no engine starts
        with), ModelNotFound, PayloadTooLarge,
        Forbidden (another tenant's, or a model or engine argument that is not the caller's to choose).
        """
        if self._closing:
            raise Unavailable("the pool is shutting down")
        tenant = access.tenant_of(caller, asked.tenant)
        order = ModelOrder(asked.model, asked.engine_args, asked.quantization, asked.loras, asked.adapter)
        access.check_order(caller, [*order.uris, *(path for _, path in asked.loras)], asked.engine_args)
        pool, began_s = self._pool, self._pool.now_s()
        try:
            async with asyncio.timeout(asked.deadline_s):
                found = await self._describe(order)
        except TimeoutError:
            raise Unavailable(
                f"{asked.model} could not be fetched within its deadline of {asked.deadline_s:g} s", retry_after_s=5.0
            ) from None
        facts, secret = found.facts, secrets.token_hex(32)
        if (refusal := pool.models.refusal_of(facts)) is not None:
            raise refusal
        wish = LeaseWish(
            lease_id=secrets.token_hex(12),
            tenant=tenant,
            model=facts.key,
            fingerprint=facts.fingerprint,
            priority=asked.priority,
            isolation=asked.isolation or self._isolation,
            weights_bytes=facts.weights_bytes,
            memory_bytes=facts.memory_bytes,
            deadline_at_s=began_s + asked.deadline_s,
            model_name=asked.model_name,
            adapter=facts.adapter_key,
        )
        record = LeaseRecord(wish, EngineOrder(order, facts, asked.model_name), _sha256(secret), began_s)
        record.on_agents = found.on_agents
        if asked.prewarm is not None:
            try:
                pool.warm_orders.schedule(WarmOrder(record.order, tenant, wish.isolation), asked.prewarm)
            except TooManyRequests as error:
                log.warning("the schedule of %s is not kept: %s", asked.model_name, error.message)
        record.phases_s["prefetch"] = pool.now_s() - began_s
        pool.admit(record)
        try:
            answer = await self._awaited(wish.lease_id, asked.wait_s)
        except asyncio.CancelledError:
            self._release(wish.lease_id)
            raise
        except LeaseGone as gone:
            # Granted and preempted before the holder heard of it: to the holder it never was ready.
            raise Unavailable(gone.message) from gone
        return msgspec.structs.replace(answer, secret=secret)

    async def poll(self, lease_id: str, wait_s: float, caller: Caller) -> LeaseAnswer:
        """The lease as soon as it serves, or as it is after `wait_s`. Renews it. Raises what ended it, or LeaseGone.

        Here as below: another tenant's lease is one that nobody knows.
        """
        self._check_owner(lease_id, caller)
        return await self._awaited(lease_id, wait_s)

    async def _awaited(self, lease_id: str, wait_s: float) -> LeaseAnswer:
        pool, until_s = self._pool, self._pool.now_s() + wait_s
        while True:
            # The placement that follows a request is on its way in this very turn of the loop: let it answer.
            await asyncio.sleep(0)
            record = self._living(lease_id)
            pool.renew(lease_id)
            left_s = until_s - pool.now_s()
            if pool.ledger.leases[lease_id].state in SERVING or left_s <= 0:
                return self._answer(record)
            try:
                async with asyncio.timeout(min(left_s, pool.policy.expires_s / 3)):
                    await record.changed.wait()
            except TimeoutError:
                continue

    def heartbeat(self, lease_id: str, caller: Caller) -> LeaseAnswer:
        """Raises LeaseGone with the reason when the lease is over, Unavailable while agents have yet to report."""
        self._check_owner(lease_id, caller)
        if lease_id not in self._pool.ledger.leases and self._is_settling():
            raise Unavailable("the pool has just started and hears from its agents; the lease goes on meanwhile")
        try:
            record = self._living(lease_id)
        except LeaseGone:
            raise
        except ModelNotFound:
            raise
        except PilotlightError as error:
            raise LeaseGone(error.message) from None
        self._pool.renew(lease_id)
        return self._answer(record)

    def release(self, lease_id: str, caller: Caller) -> None:
        """The engine stays as it is, loaded and idle. Raises ModelNotFound for an id that nobody knows."""
        self._check_owner(lease_id, caller)
        if lease_id not in self._pool.ledger.leases and self._is_settling():
            self._pool.note_given_back(lease_id, caller)
        else:
            self._release(lease_id)

    def _release(self, lease_id: str) -> None:
        lease = self._pool.ledger.leases.get(lease_id)
        if lease is None:
            raise _unknown(lease_id)
        if lease.state not in ENDED:
            self._metrics.ended("released")
            self._pool.end(lease_id, LeaseEvent.RELEASE)

    def close(self) -> None:
        """No more leases; those that wait are told so."""
        self._closing = True
        for lease_id in list(self._pool.fair.waiting):
            self._pool.end(lease_id, LeaseEvent.REFUSE, Unavailable("the pool is shutting down"))

    def _is_settling(self) -> bool:
        return self._pool.now_s() < self._settled_at_s

    def _check_owner(self, lease_id: str, caller: Caller) -> None:
        lease = self._pool.ledger.leases.get(lease_id)
        if lease is not None and not caller.owns(lease.wish.tenant):
            raise _unknown(lease_id)

    def _living(self, lease_id: str) -> LeaseRecord:
        record = self._pool.records.get(lease_id)
        lease = self._pool.ledger.leases.get(lease_id)
        if record is None or lease is None:
            raise _unknown(lease_id)
        if self._pool.is_over(lease_id):
            if record.error is not None:
                raise record.error if not record.endpoint else LeaseGone(record.error.message)
            raise LeaseGone(f"the lease is {lease.state}; ask for another")
        return record

    def _answer(self, record: LeaseRecord) -> LeaseAnswer:
        state = self._pool.ledger.leases[record.wish.lease_id].state
        return LeaseAnswer(
            lease_id=record.wish.lease_id,
            state=state,
            expires_s=self._pool.policy.expires_s,
            path=record.path,
            eta_s=record.eta_s,
            endpoint=record.endpoint if state in SERVING else "",
            reasons=record.reasons,
            phases_s=record.phases_s,
            elsewhere=is_served_elsewhere(self._pool.ledger, record.wish.lease_id),
            content="+".join(filter(None, (record.wish.model, record.wish.adapter))),
        )


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _unknown(lease_id: str) -> ModelNotFound:
    return ModelNotFound(f"no lease {lease_id}; it ended long ago, or the pool was restarted: ask for another")
