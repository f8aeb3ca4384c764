import ctypes
import platform
from pathlib import Path

import pytest

from pilotlight_engine.boot import assembly
from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_engine.process import device_probe
from pilotlight_engine.process.machine import MachineLimits
from pilotlight_engine.quantization import Device
from pilotlight_models import bundled_model_path

GPU_BYTES = 80 * 2**30


class FakeNvml:
    """Answers like libnvidia-ml for GPUs given as (major, minor)."""

    def __init__(self, *gpus: tuple[int, int]) -> None:
        self.gpus = gpus
        self.opened = 0

    def nvmlInit_v2(self) -> int:
        self.opened += 1
        return 0

    def nvmlShutdown(self) -> int:
        self.opened -= 1
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: object) -> int:
        if index.value >= len(self.gpus):
            return 2
        handle._obj.value = index.value + 1  # type: ignore[attr-defined]  # ctypes.byref has no type of its own
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, handle: ctypes.c_void_p, major: object, minor: object) -> int:
        assert handle.value is not None
        major._obj.value, minor._obj.value = self.gpus[handle.value - 1]  # type: ignore[attr-defined]  # ctypes.byref has no type of its own
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: ctypes.c_void_p, memory: object) -> int:
        memory._obj.total = GPU_BYTES  # type: ignore[attr-defined]  # ctypes.byref has no type of its own
        return 0

    def nvmlDeviceGetName(self, handle: ctypes.c_void_p, name: ctypes.Array[ctypes.c_char], size: object) -> int:
        name.value = b"NVIDIA Test"
        return 0


@pytest.fixture(autouse=True)
def _cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_probe, "_is_installed", lambda name: False)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, (8, 0)), ("1", (9, 0)), ("1,0", (9, 0)), ("", None), ("-1", None), ("7", None)],
)
def test_the_first_visible_gpu_counts(tmp_path: Path, visible: str | None, expected: tuple[int, int] | None) -> None:
    nvml = FakeNvml((8, 0), (9, 0))
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = device_probe.read(environment, tmp_path / "absent", lambda: nvml)
    if expected is None:
        assert found == Device("cpu", instructions=platform.machine())
    else:
        assert found == Device("cuda", expected, name="NVIDIA Test", memory_bytes=GPU_BYTES)
    assert nvml.opened == 0


@pytest.mark.parametrize(
    ("flags", "amx", "chosen"),
    [("fpu avx512f amx_tile amx_bf16 avx2", True, "+avx2+avx512f+amx_tile"), ("fpu avx2", False, "+avx2")],
)
def test_without_a_driver_it_is_a_cpu(tmp_path: Path, flags: str, amx: bool, chosen: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")

    def no_driver() -> None:
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    expected = Device("cpu", amx=amx, instructions=platform.machine() + chosen)
    assert device_probe.read({}, cpuinfo, no_driver) == expected


@pytest.mark.parametrize(
    ("slot_bytes", "share"), [(70 * 2**30, "0.875"), (GPU_BYTES, "1"), (GPU_BYTES // 3, "0.333"), (None, None)]
)
def test_a_slots_share_of_a_gpu_bounds_its_engine(
    monkeypatch: pytest.MonkeyPatch, slot_bytes: int | None, share: str | None
) -> None:
    gpu = Device("cuda", (9, 0), memory_bytes=GPU_BYTES)
    monkeypatch.setattr(device_probe, "read", lambda environment: gpu)
    settings = assembly.EngineSettings(bundled_model_path("demo-bf16"), "m", device_memory_bytes=slot_bytes)
    configured = assembly.configure(settings, {}, MachineLimits(2, 2**34))
    assert dict(configured).get("gpu_memory_utilization") == share


def test_an_engine_argument_does_not_step_over_the_slots_share(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Device("cuda", (9, 0), memory_bytes=GPU_BYTES)
    monkeypatch.setattr(device_probe, "read", lambda environment: gpu)
    greedy = {"gpu_memory_utilization": "0.99"}
    for slot_bytes, share in ((40 * 2**30, "0.5"), (None, "0.99")):
        settings = assembly.EngineSettings(
            bundled_model_path("demo-bf16"), "m", engine_args=greedy, device_memory_bytes=slot_bytes
        )
        configured = assembly.configure(settings, {}, MachineLimits(2, 2**34))
        assert dict(configured)["gpu_memory_utilization"] == share


def test_a_slot_larger_than_its_gpu_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Device("cuda", (9, 0), memory_bytes=GPU_BYTES)
    monkeypatch.setattr(device_probe, "read", lambda environment: gpu)
    settings = assembly.EngineSettings(bundled_model_path("demo-bf16"), "m", device_memory_bytes=GPU_BYTES + 1)
    with pytest.raises(EngineMisconfigured, match=r"80\.0 GiB, its GPU only 80\.0 GiB"):
        assembly.configure(settings, {}, MachineLimits(2, 2**34))
