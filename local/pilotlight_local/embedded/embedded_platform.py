"""Wires and runs one embedded platform from start to end: the composition of `pilotlight up`.

Order at the start: lock, files, listener, endpoints, control socket. At the end: no new connections, pods drained
and ended, then everything else. Must not: read the environment (see `__main__`), or parse arguments.
"""

import asyncio
import contextlib
import errno
import functools
import os
import random
import secrets
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from pilotlight_local.controller.controller import Controller
from pilotlight_local.controller.routing_table import RoutingTable
from pilotlight_local.controller.service_addresses import ServiceAddresses
from pilotlight_local.embedded.applying import Applier, Desired, load
from pilotlight_local.embedded.control_server import ControlServer
from pilotlight_local.embedded.creation_times import CreationTimes
from pilotlight_local.embedded.display import Display
from pilotlight_local.embedded.endpoint_news import EndpointNews
from pilotlight_local.embedded.endpoint_orders import Earlier, EndpointOrders, load_kept
from pilotlight_local.embedded.endpoint_publisher import EndpointPublisher
from pilotlight_local.embedded.front_door import FrontDoorSettings, front_door
from pilotlight_local.embedded.kept_endpoints import KeptEndpoints
from pilotlight_local.embedded.obstacles import Obstacles
from pilotlight_local.embedded.supervised_process import SupervisedProcess
from pilotlight_local.embedded.warm_pool import WarmPool, WarmPoolSettings
from pilotlight_local.errors import PlatformError
from pilotlight_local.ingress.ports import IngressPorts
from pilotlight_local.pods.live_pod import LivePod, PodSurroundings
from pilotlight_local.pods.loopback_ports import LOOPBACK, LoopbackPorts
from pilotlight_local.pods.model_mounts import ModelMounts
from pilotlight_local.pods.pod_probe import new_probe_session
from pilotlight_local.pods.process_pod import adopt_orphans
from pilotlight_local.state_dir import StateDir
from pilotlight_models.in_place import folder_in_place
from pilotlight_protocol.model_reference import parse_model_reference
from pilotlight_specs.kpa import KPAConfig
from pilotlight_wire.cors import CorsPolicy

LISTEN_BACKLOG = 4096
# Of the machine's memory, what the warm pool's engines may take together; pods and page cache have the rest.
POOL_MEMORY_SHARE = 0.5
LAST_ANSWERS_TIMEOUT_S = 1.0
FRONT_DOOR_LOOK_S = 0.05


@dataclass(frozen=True)
class PlatformSettings:
    """Everything `pilotlight up` was told. `pool_slots`: engines of the warm pool, 0 for none. `model_store`: the
    folder of `pilotlight prefetch`. `gateway_port`: None for no gateway. `gateway_config`: its
    configuration file."""

    state_dir: StateDir
    port: int
    files: tuple[Path, ...]
    kpa: KPAConfig
    python: str
    search_path: str
    model_store: Path
    download_env: Mapping[str, str]
    end_grace_s: float
    pool_slots: int
    cors: CorsPolicy
    gateway_port: int | None
    gateway_config: Path | None = None

    def obstacles(self) -> Obstacles:
        return Obstacles(self.python, self.search_path)


def run(settings: PlatformSettings, display: Display, started_s: float) -> None:
    """Run until SIGINT, SIGTERM or `pilotlight down`. Raises PlatformError before anything has started."""
    with settings.state_dir.lock(settings.port):
        desired = load(settings.files, settings.kpa, settings.obstacles)
        for finding in desired.findings:
            display.line(finding)
        earlier = load_kept(KeptEndpoints(settings.state_dir.ordered_endpoints), settings.kpa, settings.obstacles)
        for finding in earlier.findings:
            display.line(finding)
        adopt_orphans()
        uvloop.run(_run(settings, desired, earlier, display, started_s))


