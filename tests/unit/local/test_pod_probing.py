"""A pod's probes over (virtual) time: which run when, what is told, and what ends the process."""

import asyncio
from collections.abc import Callable

import pytest

from pilotlight_local.activator.activator import Backend
from pilotlight_local.pods.pod_probe import Probed
from pilotlight_local.pods.pod_probing import PodProbing
from pilotlight_specs import Container, Probe

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

NEVER, ALWAYS = (lambda _: False), (lambda _: True)
Verdict = Callable[[float], bool]


class Pod:
    """Answers its probes by the time since its start; keeps what it was asked and what was told of it."""

    def __init__(self, ready: Verdict = ALWAYS, alive: Verdict = ALWAYS, started: Verdict = ALWAYS, **probes: Probe):
        self.container = Container(
            *("kserve-container", "", (), (), (), "", 8080, "http1"),
            probes.get("readiness", Probe(kind="http", path="ready", period_s=5)),
            probes.get("liveness"),
            probes.get("startup"),
        )
        self._answers = {"ready": ready, "alive": alive, "started": started}
        self.asked: list[tuple[str, float]] = []
        self.told: list[tuple[bool | None, float]] = []
        self._began_s = asyncio.get_running_loop().time()
        self.backend = Backend("pod")
        self.probing = PodProbing(self.container, self.look, self.tell, 30, self.backend)

    def now(self) -> float:
        return round(asyncio.get_running_loop().time() - self._began_s, 2)

    async def look(self, probe: Probe) -> Probed:
        self.asked.append((probe.path, self.now()))
        succeeded = self._answers[probe.path](self.now())
        return Probed(succeeded, "" if succeeded else f"not {probe.path}")

    def tell(self, ready: bool | None, why_not: str) -> None:
        if not self.told or self.told[-1][0] != ready:
            self.told.append((ready, self.now()))

    async def run(self, seconds: float) -> str | None:
        try:
            async with asyncio.timeout(seconds):
                return await self.probing.run()
        except TimeoutError:
            return None


async def test_readiness_is_polled_until_it_is_there_and_then_every_period() -> None:
    pod = Pod(ready=lambda at_s: at_s >= 0.2)
    assert await pod.run(12) is None
    assert pod.told[-1] == (True, 0.2)
    assert [at_s for _, at_s in pod.asked] == [0, 0.05, 0.1, 0.15, 0.2, 5.2, 10.2]


async def test_success_threshold_counts_on_readiness() -> None:
    pod = Pod(readiness=Probe(path="ready", success_threshold=3))
    await pod.run(1)
    assert pod.told == [(None, 0), (True, 0.1)]


async def test_a_ready_pod_leaves_after_its_failure_threshold_and_is_polled_again() -> None:
    pod = Pod(ready=lambda at_s: at_s < 3 or at_s >= 16)
    await pod.run(30)
    assert pod.told == [(True, 0), (False, 15), (True, 16)]


async def test_a_pod_leaves_within_a_second_where_another_has_the_requests() -> None:
    pod = Pod(ready=lambda at_s: at_s < 6.1)
    running = asyncio.create_task(pod.run(20))
    await asyncio.sleep(2)
    assert len(pod.asked) == 1
    busy = Backend("busy")
    pod.backend.peers = (pod.backend, busy)
    await asyncio.sleep(2)
    assert len(pod.asked) == 1, "there are no requests"
    busy.take()
    await running
    assert pod.told[0] == (True, 0)
    assert pod.told[1][0] is False
    assert 6.1 <= pod.told[1][1] < 7.1


async def test_a_suspected_pod_is_looked_at_at_once() -> None:
    pod = Pod(ready=lambda at_s: at_s < 1 or at_s >= 2)
    running = asyncio.create_task(pod.run(4))
    await asyncio.sleep(1.5)
    pod.backend.suspected.set()
    await running
    assert ("ready", 1.5) in pod.asked
    assert pod.told[-1] == (True, 2.0)


async def test_a_startup_probe_holds_the_others_back() -> None:
    pod = Pod(
        started=lambda at_s: at_s >= 20,
        startup=Probe(path="started", period_s=10, failure_threshold=30),
        liveness=Probe(path="alive", period_s=10),
    )
    assert await pod.run(45) is None
    first = {path: next(at_s for asked, at_s in pod.asked if asked == path) for path in ("ready", "alive")}
    assert first == {"ready": 20, "alive": 20}
    assert [at_s for path, at_s in pod.asked if path == "started"] == [0, 10, 20]


async def test_a_startup_probe_that_fails_ends_the_process() -> None:
    pod = Pod(started=NEVER, startup=Probe(path="started", period_s=2, failure_threshold=4, initial_delay_s=3))
    assert await pod.run(60) == "failed its startup probe 4 times in a row: not started"
    assert [at_s for _, at_s in pod.asked] == [3, 5, 7, 9]
    assert pod.told == []


async def test_a_liveness_probe_that_fails_ends_the_process() -> None:
    pod = Pod(alive=lambda at_s: at_s < 25, liveness=Probe(path="alive", period_s=10, initial_delay_s=5))
    assert await pod.run(120) == "failed its liveness probe 3 times in a row: not alive"
    assert [at_s for path, at_s in pod.asked if path == "alive"] == [5, 15, 25, 35, 45]
    assert pod.told == [(True, 0)]


async def test_one_failure_of_liveness_is_none() -> None:
    pod = Pod(alive=lambda at_s: int(at_s) % 20 < 10, liveness=Probe(path="alive", period_s=5))
    assert await pod.run(200) is None


async def test_what_is_never_ready_ends_at_its_deadline() -> None:
    pod = Pod(ready=NEVER)
    assert await pod.run(100) == "was not ready within 30 s"
    pod = Pod(started=NEVER, startup=Probe(path="started", period_s=10, failure_threshold=1000))
    assert await pod.run(100) == "was not ready within 30 s"


async def test_what_was_ready_once_has_no_deadline() -> None:
    pod = Pod(ready=lambda at_s: at_s < 10)
    assert await pod.run(60) is None


async def test_no_task_is_left_when_it_is_cancelled() -> None:
    before = asyncio.all_tasks()
    await Pod(liveness=Probe(path="alive", period_s=1)).run(5)
    assert asyncio.all_tasks() == before
