"""Rollouts as stories: revisions, who gets traffic, what fails, what is forgotten; and the crash back-off."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_local.controller.revisions import (
    PodFailure,
    RevisionHealth,
    RolloutDecision,
    RolloutSpec,
    RolloutState,
    decide,
    rollout_spec,
    template_hash,
)
from pilotlight_local.pods.crash_backoff import PodEnd, crashed
from pilotlight_protocol.back_off import Failures
from pilotlight_specs import parse_documents, resolve
from pilotlight_specs.kpa import parse_config

READY = RevisionHealth(proven=True)


@dataclass
class Rollout:
    spec: RolloutSpec = field(default_factory=lambda: RolloutSpec("demo-predictor", "a", None))
    state: RolloutState = field(default_factory=RolloutState)
    health: dict[str, RevisionHealth] = field(default_factory=dict)
    now_s: float = 0.0
    decision: RolloutDecision = field(init=False)

    def step(self, *, after_s=0.0, template=None, percent="same", **health):
        self.now_s += after_s
        if template is not None:
            self.spec = replace(self.spec, template_hash=template)
        if percent != "same":
            self.spec = replace(self.spec, canary_traffic_percent=percent)
        for number, seen in health.items():
            self.health[self.name(int(number[1:]))] = seen
        self.decision, self.state = decide(self.spec, self.health, self.state, self.now_s)
        return self.decision

    @staticmethod
    def name(number):
        return f"demo-predictor-{number:05d}"

    @property
    def traffic(self):
        return {int(name[-5:]): percent for name, percent in self.decision.traffic}


def rolled_out(**changes):
    """One revision, ready, with all the traffic."""
    story = Rollout(RolloutSpec("demo-predictor", "a", None, **changes))
    story.step(r1=READY)
    return story


def test_the_first_revision_has_the_traffic_from_the_start_so_that_requests_wait_for_it() -> None:
    story = Rollout()
    decision = story.step()
    assert story.traffic == {1: 100}
    assert (decision.latest_created, decision.latest_ready, decision.candidate) == (Rollout.name(1), None, None)
    assert story.step(r1=READY).latest_ready == Rollout.name(1)


def test_at_initial_scale_zero_the_first_revision_is_trusted() -> None:
    story = Rollout(RolloutSpec("demo-predictor", "a", None, trust_first=True))
    assert story.step().latest_ready == Rollout.name(1)
    assert story.step(template="b").candidate == Rollout.name(2), "the next one must prove itself"


def test_the_same_template_makes_no_revision() -> None:
    story = rolled_out()
    assert story.step().latest_created == Rollout.name(1)
    assert len(story.state.revisions) == 1


def test_a_change_over_keeps_the_old_revision_until_the_new_one_is_ready() -> None:
    story = rolled_out()
    decision = story.step(template="b")
    assert (story.traffic, decision.candidate, decision.unrouted) == ({1: 100}, Rollout.name(2), ())
    decision = story.step(after_s=30, r2=READY)
    assert (story.traffic, decision.candidate, decision.unrouted) == ({2: 100}, None, (Rollout.name(1),))


def test_a_revision_that_cannot_start_never_takes_traffic_from_one_that_works() -> None:
    story = rolled_out()
    story.step(template="b")
    decision = story.step(after_s=5, r2=RevisionHealth(failure=PodFailure("exit 1", ("boom",))))
    assert story.traffic == {1: 100}
    assert decision.failures == ((Rollout.name(2), PodFailure("exit 1", ("boom",))),)
    assert decision.candidate == Rollout.name(2), "the back-off tries again until the progress deadline"
    decision = story.step(after_s=700)
    assert (decision.candidate, decision.unrouted) == (None, (Rollout.name(2),))
    assert story.traffic == {1: 100}


def test_the_first_revision_that_cannot_start_fails_requests_at_once() -> None:
    story = Rollout()
    story.step()
    decision = story.step(after_s=2, r1=RevisionHealth(failure=PodFailure("exit 1", ("no such model",))))
    assert story.traffic == {1: 100}
    assert decision.failures[0][1].log_tail == ("no such model",)
    assert story.state.revisions[0].phase == "Failed"


def test_a_failed_revision_heals_when_its_pods_become_ready() -> None:
    story = rolled_out()
    story.step(template="b", r2=RevisionHealth(failure=PodFailure("exit 1")))
    story.step(after_s=20, r2=READY)
    assert story.traffic == {2: 100}
    assert story.decision.failures == ()


def test_a_failure_stays_known_while_the_next_try_boots() -> None:
    story = Rollout()
    story.step(r1=RevisionHealth(failure=PodFailure("exit 1")))
    assert story.step(after_s=10, r1=RevisionHealth()).failures == ((Rollout.name(1), PodFailure("exit 1")),)


def test_the_progress_deadline_fails_a_revision_that_hangs() -> None:
    story = rolled_out(progress_deadline_s=120)
    story.step(template="b")
    assert story.step(after_s=119).failures == ()
    ((name, failure),) = story.step(after_s=1).failures
    assert name == Rollout.name(2)
    assert "120s" in failure.reason


def test_a_ready_revision_whose_pods_crash_later_shows_the_failure_and_stays_ready() -> None:
    story = rolled_out()
    decision = story.step(after_s=60, r1=RevisionHealth(failure=PodFailure("killed")))
    assert decision.failures == ((Rollout.name(1), PodFailure("killed")),)
    assert story.state.revisions[0].phase == "Ready"
    assert story.step(r1=READY).failures == ()


def test_a_canary_splits_only_once_it_is_ready_and_is_promoted_when_the_percent_goes() -> None:
    story = rolled_out()
    story.step(template="b", percent=10)
    assert story.traffic == {1: 100}
    story.step(r2=READY)
    assert story.traffic == {2: 10, 1: 90}
    story.step(percent=50)
    assert story.traffic == {2: 50, 1: 50}
    decision = story.step(percent=None)
    assert (story.traffic, decision.unrouted) == ({2: 100}, (Rollout.name(1),))


def test_a_canary_of_nothing_is_ready_but_gets_no_traffic() -> None:
    story = rolled_out()
    decision = story.step(template="b", percent=0, r2=READY)
    assert (story.traffic, decision.unrouted) == ({1: 100}, ())
    story.step(percent=100)
    assert story.traffic == {2: 100}


def test_a_second_canary_starts_from_the_same_stable_revision() -> None:
    story = rolled_out()
    story.step(template="b", percent=10, r2=READY)
    story.step(template="c")
    assert story.traffic == {2: 10, 1: 90}
    story.step(r3=READY)
    assert story.traffic == {3: 10, 1: 90}


def test_a_percent_set_after_the_roll_out_goes_back_to_the_revision_before() -> None:
    story = rolled_out()
    story.step(template="b", r2=READY)
    assert story.traffic == {2: 100}
    story.step(percent=0)
    assert story.traffic == {1: 100}
    story.step(percent=20)
    assert story.traffic == {2: 20, 1: 80}
    story.step(percent=None)
    assert story.traffic == {2: 100}


def test_a_percent_on_the_only_revision_changes_nothing() -> None:
    story = rolled_out()
    story.step(percent=10)
    assert story.traffic == {1: 100}


def test_an_old_template_applied_again_is_a_new_revision() -> None:
    story = rolled_out()
    story.step(template="b", r2=READY)
    assert story.step(template="a").latest_created == Rollout.name(3)


def test_old_revisions_are_forgotten_but_for_those_a_rollback_needs() -> None:
    story = rolled_out(keep_unrouted=1)
    removed = []
    for number in range(2, 7):
        story.step(template=str(number))
        removed += story.step(after_s=10, **{f"r{number}": READY}).removed
    assert removed == [Rollout.name(number) for number in (1, 2, 3)]
    assert [revision.name for revision in story.state.revisions] == [Rollout.name(number) for number in (4, 5, 6)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from([None, 0, 10, 100]),
            st.sampled_from(["none", "ready", "fail"]),
            st.sampled_from([0.0, 100.0, 700.0]),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_traffic_is_always_whole_and_never_on_what_is_gone_or_unproven(steps) -> None:
    story = Rollout()
    served = False
    for template, percent, seen, after_s in steps:
        latest = max(story.state.next_number - 1, 1)
        health = {
            "none": RevisionHealth(),
            "ready": READY,
            "fail": RevisionHealth(failure=PodFailure("x")),
        }[seen]
        decision = story.step(template=template, percent=percent, after_s=after_s, **{f"r{latest}": health})
        known = {revision.name: revision for revision in story.state.revisions}
        assert sum(percent for _, percent in decision.traffic) == 100
        assert all(name in known and percent > 0 for name, percent in decision.traffic)
        assert not {name for name, _ in decision.traffic} & {*decision.unrouted, *decision.removed, decision.candidate}
        served = served or decision.latest_ready is not None
        if served:
            assert all(known[name].phase == "Ready" for name, _ in decision.traffic)
        assert decide(story.spec, story.health, story.state, story.now_s)[1] == story.state, (
            "a step repeated is no step"
        )


ISVC = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: demo}
spec:
  predictor:
    minReplicas: 0
    containers: [{image: pilotlight-predictor, args: [--a]}]
"""


