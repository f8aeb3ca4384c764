"""Whether a checkpoint is what its config.json says, from the headers of its files. Pure: nothing is read or allocated.

vLLM allocates what config.json says before it opens a weight, and of most layers it does not notice a tensor that is
not there: a model that lies costs the machine its memory, or answers with noise. What is found here is certain, so that
loading the model again cannot help. Of architectures that are not in `_DENSE` only what holds for all of them is
asked; a sound model of an unknown kind is never refused here (the engine's memory limit is what bounds it then).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice

from pilotlight_protocol.fingerprint import TensorEntry
from pilotlight_protocol.model_config import quantization_settings, text_config

_SIZES = (
    "hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "max_position_embeddings", "num_experts", "num_local_experts", "n_routed_experts",
    "moe_intermediate_size",
)  # fmt: skip
_FRACTIONS = ("rms_norm_eps", "layer_norm_eps", "rope_theta", "partial_rotary_factor")
# vLLM checks them with every request that leaves them out, and would say that the request is wrong.
_SAMPLING: Mapping[str, tuple[float, float]] = {
    "temperature": (0, math.inf), "top_p": (math.ulp(0.0), 1), "top_k": (-1, math.inf), "min_p": (0, 1),
    "repetition_penalty": (math.ulp(0.0), math.inf), "max_new_tokens": (1, math.inf),
}  # fmt: skip
_NEVER_ZERO = frozenset({"hidden_size", "num_hidden_layers", "vocab_size"})
_MOST = {"num_hidden_layers": 10_000, "num_attention_heads": 1 << 16, "num_key_value_heads": 1 << 16}
_MOST |= dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 1 << 16)
_MOST_OF_ANY = (1 << 31) - 1  # vLLM counts positions and rows in 32 bits
# Every model has a matrix of each of these sizes somewhere. The last are experts: one matrix for each.
_MATRICES = (
    ("hidden_size",), ("vocab_size", "hidden_size"), ("hidden_size", "intermediate_size"),
    *((experts, "hidden_size", "moe_intermediate_size") for experts in ("num_experts", "n_routed_experts")),
    ("num_local_experts", "hidden_size", "intermediate_size"),
)  # fmt: skip
_MOST_WEIGHTS_PER_ELEMENT = 32  # of one bit each, in an int32
_MOST_REASONS = 4
_FULL_SHAPES = frozenset({"", "fp8", "compressed-tensors", "awq", "gptq"})


@dataclass(frozen=True, slots=True)
class _Dense:
    """Decoders of Llama's layout, as vLLM 0.32 names their tensors. `head_dim`: whether config.json's is what counts;
    `head_dim_default`, `kv_heads_default`: transformers' where it says nothing, 0 for one that follows from others."""

    tied: bool = False
    head_dim: bool = True
    head_dim_default: int = 0
    kv_heads_default: int = 0


_DENSE = {
    "LlamaForCausalLM": _Dense(),
    "MistralForCausalLM": _Dense(kv_heads_default=8),
    "Qwen2ForCausalLM": _Dense(head_dim=False, kv_heads_default=32),
    "Qwen3ForCausalLM": _Dense(head_dim_default=128, kv_heads_default=32),
    "GemmaForCausalLM": _Dense(tied=True, head_dim_default=256, kv_heads_default=16),
    "Gemma2ForCausalLM": _Dense(tied=True, head_dim_default=256, kv_heads_default=4),
}
_FUSED = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj"}
_FUSED |= {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}
_BIASED = {
    "attention_bias": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp_bias": ("gate_proj", "up_proj", "down_proj"),
}
_WEIGHT_DTYPES = frozenset({"BF16", "F16", "F32", "F64"})
_Dimensions = tuple[tuple[str, ...], ...]


