"""The ways to the first token that coldstart.py compares; each returns how long it took and where the time went.

A clock starts right before the process is started or the request is sent, and stops at the first token (or byte of
text). Phases are in the order in which they happen and add up to the total.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from processes import free_port, server

from pilotlight_engine.client.pool_client import connect
from pilotlight_engine.leasing.pool_http import PoolHttp
from pilotlight_local.cli.control_client import ControlClient
from pilotlight_local.errors import PlatformError
from pilotlight_local.state_dir import StateDir
from pilotlight_protocol.engine_frames import GenerateRequest
from pilotlight_protocol.generation import GenerationParameters
from pilotlight_wire.hop_headers import parse_phases

ROOT = Path(__file__).parents[1]
PROMPT = list(range(300, 364))
POLL_S = 0.05
START_DEADLINE_S = 420.0
ZERO_DEADLINE_S = 120.0
SLOT_MEMORY = "6GiB"
# A phase of vLLM's own server ends when its log says so. Nothing but the log tells.
VLLM_MARKS = (
    ("imports, engine process", "Initializing a V1 LLM engine"),
    ("worker process", "Starting to load model"),
    ("weights", "Loading weights took"),
    ("profile, KV cache, warm-up", "init engine ("),
)


@dataclass(frozen=True)
class Setting:
    """`models`: two checkpoints of one architecture. `engine_args` hold for every path."""

    models: tuple[Path, Path]
    engine_args: Mapping[str, str]
    work: Path

    @property
    def weights_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.models[0].glob("*.safetensors"))

    @property
    def compiles(self) -> bool:
        return self.engine_args.get("enforce_eager") != "true"

    @property
    def engines(self) -> Path:
        """Work directory of the engines of (b) to (e); `pilotlight up` has its own."""
        return self.work / "engines"


@dataclass(frozen=True)
class Sample:
    total_s: float
    phases_s: dict[str, float] = field(default_factory=dict)


def vllm_server(setting: Setting) -> Sample:
    """(a) `python -m vllm.entrypoints.openai.api_server` from exec to the first token."""
    port = free_port()
    flags = [
        word
        for name, text in setting.engine_args.items()
        for word in ([f"--{name.replace('_', '-')}"] if text == "true" else [f"--{name.replace('_', '-')}", text])
    ]
    argv = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(setting.models[0]), "--served-model-name", "m"]
    argv += ["--host", "127.0.0.1", "--port", str(port), *flags]
    body = {"model": "m", "prompt": PROMPT, "max_tokens": 4, "temperature": 0, "stream": True}
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CACHE_ROOT": str(setting.work / "vllm"), "HF_HUB_OFFLINE": "1"}
    log = setting.work / "vllm.log"
    marks: dict[str, float] = {}

    def look() -> None:
        text = log.read_text(errors="replace")
        for phase, words in VLLM_MARKS:
            if phase not in marks and words in text:
                marks[phase] = time.monotonic()

    with _process(argv, log, environment) as (process, begun):
        _until_ready(process, f"http://127.0.0.1:{port}/health", log, look)
        ready = time.monotonic()
        _first_event(f"http://127.0.0.1:{port}/v1/completions", body)
        ended = time.monotonic()
    phases, last = {}, begun
    for phase, _ in VLLM_MARKS:
        if phase in marks:
            phases[phase], last = marks[phase] - last, marks[phase]
    return Sample(ended - begun, {**phases, "API server": ready - last, "first token": ended - ready})


def standalone_predictor(setting: Setting) -> Sample:
    """(b) `python -m pilotlight_predictor` with an engine of its own, from exec to the first token."""
    port = free_port()
    engine_args = [word for name, text in setting.engine_args.items() for word in ("--engine_arg", f"{name}={text}")]
    argv = ["-m", "pilotlight_predictor", "--model_name", "m", "--model_dir", str(setting.models[0]), *engine_args]
    argv += ["--host", "127.0.0.1", "--http_port", str(port), "--work_dir", str(setting.engines)]
    log = setting.work / "predictor.log"
    with _process(argv, log, {"VLLM_CPU_KVCACHE_SPACE": "1"}) as (process, begun):
        _until_ready(process, f"http://127.0.0.1:{port}/v2/health/ready", log, lambda: None)
        ready = time.monotonic()
        body = {"input_ids": PROMPT, "parameters": {"max_tokens": 4, "temperature": 0}}
        _first_event(f"http://127.0.0.1:{port}/v2/models/m/generate_stream", body)
        ended = time.monotonic()
    told = re.search(r"engine ready after [\d.]+ s \((.*)\)", log.read_text())
    boot = {name: float(s) for name, s in re.findall(r"([\w -]+?) ([\d.]+) s", told[1] if told else "")}
    boot = {name.strip(): seconds for name, seconds in boot.items()}
    rest_s = max(0.0, ready - begun - sum(boot.values()))
    return Sample(ended - begun, {"process": rest_s, **boot, "first token": ended - ready})


class LeasePool:
    """A running warm pool with one slot, asked as a thin predictor asks: lease, connect, first token."""

    def __init__(self, url: str, setting: Setting) -> None:
        self._url, self._setting = url, setting

    @classmethod
    @contextlib.contextmanager
    def running(cls, setting: Setting, name: str, *flags: str) -> Iterator[LeasePool]:
        port = free_port()
        argv = ["-m", "pilotlight_pool", "--listen", f"tcp://127.0.0.1:{port}", "--slot", f"cpu:0={SLOT_MEMORY}"]
        argv += ["--run_dir", str(setting.work / name), "--work_dir", str(setting.engines), *flags]
        with server(name, argv, f"http://127.0.0.1:{port}/readyz", setting.work):
            yield cls(f"http://127.0.0.1:{port}", setting)

    def first_token(self, number: int, path: str) -> Sample:
        """From asking for model `number` to its first token; afterwards the engine is given back.

        Raises RuntimeError when the pool chose another way than `path`.
        """
        return asyncio.run(self._first_token(number, path))

    def until_slot_is(self, state: str) -> None:
        end_s = time.monotonic() + ZERO_DEADLINE_S
        while (found := self.slot_state()) != state:
            if time.monotonic() > end_s:
                raise RuntimeError(f"the slot is {found} and does not become {state}")
            time.sleep(POLL_S)

    def slot_state(self) -> str:
        return str(self._call("GET", "/v1/slots")["slots"][0]["state"])

    async def _first_token(self, number: int, path: str) -> Sample:
        wish = {
            "model": str(self._setting.models[number]),
            "model_name": f"m{number}",
            "priority": "interactive",
            "deadline_s": START_DEADLINE_S,
            "wait_s": START_DEADLINE_S,
            "engine_args": dict(self._setting.engine_args),
        }
        parameters = GenerationParameters(max_tokens=4, temperature=0.0, ignore_eos=True)
        request = GenerateRequest("coldstart", PROMPT, parameters)
        begun = time.perf_counter()
        lease = self._call("POST", "/v1/leases", wish)
        granted = time.perf_counter()
        if lease["path"] not in (path, "") and path:
            raise RuntimeError(f"the pool chose {lease['path']}, not {path}: {lease.get('reasons')}")
        engine = await connect(lease["endpoint"], lease["lease_id"], lease["secret"])
        connected = time.perf_counter()
        ended = 0.0
        async for _ in engine.generate(request):
            ended = ended or time.perf_counter()
        await engine.close()
        self._call("DELETE", f"/v1/leases/{lease['lease_id']}")
        told = lease_phases(lease.get("phases_s", {}))
        asked_s = granted - begun
        phases = {"lease call": max(0.0, asked_s - sum(told.values())), **told, "connect": connected - granted}
        return Sample(ended - begun, {**phases, "first token": ended - connected})

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = PoolHttp(self._url).exchange(
            method, path, None if body is None else json.dumps(body).encode(), START_DEADLINE_S + 10
        )
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.body!r}")
        return dict(json.loads(answer.body or b"{}"))


def lease_phases(told: Mapping[str, float]) -> dict[str, float]:
    """A lease's `phases_s` without overlap: `swap` is left out where `swap.weights` and its like say more."""
    parts: dict[str, float] = {}
    for name, seconds in told.items():
        detail = {other.partition(".")[2]: s for other, s in told.items() if other.startswith(f"{name}.")}
        if "." in name or not seconds:
            continue
        parts |= detail
        parts[f"{name}, rest" if detail else name] = max(0.0, seconds - sum(detail.values()))
    return parts


