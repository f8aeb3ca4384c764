"""Which agents a coordinator works with, and which coordinator an agent obeys.

    absent ──registers──▶ present ──connection ends, or silence──▶ absent ──too long──▶ forgotten

An *instance* is one agent process, an *epoch* one coordinator process: Unix milliseconds at its start. An agent obeys
the latest epoch that it has seen and no earlier one, so a coordinator that was replaced and does not know it gets no
word in; it learns so from the first agent that has moved on, and ends. Clocks that differ only delay that: whoever ends
starts again with a later epoch.

Two agents under one name would throw each other out for ever: the one that is here stays.
Pure: nothing is sent or closed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

PROTOCOL = 5


@dataclass(frozen=True, slots=True)
class PresenceSpec:
    """`silent_s`: a connection that is silent for so long is over, at both ends. `lost_after_s`: engines of an agent
    that has been away for so long count as lost; longer than an agent takes to dial again."""

    beat_s: float = 1.0
    silent_s: float = 5.0
    lost_after_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Member:
    """An agent that has registered. `away_since_s` None: it is connected."""

    name: str
    instance: str
    slot_ids: frozenset[str]
    away_since_s: float | None = None


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who wants to register; `seen_epoch`: the latest coordinator that it has obeyed, 0 for none."""

    name: str
    instance: str
    slot_ids: frozenset[str]
    seen_epoch: int = 0
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Taken:
    """Registered. `replaces`: an older connection of the same process, which is closed."""

    members: Mapping[str, Member]
    replaces: bool


@dataclass(frozen=True, slots=True)
class TurnedAway:
    reason: str


@dataclass(frozen=True, slots=True)
class Superseded:
    """A later coordinator has taken over: this one ends."""

    reason: str


def register(members: Mapping[str, Member], applicant: Applicant, epoch: int) -> Taken | TurnedAway | Superseded:
    if not obeys(applicant.seen_epoch, epoch):
        return Superseded(
            f"agent {applicant.name} obeys the coordinator of epoch {applicant.seen_epoch}, this one is {epoch}"
        )
    if applicant.protocol != PROTOCOL:
        return TurnedAway(
            f"agent {applicant.name} speaks version {applicant.protocol}, this coordinator {PROTOCOL}: run one release"
        )
    known = members.get(applicant.name)
    if known is not None and known.away_since_s is None and known.instance != applicant.instance:
        return TurnedAway(
            f"an agent named {applicant.name} is connected already; if it has ended, its silence will be noticed soon, "
            "otherwise give this one a name of its own (--agent_name)"
        )
    for other in members.values():
        taken = applicant.slot_ids & other.slot_ids
        if other.name != applicant.name and taken:
            return TurnedAway(f"slots {sorted(taken)} belong to agent {other.name}")
    member = Member(applicant.name, applicant.instance, applicant.slot_ids)
    return Taken({**members, applicant.name: member}, known is not None and known.away_since_s is None)


def gone(members: Mapping[str, Member], name: str, now_s: float) -> Mapping[str, Member]:
    """Its connection has ended."""
    return {**members, name: replace(members[name], away_since_s=now_s)}


def overdue(spec: PresenceSpec, members: Mapping[str, Member], now_s: float) -> tuple[str, ...]:
    """Agents that have been away for too long."""
    return tuple(
        member.name
        for member in members.values()
        if member.away_since_s is not None and now_s - member.away_since_s >= spec.lost_after_s
    )


def forget(members: Mapping[str, Member], name: str) -> Mapping[str, Member]:
    return {key: member for key, member in members.items() if key != name}


def obeys(seen_epoch: int, offered_epoch: int) -> bool:
    """The agent's side of the fence."""
    return offered_epoch >= seen_epoch
