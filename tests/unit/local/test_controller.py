"""The reconcile loop in virtual time, over pods that do what the test says."""

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest
from fake_pod import FakePod

from pilotlight_local.activator.activator import Backend
from pilotlight_local.controller.controller import DELETE_GRACE_S, Controller
from pilotlight_local.controller.pod_plan import PodPlan, SeenPod, plan
from pilotlight_local.controller.routing_table import RoutingTable
from pilotlight_local.controller.service_addresses import ServiceAddresses
from pilotlight_local.controller.work_queue import WorkQueue
from pilotlight_local.errors import RevisionFailed, UnknownHost
from pilotlight_local.ingress.routes import EndpointName
from pilotlight_local.pods.live_pod import LivePod, PodFailure
from pilotlight_specs import Component, InferenceService, parse_documents, resolve
from pilotlight_specs.kpa import default_config

pytestmark = pytest.mark.looptime

DEMO = EndpointName("default", "demo")
CONFIG = replace(default_config(), initial_scale=0, allow_zero_initial_scale=True)


def service(answer: str = "v1", transformer: bool = False, **predictor: Any) -> InferenceService:
    pod = {"name": "kserve-container", "image": "fake", "command": ["fake"], "args": [answer]}
    spec: dict[str, Any] = {"predictor": {"minReplicas": 0, "containers": [pod], **predictor}}
    if transformer:
        spec["transformer"] = {"minReplicas": 0, "containers": [pod]}
    metadata = {"name": "demo", "annotations": {"serving.kserve.io/deploymentMode": "Knative"}}
    document = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": metadata}
    documents, _ = parse_documents(json.dumps({**document, "spec": spec}), "demo.yaml")
    return resolve(documents, CONFIG).services[0]


class Story:
    """A controller, its pods by the order they were made, and what it told."""

    def __init__(self) -> None:
        self.pods: list[FakePod] = []
        self.told: list[str] = []
        self.start_error: Exception | None = None
        rng = random.Random(1)
        self.table = RoutingTable(rng, self)
        addresses = cast(ServiceAddresses, FakeAddresses())
        self.controller = Controller(self.table, addresses, self._start_pod, self, rng)

    def _start_pod(
        self, name: str, revision: str, component: Component, address: str | None, changed: Callable[[], None]
    ) -> LivePod:
        if self.start_error is not None:
            raise self.start_error
        pod = FakePod(name, revision, component, address, changed)
        self.pods.append(pod)
        return cast(LivePod, pod)

    def request(self) -> "asyncio.Task[Backend]":
        route = self.table.choose(DEMO, None)
        return asyncio.create_task(route.activator.acquire(asyncio.get_running_loop().time() + 300))

    async def ready(self, number: int = 0) -> None:
        self.pods[number].become("Ready")
        await asyncio.sleep(0)

    def traffic(self) -> dict[str, int]:
        return dict(self.table.endpoints[DEMO].services["predictor"].traffic)

    def running(self) -> list[str]:
        return [pod.component.pod.container.args[0] for pod in self.pods if pod.counts]

    def line(self, text: str) -> None:
        self.told.append(text)

    def scaling(self, revision: str, before: int, after: int, reasons: Sequence[str]) -> None:
        self.told.append(f"{revision} {before}->{after}")

    def pod_ready(self, pod: str, after_s: float) -> None:
        self.told.append(f"{pod} ready")

    def pod_failed(self, pod: str, failure: PodFailure) -> None:
        self.told.append(f"{pod} failed")

    def pod_error(self, pod: str, message: str) -> None:
        raise AssertionError(message)

    def cold_request(self, revision: str, status: int, duration_s: float, phases: Sequence[Any]) -> None:
        raise AssertionError(revision)


class FakeAddresses:
    def address(self, endpoint: EndpointName, component: str) -> str:
        return f"{component}:80"

    async def close(self, endpoint: EndpointName) -> None:
        return


