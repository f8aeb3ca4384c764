import pytest

from pilotlight_engine.quantization import (
    CheckpointFormat,
    Device,
    QuantizationChoice,
    QuantizationRefused,
    Requested,
    checkpoint_format,
    choose,
)

CPU = Device("cpu")
CPU_AMX = Device("cpu", amx=True)
V100 = Device("cuda", (7, 0), name="V100")
T4 = Device("cuda", (7, 5), name="T4")
A100 = Device("cuda", (8, 0), name="A100")
L4 = Device("cuda", (8, 9), name="L4")
H100 = Device("cuda", (9, 0), name="H100")

BF16 = CheckpointFormat()
FP16 = CheckpointFormat(dtype="float16")
AWQ = CheckpointFormat("awq", "awq", 4, symmetric=False, dtype="float16")
AWQ8 = CheckpointFormat("awq", "awq", 8, symmetric=False, dtype="float16")
GPTQ = CheckpointFormat("gptq", "gptq", 4, dtype="float16")
GPTQ8 = CheckpointFormat("gptq", "gptq", 8, dtype="float16")
GPTQ_ASYMMETRIC = CheckpointFormat("gptq", "gptq", 4, symmetric=False, dtype="float16")
FP8 = CheckpointFormat("fp8", "fp8", 8, quantized_activations=True)
CT_FP8 = CheckpointFormat("fp8", "compressed-tensors", 8, quantized_activations=True)
W8A8 = CheckpointFormat("int8", "compressed-tensors", 8, quantized_activations=True)
W8A16 = CheckpointFormat("int8", "compressed-tensors", 8)
W4A16 = CheckpointFormat("int4", "compressed-tensors", 4)
MXFP4 = CheckpointFormat("other", "mxfp4", 4)


