import ctypes
from pathlib import Path

import pytest
from pilotlight_predictor.engine import device_facts
from pilotlight_predictor.quantization import DeviceFacts


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
        handle._obj.value = index.value + 1  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, handle: ctypes.c_void_p, major: object, minor: object) -> int:
        assert handle.value is not None
        major._obj.value, minor._obj.value = self.gpus[handle.value - 1]  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetName(self, handle: ctypes.c_void_p, name: ctypes.Array[ctypes.c_char], size: object) -> int:
        name.value = b"NVIDIA Test"
        return 0


@pytest.fixture(autouse=True)
def _cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_facts, "_is_installed", lambda name: False)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, (8, 0)), ("1", (9, 0)), ("1,0", (9, 0)), ("", None), ("-1", None), ("7", None)],
)
def test_the_first_visible_gpu_counts(tmp_path: Path, visible: str | None, expected: tuple[int, int] | None) -> None:
    nvml = FakeNvml((8, 0), (9, 0))
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    facts = device_facts.read(environment, tmp_path / "absent", lambda: nvml)
    if expected is None:
        assert facts == DeviceFacts("cpu")
    else:
        assert facts == DeviceFacts("cuda", expected, name="NVIDIA Test")
    assert nvml.opened == 0


@pytest.mark.parametrize(("flags", "amx"), [("fpu avx512f amx_tile amx_bf16", True), ("fpu avx2", False)])
def test_without_a_driver_it_is_a_cpu(tmp_path: Path, flags: str, amx: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")

    def no_driver() -> None:
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    assert device_facts.read({}, cpuinfo, no_driver) == DeviceFacts("cpu", amx=amx)
