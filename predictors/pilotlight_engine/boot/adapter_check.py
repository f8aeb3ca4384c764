"""Whether a LoRA adapter can be served with a base, from its config and both's headers. Pure: nothing is allocated.

What is refused here is refused for good: what vLLM would not load, what it would load and answer otherwise than PEFT
does, and what is larger than it says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from pilotlight_protocol.adapters import LARGEST_RANK
from pilotlight_protocol.fingerprint import TensorEntry

_MOST_REASONS = 4
_PREFIX = "base_model.model."
_PAIR = {".lora_A.weight": "A", ".lora_B.weight": "B"}
_DTYPES = frozenset({"BF16", "F16", "F32"})
# They only choose the first weights; others (PiSSA, OLoRA, CorDA, LoftQ) also change the base's.
_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
_NOT_SERVED = {
    "modules_to_save": "it replaces whole modules (modules_to_save)",
    "use_dora": "it is a DoRA (use_dora)",
    "lora_bias": "it has biases (lora_bias)",
    "alora_invocation_tokens": "it is an activated LoRA (alora_invocation_tokens)",
    "layer_replication": "it replicates layers (layer_replication)",
    "use_bdlora": "it is block-diagonal (use_bdlora)",
    "use_qalora": "it is a QALoRA (use_qalora)",
    "trainable_token_indices": "it trains single tokens (trainable_token_indices)",
    "target_parameters": "it targets bare parameters (target_parameters)",
    "fan_in_fan_out": "its weights are transposed (fan_in_fan_out)",
    "megatron_config": "it is for Megatron's layers (megatron_config)",
}
_PATTERNS = ("rank_pattern", "alpha_pattern")
_QUANTIZED = re.compile(r"([-_.](awq|gptq|fp8|bf16|fp16|int4|int8|4bit|8bit|bnb|unsloth|dynamic|marlin|w4a16|w8a8))+$")


def rank(config: Mapping[str, object]) -> int:
    """The largest of any module; of a config that `reasons` finds nothing against."""
    patterns = config.get("rank_pattern")
    ranks = [config["r"], *(patterns.values() if isinstance(patterns, Mapping) else ())]
    return max(each for each in ranks if isinstance(each, int))


def reasons(
    config: Mapping[str, object], tensors: Sequence[TensorEntry], base: Mapping[str, tuple[int, int]]
) -> tuple[str, ...]:
    """Why it cannot be served, each as a sentence's end that a person can act on; none where it can.

    `config`: adapter_config.json. `base`: the base's linear layers, by name, with their outputs and inputs.
    """
    for question in (_wrong_config(config), _wrong_tensors(config, tensors, base)):
        # The second relies on what the first has asked.
        if found := tuple(islice(question, _MOST_REASONS)):
            return found
    return ()


def other_base(config: Mapping[str, object], base: str) -> str:
    """The base that it says it was trained on, where that is not `base` by its name; "" else.

    `base`: a URI. Weights of the same shapes cannot tell, and names may be anything (a folder of whoever trained it):
    this is worth a word and no refusal.
    """
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named or _base_name(named) == _base_name(base):
        return ""
    return _cut(named)


def _base_name(name: str) -> str:
    """The last part in lower case, without a revision and without what quantizers add."""
    last = re.split(r"[?@#]", name.rstrip("/"))[0].rpartition("/")[2].partition(":")[0].lower()
    return _QUANTIZED.sub("", last)


def _wrong_config(config: Mapping[str, object]) -> Iterator[str]:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        yield f"its peft_type is {_shown(kind)}; LORA is served"
        return
    yield from _wrong_rank("r", config.get("r"))
    yield from _wrong_number("lora_alpha", config.get("lora_alpha"))
    targets = config.get("target_modules")
    if not (isinstance(targets, str) or (isinstance(targets, list) and all(isinstance(each, str) for each in targets))):
        yield "its target_modules are neither names nor a pattern"
    for name in _PATTERNS:
        pattern = config.get(name) or {}
        if not isinstance(pattern, Mapping):
            yield f"its {name} is no object"
        elif pattern:
            # vLLM searches each name with these as regular expressions: a hostile one would never come back.
            yield f"it has ranks or scales of single modules ({name}); train it with one r and one lora_alpha"
    yield from (said for name, said in _NOT_SERVED.items() if config.get(name))
    if config.get("bias", "none") != "none":
        yield f"it has biases (bias {_shown(config['bias'])})"
    init = config.get("init_lora_weights", True)
    if not isinstance(init, bool | None) and not (isinstance(init, str) and init.lower() in _INITS):
        yield f"it changes the base's weights as well (init_lora_weights {_shown(init)}); convert it to a plain LoRA"


def _wrong_rank(name: str, value: object) -> Iterator[str]:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        yield f"its {name} is {_shown(value)}, which is no rank"
    elif value > LARGEST_RANK:
        yield f"its {name} is {_shown(value)}; adapters of rank {LARGEST_RANK} at most are served"


def _wrong_number(name: str, value: object) -> Iterator[str]:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        yield f"its {name} is {_shown(value)}, which is no scale"


def _wrong_tensors(
    config: Mapping[str, object], tensors: Sequence[TensorEntry], base: Mapping[str, tuple[int, int]]
) -> Iterator[str]:
    r, found = config["r"], dict[str, set[str]]()
    for tensor in tensors:
        layer, half = _layer_of(tensor.name)
        if layer not in base:
            yield f"tensor {_cut(tensor.name)} belongs to no layer of the base that an adapter may change"
            continue
        found.setdefault(layer, set()).add(half)
        outputs, inputs = base[layer]
        expected = (r, inputs) if half == "A" else (outputs, r)
        if tensor.shape != expected:
            yield f"tensor {_cut(tensor.name)} is {list(tensor.shape)}, not {list(expected)} as rank and base make it"
        if tensor.dtype not in _DTYPES:
            yield f"tensor {_cut(tensor.name)} holds {_cut(tensor.dtype)}; BF16, F16 or F32 are weights"
    if not tensors:
        yield "it has no weights"
    yield from (f"layer {layer} has only one half of its pair" for layer, halves in found.items() if len(halves) < 2)


def _layer_of(name: str) -> tuple[str, str]:
    for suffix, half in _PAIR.items():
        if name.startswith(_PREFIX) and name.endswith(suffix):
            return name.removeprefix(_PREFIX).removesuffix(suffix), half
    return "", ""


def _cut(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:120]}…"


def _shown(value: object) -> str:
    """Short, whatever it is: a number of a million digits cannot even be printed in time."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() >= 100:
        return f"a number of {value.bit_length()} bits"
    return _cut(repr(value))
