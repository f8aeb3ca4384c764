"""What a model's config.json says of pooling: whether vLLM embeds or classifies with it, and reads as an encoder. Pure.

vLLM resolves it itself when it boots (`ModelConfig._get_default_runner_type`, 0.32); here it is foretold for what is
decided before, and for a transformer, which has no vLLM: sentence-transformers' modules.json, else the architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotlight_protocol.pooling import PoolingTask

_CLASSIFIES = ("ForSequenceClassification", "ForTokenClassification", "ClassificationModel")
_EMBEDS = ("ForTextEncoding", "EmbeddingModel", "ForRewardModeling", "RewardModel", "Model")
_EMBEDDING_MASKED = frozenset({"BertForMaskedLM", "RobertaForMaskedLM"})
_ENCODERS = ("Bert", "Roberta", "XLMRoberta", "ModernBert", "NomicBert", "Gte", "GteNew")


def pooling_task(config: Mapping[str, Any], *, has_modules: bool) -> PoolingTask | None:
    """None for a model that generates. `has_modules`: there is a modules.json beside config.json."""
    architecture = _architecture(config)
    if architecture.endswith(_CLASSIFIES):
        return "classify"
    if has_modules or architecture.endswith(_EMBEDS) or architecture in _EMBEDDING_MASKED:
        return "embed"
    return None


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Whether it reads a prompt at once, both ways, and keeps no keys and values."""
    architecture = _architecture(config)
    ends = (*_CLASSIFIES, "Model", "ForMaskedLM")
    return any(architecture == encoder + end for encoder in _ENCODERS for end in ends)


def tells_pairs_apart(config: Mapping[str, Any]) -> bool:
    """Whether the second of two texts has a token type of its own."""
    types = config.get("type_vocab_size")
    return isinstance(types, int) and types > 1


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