def reasons(
    config: Mapping[str, object],
    tensors: Sequence[TensorEntry],
    generation_config: Mapping[str, object] | None = None,
    memory_bytes: int | None = None,
) -> tuple[str, ...]:
    """Why the checkpoint cannot be served, each as a sentence's end that a person can act on; none where it may be.

    `config`: its config.json. `tensors`: all of its files'. `generation_config`: its generation_config.json, where it
    has one. `memory_bytes`: what its engine may take.
    """
    for question in (
        _wrong_numbers(config, generation_config or {}),
        _more_than_there(config, tensors),
        _differences(config, tensors, memory_bytes),
    ):
        # Each relies on what the ones before it have asked.
        if found := tuple(islice(question, _MOST_REASONS)):
            return found
    return ()


def linear_layers(config: Mapping[str, object], tensors: Sequence[TensorEntry]) -> dict[str, tuple[int, int]]:
    """The linear layers that a LoRA adapter may change: outputs and inputs by name. Of a checkpoint that `reasons`
    finds nothing against; of a quantized one whose layout is not known here, none."""
    matrices = {
        tensor.name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for tensor in tensors
        if tensor.name.endswith("_proj.weight") and len(tensor.shape) == 2 and tensor.dtype in _WEIGHT_DTYPES
    }
    kind = _kind(config)
    sizes = _sizes(config, kind) if kind is not None else None
    if sizes is None:
        return {} if quantization_settings(config) else matrices
    return {
        name: (_product(sizes, dimensions[0]), _product(sizes, dimensions[1]))
        for name, dimensions in _layers_of_decoder(sizes, sizes["num_hidden_layers"], tied=True)
        if name.endswith("_proj")
    }


def _kind(config: Mapping[str, object]) -> _Dense | None:
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and len(architectures) == 1 else None
    return _DENSE.get(named) if isinstance(named, str) else None


def _product(sizes: Mapping[str, int], names: tuple[str, ...]) -> int:
    return math.prod(sizes[name] for name in names)


def _wrong_numbers(config: Mapping[str, object], generation_config: Mapping[str, object]) -> Iterator[str]:
    for name in ("text_config", "quantization_config"):
        if not isinstance(config.get(name) or {}, Mapping):
            yield f"config.json: {name} is no JSON object"
    for part in _parts(config):
        for name in (*_SIZES, *_FRACTIONS):
            value = part.get(name)
            if not isinstance(value, list | None):
                yield from _wrong_number(f"config.json: {name}", value, name in _FRACTIONS)
            if isinstance(value, int) and not isinstance(value, bool):
                yield from _out_of_range(name, value)
    for name, (least, most) in _SAMPLING.items():
        value = generation_config.get(name)
        if value is not None:
            yield from _wrong_number(f"generation_config.json: {name}", value, True)
        if isinstance(value, int | float) and not least <= value <= most:
            yield f"generation_config.json: {name} is {_shown(value)}, which no request can be sampled with"
    eos = generation_config.get("eos_token_id")
    for token in eos if isinstance(eos, list) else [eos]:
        if token is not None:
            yield from _wrong_number("generation_config.json: eos_token_id", token, False)


def _wrong_number(name: str, value: object, may_be_fraction: bool) -> Iterator[str]:
    if isinstance(value, float) and may_be_fraction and math.isfinite(value):
        return
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        yield f"{name} is {_shown(value)}, not a {'' if may_be_fraction else 'whole '}number"


def _out_of_range(name: str, value: int) -> Iterator[str]:
    most = _MOST.get(name, _MOST_OF_ANY)
    if value > most:
        yield f"config.json: {name} is {_shown(value)}; no model has more than {most}"
    elif (value < 0 and name != "max_position_embeddings") or (value == 0 and name in _NEVER_ZERO):
        yield f"config.json: {name} is {_shown(value)}"


