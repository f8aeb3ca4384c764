"""Which quantization method vLLM is told to use for a checkpoint on a device, or why not. Pure: no I/O, no vLLM.

The rules are vLLM 0.32's: `vllm/model_executor/layers/quantization` (methods, least capabilities) and
`vllm/model_executor/kernels/linear` (which kernel takes which weights on which platform).

    scheme of the checkpoint     CUDA                                           CPU
    awq      4-bit weights       >= 7.5 (Marlin from 8.0)                       yes
    gptq     4 or 8 bit weights  >= 7.5 (Marlin from 8.0), symmetric only       4 bit, symmetric only
    int4     compressed-tensors  >= 7.5                                         yes
    int8     W8A8 / W8A16        >= 7.5                                         W8A8 only
    fp8      W8A8                >= 8.9, weight-only (Marlin) from 8.0          with AMX
    none     bf16/fp16           bf16 from 8.0, else computed in float16        yes

An unquantized checkpoint can be quantized while it loads to fp8 only (vLLM's `fp8_per_tensor`), on a GPU: the CPU
build's `static_scaled_fp8_quant` is empty, and the load breaks off, with AMX too. Load-time int8 covers the experts of
a mixture-of-experts model and leaves the other layers alone, so it is not offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pilotlight_protocol.model_config import dtype_of, quantization_settings

Requested = Literal["auto", "awq", "gptq", "fp8", "int8", "none"]
Scheme = Literal["none", "awq", "gptq", "int4", "int8", "fp8", "other"]

REQUESTS: tuple[Requested, ...] = ("auto", "awq", "gptq", "fp8", "int8", "none")

_MARLIN = (8, 0)
_TURING = (7, 5)
_BF16 = (8, 0)
_FP8_NATIVE = (8, 9)
_FP8_WEIGHT_ONLY = (8, 0)


@dataclass(frozen=True)
class CheckpointFormat:
    """What config.json says. `method` is its `quant_method` ("" when unquantized), `bits` the width of a weight."""

    scheme: Scheme = "none"
    method: str = ""
    bits: int = 16
    symmetric: bool = True
    quantized_activations: bool = False
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class Device:
    """`capability` is CUDA's compute capability as (major, minor), (0, 0) on a CPU. `amx`: AMX tiles (x86).
    `memory_bytes`: the GPU's, 0 on a CPU. `instructions`: of a CPU, those by which vLLM and oneDNN choose a kernel."""

    kind: Literal["cpu", "cuda"]
    capability: tuple[int, int] = (0, 0)
    amx: bool = False
    name: str = ""
    memory_bytes: int = 0
    instructions: str = ""


@dataclass(frozen=True)
class QuantizationChoice:
    """`vllm_method` is the value of vLLM's `quantization` (None: unquantized), `dtype` of its `dtype`."""

    vllm_method: str | None
    dtype: str
    reason: str


@dataclass(frozen=True)
class QuantizationRefused:
    """The checkpoint cannot be served as asked; `use_instead` is what a person can do."""

    reason: str
    use_instead: str


def choose(
    requested: Requested, checkpoint: CheckpointFormat, device: Device
) -> QuantizationChoice | QuantizationRefused:
    """`auto` takes the checkpoint as it is; any other request must agree with it."""
    if checkpoint.scheme == "none":
        return _unquantized(requested, checkpoint, device)
    disagreement = _disagreement(requested, checkpoint)
    if disagreement is not None:
        return disagreement
    match checkpoint.scheme:
        case "awq":
            return _awq(checkpoint, device)
        case "gptq":
            return _gptq(checkpoint, device)
        case "fp8":
            return _fp8(checkpoint, device)
        case "int4" | "int8":
            return _integer(checkpoint, device)
    return QuantizationChoice(
        checkpoint.method, _dtype(checkpoint, device), f"the checkpoint says '{checkpoint.method}'; vLLM decides"
    )