def component(text=ISVC, **config):
    documents, _ = parse_documents(text, "f.yaml")
    settings = parse_config({name.replace("_", "-"): value for name, value in config.items()})
    return resolve(documents, settings).services[0].predictor


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("--a", "--b", True),
        ("minReplicas: 0", "minReplicas: 1", True),
        ("minReplicas: 0", "minReplicas: 0\n    timeout: 5", True),
        ("minReplicas: 0", "minReplicas: 0\n    canaryTrafficPercent: 5", False),
        ("minReplicas: 0", "minReplicas: 0\n    nodeSelector: {a: b}", False),
    ],
)
def test_what_makes_a_new_revision(old, new, differs) -> None:
    assert (template_hash(component()) != template_hash(component(ISVC.replace(old, new)))) == differs


def test_the_rollout_of_a_component() -> None:
    spec = rollout_spec(component(allow_zero_initial_scale="true", initial_scale="0"))
    assert (spec.service_name, spec.canary_traffic_percent, spec.progress_deadline_s) == ("demo-predictor", None, 600)
    assert spec.trust_first
    assert not rollout_spec(component()).trust_first


def test_crashes_wait_ten_seconds_doubling_to_five_minutes() -> None:
    crashes, now_s, waits = Failures(), 0.0, []
    for _ in range(7):
        crashes = crashed(crashes, PodEnd(lived_s=1), now_s)
        waits.append(crashes.wait_s(now_s))
        now_s += crashes.wait_s(now_s)
        assert crashes.wait_s(now_s) == 0
    assert waits == [10, 20, 40, 80, 160, 300, 300]


def test_ten_minutes_of_life_forget_the_crashes() -> None:
    crashes = crashed(crashed(Failures(), PodEnd(1), 0), PodEnd(1), 10)
    assert crashed(crashes, PodEnd(600), 700) == Failures(1, 710)


def test_the_first_crash_of_a_pod_that_was_ready_costs_nothing() -> None:
    once = crashed(Failures(), PodEnd(1, was_ready=True), 5)
    assert once == Failures(1, 5)
    assert crashed(once, PodEnd(1, was_ready=True), 6) == Failures(2, 26)


def test_a_pod_that_lost_its_port_to_another_program_is_started_again_at_once() -> None:
    crashes = crashed(Failures(), PodEnd(1), 0)
    assert crashed(crashes, PodEnd(1, blameless=True), 10) == crashes