class Platform:
    """`pilotlight up` with two endpoints of one architecture, a pool of one slot, and little time until zero."""

    def __init__(self, control: ControlClient, process: psutil.Process, port: int, gateway_port: int) -> None:
        self._control, self._port, self._gateway_port = control, port, gateway_port
        self.process = process

    @classmethod
    @contextlib.contextmanager
    def running(cls, setting: Setting, fronts: tuple[str, str] = ("auto", "auto")) -> Iterator[Platform]:
        """`fronts`: which way each endpoint's requests go at the gateway."""
        folder, port, gateway_port = setting.work / "up", free_port(), free_port()
        folder.mkdir(exist_ok=True)
        spec = folder / "endpoints.yaml"
        spec.write_text(yaml.safe_dump_all([_endpoint(setting, number, front) for number, front in enumerate(fronts)]))
        command = [
            str(Path(sys.executable).with_name("pilotlight")),
            "up",
            str(spec),
            f"--port={port}",
            f"--gateway-port={gateway_port}",
        ]
        command += ["--autoscaler", "scale-to-zero-grace-period=6s", "--state-dir", str(folder / "state")]
        with (folder / "up.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        platform = cls(ControlClient(StateDir(folder / "state")), psutil.Process(process.pid), port, gateway_port)
        try:
            platform._until_up(process, folder / "up.log")
            platform.first_text(0)
            yield platform
        finally:
            process.terminate()
            process.wait(90)

    def first_text(self, number: int) -> Sample:
        """From sending a chat request through the ingress to the first byte of text of its answer."""
        return self._first_text(f"cold-{number}", self.ingress_url(number), "")

    def ingress_url(self, number: int) -> str:
        return f"http://127.0.0.1:{self._port}/serving/default/cold-{number}/openai/v1"

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self._gateway_port}/v1"

    def first_text_of_gateway(self, number: int) -> Sample:
        """The same through the gateway, whose way is the short one."""
        return self._first_text(f"cold-{number}", self.gateway_url, "short")

    def _first_text(self, name: str, base: str, way: str) -> Sample:
        url = f"{base}/chat/completions"
        body = {"model": name, "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 8}
        begun = time.monotonic()
        with _post(url, {**body, "stream": True, "temperature": 0}) as answer:
            timing = ",".join(answer.headers.get_all("server-timing") or [])
            if not (answer.headers.get("x-pilotlight-way") or "").startswith(way):
                raise RuntimeError(f"not the {way} way: {answer.headers}")
            for line in answer:
                choices = json.loads(line[6:])["choices"] if line.startswith(b"data: {") else []
                if choices and choices[0]["delta"].get("content"):
                    break
            else:
                raise RuntimeError(f"{name} answered without text")
            total_s = time.monotonic() - begun
        told: dict[str, float] = {}
        for phase in parse_phases(timing):
            label = f"{phase.name} {phase.description.removeprefix(name + '-')}".strip()
            told[label] = told.get(label, 0.0) + phase.duration_ms / 1000
        return Sample(total_s, {**told, "rest": max(0.0, total_s - sum(told.values()))})

    def until_at_zero(self, with_engine_of: int) -> None:
        """No pod of any endpoint runs, and the pool's engine is idle, with that endpoint's model: keep-alive may have
        ended it meanwhile."""
        end_s = time.monotonic() + ZERO_DEADLINE_S
        while True:
            status = self._control.status()
            slots = status["pool"]["slots"]
            if not any(row["pods"] for row in status["components"]):
                states = [slot["state"] for slot in slots]
                if states == ["idle"]:
                    return
                if states == ["empty"]:
                    self.first_text_of_gateway(with_engine_of)
            if time.monotonic() > end_s:
                raise RuntimeError(f"not at zero: {status}")
            time.sleep(0.25)

    def _until_up(self, process: subprocess.Popen[bytes], log: Path) -> None:
        end_s = time.monotonic() + 60
        while True:
            with contextlib.suppress(PlatformError):
                self._control.status()
                return
            if process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError(f"pilotlight up did not start:\n{log.read_text()[-3000:]}")
            time.sleep(POLL_S)


def _endpoint(setting: Setting, number: int, front: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "inferenceservices" / "quickstart.yaml").read_text())
    name, uri = f"cold-{number}", f"--model_uri=file://{setting.models[number]}"
    document["metadata"]["name"] = name
    document["metadata"]["annotations"] |= {"autoscaling.knative.dev/window": "6s", "pilotlight.dev/front": front}
    for role in ("predictor", "transformer"):
        document["spec"][role]["containers"][0]["args"] = [f"--model_name={name}", uri]
    engine_args = [f"--engine_arg={key}={text}" for key, text in setting.engine_args.items()]
    document["spec"]["predictor"]["containers"][0]["args"] += engine_args
    return document