def checkpoint_format(config: Mapping[str, Any]) -> CheckpointFormat:
    """Read a parsed config.json (transformers' layout); unknown methods become scheme "other"."""
    dtype = dtype_of(config, ()) or "bfloat16"
    found = quantization_settings(config)
    method = str(found.get("quant_method", "")).lower()
    if not method:
        return CheckpointFormat(dtype=dtype)
    if method == "compressed-tensors":
        return _compressed_tensors(found, dtype)
    bits = int(found.get("bits") or found.get("w_bit") or (8 if method == "fp8" else 4))
    scheme: Scheme = method if method in ("awq", "gptq", "fp8") else "other"  # type: ignore[assignment]
    return CheckpointFormat(
        scheme=scheme,
        method=method,
        bits=bits,
        symmetric=bool(found.get("sym", not found.get("zero_point", False))),
        quantized_activations=method == "fp8",
        dtype=dtype,
    )


def _compressed_tensors(found: Mapping[str, Any], dtype: str) -> CheckpointFormat:
    groups = list((found.get("config_groups") or {}).values())
    weights = (groups[0].get("weights") or {}) if groups else {}
    bits = int(weights.get("num_bits") or 16)
    kind = str(weights.get("type") or "")
    schemes: dict[tuple[str, int], Scheme] = {("int", 4): "int4", ("int", 8): "int8", ("float", 8): "fp8"}
    return CheckpointFormat(
        scheme=schemes.get((kind, bits), "other"),
        method="compressed-tensors",
        bits=bits,
        symmetric=bool(weights.get("symmetric", True)),
        quantized_activations=bool(groups and groups[0].get("input_activations")),
        dtype=dtype,
    )


def _disagreement(requested: Requested, checkpoint: CheckpointFormat) -> QuantizationRefused | None:
    if requested in ("auto", checkpoint.scheme):
        return None
    if requested == "none":
        return QuantizationRefused(
            f"quantization 'none' was asked for, but the checkpoint holds {_describe(checkpoint)} weights",
            "use --quantization auto, or the unquantized checkpoint of this model",
        )
    return QuantizationRefused(
        f"quantization '{requested}' was asked for, but the checkpoint holds {_describe(checkpoint)} weights",
        f"use --quantization auto, or a checkpoint of this model quantized with {requested.upper()}",
    )


def _unquantized(
    requested: Requested, checkpoint: CheckpointFormat, device: Device
) -> QuantizationChoice | QuantizationRefused:
    if requested in ("auto", "none"):
        dtype = _dtype(checkpoint, device)
        lowered = f"; {_where(device)} computes no bfloat16, so float16" if dtype == "float16" else ""
        return QuantizationChoice(None, dtype, f"the checkpoint is not quantized{lowered}")
    if requested == "fp8":
        problem = f"an unquantized checkpoint cannot be loaded as fp8 on {_where(device)}"
        if device.kind == "cpu":
            return QuantizationRefused(
                f"{problem}: vLLM's CPU build does not quantize at load",
                "use an AWQ or GPTQ 4-bit checkpoint, or --quantization auto to serve it as it is",
            )
        refused = _fp8_unavailable(device, problem)
        if refused is not None:
            return refused
        return QuantizationChoice(
            "fp8_per_tensor", _dtype(checkpoint, device), f"quantized to fp8 while it loads{_fp8_how(device)}"
        )
    if requested == "int8":
        return QuantizationRefused(
            "quantization 'int8' was asked for, but the checkpoint is not quantized and vLLM cannot do it at load",
            "use a W8A8 checkpoint (compressed-tensors, made with llmcompressor), or --quantization fp8 on a GPU",
        )
    return QuantizationRefused(
        f"quantization '{requested}' was asked for, but the checkpoint is not quantized",
        f"quantize it first, or use a published -{requested.upper()} checkpoint of this model; "
        "--quantization auto serves it as it is",
    )


def _awq(checkpoint: CheckpointFormat, device: Device) -> QuantizationChoice | QuantizationRefused:
    if checkpoint.bits != 4:
        return QuantizationRefused(
            f"the checkpoint holds {checkpoint.bits}-bit AWQ weights; vLLM runs AWQ with 4 bits",
            "use a 4-bit AWQ checkpoint of this model",
        )
    return _weight_only("awq", checkpoint, device)


