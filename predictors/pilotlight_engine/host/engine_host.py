"""An engine host: a process that owns one vLLM engine, told by its agent whom to serve and with which model.

Two threads: the main thread boots, steps (lease_service.py) and swaps (agent_commands.py), the socket thread reads
(host_sockets.py). A pool's
zygote calls `run` in a fork; a predictor that has its engine to itself is both agent and lease holder, and starts

    python -m pilotlight_engine.host.engine_host CONTROL_FD [--data_fd DATA_FD]

in the environment an engine wants (process/environment.py), and sends `Boot` first. The process ends with its agent,
and at once after a failed swap; a failure in the engine ends it with its reason as the last frame.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import NoReturn

import msgspec

from pilotlight_engine import model_source
from pilotlight_engine.boot import boot_failures
from pilotlight_engine.boot.assembly import EngineSettings, configure
from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_engine.host.agent_commands import AgentCommands, HostedEngine
from pilotlight_engine.host.exit_report import end_now, run_to_end
from pilotlight_engine.host.host_sockets import HostSockets
from pilotlight_engine.host.lease_service import LeaseService
from pilotlight_engine.process import device_probe, endpoint, glibc_malloc, memory_limit
from pilotlight_engine.process.boot_clock import BootClock
from pilotlight_engine.process.prepared_process import do_without_compiler, enter_slot
from pilotlight_engine.process.process_group import die_with_parent, kill_own_group
from pilotlight_engine.quantization import REQUESTS, Requested
from pilotlight_models.adapter import folder_stamp
from pilotlight_protocol.engine_frames import Adapter, Boot, Booted, HostConfig, Progress
from pilotlight_protocol.frame_codec import encode


def run(control: socket.socket, config: HostConfig | None, data: socket.socket | None = None) -> NoReturn:
    """Serve until Shutdown, the agent's end or a failure; the process then exits. `config` None: it comes as `Boot`.

    `data`: the connection of an engine's only holder. None in a pool, where holders connect and show their secrets.
    """
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    os.umask(0o077)
    sockets = HostSockets(control, on_agent_gone=kill_own_group)
    threading.Thread(target=sockets.run, name="socket", daemon=True).start()
    run_to_end(sockets.control, lambda: _serve(sockets, config or _first(sockets), data))


def _serve(sockets: HostSockets, config: HostConfig, data: socket.socket | None) -> HostedEngine:
    engine, boot_phases_s = boot(sockets, config, data)
    leases = LeaseService(sockets, engine, config.model_name, boot_phases_s)
    leases.serve(AgentCommands(sockets, engine, leases).obey)
    engine.close()
    return engine


def boot(sockets: HostSockets, config: HostConfig, data: socket.socket | None) -> tuple[HostedEngine, dict[str, float]]:
    """Build the engine and open the door; `Booted` is told when a token was generated and connections are accepted."""
    clock = BootClock(lambda phase: sockets.control.send(encode(Progress(phase))))
    clock.enter("import")
    glibc_malloc.keep_freed_memory()
    limits = enter_slot(config)
    on_cpu, ready = device_probe.read(os.environ).kind == "cpu", threading.Event()
    slots = on_cpu and config.memory_bytes is not None
    memory = memory_limit.of_slot(limits.memory_bytes) if slots else memory_limit.of_machine(limits, on_cpu)
    memory_limit.enforce(
        memory,
        model_source.weights_bytes(Path(config.model_dir)),
        lambda reason: end_now(sockets.control, reason, misconfigured=memory.fixed and not ready.is_set()),
    )
    arguments = configure(_settings(config), os.environ, limits)
    if ("enforce_eager", "true") in arguments:
        do_without_compiler()
    from pilotlight_engine.boot import vllm_arguments
    from pilotlight_engine.vllm_adapter import poisoned_exchange, vllm_engine, vllm_metrics, weight_exchange

    fixed = {"model": config.model_dir, "tokenizer": config.model_dir, "served_model_name": config.model_name}
    engine_args = vllm_arguments.build(fixed, arguments)
    exchange = poisoned_exchange.PoisonedExchange if config.proving else weight_exchange.WeightExchange
    with boot_failures.explained(str(memory), fixed_memory=memory.fixed, on_cpu=on_cpu):
        engine = vllm_engine.VllmEngine(
            engine_args, config.loras, clock.enter, limits.cpus, share_graph=not config.proving, exchange=exchange
        )
        if data is None:
            clock.enter("swap-plan")
            engine.plan_swaps(memory.spare_bytes() if slots else 0, proven=config.swappable)
    sockets.on_metrics = vllm_metrics.exposition
    engine.constrained.on_ready = sockets.inbox.wake
    address = ""
    if data is None:
        clock.enter("ready")
        listener, address = endpoint.listen(endpoint.parse(config.listen))
        sockets.open_door(listener)
    else:
        adapter = None
        if config.adapter:
            adapter = Adapter("own", config.adapter, folder_stamp(Path(config.adapter)))
            engine.load_adapter(adapter, ())
        sockets.let_in(data, config.model_name, adapter)
    sockets.control.send(encode(Booted(engine.describe(clock.phases_s), address, engine.swap_check)))
    ready.set()
    return engine, clock.phases_s


def _settings(config: HostConfig) -> EngineSettings:
    try:
        quantization = msgspec.convert(config.quantization, Requested)
    except msgspec.ValidationError:
        raise EngineMisconfigured(
            f"quantization must be one of {', '.join(REQUESTS)}, not '{config.quantization}'"
        ) from None
    return EngineSettings(
        Path(config.model_dir),
        config.model_name,
        quantization,
        config.engine_args,
        tuple(config.loras),
        device_memory_bytes=config.memory_bytes,
        adapter_rank=config.adapter_rank,
        adapter=Path(config.adapter) if config.adapter else None,
    )


def _first(sockets: HostSockets) -> HostConfig:
    (frame,) = sockets.inbox.take(wait=True)
    if not isinstance(frame, Boot):
        raise TypeError(f"the agent opened with {type(frame).__name__} instead of Boot")
    return frame.config


def main(argv: list[str]) -> NoReturn:
    parser = argparse.ArgumentParser(prog="pilotlight_engine.host.engine_host")
    parser.add_argument("control_fd", type=int)
    parser.add_argument("--data_fd", type=int)
    args = parser.parse_args(argv)
    die_with_parent()
    os.set_inheritable(args.control_fd, False)
    data = None
    if args.data_fd is not None:
        os.set_inheritable(args.data_fd, False)
        data = socket.socket(fileno=args.data_fd)
    run(socket.socket(fileno=args.control_fd), None, data)


if __name__ == "__main__":
    main(sys.argv[1:])
