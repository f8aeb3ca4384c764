"""Whether a running engine may exchange its weights for another checkpoint's. Pure.

Two things must hold: the engine is of a kind whose swap is proven by a test (tests/integration/test_engine_swap.py),
and the checkpoints have the same architecture (pilotlight_protocol.fingerprint): same config shape, same tensors.
A compiled graph that is cached for the next fine-tune is the same question: will it do with other weights?
"""

from __future__ import annotations

from dataclasses import dataclass

# (quantization as EngineInfo names it, device kind): greedy tokens and logprobs after a swap were compared with those
# of a freshly booted engine, eager and compiled. Add a pair together with its test.
PROVEN = frozenset({("none", "cpu"), ("awq", "cpu")})


@dataclass(frozen=True)
class EngineShape:
    """What of an engine decides; `workers` is tensor times pipeline parallel size.

    `folded_weights`: the compiler may have made weights into constants of the graph.
    """

    quantization: str
    device: str
    workers: int
    speculative: bool
    lora: bool
    multimodal: bool
    foreign_config: bool
    folded_weights: bool
    pooling: bool = False


def refusal(engine: EngineShape, current_architecture: str, wanted_architecture: str, wants_loras: bool) -> str | None:
    """Why the swap must not be tried, as a sentence that says what to do instead; None when it may."""
    reason = _unproven(engine, wants_loras)
    if reason is None and current_architecture != wanted_architecture:
        return (
            f"the model's architecture {wanted_architecture[:12]} is not the engine's {current_architecture[:12]}; "
            "boot an engine for it"
        )
    return reason


def unswappable(engine: EngineShape) -> str | None:
    """Why it may never be swapped; None for those that may, and may share their architecture's compiled graphs."""
    return _unproven(engine, wants_loras=False)


def _unproven(engine: EngineShape, wants_loras: bool) -> str | None:
    if (engine.quantization, engine.device) not in PROVEN:
        return f"swapping {engine.quantization} weights on {engine.device} is not proven; boot an engine for this model"
    unproven = {
        "more than one worker": engine.workers > 1,
        "speculative decoding": engine.speculative,
        "LoRA adapters": engine.lora or wants_loras,
        "multimodal inputs": engine.multimodal,
        "a config or generation config of its own (engine arguments)": engine.foreign_config,
        "a pooling model": engine.pooling,
        "weights folded into its compiled graph (max_autotune)": engine.folded_weights,
    }
    for feature, present in unproven.items():
        if present:
            return f"swapping an engine with {feature} is not proven; boot an engine for this model"
    return None