def _gptq(checkpoint: CheckpointFormat, device: Device) -> QuantizationChoice | QuantizationRefused:
    allowed = (4,) if device.kind == "cpu" else (4, 8)
    if checkpoint.bits not in allowed:
        return QuantizationRefused(
            f"the checkpoint holds {checkpoint.bits}-bit GPTQ weights; on {_where(device)} vLLM runs "
            f"{' and '.join(map(str, allowed))} bits",
            "use a 4-bit GPTQ or AWQ checkpoint of this model",
        )
    if not checkpoint.symmetric:
        return QuantizationRefused(
            "the checkpoint was quantized by GPTQ with zero points (sym: false), which vLLM does not run",
            "use a checkpoint quantized with sym: true, or an AWQ one",
        )
    return _weight_only("gptq", checkpoint, device)


def _weight_only(method: str, checkpoint: CheckpointFormat, device: Device) -> QuantizationChoice | QuantizationRefused:
    if device.kind == "cuda" and device.capability < _TURING:
        return _too_old(checkpoint, device, _TURING)
    kernels = "CPU" if device.kind == "cpu" else "Marlin" if device.capability >= _MARLIN else "Triton"
    return QuantizationChoice(
        method, _dtype(checkpoint, device), f"{_describe(checkpoint)} checkpoint, {kernels} kernels on {_where(device)}"
    )


def _integer(checkpoint: CheckpointFormat, device: Device) -> QuantizationChoice | QuantizationRefused:
    if device.kind == "cpu" and checkpoint.scheme == "int8" and not checkpoint.quantized_activations:
        return QuantizationRefused(
            "the checkpoint holds int8 weights for 16-bit activations (W8A16), for which vLLM has no CPU kernel",
            "use a W8A8 checkpoint or a 4-bit AWQ or GPTQ one",
        )
    return _weight_only("compressed-tensors", checkpoint, device)


def _fp8(checkpoint: CheckpointFormat, device: Device) -> QuantizationChoice | QuantizationRefused:
    refused = _fp8_unavailable(device, f"{_describe(checkpoint)} weights do not run on {_where(device)}")
    if refused is not None:
        return refused
    return QuantizationChoice(
        checkpoint.method, _dtype(checkpoint, device), f"{_describe(checkpoint)} checkpoint{_fp8_how(device)}"
    )


def _fp8_unavailable(device: Device, problem: str) -> QuantizationRefused | None:
    if device.kind == "cpu" and not device.amx:
        return QuantizationRefused(
            f"{problem}: fp8 on a CPU needs AMX (Intel Sapphire Rapids or newer)",
            "use an AWQ or GPTQ 4-bit checkpoint, which run on every CPU",
        )
    if device.kind == "cuda" and device.capability < _FP8_WEIGHT_ONLY:
        return QuantizationRefused(
            f"{problem}: fp8 needs compute capability 8.9, or 8.0 for weights only",
            "use an AWQ or GPTQ 4-bit checkpoint",
        )
    return None


def _fp8_how(device: Device) -> str:
    if device.kind == "cpu":
        return ", AMX kernels"
    if device.capability >= _FP8_NATIVE:
        return f", native fp8 on {_where(device)}"
    return f", weights only (Marlin) on {_where(device)}: native fp8 needs compute capability 8.9"


def _too_old(checkpoint: CheckpointFormat, device: Device, least: tuple[int, int]) -> QuantizationRefused:
    return QuantizationRefused(
        f"{_describe(checkpoint)} weights need compute capability {least[0]}.{least[1]}, {_where(device)} is older",
        "use the unquantized checkpoint (computed in float16) or a newer GPU",
    )


def _dtype(checkpoint: CheckpointFormat, device: Device) -> str:
    if device.kind == "cuda" and device.capability < _BF16 and checkpoint.dtype == "bfloat16":
        return "float16"
    return "auto"


def _describe(checkpoint: CheckpointFormat) -> str:
    if checkpoint.method == "compressed-tensors" and checkpoint.scheme in ("int4", "int8"):
        return f"compressed-tensors W{checkpoint.bits}A{8 if checkpoint.quantized_activations else 16}"
    if checkpoint.scheme in ("awq", "gptq"):
        return f"{checkpoint.bits}-bit {checkpoint.scheme.upper()}"
    return checkpoint.method if checkpoint.scheme != "fp8" else "fp8"


def _where(device: Device) -> str:
    if device.kind == "cpu":
        return "a CPU" + ("" if device.amx else " without AMX")
    name = f"{device.name}, " if device.name else ""
    return f"this GPU ({name}compute capability {device.capability[0]}.{device.capability[1]})"
