"""The embedded platform end to end: real `pilotlight up`, real pods that run `fake_component.py`."""

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import grpc
import pytest
import yaml
from process_table import parent_of
from server_ports import free_port
from waiting import until, until_async

from pilotlight_local.cli.commands import END_GRACE_S

pytestmark = pytest.mark.integration

FAKE = Path(__file__).with_name("fake_component.py")
DEADLINE_S = 30.0
FAST_SCALING = ("--autoscaler", "scale-to-zero-grace-period=1s", "--autoscaler", "stable-window=6s")
T = TypeVar("T")


def container(*args: str) -> dict[str, Any]:
    return {
        "name": "kserve-container",
        "image": "fake",
        "command": ["python", str(FAKE)],
        "args": list(args),
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8080}, "periodSeconds": 1},
    }


def service(name: str, *args: str, transformer: bool = False, probe: bool = True, **predictor: Any) -> dict[str, Any]:
    pod = container(*args)
    if not probe:
        del pod["readinessProbe"]
    spec: dict[str, Any] = {"predictor": {"minReplicas": 0, "containers": [pod], **predictor}}
    if transformer:
        spec["transformer"] = {"minReplicas": 0, "containers": [container("--answer=transformer")]}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": {"serving.kserve.io/deploymentMode": "Knative"}},
        "spec": spec,
    }


def processes_of(marker: str) -> list[int]:
    """Pids whose environment or command line names the state directory or fake of this test."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                text += bytes((entry / "cwd").readlink())
            except OSError:
                continue
            if marker.encode() in text:
                found.append(int(entry.name))
    return found


class Platform:
    """A `pilotlight up` of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.port = free_port()
        self.output = folder / "up.log"
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, *objects: dict[str, Any], name: str = "services.yaml") -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump_all(objects))
        return path

    def command(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pilotlight_local", *args, "--state-dir", str(self.state_dir)],
            capture_output=True,
            text=True,
            timeout=60,
        )

    def up(self, *objects: dict[str, Any], options: tuple[str, ...] = ()) -> None:
        argv = [sys.executable, "-m", "pilotlight_local", "up", "--no-gateway", str(self.write(*objects))]
        argv += ["--port", str(self.port), "--state-dir", str(self.state_dir), *options]
        with self.output.open("wb") as output:
            process = subprocess.Popen(argv, stdout=output, stderr=output, start_new_session=True)
        self.process = process
        until(lambda: "ready in" in self.output.read_text() or process.poll() is not None)
        assert process.poll() is None, self.output.read_text()

    def apply(self, *objects: dict[str, Any]) -> None:
        done = self.command("apply", str(self.write(*objects, name="changed.yaml")))
        assert done.returncode == 0, done.stderr

    def rows(self) -> list[dict[str, Any]]:
        done = self.command("status", "--json")
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout)["components"])

    def url(self, name: str, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}/serving/default/{name}{path}"

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    made = Platform(tmp_path)
    yield made
    made.end()
    until(lambda: processes_of(str(made.state_dir)), holds=lambda pids: pids == [])