async def _run(
    settings: PlatformSettings, desired: Desired, earlier: Earlier, display: Display, started_s: float
) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, ended.set)
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(new_probe_session())
        mounts = ModelMounts(settings.state_dir.downloads, settings.model_store, settings.download_env)
        stack.push_async_callback(mounts.close)
        pool = _warm_pool(settings, display) if settings.pool_slots else None
        surroundings = PodSurroundings(
            settings.state_dir,
            mounts,
            LoopbackPorts(),
            session,
            settings.python,
            settings.search_path,
            pool.url if pool is not None else None,
        )
        rng = random.Random()  # noqa: S311 - balances load
        table = RoutingTable(rng, display)
        ports = IngressPorts(table, settings.cors)
        start_pod = functools.partial(LivePod, surroundings)
        news = EndpointNews(secrets.token_hex(8))
        created = CreationTimes(settings.state_dir.creation_times)
        ingress_url = f"http://{LOOPBACK}:{settings.port}"
        publisher = EndpointPublisher(
            table.endpoints.get, news, _folder_of, ingress_url, created, has_pool=pool is not None
        )
        controller = Controller(
            table, ServiceAddresses(ports.open_service), start_pod, display, rng, changed=publisher.look
        )
        listening = _listen(settings.port, "--port")
        gateway = _gateway(settings, pool, display)
        applier = Applier(controller, settings.kpa, settings.obstacles, pool, publisher)
        orders = EndpointOrders(controller, applier, KeptEndpoints(settings.state_dir.ordered_endpoints), news)
        control = ControlServer(controller, applier, orders, news, pool, settings.port, ended.set)
        await control.serve(settings.state_dir.control_socket)
        stack.callback(settings.state_dir.control_socket.unlink, missing_ok=True)
        applier.apply_desired(desired)
        orders.start_with(earlier.endpoints)
        created.keep(controller.names())
        if pool is not None and not settings.files:
            pool.start()  # endpoints are ordered, and the first of them must not wait for it
        ingress = ports.open_ingress(listening)
        if gateway is not None:
            gateway.start()
        reconciling = asyncio.create_task(controller.run(), name="reconcile loop")
        background = [
            reconciling,
            asyncio.create_task(display.run(controller.status, settings.port), name="live view"),
        ]
        if settings.gateway_port is not None:
            background.append(asyncio.create_task(_tell_when_open(settings.gateway_port, display), name="front door"))
        display.line(
            f"ready in {time.monotonic() - started_s:.2f} s: {len(controller.names())} endpoint(s), "
            f"http://{LOOPBACK}:{settings.port}/serving/NAMESPACE/NAME/ or NAME.NAMESPACE.localhost:{settings.port}"
        )
        await _until(ended, background)
        display.line("ending: pods finish their requests")
        if gateway is not None:
            await gateway.close(settings.end_grace_s)
        await ingress.close_listener()
        reconciling.cancel()
        await asyncio.wait([reconciling])
        await controller.close(settings.end_grace_s)
        if pool is not None:
            await pool.close(settings.end_grace_s)
        for task in background:
            task.cancel()
        await asyncio.wait(background)
        await ports.end(LAST_ANSWERS_TIMEOUT_S)
        await control.close()
        display.line("ended, no process is left")


async def _tell_when_open(port: int, display: Display) -> None:
    """The gateway imports for half a second before it listens."""
    while True:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, port)
        except OSError:
            await asyncio.sleep(FRONT_DOOR_LOOK_S)
            continue
        writer.close()
        display.line(
            f"front door: http://{LOOPBACK}:{port}/v1 (OpenAI's base URL; model: NAME), V2 by gRPC at {LOOPBACK}:{port}"
        )
        return


async def _until(ended: asyncio.Event, background: Sequence["asyncio.Task[None]"]) -> None:
    """Wait for the order to end; a background task that breaks ends the platform with its error."""
    waiting = asyncio.create_task(ended.wait())
    pending: set[asyncio.Task[object]] = {waiting, *background}
    while not waiting.done():
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


def _warm_pool(settings: PlatformSettings, display: Display) -> WarmPool:
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return WarmPool(
        WarmPoolSettings(
            settings.state_dir.pool,
            settings.pool_slots,
            int(memory_bytes * POOL_MEMORY_SHARE),
            settings.python,
            settings.model_store,
            settings.download_env,
        ),
        display.line,
    )


def _gateway(settings: PlatformSettings, pool: WarmPool | None, display: Display) -> SupervisedProcess | None:
    if settings.gateway_port is None:
        return None
    _listen(settings.gateway_port, "--gateway-port").close()
    return front_door(
        FrontDoorSettings(
            settings.state_dir,
            settings.gateway_port,
            pool.url if pool is not None else None,
            settings.python,
            settings.model_store,
            ",".join(settings.cors.origins),
            settings.download_env,
            settings.gateway_config,
        ),
        display.line,
    )


def _folder_of(uri: str) -> str | None:
    folder = folder_in_place(parse_model_reference(uri))
    return None if folder is None else str(folder)


def _listen(port: int, option: str) -> socket.socket:
    try:
        listener = socket.create_server((LOOPBACK, port), backlog=LISTEN_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PlatformError(f"Port {port} is in use on {LOOPBACK}; choose another with {option}.") from error
        raise PlatformError(f"Cannot listen on {LOOPBACK}:{port}: {error}.") from error
    listener.setblocking(False)
    return listener
