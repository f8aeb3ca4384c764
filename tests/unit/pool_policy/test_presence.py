"""Who belongs to the pool, told in time: agents come, go, come back; coordinators follow one another."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pilotlight_pool.policy.leases.presence import (
    PROTOCOL,
    Applicant,
    Member,
    PresenceSpec,
    Superseded,
    Taken,
    TurnedAway,
    forget,
    gone,
    obeys,
    overdue,
    register,
)

EPOCH = 1000


def applicant(
    name: str = "n1", instance: str = "i1", seen: int = 0, *slots: str, protocol: int = PROTOCOL
) -> Applicant:
    return Applicant(name, instance, frozenset(slots or {f"{name}/cpu:0"}), seen, protocol)


def taken(members: Mapping[str, Member], who: Applicant) -> Taken:
    verdict = register(members, who, EPOCH)
    assert isinstance(verdict, Taken), verdict
    return verdict


def test_agents_register_leave_and_are_forgotten_in_time() -> None:
    spec = PresenceSpec(lost_after_s=15.0)
    members = taken(taken({}, applicant("n1")).members, applicant("n2")).members
    assert overdue(spec, members, 1e9) == ()
    members = gone(members, "n1", 100.0)
    assert overdue(spec, members, 114.0) == ()
    assert overdue(spec, members, 115.0) == ("n1",)
    assert set(forget(members, "n1")) == {"n2"}


def test_an_agent_that_comes_back_in_time_is_here_again() -> None:
    members = gone(taken({}, applicant()).members, "n1", 100.0)
    again = taken(members, applicant())
    assert not again.replaces
    assert again.members["n1"].away_since_s is None


def test_a_process_that_dials_again_replaces_its_own_older_connection() -> None:
    assert taken(taken({}, applicant()).members, applicant()).replaces


def test_a_restarted_agent_waits_until_its_predecessors_silence_is_noticed() -> None:
    members = taken({}, applicant(instance="old")).members
    assert isinstance(register(members, applicant(instance="new"), EPOCH), TurnedAway)
    assert not taken(gone(members, "n1", 5.0), applicant(instance="new")).replaces


def test_a_slot_belongs_to_one_agent() -> None:
    members = taken({}, applicant("n1", "i1", 0, "shared")).members
    verdict = register(members, applicant("n2", "i2", 0, "shared"), EPOCH)
    assert isinstance(verdict, TurnedAway)
    assert "belong to agent n1" in verdict.reason


def test_another_release_is_told_so() -> None:
    verdict = register({}, applicant(protocol=PROTOCOL + 1), EPOCH)
    assert isinstance(verdict, TurnedAway)
    assert "run one release" in verdict.reason


@pytest.mark.parametrize(("seen", "superseded"), [(0, False), (EPOCH - 1, False), (EPOCH, False), (EPOCH + 1, True)])
def test_a_coordinator_learns_from_an_agent_that_another_has_followed_it(seen: int, superseded: bool) -> None:
    assert isinstance(register({}, applicant("n1", "i1", seen), EPOCH), Superseded) == superseded
    assert obeys(seen, EPOCH) != superseded
