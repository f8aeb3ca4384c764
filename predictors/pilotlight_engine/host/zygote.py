"""The zygote: a process that has imported vLLM and forks engine hosts, so that none of them pays for the imports.

    python -m pilotlight_engine.host.zygote SOCKET_FD [--work_dir DIR]

It speaks the zygote's frames with the agent on the inherited socket. It never touches CUDA, runs no tensor operation
and has one thread: what is forked is memory and nothing that another thread or a driver would miss. It ends with the
agent; the hosts end with it (PR_SET_PDEATHSIG) and with the agent (their control sockets).
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import msgspec

from pilotlight_engine.boot import compile_cache
from pilotlight_engine.host import engine_host
from pilotlight_engine.process import device_probe
from pilotlight_engine.process.prepared_process import ensure_environment
from pilotlight_engine.process.process_group import die_with_parent, kill_group
from pilotlight_protocol.engine_frames import Fork, Forked, ForkFailed, HostConfig, HostExited, ZygoteFrame, ZygoteReady
from pilotlight_protocol.frame_codec import FrameSplitter, encode

_MODULE = "pilotlight_engine.host.zygote"
_READ_BYTES = 1 << 16
_MAX_FDS = 2
# What a boot of a text model imports; other architectures are imported by the host that needs them.
_PREIMPORTED = (
    "pilotlight_engine.boot.vllm_arguments",
    "pilotlight_engine.vllm_adapter.vllm_engine",
    "vllm.model_executor.models.llama",
    "vllm.v1.worker.worker_base",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.structured_output",
    "vllm.model_executor.model_loader.default_loader",
    "torch._dynamo",
)
# What vLLM and torch import late, when a CPU worker starts and when it loads a compiled graph.
_PREIMPORTED_ON_CPU = (
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.core.sched.async_scheduler",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.compilation.backends",
    "vllm.compilation.caching",
    "vllm.model_executor.layers.quantization.online.base",
    "vllm.plugins.lora_resolvers.filesystem_resolver",
    "vllm.plugins.lora_resolvers.hf_hub_resolver",
    "vllm.profiler.wrapper",
    "vllm.renderers.hf",
    "torch._dynamo.backends.inductor",
    "torch._functorch._aot_autograd.subclass_codegen",
    "torch._inductor.codegen.wrapper_fxir",
    "torch._inductor.compile_fx",
    "torch.distributed.tensor.experimental",
    "torch.export._trace",
)


class Zygote:
    """Forks on `Fork`, reaps and reports. `run` returns when the agent has closed its end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._splitter = FrameSplitter()
        self._decoder = msgspec.msgpack.Decoder(Fork)
        self._slots: dict[int, str] = {}
        self._loads_graphs = _prepare_loading_graphs()
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        sock_fd = self._sock.fileno()
        while True:
            readable, _, _ = select.select([sock_fd, self._wake_r], [], [])
            if self._wake_r in readable:
                os.read(self._wake_r, _READ_BYTES)
                self._reap()
                # An engine that has ended may have been the first to compile.
                self._loads_graphs = self._loads_graphs or _prepare_loading_graphs()
            if sock_fd in readable and not self._read():
                return

    def _read(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._sock, _READ_BYTES, _MAX_FDS)
        for body in self._splitter.feed(data):
            fork = self._decoder.decode(body)
            if len(fds) == _MAX_FDS:
                self._fork(fork.config, *fds)
            else:
                self._tell(ForkFailed(fork.config.slot, f"{_MAX_FDS} descriptors belong to a Fork, {len(fds)} came"))
        for fd in fds:
            os.close(fd)
        return bool(data)

    def _fork(self, config: HostConfig, control_fd: int, output_fd: int) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(ForkFailed(config.slot, f"fork failed: {error}"))
            return
        if pid == 0:
            self._become_host(config, control_fd, output_fd, parent)
        self._slots[pid] = config.slot
        self._tell(Forked(config.slot, pid))

    def _become_host(self, config: HostConfig, control_fd: int, output_fd: int, parent: int) -> NoReturn:
        try:
            os.setsid()
            die_with_parent()
            if os.getppid() != parent:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._sock.close()
            os.close(self._wake_r)
            os.close(self._wake_w)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(output_fd, stream.fileno())
            os.close(output_fd)
            gc.enable()
            engine_host.run(socket.socket(fileno=control_fd), config)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            slot = self._slots.pop(ended.si_pid, None)
            if slot is not None:
                # Its workers, where it had any. Before it is reaped: until then nobody else can have its number.
                kill_group(ended.si_pid)
            _, status = os.waitpid(ended.si_pid, 0)
            if slot is not None:
                self._tell(HostExited(slot, ended.si_pid, os.waitstatus_to_exitcode(status)))

    def _tell(self, frame: ZygoteFrame) -> None:
        self._sock.sendall(encode(frame))


def preimport() -> float:
    """Import what hosts need; returns the seconds it took. Raises RuntimeError when a fork would not be safe."""
    began_s = time.monotonic()
    for module in (*_PREIMPORTED, *(_PREIMPORTED_ON_CPU if _is_on_cpu() else ())):
        importlib.import_module(module)
    _seal()
    return time.monotonic() - began_s


def _is_on_cpu() -> bool:
    return device_probe.read(os.environ).kind == "cpu"


def _prepare_loading_graphs() -> bool:
    if not _is_on_cpu() or not compile_cache.prepare_loading():
        return False
    _seal()
    return True


def _seal() -> None:
    """Leave everything so far to the forks. Raises RuntimeError as `preimport` does."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(f"the imports left {threads} threads; a process with threads must not fork engine hosts")
    if importlib.import_module("torch").cuda.is_initialized():
        raise RuntimeError("the imports touched CUDA; no forked host could use it")
    gc.collect()
    # Everything so far is shared with the hosts; a collection in one of them would write to every page of it.
    gc.freeze()


def main(argv: list[str]) -> NoReturn:
    parser = argparse.ArgumentParser(prog=_MODULE)
    parser.add_argument("socket_fd", type=int)
    parser.add_argument("--work_dir")
    args = parser.parse_args(argv)
    ensure_environment(_MODULE, argv, args.work_dir)
    die_with_parent()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    os.set_inheritable(args.socket_fd, False)
    sock = socket.socket(fileno=args.socket_fd)
    gc.disable()
    import_s = preimport()
    sock.sendall(encode(ZygoteReady(os.getpid(), import_s)))
    Zygote(sock).run()
    # Not sys.exit: the interpreter's end takes a second with this many modules and says what they leak.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