def _more_than_there(config: Mapping[str, object], tensors: Sequence[TensorEntry]) -> Iterator[str]:
    there = sum(math.prod(tensor.shape) for tensor in tensors)
    if not there:
        yield "the safetensors files hold no weights"
        return
    for part in _parts(config):
        for names in _MATRICES:
            sizes = [_size(part, name) for name in names]
            if None not in sizes and math.prod(filter(None, sizes)) > there * _MOST_WEIGHTS_PER_ELEMENT:
                said = " and ".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))
                yield f"config.json says {said}, but all tensors together have {there} elements"
                break


def _differences(
    config: Mapping[str, object], tensors: Sequence[TensorEntry], memory_bytes: int | None
) -> Iterator[str]:
    kind = _kind(config)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    # Without the prefix it is another layout (Mistral's own), or the decoder of something larger.
    if kind is None or not any(name.startswith("model.layers.") for name in shapes):
        return
    sizes = _sizes(config, kind)
    if sizes is None:
        yield "config.json lacks hidden_size, num_hidden_layers, num_attention_heads, intermediate_size or vocab_size"
        return
    table_bytes = sizes["max_position_embeddings"] * sizes["head_dim"] * 4
    if memory_bytes is not None and table_bytes > memory_bytes:
        yield (
            f"config.json: max_position_embeddings is {sizes['max_position_embeddings']}, whose table of rotations "
            f"alone takes {table_bytes / 2**30:.1f} GiB of the {memory_bytes / 2**30:.1f} GiB there are"
        )
    layers = 1 + max(_layer_of(name) for name in shapes)
    if layers != sizes["num_hidden_layers"]:
        yield f"config.json says num_hidden_layers {sizes['num_hidden_layers']}, there are tensors of {layers} layers"
        return
    tied = bool(config.get("tie_word_embeddings", kind.tied))
    expected = dict(_layers_of_decoder(sizes, layers, tied))
    comparison = _Comparison(config, shapes, expected)
    for name, dimensions in expected.items():
        yield from comparison.difference(name, dimensions, sizes)
    if config["architectures"] == ["LlamaForCausalLM"]:
        yield from (
            f"config.json says {setting}, but tensor {layer}.bias is missing"
            for setting, names in _BIASED.items()
            if config.get(setting)
            for layer in expected
            if layer.endswith(names) and comparison.lacks_bias(layer)
        )
    yield from (
        f"tensor {tensor.name} holds {tensor.dtype}, which are no weights"
        for tensor in tensors
        if tensor.name.endswith(".weight") and not comparison.quantized and tensor.dtype not in _WEIGHT_DTYPES
    )


def _sizes(config: Mapping[str, object], kind: _Dense) -> Mapping[str, int] | None:
    """What the layers are built from, by config.json and transformers' defaults; None where one is missing."""
    sizes = {name: _size(config, name) or 0 for name in (*_NEVER_ZERO, "num_attention_heads", "intermediate_size")}
    if not all(sizes.values()):
        return None
    heads = sizes["num_attention_heads"]
    head_dim = (
        (_size(config, "head_dim") or 0 if "head_dim" in config else kind.head_dim_default) if kind.head_dim else 0
    )
    kv_heads = _size(config, "num_key_value_heads") or 0 if "num_key_value_heads" in config else kind.kv_heads_default
    return sizes | {
        "head_dim": head_dim or sizes["hidden_size"] // heads,
        "num_key_value_heads": kv_heads or heads,
        "max_position_embeddings": _size(config, "max_position_embeddings") or 0,
    }


