"""What an agent reports, in the ledger's words: how a coordinator that starts anew learns what is granted. Pure."""

from __future__ import annotations

import msgspec

from pilotlight_pool.agent_port import SleeperReport, SlotReport
from pilotlight_pool.coordinator.lease_record import LeaseRecord
from pilotlight_pool.engine_orders import EngineOrder, Grant
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Engine, Lease, Slot
from pilotlight_protocol.leases import LeaseState


def reported_slot(report: SlotReport, now_s: float) -> Slot:
    order = report.engine
    sleeping = tuple(sleeper_engine(sleeper) for sleeper in report.sleeping)
    if order is None:
        return Slot(report.slot_id, report.state, now_s, sleeping=sleeping)
    engine = Engine(order.facts.key, order.facts.fingerprint, report.tenant, report.isolation)
    return Slot(report.slot_id, report.state, now_s, engine, sleeping=sleeping)


def sleeper_engine(report: SleeperReport) -> Engine:
    facts = report.engine.facts
    return Engine(facts.key, facts.fingerprint, report.tenant, report.isolation)


def served_leases(report: SlotReport, now_s: float, expires_at_s: float) -> list[tuple[Lease, LeaseRecord]]:
    """The leases that the slot serves. Their deadlines are behind them."""
    order = report.engine
    return [] if order is None else [_served(report, order, grant, now_s, expires_at_s) for grant in report.grants]


def _served(
    report: SlotReport, order: EngineOrder, grant: Grant, now_s: float, expires_at_s: float
) -> tuple[Lease, LeaseRecord]:
    began_s, adapter = now_s - grant.held_s, grant.adapter
    if adapter is not None:
        facts = msgspec.structs.replace(order.facts, adapter_key=adapter.key)
        order = msgspec.structs.replace(
            order, model=msgspec.structs.replace(order.model, adapter=adapter.uri), facts=facts
        )
    wish = LeaseWish(
        grant.lease_id,
        grant.tenant,
        order.facts.key,
        order.facts.fingerprint,
        grant.priority,
        grant.isolation,
        order.facts.weights_bytes,
        order.facts.memory_bytes,
        model_name=grant.model_name,
        adapter=adapter.key if adapter is not None else "",
    )
    state = LeaseState.IDLE if report.idle else LeaseState.ACTIVE
    record = LeaseRecord(wish, order, grant.secret_sha256, began_s)
    record.endpoint, record.granted_s, record.worked, record.eta_s = report.endpoint, began_s, True, 0.0
    return Lease(wish, state, began_s, began_s, expires_at_s, report.slot_id), record