@asynccontextmanager
async def story(*services: InferenceService) -> AsyncIterator[Story]:
    made = Story()
    for one in services:
        made.controller.apply(one)
    loop = asyncio.create_task(made.controller.run())
    try:
        yield made
    finally:
        loop.cancel()
        await asyncio.wait([loop])
        await made.controller.close(0.0)
        assert loop.cancelled()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_requests_that_wait_start_one_pod_however_many_they_are() -> None:
    async with story(service()) as told:
        waiting = [told.request() for _ in range(20)]
        await turns()
        assert [pod.name for pod in told.pods] == ["demo-predictor-00001-deployment-1"]
        await told.ready()
        assert {(await request).name for request in waiting} == {told.pods[0].name}
        assert asyncio.get_running_loop().time() == 0, "nobody waited for a tick"


async def test_a_request_for_the_transformer_wakes_the_predictor_in_the_same_turn() -> None:
    async with story(service(transformer=True)) as told:
        request = told.request()
        await turns()
        assert sorted((pod.component.role, pod.address) for pod in told.pods) == [
            ("predictor", None),
            ("transformer", "predictor:80"),
        ]
        request.cancel()


async def test_a_client_that_leaves_at_once_wakes_nobody() -> None:
    async with story(service()) as told:
        request = told.request()
        request.cancel()
        await turns()
        assert told.pods == []


async def test_the_old_revision_serves_until_the_new_one_is_ready() -> None:
    async with story(service()) as told:
        first = told.request()
        await turns()
        await told.ready()
        await first
        told.controller.apply(service("v2"))
        assert told.traffic() == {"demo-predictor-00001": 100}
        assert told.running() == ["v1", "v2"]
        assert (await told.request()).name == told.pods[0].name
        await told.ready(1)
        await turns()
        assert told.traffic() == {"demo-predictor-00002": 100}
        assert (await told.request()).name == told.pods[1].name
        rollout = [text for text in told.told if text.startswith("demo-predictor-00002 is ")]
        assert rollout == [
            "demo-predictor-00002 is created: its template differs from the one before",
            "demo-predictor-00002 is ready",
            "demo-predictor-00002 is rolled out with 100 %",
        ]


async def test_a_revision_that_cannot_start_is_tried_again_after_its_back_off_and_takes_no_traffic() -> None:
    async with story(service()) as told:
        first = told.request()
        await turns()
        await told.ready()
        told.pods[0].backend.take()
        told.controller.apply(service("v2"))
        told.pods[1].become("Gone", failure="boom")
        await asyncio.sleep(9)
        assert told.running() == ["v1"]
        await asyncio.sleep(2)
        assert told.running() == ["v1", "v2"]
        assert told.traffic() == {"demo-predictor-00001": 100}
        await first


async def test_a_crash_answers_who_waits_and_who_comes_during_the_back_off() -> None:
    async with story(service()) as told:
        waiting = told.request()
        await turns()
        told.pods[0].become("Gone", failure="exited with code 4")
        with pytest.raises(RevisionFailed, match=r"exited with code 4; its log says more$"):
            await waiting
        await asyncio.sleep(4)
        with pytest.raises(RevisionFailed) as refused:
            await told.request()
        assert refused.value.retry_after_s == pytest.approx(6, abs=0.1)
        await asyncio.sleep(7)
        after = told.request()
        await turns()
        assert len(told.pods) == 2
        await told.ready(1)
        assert (await after).name == told.pods[1].name
        assert told.told.count(f"{told.pods[0].name} failed") == 1


async def test_a_pod_that_turns_unready_hands_what_waits_to_the_other_one() -> None:
    async with story(service(minReplicas=2, containerConcurrency=1)) as told:
        await turns()
        for number in range(2):
            await told.ready(number)
        await turns()
        taken = [await told.request() for _ in range(2)]
        waiting = told.request()
        await turns()
        assert not waiting.done()
        told.pods[0].become("NotReady")
        await turns()
        route = told.table.choose(DEMO, None)
        for backend in taken:
            route.activator.release(backend)
        assert (await waiting).name == told.pods[1].name


async def test_idle_endpoints_go_to_zero_and_are_not_looked_at_any_more() -> None:
    async with story(service()) as told:
        request = told.request()
        await turns()
        await told.ready()
        told.table.choose(DEMO, None).activator.release(await request)
        await asyncio.sleep(200)
        assert told.running() == []
        assert told.controller._active == set()
        told.request().cancel()


