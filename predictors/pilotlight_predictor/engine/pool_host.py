"""An engine host of the warm pool: one engine, told by an agent whom to serve and with which model.

Two threads, as in host.py: the main thread boots, steps and swaps (pool_service.py), the socket thread reads (
pool_link.py). The zygote calls `run` in a fork; without a zygote the agent starts

    python -m pilotlight_predictor.engine.pool_host CONTROL_FD [--work_dir DIR]

and sends `Boot` first. The process ends with its agent, and at once after a failed swap.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import NoReturn

import msgspec
from pilotlight_protocol.engine_frames import Boot, Booted, Failed, HostConfig, Progress, encode
from pilotlight_protocol.errors import PilotlightError

from pilotlight_predictor.engine import endpoint
from pilotlight_predictor.engine.assembly import EngineSettings, configure
from pilotlight_predictor.engine.boot_clock import BootClock
from pilotlight_predictor.engine.errors import EngineMisconfigured
from pilotlight_predictor.engine.outbox import FrontStalled
from pilotlight_predictor.engine.pool_link import PoolLink
from pilotlight_predictor.engine.pool_service import PoolService
from pilotlight_predictor.engine.prepared_process import ensure_environment, enter_slot
from pilotlight_predictor.engine.process_group import die_with_parent, kill_own_group
from pilotlight_predictor.quantization import REQUESTS, Requested

_MODULE = "pilotlight_predictor.engine.pool_host"
_LAST_FRAME_DEADLINE_S = 2.0


def run(control: socket.socket, config: HostConfig | None) -> NoReturn:
    """Serve until Shutdown, the agent's end or a failure; the process then exits. `config` None: it comes as `Boot`."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    os.umask(0o077)
    link = PoolLink(control, on_agent_gone=kill_own_group)
    threading.Thread(target=link.run, name="socket", daemon=True).start()
    exit_code = 0
    try:
        boot(link, config or _first(link)).serve()
    except (FrontStalled, BrokenPipeError, ConnectionResetError) as error:
        sys.stderr.write(f"engine host ends: {error}\n")
        exit_code = 1
    except BaseException as error:
        traceback.print_exc()
        _say_last_words(link, error)
        exit_code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    link.control.drain(_LAST_FRAME_DEADLINE_S)
    # Not sys.exit: nothing that vLLM or torch left behind may keep a failed engine alive.
    os._exit(exit_code)


def boot(link: PoolLink, config: HostConfig) -> PoolService:
    """Build the engine and open the door; `Booted` is told when a token was generated and connections are accepted."""
    clock = BootClock(lambda phase: link.control.send(encode(Progress(phase))))
    clock.enter("import")
    limits = enter_slot(config)
    configured = configure(_settings(config), os.environ, limits)
    from pilotlight_predictor.engine import vllm_arguments, vllm_engine

    fixed = {"model": config.model_dir, "tokenizer": config.model_dir, "served_model_name": config.model_name}
    engine_args = vllm_arguments.build(fixed, configured.arguments)
    engine = vllm_engine.VllmEngine(engine_args, config.loras, clock.enter, swap_threads=limits.cpus)
    link.on_metrics = vllm_engine.exposition
    listener, address = endpoint.listen(endpoint.parse(config.listen))
    link.open_door(listener)
    link.control.send(encode(Booted(engine.describe(clock.phases_s), address, engine.canary)))
    return PoolService(link, engine, config.model_name, clock.phases_s)


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
    )


def _first(link: PoolLink) -> HostConfig:
    (frame,) = link.inbox.take(wait=True)
    if not isinstance(frame, Boot):
        raise TypeError(f"the agent opened with {type(frame).__name__} instead of Boot")
    return frame.config


def _say_last_words(link: PoolLink, error: BaseException) -> None:
    misconfigured = isinstance(error, PilotlightError) and not error.retryable
    reason = error.message if isinstance(error, PilotlightError) else f"{type(error).__name__}: {error}"
    try:
        link.control.send(encode(Failed(reason, misconfigured)))
    except (OSError, FrontStalled):
        sys.stderr.write("engine host: the agent did not hear why\n")


def main(argv: list[str]) -> NoReturn:
    parser = argparse.ArgumentParser(prog=_MODULE)
    parser.add_argument("control_fd", type=int)
    parser.add_argument("--work_dir")
    args = parser.parse_args(argv)
    ensure_environment(_MODULE, argv, args.work_dir)
    die_with_parent()
    os.set_inheritable(args.control_fd, False)
    run(socket.socket(fileno=args.control_fd), None)


if __name__ == "__main__":
    main(sys.argv[1:])
