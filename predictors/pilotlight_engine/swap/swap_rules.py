"""Which engines could exchange their weights for another checkpoint's at all. Pure.

The checkpoints must have the same architecture (pilotlight_protocol.fingerprint): same config shape, same tensors; and
the engine none of the features that are refused here. Whether its combination of versions, kernels and quantization is
also proven is for its agent to know (pilotlight_protocol.swap_proofs): an engine does what it is told.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineShape:
    """What of an engine decides; `workers` is tensor times pipeline parallel size.

    `folded_weights`: the compiler may have made weights into constants of the graph.
    """

    workers: int
    speculative: bool
    lora: bool
    multimodal: bool
    foreign_config: bool
    folded_weights: bool
    pooling: bool = False


def refusal(engine: EngineShape, current_architecture: str, wanted_architecture: str, wants_loras: bool) -> str | None:
    """Why the swap must not be tried, as a sentence that says what to do instead; None when it may."""
    reason = _refused(engine, wants_loras)
    if reason is None and current_architecture != wanted_architecture:
        return (
            f"the model's architecture {wanted_architecture[:12]} is not the engine's {current_architecture[:12]}; "
            "boot an engine for it"
        )
    return reason


def unswappable(engine: EngineShape) -> str | None:
    """Why it may never be swapped; None for those that may, where it is proven."""
    return _refused(engine, wants_loras=False)


def _refused(engine: EngineShape, wants_loras: bool) -> str | None:
    refused = {
        "more than one worker": engine.workers > 1,
        "speculative decoding": engine.speculative,
        "LoRA adapters": engine.lora or wants_loras,
        "multimodal inputs": engine.multimodal,
        "a config or generation config of its own (engine arguments)": engine.foreign_config,
        "a pooling model": engine.pooling,
        "weights folded into its compiled graph (max_autotune)": engine.folded_weights,
    }
    for feature, present in refused.items():
        if present:
            return f"an engine with {feature} is not swapped; boot an engine for this model"
    return None