async def answers(url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        return (await get(url))[0] == 200
    return False


async def get(url: str, method: str = "GET", **options: Any) -> tuple[int, Any, Any]:
    async with aiohttp.ClientSession() as session, session.request(method, url, **options) as answer:
        return answer.status, await answer.json(), answer.headers.copy()


@pytest.mark.parametrize("path", ["/echo", "/status/404", "/v2/health/ready"])
async def test_what_the_transformer_answers_by_itself_leaves_the_predictor_at_zero(
    platform: Platform, path: str
) -> None:
    platform.up(service("demo", transformer=True))
    await get(platform.url("demo", path))
    assert {row["component"]: row["phase"] for row in platform.rows()}["predictor"] == "Zero"
    assert "predictor-00001: 0 -> 1" not in platform.output.read_text()


async def test_a_cold_request_wakes_both_components_at_once_and_says_how_long_it_waited(platform: Platform) -> None:
    platform.up(service("demo", "--boot_s=1", "--model_name=mine", transformer=True))
    assert {row["phase"] for row in platform.rows()} == {"Zero"}
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    status, body, headers = await get(
        f"http://127.0.0.1:{platform.port}/v2/models/mine/generate",
        "POST",
        headers={"Host": f"demo.default.localhost:{platform.port}", "x-request-id": "mine", "traceparent": trace},
    )
    assert status == 200
    assert headers["x-request-id"] == "mine"
    timings = headers.getall("Server-Timing")
    assert any(timing.startswith("activate;dur=") and "transformer" in timing for timing in timings)
    assert "predictor" in ", ".join(timings)
    # Pods get what the spec gives, and nothing of this process's environment.
    predictor = body["predictor"]
    assert {"PORT", "K_REVISION", "K_SERVICE", "PATH", "INFERENCE_SERVICE_NAME"} <= predictor["env"].keys()
    assert "HOME" not in predictor["env"]
    assert predictor["headers"]["X-Request-ID"] == "mine"
    assert "--model_name=mine" in predictor["argv"]
    # The waterfall is written after the answer.
    text = await until_async(
        lambda: asyncio.to_thread(platform.output.read_text), holds=lambda text: "activate transformer" in text
    )
    before_any_is_ready = text.partition(": ready after")[0]
    assert before_any_is_ready.count(": 0 -> 1 pods") == 2


async def test_every_request_that_arrives_while_cold_is_answered(platform: Platform) -> None:
    platform.up(service("demo", "--boot_s=0.5"))
    answers = await asyncio.gather(*(get(platform.url("demo", f"/echo?n={n}")) for n in range(60)))
    assert [body["path"] for _, body, _ in answers] == [f"/echo?n={n}" for n in range(60)]
    assert {status for status, _, _ in answers} == {200}
    status, body, headers = await get(platform.url("demo", "/status/429"))
    assert (status, body, headers["Retry-After"]) == (429, {"error": "as asked"}, "7")


async def test_a_pod_that_cannot_start_fails_held_requests_at_once_and_its_log_says_why(platform: Platform) -> None:
    platform.up(service("broken", "--boot_s=0.5", "--fail=no such weights"))
    started_s = time.monotonic()
    answers = await asyncio.gather(*(get(platform.url("broken", "/echo")) for _ in range(5)))
    assert time.monotonic() - started_s < 60, "a request that waits is given up on after 300 s"
    for status, body, headers in answers:
        assert status == 503
        assert int(headers["Retry-After"]) >= 1
        assert "exited with code 4 before it was ready" in body["error"]
        assert "no such weights" not in body["error"], "what a pod writes is its owner's"
    # While the back-off lasts nobody waits in vain.
    started_s = time.monotonic()
    status, body, _ = await get(platform.url("broken", "/echo"))
    assert status == 503
    assert time.monotonic() - started_s < 8, "the back-off is ten seconds"
    assert [row["phase"] for row in platform.rows()] == ["Failed"]
    assert "no such weights" in platform.command("logs", "broken").stdout


async def test_unknown_hosts_and_paths_are_404_and_the_platform_answers_for_itself(platform: Platform) -> None:
    platform.up(service("demo"))
    base = f"http://127.0.0.1:{platform.port}"
    for url, host in ((f"{base}/x", "nobody.default.localhost"), (f"{base}/serving/default/nobody/", "localhost")):
        status, body, _ = await get(url, headers={"Host": host})
        assert status == 404
        assert "no endpoint" in body["error"]
    async with aiohttp.ClientSession() as session:
        for path in ("/healthz", "/"):
            async with session.get(base + path) as answer:
                assert answer.status == 200
        await (await session.get(platform.url("demo", "/echo"))).read()
        async with session.get(f"{base}/metrics") as answer:
            text = await answer.text()
    assert 'pilotlight_requests_total{revision="demo-predictor-00001",status="200"} 1' in text
    assert 'pilotlight_cold_starts_total{namespace="default",endpoint="demo",component="predictor"' in text


async def test_streams_pass_both_ways_without_buffering(platform: Platform) -> None:
    platform.up(service("demo"))
    async with aiohttp.ClientSession() as session:
        async with session.get(platform.url("demo", "/stream?n=4&gap=1")) as answer:
            came = [
                (json.loads(line[6:])["sent_s"], time.monotonic())
                async for line in answer.content
                if line.startswith(b"data: ")
            ]
        assert len(came) == 4
        assert came[0][1] < came[-1][0], "the first event is here before the last is sent"

        echoed: asyncio.Queue[bytes] = asyncio.Queue()

        async def ping_pong() -> Any:
            yield b"first"
            assert await echoed.get() == b"first"
            yield b"second"

        async with session.post(platform.url("demo", "/duplex"), data=ping_pong()) as answer:
            async with asyncio.timeout(10):
                async for piece in answer.content.iter_any():
                    echoed.put_nowait(piece)
        body = os.urandom(8 << 20)
        async with session.post(platform.url("demo", "/duplex"), data=io.BytesIO(body), expect100=True) as answer:
            assert await answer.read() == body


@pytest.mark.parametrize("path", ["/slow?s=60", "/stream?n=600&gap=0.1"])
async def test_a_client_that_leaves_cancels_its_request_in_the_pod(platform: Platform, path: str) -> None:
    platform.up(service("demo"))

    async def counts() -> Any:
        return (await get(platform.url("demo", "/counts")))[1]

    async def request() -> None:
        async with aiohttp.ClientSession() as session, session.get(platform.url("demo", path)) as answer:
            await answer.read()

    task = asyncio.create_task(request())
    await until_async(counts, holds=lambda seen: seen["active"] == 1)
    task.cancel()
    await asyncio.wait([task])
    # By itself it would end after a minute, and not as cancelled.
    await until_async(counts, holds=lambda seen: seen["active"] == 0 and seen["cancelled"] == 1)
    until(lambda: [row["running"] for row in platform.rows()], holds=lambda running: running == [0])


async def test_container_concurrency_is_never_exceeded(platform: Platform) -> None:
    platform.up(service("demo", containerConcurrency=2, maxReplicas=1))
    answers = await asyncio.gather(*(get(platform.url("demo", "/slow?s=0.05")) for _ in range(20)))
    assert {status for status, _, _ in answers} == {200}
    assert max(body["most_active"] for _, body, _ in answers) == 2


async def test_the_timeout_of_the_revision_includes_the_wait(platform: Platform) -> None:
    platform.up(service("demo", "--boot_s=20", timeout=1))
    status, body, _ = await get(platform.url("demo", "/echo"))
    assert status == 504
    assert "timeout" in body["error"]


async def test_a_pod_that_is_never_ready_is_asked_why(platform: Platform) -> None:
    platform.up(service("demo", "--not_ready=the engine is starting;\n before that: it died", timeout=2))
    status, body, _ = await get(platform.url("demo", "/echo"))
    assert status == 504
    assert body["error"].endswith("its pod says: the engine is starting; before that: it died")
    assert [row["reason"] for row in platform.rows()] == ["the engine is starting; before that: it died"]


async def test_startup_and_liveness_probes_gate_and_restart_a_pod(platform: Platform) -> None:
    """Both are commands in the pod's own environment, which names the files that they look for."""
    started, sick, tries = (platform.folder / name for name in ("started", "sick", "tries"))
    probed = service("demo", timeout=30)
    probed["spec"]["predictor"]["containers"][0] |= {
        "env": [
            {"name": "STARTED", "value": str(started)},
            {"name": "SICK", "value": str(sick)},
            {"name": "TRIES", "value": str(tries)},
        ],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready"}, "periodSeconds": 1},
        "startupProbe": {
            **{"exec": {"command": ["sh", "-c", 'echo >> "$TRIES"; test -e "$STARTED"']}},
            **{"periodSeconds": 1, "failureThreshold": 60},
        },
        "livenessProbe": {
            # Fails once: the next process is well.
            **{"exec": {"command": ["sh", "-c", 'test -z "$HOME" && ! rm "$SICK"']}},
            **{"periodSeconds": 1, "failureThreshold": 1},
        },
    }
    platform.up(probed)
    assert "a startup probe turns off Knative's fast readiness polling" in platform.output.read_text()
    waiting = asyncio.create_task(get(platform.url("demo", "/echo")))
    port = await until_async(lambda: next((pod["port"] for row in platform.rows() for pod in row["pods"]), 0))
    await until_async(partial(answers, f"http://127.0.0.1:{port}/v2/health/ready"))
    seen = len(tries.read_bytes())
    await until_async(lambda: len(tries.read_bytes()) > seen + 1)
    assert not waiting.done(), "the pod answers, but its startup probe does not pass yet"
    started.touch()
    assert (await waiting)[0] == 200
    first = platform.rows()[0]["pods"][0]
    sick.touch()
    until(lambda: "failed its liveness probe" in platform.output.read_text())
    assert (await get(platform.url("demo", "/echo")))[0] == 200
    assert platform.rows()[0]["pods"][0]["pid"] != first["pid"]


async def test_grpc_is_held_and_spliced_by_authority(platform: Platform) -> None:
    platform.up(service("demo", "--grpc", "--boot_s=0.5", probe=False))

    def channel(host: str) -> grpc.aio.Channel:
        options = [("grpc.default_authority", host)]
        return grpc.aio.insecure_channel(f"127.0.0.1:{platform.port}", options=options)

    async with channel("demo.default.localhost") as cold:
        say = cold.unary_unary("/test.Echo/Say")
        answers = await asyncio.gather(*(say(f"{n}".encode(), timeout=20) for n in range(10)))
        assert answers == [f"echo {n}".encode() for n in range(10)]
        large = os.urandom(1 << 20)
        assert await say(large, timeout=20) == b"echo " + large
        counted = [part async for part in cold.unary_stream("/test.Echo/Count")(b"5", timeout=20)]
        assert counted == [b"0", b"1", b"2", b"3", b"4"]
        until(lambda: [row["running"] for row in platform.rows()], holds=lambda running: running == [0])
        stream = cold.unary_stream("/test.Echo/Count")(b"1000", timeout=60)
        await stream.read()
        assert [row["running"] for row in platform.rows()] == [1]
        stream.cancel()
        until(lambda: [row["running"] for row in platform.rows()], holds=lambda running: running == [0])
    async with channel("nobody.default.localhost") as unknown:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unknown.unary_unary("/test.Echo/Say")(b"x", timeout=10)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_container_concurrency_holds_for_every_grpc_call_of_a_connection(platform: Platform) -> None:
    platform.up(service("demo", "--grpc", probe=False, containerConcurrency=2, maxReplicas=1))
    options = [("grpc.default_authority", "demo.default.localhost")]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{platform.port}", options=options) as channel:
        crowd = channel.unary_unary("/test.Echo/Crowd")
        most = await asyncio.gather(*(crowd(b"0.05", timeout=30) for _ in range(20)))
        assert max(map(int, most)) == 2
        # Calls that are given up while they are held do not take a place, and leave the connection in order.
        count = channel.unary_stream("/test.Echo/Count")
        running = [count(b"1000", timeout=60) for _ in range(2)]
        assert [await call.read() for call in running] == [b"0", b"0"]
        held = [crowd(b"0", timeout=0.3) for _ in range(3)]
        for call in held:
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await call
            assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert [row["running"] for row in platform.rows()] == [2]
        large = os.urandom(1 << 20)
        waiting = channel.unary_unary("/test.Echo/Say")(large, timeout=30)
        running[0].cancel()
        assert await waiting == b"echo " + large
        running[1].cancel()
    until(platform.rows, holds=lambda rows: [(row["running"], row["queued"]) for row in rows] == [(0, 0)])


async def test_a_new_revision_takes_over_under_load_without_a_failed_request(platform: Platform) -> None:
    platform.up(service("demo", "--answer=v1"))
    assert (await get(platform.url("demo", "/echo")))[1]["answer"] == "v1"
    answers: Counter[tuple[int, str]] = Counter()
    ending = asyncio.Event()

    async def load(session: aiohttp.ClientSession) -> None:
        while not ending.is_set():
            async with session.get(platform.url("demo", "/slow?s=0.02")) as answer:
                body = await answer.json()
                answers[answer.status, body.get("answer", str(body))] += 1

    async with aiohttp.ClientSession() as session:
        workers = [asyncio.create_task(load(session)) for _ in range(8)]
        long_stream = asyncio.create_task(session.get(platform.url("demo", "/stream?n=30&gap=0.1")))
        await asyncio.to_thread(platform.apply, service("demo", "--answer=v2", "--boot_s=1"))

        async def answered_by_v2() -> int:
            return answers[200, "v2"]

        await until_async(answered_by_v2, holds=lambda count: count >= 200)
        events = await (await long_stream).read()
        ending.set()
        await asyncio.gather(*workers)
    assert set(answers) == {(200, "v1"), (200, "v2")}
    assert events.count(b"data:") == 30


async def test_a_grpc_channel_moves_to_the_new_revision_without_a_failed_call(platform: Platform) -> None:
    platform.up(service("demo", "--grpc", "--answer=v1", probe=False))
    options = [("grpc.default_authority", "demo.default.localhost")]
    answers: Counter[bytes] = Counter()
    ending = asyncio.Event()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{platform.port}", options=options) as channel:
        who, count = channel.unary_unary("/test.Echo/Who"), channel.unary_stream("/test.Echo/Count")

        async def load() -> None:
            while not ending.is_set():
                answers[await who(b"", timeout=20)] += 1

        async def last() -> int:
            return answers[b"v2"]

        workers = [asyncio.create_task(load()) for _ in range(4)]
        stream = count(b"60", timeout=60)
        assert await stream.read() == b"0"
        await asyncio.to_thread(platform.apply, service("demo", "--grpc", "--answer=v2", probe=False))
        await until_async(last, holds=lambda calls: calls >= 50)
        ending.set()
        await asyncio.gather(*workers)
        for index in range(1, 60):
            assert await stream.read() == str(index).encode()
    assert set(answers) == {b"v1", b"v2"}


async def test_a_revision_that_cannot_start_leaves_the_old_one_serving(platform: Platform) -> None:
    platform.up(service("demo", "--answer=v1"))
    assert (await get(platform.url("demo", "/echo")))[1]["answer"] == "v1"
    platform.apply(service("demo", "--answer=v2", "--fail=typo in the flags"))
    until(platform.rows, holds=lambda rows: any(row["phase"] == "Failed" for row in rows))
    failed = next(row for row in platform.rows() if row["phase"] == "Failed")
    assert (failed["traffic_percent"], "exited with code 4" in failed["reason"]) == (0, True)
    assert (await get(platform.url("demo", "/echo")))[1]["answer"] == "v1"


async def test_canary_percent_splits_the_traffic_and_its_removal_promotes(platform: Platform) -> None:
    platform.up(service("demo", "--answer=v1"))
    assert (await get(platform.url("demo", "/echo")))[1]["answer"] == "v1"
    platform.apply(service("demo", "--answer=v2", canaryTrafficPercent=20))
    until(platform.rows, holds=lambda rows: sorted(row["traffic_percent"] for row in rows) == [20, 80])
    answers = Counter([(await get(platform.url("demo", "/echo")))[1]["answer"] for _ in range(200)])
    assert 15 <= answers["v2"] <= 70
    assert answers["v1"] + answers["v2"] == 200
    platform.apply(service("demo", "--answer=v2"))
    until(platform.rows, holds=lambda rows: sorted(row["traffic_percent"] for row in rows) == [0, 100])
    assert (await get(platform.url("demo", "/echo")))[1]["answer"] == "v2"


async def test_idle_time_takes_pods_to_zero_but_never_cuts_a_request(platform: Platform) -> None:
    platform.up(service("demo"), options=FAST_SCALING)
    url = platform.url("demo", "/stream?n=100&gap=0.1")
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert (await answer.read()).count(b"data:") == 100
    until(platform.rows, holds=lambda rows: [row["phase"] for row in rows] == ["Zero"])
    until(lambda: processes_of(FAKE.name), holds=lambda pids: pids == [])
    until(lambda: list((platform.state_dir / "pods").iterdir()), holds=lambda folders: folders == [])
    assert (await get(platform.url("demo", "/echo")))[0] == 200


async def test_progress_lines_while_a_cold_endpoint_wakes(platform: Platform) -> None:
    platform.up(service("demo", "--boot_s=1.5"), service("broken", "--fail=boom", "--boot_s=0.3"))
    headers = {"Accept": "text/event-stream", "x-pilotlight-progress": "1"}
    async with aiohttp.ClientSession() as session:
        async with session.get(platform.url("demo", "/stream?n=2"), headers=headers) as answer:
            text = (await answer.read()).decode()
        assert answer.headers["Content-Type"] == "text/event-stream"
        async with session.get(platform.url("broken", "/stream?n=2"), headers=headers) as answer:
            failed = (await answer.read()).decode()
            assert answer.status == 200
    assert ": phase=predictor-starting eta_s=unknown" in text
    assert text.count("data: ") == 2
    assert text.index(": phase=") < text.index("data: ")
    event = json.loads(failed.split("data: ")[1])
    assert event["status"] == 503
    assert event["error"].endswith("exited with code 4 before it was ready; its log says more")


async def test_a_pod_that_crashes_is_replaced_at_once_and_then_backs_off(platform: Platform) -> None:
    platform.up(service("demo"))
    assert (await get(platform.url("demo", "/echo")))[0] == 200
    async with aiohttp.ClientSession() as session, session.post(platform.url("demo", "/crash")) as answer:
        assert answer.status == 502
        assert "broke the connection" in (await answer.json())["error"]
    started_s = time.monotonic()
    assert (await get(platform.url("demo", "/echo")))[0] == 200
    assert time.monotonic() - started_s < 8
    # The second crash in a row has to wait, and says so.
    async with aiohttp.ClientSession() as session, session.post(platform.url("demo", "/crash")) as answer:
        assert answer.status == 502
    until(platform.rows, holds=lambda rows: rows[0]["phase"] == "Failed")
    status, body, headers = await get(platform.url("demo", "/echo"))
    assert status == 503
    assert "exited with code 3" in body["error"]
    assert 1 <= int(headers["Retry-After"]) <= 20


@pytest.mark.parametrize("way", ["down", "SIGKILL", "SIGTERM"])
async def test_no_process_is_left_however_the_platform_ends(platform: Platform, way: str) -> None:
    platform.up(service("demo", "--escape", transformer=True))
    assert (await get(platform.url("demo", "/via_predictor")))[0] == 200
    assert len(processes_of(str(platform.state_dir))) >= 4
    assert platform.process is not None
    if way == "down":
        assert platform.command("down").returncode == 0
    else:
        platform.process.send_signal(getattr(signal, way))
    platform.process.wait(20)
    until(lambda: processes_of(str(platform.state_dir)), holds=lambda pids: pids == [])
    again = platform.command("down")
    assert again.returncode == 1
    assert "No platform runs" in again.stderr


async def test_a_pod_whose_init_is_killed_leaves_nothing_behind(platform: Platform) -> None:
    platform.up(service("demo", "--escape"))
    assert (await get(platform.url("demo", "/echo")))[0] == 200
    pid = platform.rows()[0]["pods"][0]["pid"]
    marker = str(platform.state_dir / "pods")
    pod = set(processes_of(marker))
    assert len(pod) == 2
    os.kill(parent_of(pid), signal.SIGKILL)
    # Another pod may take its place at once: what must go is this one.
    until(lambda: pod & set(processes_of(marker)), holds=lambda left: not left)


def test_a_pod_that_never_became_ready_is_not_waited_for(platform: Platform) -> None:
    platform.up(service("demo", "--deaf", "--boot_s=600", minReplicas=1))
    logs = platform.state_dir / "logs"
    until(lambda: any("starts" in log.read_text() for log in logs.rglob("*.log")))
    begun_s = time.monotonic()
    platform.end()
    assert time.monotonic() - begun_s < END_GRACE_S


def test_ctrl_c_while_the_command_is_still_being_imported_ends_it_without_a_traceback() -> None:
    interrupted = "import os, signal, pilotlight_local.__main__; os.kill(os.getpid(), signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_second_platform_on_the_same_state_says_what_to_do(platform: Platform) -> None:
    platform.up(service("demo"))
    second = platform.command("up", str(platform.folder / "services.yaml"), "--port", str(free_port()))
    assert second.returncode == 1
    assert "pilotlight apply" in second.stderr
    assert platform.process is not None
    assert str(platform.process.pid) in second.stderr


def test_a_file_with_errors_is_refused_as_a_whole(platform: Platform) -> None:
    wrong = service("demo", containerConcurrency="many", canaryTrafficPercent=200)
    done = platform.command("up", str(platform.write(wrong)), "--port", str(platform.port))
    assert done.returncode == 2
    assert "spec.predictor.containerConcurrency" in done.stderr
    assert "spec.predictor.canaryTrafficPercent" in done.stderr


@pytest.mark.parametrize("content", ["", "# nothing but a comment\n", "---\n---\n"])
def test_a_file_without_an_object_is_refused(platform: Platform, content: str) -> None:
    (platform.folder / "empty.yaml").write_text(content)
    done = platform.command("up", str(platform.folder / "empty.yaml"), "--port", str(platform.port))
    assert (done.returncode, done.stdout) == (2, "")
    assert "empty.yaml: holds no object" in done.stderr


def test_files_without_an_endpoint_are_refused(platform: Platform) -> None:
    platform.up(service("demo"))
    settings = platform.write({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}, name="x.yaml")
    done = platform.command("apply", str(settings))
    assert done.returncode == 2
    assert "no InferenceService in x.yaml" in done.stderr


def test_logs_says_why_there_are_none(platform: Platform) -> None:
    for options in ((), ("-f",)):
        done = platform.command("logs", "demo", *options)
        assert done.returncode == 1
        assert "No platform runs" in done.stderr
    platform.up(service("demo"))
    for options in ((), ("-f",)):
        done = platform.command("logs", "nobody", *options)
        assert done.returncode == 1
        assert "no endpoint default/nobody" in done.stderr
    assert "has no transformer, only a predictor" in platform.command("logs", "demo", "-c", "transformer").stderr
    assert "starts with the first request" in platform.command("logs", "demo").stderr


async def test_the_terminal_shows_what_a_pod_logs_as_an_error(platform: Platform) -> None:
    platform.up(service("demo", "--log_error=the engine was lost: it was killed"))
    assert (await get(platform.url("demo", "/echo")))[0] == 200
    told = "demo-predictor-00001-deployment-1: the engine was lost: it was killed"
    await until_async(lambda: asyncio.to_thread(platform.output.read_text), holds=lambda text: told in text)


async def test_a_failed_pod_is_explained_by_its_last_error(platform: Platform) -> None:
    platform.up(service("demo", "--fail=and more", "--log_error=no such model"))
    _, body, _ = await get(platform.url("demo", "/echo"))
    assert body["error"].endswith("exited with code 4 before it was ready: no such model; its log says more")
    assert [row["reason"] for row in platform.rows()] == ["exited with code 4 before it was ready: no such model"]


async def test_an_endpoint_that_is_made_again_starts_a_new_log(platform: Platform) -> None:
    platform.up(service("demo", "--answer=first"))
    assert (await get(platform.url("demo", "/echo")))[0] == 200
    assert platform.command("delete", "demo").returncode == 0
    platform.apply(service("demo", "--answer=again"))
    assert (await get(platform.url("demo", "/echo")))[0] == 200
    assert platform.command("logs", "demo").stdout == "fake component again starts\n"


def test_endpoints_can_be_added_and_deleted_while_it_runs(platform: Platform) -> None:
    platform.up(service("demo"))
    platform.apply(service("second"))
    assert {row["endpoint"] for row in platform.rows()} == {"demo", "second"}
    assert platform.command("delete", "demo").returncode == 0
    assert {row["endpoint"] for row in platform.rows()} == {"second"}
    table = platform.command("status")
    assert "second-predictor-00001" in table.stdout


async def test_two_platforms_at_once_each_answer_with_their_own_pod(tmp_path: Path) -> None:
    platforms = [Platform(tmp_path / name) for name in "ab"]
    try:
        for platform, boot_s in zip(platforms, (3.0, 0.0), strict=True):
            platform.folder.mkdir()
            platform.up(service("who", f"--answer={platform.folder.name}", f"--boot_s={boot_s}", probe=False))
        answers = await asyncio.gather(*(get(platform.url("who", "/echo")) for platform in platforms))
        assert [(status, body["answer"]) for status, body, _ in answers] == [(200, "a"), (200, "b")]
        ports = [row["pods"][0]["port"] for platform in platforms for row in platform.rows()]
        assert len(set(ports)) == 2
    finally:
        for platform in platforms:
            platform.end()


async def test_a_stranger_on_a_pods_port_is_never_asked(platform: Platform) -> None:
    """A program that reserves nothing takes the port while the pod boots; the next pod gets another one."""
    platform.up(service("demo", "--boot_s=2", probe=False))
    request = asyncio.create_task(get(platform.url("demo", "/echo")))
    pods = await until_async(lambda: asyncio.to_thread(lambda: [pod for row in platform.rows() for pod in row["pods"]]))
    asked = 0

    async def stranger(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(stranger, "0.0.0.0", pods[0]["port"]):
        status, body, _ = await request
    assert (status, body.get("answer")) == (200, "v1"), body
    assert asked > 0, "the probes went there"


async def test_delete_does_not_wait_for_a_pod_that_does_not_end(platform: Platform) -> None:
    platform.up(service("demo", "--deaf"))
    assert (await get(platform.url("demo", "/echo")))[0] == 200
    # A drain would take 300 s; the command is given up on after 60.
    assert platform.command("delete", "demo").stdout == "default/demo deleted\n"
    until(lambda: processes_of(str(platform.state_dir / "pods")), holds=lambda pids: pids == [])


async def test_delete_lets_running_requests_end_and_the_name_can_be_used_again(platform: Platform) -> None:
    platform.up(service("demo", "--answer=old"))
    async with aiohttp.ClientSession() as session, session.get(platform.url("demo", "/stream?n=200&gap=0.1")) as stream:
        await stream.content.readany()
        done = await asyncio.to_thread(platform.command, "delete", "demo")
        assert "deleted; 1 request(s) still run" in done.stdout
        await asyncio.to_thread(platform.apply, service("demo", "--answer=new"))
        assert (await get(platform.url("demo", "/echo")))[1]["answer"] == "new"
        assert (await stream.read()).count(b"data:") >= 198
    until(lambda: len(list((platform.state_dir / "pods").iterdir())), holds=lambda count: count == 1)
    assert (await get(platform.url("demo", "/echo")))[1]["answer"] == "new"


async def test_a_pod_that_turns_unready_takes_nothing_while_another_is_ready(platform: Platform) -> None:
    pod = service("demo", minReplicas=2, containerConcurrency=0)
    platform.up(pod)
    until(platform.rows, holds=lambda rows: rows[0]["ready"] == 2)

    async def serving() -> set[int]:
        return {(await get(platform.url("demo", "/counts")))[1]["pid"] for _ in range(40)}

    pids = await serving()
    assert len(pids) == 2
    async with aiohttp.ClientSession() as session, session.get(platform.url("demo", "/stream?n=600&gap=0.1")):
        async with session.post(platform.url("demo", "/unready")) as answer:
            unready = (await answer.json())["pid"]
        await until_async(serving, holds=lambda seen: seen == pids - {unready})