def memory_copy_s(size_bytes: int) -> float:
    """The floor: copying as many bytes from memory to memory, both touched before, one thread; the best of five."""
    source, target = np.ones(size_bytes, np.uint8), np.zeros(size_bytes, np.uint8)
    best_s = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        np.copyto(target, source)
        best_s = min(best_s, time.perf_counter() - begun)
    return best_s


@contextlib.contextmanager
def _process(
    argv: Sequence[str], log: Path, environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """`python argv…` and when it was started; its whole family ends with the block."""
    env = {**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as sink:
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *argv], stdout=sink, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
    try:
        yield process, begun
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.kill()
        process.wait()


def _until_ready(process: subprocess.Popen[bytes], url: str, log: Path, look: Any) -> None:
    end_s = time.monotonic() + START_DEADLINE_S
    while True:
        look()
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        if process.poll() is not None or time.monotonic() > end_s:
            raise RuntimeError(f"{url} is not ready:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(POLL_S)


def _post(url: str, body: Mapping[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        return urllib.request.urlopen(request, timeout=START_DEADLINE_S)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{url}: {error.code} {error.read()[:500]!r}") from error


def _first_event(url: str, body: Mapping[str, Any]) -> None:
    with _post(url, body) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                if b'"error"' in line:
                    raise RuntimeError(line.decode())
                answer.read()
                return
    raise RuntimeError(f"{url} sent no event")
