"""An engine host over a scripted engine: its real sockets, leases and commands, and no vLLM.

    python scripted_host.py CONTROL_FD [--data_fd FD]

The engine counts up from the prompt's last token, as `scripted_engine` does: it ends at EOS, refuses REFUSED, and the
process is killed after two tokens of a prompt with LOST. `engine_args`: `boot_s`, `step_s`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Container, Sequence
from pathlib import Path

from scripted_engine import EOS, LOST, REFUSED, VOCAB_SIZE, scripted_info

from pilotlight_engine.host.agent_commands import AgentCommands, SwapReport
from pilotlight_engine.host.exit_report import run_to_end
from pilotlight_engine.host.host_sockets import HostSockets
from pilotlight_engine.host.lease_service import LeaseService
from pilotlight_engine.process import endpoint
from pilotlight_engine.process.process_group import kill_own_group
from pilotlight_protocol.engine_frames import (
    Adapter,
    Boot,
    Booted,
    EngineInfo,
    EngineRequest,
    EngineStats,
    GenerateRequest,
    Progress,
    SwapCheck,
)
from pilotlight_protocol.errors import InvalidInput, PilotlightError
from pilotlight_protocol.frame_codec import encode
from pilotlight_protocol.generation import FinishReason, TokenDelta
from pilotlight_protocol.pooling import PooledVector, PoolRequest, not_pooling
from pilotlight_protocol.swap_proofs import EngineState


class ScriptedBatch:
    """Implements `agent_commands.HostedEngine`."""

    batch_size = 8
    can_sleep = False
    swap_check = SwapCheck(1, -0.5)

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._running: dict[int, tuple[GenerateRequest, int]] = {}

    def add(self, stream: int, request: EngineRequest, adapter: str = "") -> None:
        if REFUSED in request.prompt_token_ids:
            raise InvalidInput("the engine refuses this request")
        if isinstance(request, PoolRequest):
            raise not_pooling()
        self._running[stream] = (request, 0)

    def abort(self, stream: int) -> None:
        self._running.pop(stream, None)

    def has_work(self) -> bool:
        return bool(self._running)

    def step(self) -> tuple[list[tuple[int, TokenDelta]], list[tuple[int, PilotlightError]]]:
        time.sleep(self._step_s)
        deltas = []
        for stream, (request, done) in list(self._running.items()):
            if LOST in request.prompt_token_ids and done == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            token = (request.prompt_token_ids[-1] + done + 1) % VOCAB_SIZE
            wanted = request.parameters.max_tokens or 16
            stop = token == EOS and not request.parameters.ignore_eos
            reason: FinishReason | None = "stop" if stop else "length" if done + 1 == wanted else None
            self._running[stream] = (request, done + 1)
            if reason is not None:
                del self._running[stream]
            for choice in range(request.parameters.n):
                first = done == 0 and choice == 0
                delta = TokenDelta(choice, [token], reason)
                if first:
                    delta.prompt_tokens, delta.cached_tokens = len(request.prompt_token_ids), 0
                deltas.append((stream, delta))
        return deltas, []

    def take_pooled(self) -> list[tuple[int, PooledVector]]:
        return []

    def stats(self) -> EngineStats:
        return EngineStats(sum(request.parameters.n for request, _ in self._running.values()))

    def describe(self, boot_phases_s: dict[str, float]) -> EngineInfo:
        return scripted_info()

    def swap(self, model_dir: Path, model_name: str, loras: Sequence[tuple[str, str]]) -> SwapReport:
        raise NotImplementedError

    def load_adapter(self, adapter: Adapter, in_use: Container[str]) -> None: ...
    def examine(self) -> EngineState:
        raise NotImplementedError

    def forget(self) -> None: ...
    def renew_metrics(self) -> None: ...
    def rename(self, model_name: str) -> None: ...
    def sleep(self, level: int) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


def serve(sockets: HostSockets, data: socket.socket | None) -> None:
    (boot,) = sockets.inbox.take(wait=True)
    assert isinstance(boot, Boot)
    sockets.control.send(encode(Progress("load")))
    time.sleep(float(boot.config.engine_args.get("boot_s", "0")))
    engine = ScriptedBatch(float(boot.config.engine_args.get("step_s", "0.001")))
    sockets.on_metrics = lambda: b"vllm:num_requests_running 0\n"
    address = ""
    if data is None:
        listener, address = endpoint.listen(endpoint.parse(boot.config.listen))
        sockets.open_door(listener)
    else:
        sockets.let_in(data)
    sockets.control.send(encode(Booted(scripted_info(), address, engine.swap_check)))
    leases = LeaseService(sockets, engine, boot.config.model_name, {})
    leases.serve(AgentCommands(sockets, engine, leases).obey)


def main(control_fd: str, data_fd: str = "") -> None:
    sockets = HostSockets(socket.socket(fileno=int(control_fd)), on_agent_gone=kill_own_group)
    threading.Thread(target=sockets.run, name="socket", daemon=True).start()
    data = socket.socket(fileno=int(data_fd.partition("=")[2])) if data_fd else None
    run_to_end(sockets.control, lambda: serve(sockets, data))


if __name__ == "__main__":
    main(*sys.argv[1:])
