"""A zygote and engine hosts that speak the frames and own no engine: `python fake_zygote.py FD`.

A model is a folder whose `fake.json` says how its engines behave; everything is optional:

    {"tokens": [7], "boot_s": 0.02, "swap_s": 0.005, "step_s": 0.001,
     "boot": "crash|misconfigured|hang", "swap": "fail|refuse|crash|hang", "revoke": "hang",
     "once": "path of a file: misbehave only until it exists", "swap_check": [7, -0.5], "swap_check_after": [8, -3.0]}

Generate answers with `tokens`, one per step and as many as asked for, `step_s` apart; with `"counting": 100` it counts
up by that from the prompt's last token instead, so that a request that goes on elsewhere can be told apart.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import hmac
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from pilotlight_protocol import engine_frames as f
from pilotlight_protocol.frame_codec import FrameSplitter, encode
from pilotlight_protocol.generation import TokenDelta


def info(boot_s: float) -> f.EngineInfo:
    phases_s = {"config": boot_s / 2, "load": boot_s / 2}
    return f.EngineInfo(2048, 32000, [2], 16, 64, "none", "cpu", phases_s)


class Host:
    def __init__(self, config: f.HostConfig, control: socket.socket) -> None:
        self.config = config
        self.control = control
        self.model = load(config.model_dir)
        self.model_name = config.model_name
        self.generation = 0
        self.grants: dict[str, f.Grant] = {}
        self.holders: dict[socket.socket, str] = {}
        self.streams: dict[tuple[socket.socket, int], list[Any]] = {}
        self.was_busy = False

    def run(self) -> None:
        self.tell(f.Progress("load"))
        boot_s = self.model.get("boot_s", 0.02)
        time.sleep(boot_s)
        misbehave(self.model, "boot", self.fail)
        endpoint = self.config.listen
        if endpoint.startswith("unix://"):
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(endpoint.removeprefix("unix://"))
            self.listener.listen()
        else:
            host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
            self.listener = socket.create_server((host, int(port)))
            endpoint = f"tcp://{host}:{self.listener.getsockname()[1]}"
        self.tell(f.Booted(info(boot_s), endpoint, self.swap_check("swap_check")))
        splitters: dict[socket.socket, FrameSplitter] = {self.control: FrameSplitter()}
        agent, lease = msgspec.msgpack.Decoder(f.AgentFrame), msgspec.msgpack.Decoder(f.LeaseFrame)
        while True:
            readable, _, _ = select.select([*splitters, self.listener], [], [], self.step())
            for sock in readable:
                if sock is self.listener:
                    splitters[sock.accept()[0]] = FrameSplitter()
                    continue
                data = b""
                with contextlib.suppress(OSError):
                    data = sock.recv(65536)
                if not data and sock is self.control:
                    os._exit(0)
                if not data:
                    splitters.pop(sock).feed(b"")
                    sock.close()
                    self.forget(sock)
                    continue
                for body in list(splitters[sock].feed(data)):
                    if sock is self.control:
                        self.command(agent.decode(body))
                    else:
                        self.request(sock, lease.decode(body))
            for sock in [sock for sock in splitters if sock.fileno() < 0]:
                del splitters[sock]

    def command(self, frame: f.AgentFrame) -> None:
        match frame:
            case f.Swap(generation, model_dir, model_name):
                model = load(model_dir)
                time.sleep(model.get("swap_s", 0.005))
                kind = trouble(model, "swap")
                if kind == "refuse":
                    self.tell(f.SwapRefused(generation, "another architecture"))
                    return
                if kind == "fail":
                    self.tell(f.SwapFailed(generation, "a tensor is missing"))
                    os._exit(1)
                misbehave(model, "swap", self.fail)
                self.close_holders("swapped")
                self.model, self.model_name, self.generation = model, model_name, generation
                phases_s = {"drain": 0.0, "weights": model.get("swap_s", 0.005), "reset": 0.0}
                swap_check = self.swap_check("swap_check_after" if "swap_check_after" in model else "swap_check")
                self.tell(f.Swapped(generation, phases_s, info(0.0), swap_check))
            case f.Grant(lease_id):
                if not frame.beside:
                    self.close_holders("another lease")
                self.grants[lease_id] = frame
                self.model_name = frame.model_name or self.model_name
                self.tell(f.Granted(lease_id))
            case f.Revoke(lease_id, reason):
                if trouble(self.model, "revoke") == "hang":
                    time.sleep(600)
                self.close_holders(reason, lease_id)
                self.tell(f.Revoked(lease_id))
            case f.Sleep():
                if self.config.engine_args.get("enable_sleep_mode") != "true":
                    self.tell(f.Rejected("Sleep", 501, "booted without sleep mode"))
                    return
                self.close_holders("put to sleep")
                self.tell(f.Slept())
            case f.Wake():
                misbehave(self.model, "wake", self.fail)
                self.tell(f.Woken())
            case f.Ping():
                self.tell(f.Pong())
            case f.Check(call):
                self.tell(f.Checked(call))
            case f.Shutdown():
                os._exit(0)

    def request(self, sock: socket.socket, frame: f.LeaseFrame) -> None:
        match frame:
            case f.Hello(lease_id, secret):
                digest = hashlib.sha256(secret.encode()).hexdigest()
                grant = self.grants.get(lease_id)
                if grant is None or not hmac.compare_digest(grant.secret_sha256, digest):
                    sock.close()
                    return
                self.holders[sock] = lease_id
                sock.sendall(encode(f.Welcome(info(0.0), f.EngineStats(), self.model_name)))
            case f.Generate(stream, request) if sock in self.holders:
                self.streams[sock, stream] = [request.parameters.max_tokens or 1, 0, request.prompt_token_ids[-1]]
            case f.Check(call):
                sock.sendall(encode(f.Checked(call)))
            case f.Metrics(call):
                sock.sendall(encode(f.MetricsText(call, b"")))
            case f.Abort(stream):
                self.streams.pop((sock, stream), None)

    def step(self) -> float | None:
        """Send a token of every stream; returns how long to sleep, None for until there is work."""
        if bool(self.streams) != self.was_busy:
            self.was_busy = bool(self.streams)
            self.tell(f.Busy() if self.was_busy else f.Idle())
        if not self.streams:
            return None
        deltas: dict[socket.socket, list[tuple[int, TokenDelta]]] = {sock: [] for sock, _ in self.streams}
        tokens, counting = self.model.get("tokens", [7]), self.model.get("counting")
        for (sock, stream), (left, sent, prompt) in list(self.streams.items()):
            last = left == 1
            token = tokens[sent % len(tokens)] if counting is None else (prompt + counting * (sent + 1)) % 32000
            deltas[sock].append((stream, TokenDelta(0, [token], "length" if last else None)))
            self.streams[sock, stream] = [left - 1, sent + 1, prompt]
            if last:
                del self.streams[sock, stream]
        for sock, share in deltas.items():
            with contextlib.suppress(OSError):
                sock.sendall(encode(f.Step(share, f.EngineStats(len(self.streams)))))
        return float(self.model.get("step_s", 0.001))

    def close_holders(self, reason: str, only: str = "") -> None:
        """Of every lease, or of this one `only`."""
        self.grants = {lease_id: grant for lease_id, grant in self.grants.items() if only not in ("", lease_id)}
        for sock in [sock for sock, lease_id in self.holders.items() if only in ("", lease_id)]:
            self.forget(sock)
            with contextlib.suppress(OSError):
                sock.sendall(encode(f.Failed(reason)))
                sock.shutdown(socket.SHUT_RDWR)

    def forget(self, holder: socket.socket) -> None:
        self.holders.pop(holder, None)
        self.streams = {key: stream for key, stream in self.streams.items() if key[0] is not holder}

    def swap_check(self, name: str) -> f.SwapCheck:
        token_id, logprob = (
            self.model.get(name) or self.model.get("swap_check") or [self.model.get("tokens", [7])[0], -0.5]
        )
        return f.SwapCheck(token_id, logprob)

    def fail(self, kind: str) -> None:
        if kind == "misconfigured":
            self.tell(f.Failed("engine argument 'nonsense' is unknown", misconfigured=True))
            os._exit(1)
        if kind == "hang":
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)

    def tell(self, frame: f.ControlFrame) -> None:
        try:
            self.control.sendall(encode(frame))
        except OSError:
            os._exit(0)


def load(model_dir: str) -> dict[str, Any]:
    path = Path(model_dir) / "fake.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def trouble(model: dict[str, Any], when: str) -> str:
    kind = str(model.get(when, ""))
    once = model.get("once")
    if not kind or once is None:
        return kind
    if Path(once).exists():
        return ""
    Path(once).touch()
    return kind


def misbehave(model: dict[str, Any], when: str, fail: Any) -> None:
    if kind := trouble(model, when):
        fail(kind)


def main() -> None:
    agent = socket.socket(fileno=int(sys.argv[1]))
    agent.sendall(encode(f.ZygoteReady(os.getpid(), 0.0)))
    decoder, splitter = msgspec.msgpack.Decoder(f.Fork), FrameSplitter()
    children: dict[int, str] = {}
    while True:
        readable, _, _ = select.select([agent], [], [], 0.02 if children else None)
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            agent.sendall(encode(f.HostExited(children.pop(pid), pid, os.waitstatus_to_exitcode(status))))
        if not readable:
            continue
        data, fds, _, _ = socket.recv_fds(agent, 65536, 2)
        if not data:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            os._exit(0)
        for body in splitter.feed(data):
            config = decoder.decode(body).config
            pid = os.fork()
            if pid == 0:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, as real hosts do
                agent.close()
                os.dup2(fds[1], 1)
                os.dup2(fds[1], 2)
                os.close(fds[1])
                try:
                    Host(config, socket.socket(fileno=fds[0])).run()
                finally:
                    os._exit(1)
            children[pid] = config.slot
            for number in fds:
                os.close(number)
            agent.sendall(encode(f.Forked(config.slot, pid)))


if __name__ == "__main__":
    main()
