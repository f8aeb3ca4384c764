"""How weights are exchanged for a proof: every parameter is spoiled first.

Two models often have tensors in common (fine-tunes their embeddings and norms), and what an exchange leaves behind of
those would look as if it had been loaded. Spoiled before, nothing that is left behind can be what a booted engine has.
"""

from __future__ import annotations

from typing import Any

import torch

from pilotlight_engine.vllm_adapter.weight_exchange import WeightExchange
from pilotlight_models.checkpoint import Checkpoint

_SPOILED = 0xA5


class PoisonedExchange(WeightExchange):
    def load(self, model: Any, executor: Any, wanted: Checkpoint) -> None:
        spoil(model)
        super().load(model, executor, wanted)


def spoil(model: torch.nn.Module) -> None:
    """Buffers are let be: what they hold (rotary caches) is made of the config, which both models share."""
    for parameter in model.parameters():
        storage = parameter.data.untyped_storage()
        torch.tensor([], dtype=torch.uint8, device=parameter.device).set_(storage).fill_(_SPOILED)
