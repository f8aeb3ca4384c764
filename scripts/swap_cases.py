"""The combinations that `make prove-swaps` tries, and the two models of each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import swap_models

MAKE_MODELS = Path(__file__).with_name("make_models.py")
EAGER = {"enforce_eager": "true", "max_num_seqs": "8", "max_model_len": "512"}
COMPILED = {"max_num_seqs": "8", "max_model_len": "512"}


@dataclass(frozen=True)
class SwapCase:
    """`options`: of make_models.py. `arguments`: of the engine. `quantize`: what is made of a model then."""

    name: str
    options: tuple[str, ...]
    arguments: dict[str, str] = field(default_factory=dict)
    quantize: Callable[[Path, Path, int], None] | None = None


def made(case: SwapCase, folder: Path) -> list[Path]:
    """Two models, made at the first call. Blocking."""
    out = folder / "-".join(option.removeprefix("--") for option in case.options)
    if not out.exists():
        argv = [sys.executable, str(MAKE_MODELS), "--out", str(out), "--count", "2", *case.options]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=300)
    models = sorted(out.iterdir())
    if case.quantize is None:
        return models
    quantized = [out.with_name(f"{out.name}-{case.quantize.__name__}") / model.name for model in models]
    for seed, (model, other) in enumerate(zip(models, quantized, strict=True)):
        if not other.exists():
            case.quantize(model, other, seed)
    return quantized


_NGRAM = '{"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}'
_BF16_TIED = ("--from-demo",)
_AWQ_TIED = ("--from-demo", "--quantization", "awq")
_BF16 = ("--preset", "tiny")
_LARGER = ("--preset", "demo")
_AWQ = ("--preset", "demo", "--quantization", "awq")

CASES = (
    SwapCase("bf16 tied", _BF16_TIED, EAGER),
    SwapCase("bf16 untied", _BF16, EAGER),
    SwapCase("AWQ tied", _AWQ_TIED, EAGER),
    SwapCase("AWQ untied", _AWQ, EAGER),
    SwapCase("float16", _BF16, EAGER | {"dtype": "float16"}),
    SwapCase("float32", _BF16, EAGER | {"dtype": "float32"}),
    SwapCase("GPTQ", _LARGER, EAGER, swap_models.gptq),
    SwapCase("compressed-tensors W8A8", _LARGER, EAGER, swap_models.int8),
    SwapCase("compressed-tensors W4A16", _LARGER, EAGER, swap_models.int4),
    SwapCase("FP8", _LARGER, EAGER, swap_models.fp8),
    SwapCase("mixture of experts", _LARGER, EAGER, swap_models.mixture),
    SwapCase("two workers", _BF16, EAGER | {"tensor_parallel_size": "2"}),
    SwapCase("speculative", _BF16, EAGER | {"speculative_config": _NGRAM}),
    SwapCase("bf16 tied, compiled", _BF16_TIED, COMPILED),
    SwapCase("AWQ tied, compiled", _AWQ_TIED, COMPILED),
    SwapCase("bf16 untied, compiled", _BF16, COMPILED),
    SwapCase("AWQ untied, compiled", _AWQ, COMPILED),
)