async def test_a_deleted_endpoint_refuses_who_waits_and_gives_an_idle_pod_ten_seconds() -> None:
    async with story(service()) as told:
        waiting = told.request()
        await turns()
        assert await told.controller.delete(DEMO, patience_s=15) == 0
        with pytest.raises(RevisionFailed, match="was removed"):
            await waiting
        assert told.pods[0].graces == [(None, DELETE_GRACE_S)]
        with pytest.raises(UnknownHost):
            told.request()
        assert await told.controller.delete(DEMO, patience_s=15) is None


async def test_deleting_does_not_wait_for_a_request_that_goes_on_for_ever() -> None:
    async with story(service()) as told:
        request = told.request()
        await turns()
        await told.ready()
        await request
        assert await told.controller.delete(DEMO, patience_s=15) == 1
        assert asyncio.get_running_loop().time() == pytest.approx(15)
        told.controller.apply(service())
        told.pods[0].become("Gone")
        await asyncio.sleep(1)
        assert told.controller._leaving == {}


async def test_a_component_that_is_taken_out_ends_its_pods() -> None:
    async with story(service(transformer=True)) as told:
        request = told.request()
        await turns()
        told.controller.apply(service())
        with pytest.raises(RevisionFailed, match="was removed"):
            await request
        await turns()
        assert [pod.component.role for pod in told.pods if pod.counts] == ["predictor"]


async def test_trouble_with_one_endpoint_is_told_once_and_ends_nothing() -> None:
    async with story(service()) as told:
        told.start_error = OSError("no processes left")
        request = told.request()
        await asyncio.sleep(5)
        assert len([text for text in told.told if "no processes left" in text]) == 1
        told.start_error = None
        await asyncio.sleep(1.1)
        await told.ready()
        assert (await request).name == told.pods[0].name


async def test_a_pod_whose_log_cannot_be_read_is_served_all_the_same() -> None:
    async with story(service("unreadable")) as told:
        request = told.request()
        await asyncio.sleep(5)
        await told.ready()
        assert (await request).name == told.pods[0].name
        assert len([text for text in told.told if "cannot be measured" in text]) == 1


async def test_a_warm_request_passes_two_files_between_ingress_and_pod() -> None:
    async with story(service(transformer=True)) as told:
        first = told.request()
        await turns()
        for number in range(2):
            await told.ready(number)
        await first
        files: set[str] = set()

        def note(frame: FrameType, event: str, argument: object) -> None:
            if event == "call" and "pilotlight_" in frame.f_code.co_filename:
                files.add(Path(frame.f_code.co_filename).name)

        sys.setprofile(note)
        try:
            route = told.table.choose(DEMO, None)
            backend = await route.activator.acquire(300)
            route.activator.release(backend)
            told.table.record(route, 200, 0.1, "")
        finally:
            sys.setprofile(None)
        assert files == {"routing_table.py", "activator.py"}


async def test_a_key_is_in_the_queue_once_and_may_come_again_while_it_is_worked_on() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    assert await queue.get() == "a"
    queue.add("a")
    assert [await queue.get(), await queue.get()] == ["b", "a"]
    empty = asyncio.create_task(queue.get())
    await asyncio.sleep(1)
    assert not empty.done()
    queue.add("c")
    assert await empty == "c"


def seen(name: str, takes_requests: bool = True, in_flight: int = 0, created_s: float = 0.0) -> SeenPod:
    return SeenPod(name, takes_requests, in_flight, created_s)


@pytest.mark.parametrize(
    ("wanted", "pods", "may_start", "expected"),
    [
        (2, [], True, PodPlan(start=2)),
        (2, [], False, PodPlan()),
        (1, [seen("a")], True, PodPlan()),
        (1, [seen("a"), seen("b", takes_requests=False)], True, PodPlan(stop=("b",))),
        (1, [seen("a", in_flight=3), seen("b", in_flight=1)], False, PodPlan(stop=("b",))),
        (1, [seen("old", created_s=1), seen("young", created_s=2)], True, PodPlan(stop=("young",))),
        (0, [seen("a"), seen("b", in_flight=1)], True, PodPlan(stop=("a", "b"))),
    ],
)
def test_which_pods_start_and_stop(wanted: int, pods: list[SeenPod], may_start: bool, expected: PodPlan) -> None:
    assert plan(wanted, pods, may_start) == expected