def _layers_of_decoder(sizes: Mapping[str, int], layers: int, tied: bool) -> Iterator[tuple[str, _Dimensions]]:
    """Every layer with a weight, and what its dimensions are products of: outputs, inputs."""
    hidden, inner = ("hidden_size",), ("intermediate_size",)
    queries, keys = ("num_attention_heads", "head_dim"), ("num_key_value_heads", "head_dim")
    yield "model.embed_tokens", (("vocab_size",), hidden)
    if not tied:
        yield "lm_head", (("vocab_size",), hidden)
    yield "model.norm", (hidden,)
    for number in range(layers):
        layer = f"model.layers.{number}"
        yield f"{layer}.input_layernorm", (hidden,)
        yield f"{layer}.post_attention_layernorm", (hidden,)
        yield f"{layer}.self_attn.q_proj", (queries, hidden)
        yield f"{layer}.self_attn.k_proj", (keys, hidden)
        yield f"{layer}.self_attn.v_proj", (keys, hidden)
        yield f"{layer}.self_attn.o_proj", (hidden, queries)
        yield f"{layer}.mlp.gate_proj", (inner, hidden)
        yield f"{layer}.mlp.up_proj", (inner, hidden)
        yield f"{layer}.mlp.down_proj", (hidden, inner)


class _Comparison:
    """The tensors that are there beside those that there must be."""

    def __init__(
        self, config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]], expected: Container[str]
    ) -> None:
        self._quantization: Mapping[str, object] = quantization_settings(config)
        self._method = str(self._quantization.get("quant_method") or "").lower()
        self._parameters: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, shape in shapes.items():
            layer, _, parameter = name.rpartition(".")
            self._parameters.setdefault(layer, {})[parameter] = shape
        self._strangers = [layer for layer in self._parameters if layer not in expected]

    @property
    def quantized(self) -> bool:
        return bool(self._quantization)

    def lacks_bias(self, layer: str) -> bool:
        """vLLM would serve with whatever is in the memory of a bias that no file has."""
        return layer in self._parameters and "bias" not in self._parameters[layer]

    def difference(self, layer: str, dimensions: _Dimensions, sizes: Mapping[str, int]) -> Iterator[str]:
        parent, _, own = layer.rpartition(".")
        if f"{parent}.{_FUSED.get(own)}" in self._parameters:
            return
        there = self._parameters.get(layer)
        if there is None or not there.keys() - {"bias"}:
            near = get_close_matches(layer, self._strangers, n=1, cutoff=0.9)
            yield f"tensor {layer}.weight is missing{f'; the nearest there is of {near[0]}' if near else ''}"
            return
        shape = tuple(_product(sizes, names) for names in dimensions)
        for parameter, expected in self._expected(there, shape).items():
            if parameter in there and there[parameter] != expected:
                because = ", ".join(f"{name} {sizes[name]}" for names in dimensions for name in names)
                yield f"tensor {layer}.{parameter} is {list(there[parameter])}, not {list(expected)} ({because})"

    def _expected(self, there: Container[str], shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The parameters whose shapes are known, with them."""
        if "weight" in there:
            return {"weight": shape} if self._method in _FULL_SHAPES else {}
        bits, group = self._quantization.get("bits", 4), self._quantization.get("group_size", 128)
        if len(shape) != 2 or not isinstance(group, int) or bits != 4:
            return {}
        outputs, inputs = shape
        scales = (1 if group <= 0 else -(-inputs // group), outputs)
        if self._method == "awq" and str(self._quantization.get("version", "gemm")).lower() == "gemm":
            return {"qweight": (inputs, outputs // 8), "qzeros": (scales[0], outputs // 8), "scales": scales}
        if self._method == "gptq" and not self._quantization.get("dynamic"):
            return {"qweight": (inputs // 8, outputs), "scales": scales}
        return {}


def _parts(config: Mapping[str, object]) -> list[Mapping[str, object]]:
    text = text_config(config)
    return [config, text] if text else [config]


def _size(config: Mapping[str, object], name: str) -> int | None:
    value = config.get(name)
    return int(value) if isinstance(value, int | float) else None


def _layer_of(name: str) -> int:
    """-1 for a tensor that belongs to no layer."""
    number = name.removeprefix("model.layers.").partition(".")[0]
    return int(number) if name.startswith("model.layers.") and number.isdigit() and len(number) < 9 else -1


def _shown(value: object) -> str:
    """Short, whatever it is: a number of a million digits cannot even be printed in time."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if value.bit_length() < 100 else f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
