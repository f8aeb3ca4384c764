"""The engine host: one process that owns one vLLM engine and serves one front over one inherited socket.

Two threads. The main thread boots and steps the engine and writes the frames; the socket thread reads frames, answers
`Metrics`, sends what a slow front left over, and ends the process when the front is gone. A failure in the engine ends
the process with its reason as the last frame: there is no half-alive engine. Signals are the front's business.

    python -m pilotlight_engine.host.child_host SOCKET_FD
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from pilotlight_engine.contract import EngineStats
from pilotlight_engine.host.exit_report import run_to_end
from pilotlight_engine.host.host_socket import HostSocket
from pilotlight_engine.process.boot_clock import BootClock
from pilotlight_engine.process.process_group import die_with_parent, kill_own_group
from pilotlight_protocol.engine_frames import (
    Abort,
    Check,
    Checked,
    Configure,
    Generate,
    Progress,
    Ready,
    Refused,
    Shutdown,
    Step,
    encode,
)
from pilotlight_protocol.errors import PilotlightError

if TYPE_CHECKING:
    from pilotlight_engine.vllm_adapter.vllm_engine import VllmEngine


def boot(link: HostSocket, config: Configure) -> VllmEngine:
    """Import vLLM and build the engine; the last phase generates a token, so `Ready` means that it can."""
    clock = BootClock(lambda phase: link.outbox.send(encode(Progress(phase))))
    clock.enter("import")
    from pilotlight_engine.boot import vllm_arguments
    from pilotlight_engine.vllm_adapter import vllm_engine

    engine_args = vllm_arguments.build(
        {"model": config.model_dir, "tokenizer": config.model_dir, "served_model_name": config.model_name},
        config.arguments,
    )
    engine = vllm_engine.VllmEngine(engine_args, config.loras, clock.enter)
    link.on_metrics = vllm_engine.exposition
    link.outbox.send(encode(Ready(engine.describe(clock.phases_s), engine.stats())))
    return engine


def serve(link: HostSocket, engine: VllmEngine) -> None:
    """Step while there is work, sleep while there is none; returns on Shutdown."""
    sent_stats = EngineStats()
    while True:
        for frame in link.inbox.take(wait=not engine.has_work()):
            match frame:
                case Generate(stream, request):
                    try:
                        engine.add(stream, request)
                    except PilotlightError as error:
                        link.outbox.send(encode(Refused(stream, error.http_status, error.message)))
                case Abort(stream):
                    engine.abort(stream)
                case Check(call):
                    link.outbox.send(encode(Checked(call)))
                case Shutdown():
                    return
        if not engine.has_work():
            continue
        deltas, failures = engine.step()
        stats = engine.stats()
        if deltas or stats != sent_stats:
            link.outbox.send(encode(Step(deltas, stats)))
            sent_stats = stats
        for stream, failure in failures:
            engine.abort(stream)
            link.outbox.send(encode(Refused(stream, failure.http_status, failure.message)))


def main(argv: list[str]) -> NoReturn:
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    die_with_parent()
    link = HostSocket(socket.socket(fileno=int(argv[1])), on_front_gone=kill_own_group)
    threading.Thread(target=link.run, name="socket", daemon=True).start()
    run_to_end(link.outbox, lambda: _configured(link))


def _configured(link: HostSocket) -> None:
    (config,) = link.inbox.take(wait=True)
    if not isinstance(config, Configure):
        raise TypeError(f"the front opened with {type(config).__name__} instead of Configure")
    engine = boot(link, config)
    serve(link, engine)
    engine.close()


if __name__ == "__main__":
    main(sys.argv)
