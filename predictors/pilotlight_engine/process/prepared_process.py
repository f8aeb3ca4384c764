"""Puts a process of the warm pool into the state an engine needs: its environment before any import, its slot after.

The agent knows nothing of vLLM, so a zygote or host it starts execs itself once with the environment an engine wants
(libraries to preload cannot be added later). What differs between slots is applied in the process, because a forked
host has imported torch already. Must not import vLLM or torch itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from pilotlight_engine.process import device_probe, machine
from pilotlight_engine.process.environment import engine_environment
from pilotlight_engine.process.machine import MachineLimits
from pilotlight_engine.process.work_dir import open_work_dir
from pilotlight_protocol.engine_frames import HostConfig

_MARK = "PILOTLIGHT_PREPARED_PROCESS"


def ensure_environment(module: str, argv: Sequence[str], work_dir: str | None) -> None:
    """Returns at once in a process that was prepared; else it execs `python -m module *argv` prepared."""
    mark = str(os.getpid())
    if os.environ.pop(_MARK, None) == mark:
        return
    on_cpu = device_probe.read(os.environ).kind == "cpu"
    environment = engine_environment(
        os.environ,
        open_work_dir(work_dir, os.environ),
        cpus=machine.limits().cpus if on_cpu else None,
        preload=machine.cpu_preload() if on_cpu else (),
        instruction_set=machine.instruction_set(),
    )
    # NumPy's BLAS would start threads at import, and a process with threads must not fork.
    environment |= {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", _MARK: mark}
    os.execve(sys.executable, [sys.executable, "-m", module, *argv], environment)  # noqa: S606


def slot_environment(config: HostConfig) -> dict[str, str]:
    """What a slot adds to the environment: its device, and no compiler where nothing is compiled. Pure."""
    kind, _, index = config.device.partition(":")
    added: dict[str, str] = {}
    if kind == "cuda" and index:
        added["CUDA_VISIBLE_DEVICES"] = index
    if config.engine_args.get("enforce_eager") == "true":
        added["TORCH_COMPILE_DISABLE"] = "1"
    return added


def slot_limits(config: HostConfig, whole: MachineLimits) -> MachineLimits:
    """The slot's share; never more than the machine has. Pure."""
    cpus = whole.cpus if config.cpus is None else max(1, min(config.cpus, whole.cpus))
    memory_bytes = whole.memory_bytes if config.memory_bytes is None else min(config.memory_bytes, whole.memory_bytes)
    return MachineLimits(cpus, memory_bytes)


def enter_slot(config: HostConfig) -> MachineLimits:
    """Apply both to this process, and tell torch, which it imports after the environment is set.

    A forked host has torch already; in any other the OpenMP library, being preloaded, has counted its threads long ago.
    """
    added = slot_environment(config)
    os.environ.update(added)
    limits = slot_limits(config, machine.limits())
    if config.cpus is not None:
        os.environ["OMP_NUM_THREADS"] = str(limits.cpus)
    import_module("torch").set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    if "TORCH_COMPILE_DISABLE" in added:
        do_without_compiler()
    return limits


def do_without_compiler() -> None:
    """For an engine that compiles nothing of its own: vLLM's small functions are not to be compiled at first use."""
    os.environ["TORCH_COMPILE_DISABLE"] = "1"
    vars(import_module("torch._dynamo.config"))["disable"] = True