@pytest.mark.parametrize(
    ("requested", "checkpoint", "device", "method", "dtype", "reason"),
    [
        ("auto", BF16, CPU, None, "auto", "not quantized"),
        ("none", BF16, H100, None, "auto", "not quantized"),
        ("auto", BF16, A100, None, "auto", "not quantized"),
        ("auto", BF16, T4, None, "float16", "computes no bfloat16"),
        ("auto", FP16, T4, None, "auto", "not quantized"),
        ("auto", AWQ, CPU, "awq", "auto", "4-bit AWQ checkpoint, CPU kernels"),
        ("awq", AWQ, A100, "awq", "auto", "Marlin"),
        ("awq", AWQ, T4, "awq", "auto", "Triton"),
        ("auto", GPTQ, CPU, "gptq", "auto", "CPU kernels"),
        ("gptq", GPTQ, H100, "gptq", "auto", "Marlin"),
        ("auto", GPTQ8, A100, "gptq", "auto", "8-bit GPTQ"),
        ("auto", FP8, H100, "fp8", "auto", "native fp8"),
        ("fp8", FP8, L4, "fp8", "auto", "native fp8"),
        ("fp8", FP8, A100, "fp8", "auto", "weights only"),
        ("auto", FP8, CPU_AMX, "fp8", "auto", "AMX"),
        ("auto", CT_FP8, H100, "compressed-tensors", "auto", "native fp8"),
        ("fp8", BF16, H100, "fp8_per_tensor", "auto", "while it loads"),
        ("fp8", BF16, A100, "fp8_per_tensor", "auto", "weights only"),
        ("auto", W8A8, CPU, "compressed-tensors", "auto", "W8A8"),
        ("int8", W8A8, T4, "compressed-tensors", "float16", "W8A8"),
        ("int8", W8A16, A100, "compressed-tensors", "auto", "W8A16"),
        ("auto", W4A16, CPU, "compressed-tensors", "auto", "W4A16"),
        ("auto", MXFP4, H100, "mxfp4", "auto", "vLLM decides"),
    ],
)
def test_choices(
    requested: Requested, checkpoint: CheckpointFormat, device: Device, method: str | None, dtype: str, reason: str
) -> None:
    choice = choose(requested, checkpoint, device)
    assert isinstance(choice, QuantizationChoice), choice
    assert (choice.vllm_method, choice.dtype) == (method, dtype)
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("requested", "checkpoint", "device", "reason", "use_instead"),
    [
        ("awq", BF16, H100, "'awq' was asked for, but the checkpoint is not quantized", "-AWQ checkpoint"),
        ("gptq", BF16, CPU, "'gptq' was asked for", "-GPTQ checkpoint"),
        ("int8", BF16, H100, "'int8' was asked for", "W8A8"),
        ("gptq", AWQ, H100, "'gptq' was asked for, but the checkpoint holds 4-bit AWQ", "--quantization auto"),
        ("none", AWQ, CPU, "'none' was asked for, but the checkpoint holds 4-bit AWQ", "unquantized checkpoint"),
        ("fp8", W8A8, H100, "'fp8' was asked for, but the checkpoint holds compressed-tensors W8A8", "FP8"),
        ("int8", W4A16, CPU, "W4A16", "INT8"),
        ("auto", AWQ8, H100, "8-bit AWQ", "4-bit AWQ"),
        ("auto", AWQ, V100, "compute capability 7.5", "unquantized"),
        ("auto", GPTQ8, CPU, "8-bit GPTQ", "4-bit"),
        ("auto", GPTQ_ASYMMETRIC, H100, "zero points", "sym: true"),
        ("auto", FP8, CPU, "needs AMX", "AWQ or GPTQ"),
        ("auto", FP8, T4, "compute capability 8.9", "AWQ or GPTQ"),
        ("fp8", BF16, CPU, "does not quantize at load", "AWQ or GPTQ"),
        ("fp8", BF16, CPU_AMX, "does not quantize at load", "AWQ or GPTQ"),
        ("fp8", BF16, T4, "compute capability 8.9", "AWQ or GPTQ"),
        ("auto", W8A16, CPU, "no CPU kernel", "W8A8"),
        ("auto", W8A8, V100, "compute capability 7.5", "newer GPU"),
    ],
)
def test_refusals_say_why_and_what_to_use(
    requested: Requested, checkpoint: CheckpointFormat, device: Device, reason: str, use_instead: str
) -> None:
    refused = choose(requested, checkpoint, device)
    assert isinstance(refused, QuantizationRefused), refused
    assert reason in refused.reason
    assert use_instead in refused.use_instead


def weights(kind: str, bits: int) -> dict[str, object]:
    return {"type": kind, "num_bits": bits, "symmetric": True}


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"torch_dtype": "bfloat16"}, BF16),
        ({"dtype": "float16"}, FP16),
        (
            {"dtype": "float16", "quantization_config": {"quant_method": "awq", "bits": 4, "zero_point": True}},
            AWQ,
        ),
        ({"dtype": "float16", "quantization_config": {"quant_method": "gptq", "bits": 8, "sym": True}}, GPTQ8),
        (
            {"dtype": "float16", "quantization_config": {"quant_method": "gptq", "bits": 4, "sym": False}},
            GPTQ_ASYMMETRIC,
        ),
        ({"dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}}, FP8),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"group_0": {"weights": weights("int", 8), "input_activations": {"num_bits": 8}}},
                }
            },
            W8A8,
        ),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"group_0": {"weights": weights("int", 4), "input_activations": None}},
                }
            },
            W4A16,
        ),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"g": {"weights": weights("float", 8), "input_activations": {"num_bits": 8}}},
                }
            },
            CT_FP8,
        ),
        ({"quantization_config": {"quant_method": "mxfp4"}}, MXFP4),
        ({"text_config": {"dtype": "float16"}}, FP16),
    ],
)
def test_checkpoint_facts(config: dict[str, object], wanted: CheckpointFormat) -> None:
    assert checkpoint_format(config) == wanted
