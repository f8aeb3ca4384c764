"""How an engine's weights are exchanged for another model's of its architecture, and who may share its compiled graph.

Adapter to vLLM's config and executor. `swap_rules` says what is refused; `weight_loading` copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pilotlight_engine.boot import compile_cache
from pilotlight_engine.errors import SwapNotPossible
from pilotlight_engine.model_source import check_directory
from pilotlight_engine.swap import swap_rules, weight_loading
from pilotlight_engine.vllm_adapter import model_defaults
from pilotlight_engine.vllm_adapter.model_defaults import ModelDefaults
from pilotlight_models.checkpoint import Checkpoint, read_checkpoint
from pilotlight_protocol.errors import PilotlightError


class WeightExchange:
    """`config`: vLLM's VllmConfig. `threads`: how many a copy may take. `path`: see EngineInfo.swap_path.

    `model` gives the loaded model, where this process has it.
    """

    def __init__(self, config: Any, threads: int) -> None:
        self.path = ""
        self._config = config
        self._threads = threads
        self._checkpoint: Checkpoint | None = None
        self._copier: weight_loading.WeightCopier | None = None
        self._spare_bytes = 0
        self._prepared = False

    def share_compiled_graph(self) -> None:
        """Call it before anything compiles."""
        model = self._config.model_config
        if model.enforce_eager or swap_rules.unswappable(self._shape()) is not None:
            return
        if (quantization(self._config), str(self._config.device_config.device_type)) not in compile_cache.SHARED:
            return
        try:
            self._checkpoint = read_checkpoint(Path(model.model))
        except PilotlightError:
            # Only vLLM can read it. It is compiled at every boot, as vLLM does it by itself.
            return
        compile_cache.repair_loading()
        compile_cache.key_threads(self._config, torch.get_num_threads())
        compile_cache.share(model, self._checkpoint.architecture)

    def plan(self, model: Callable[[], Any], spare_bytes: int, *, proven: bool) -> None:
        """Part of the boot of an engine that may be swapped: its first swap then takes as long as any other.
        `spare_bytes`: as WeightCopier has it. `proven`: it will be swapped."""
        self._spare_bytes = spare_bytes
        if (reason := swap_rules.unswappable(self._shape())) is not None:
            self.path = f"none: {reason}"
            return
        if not proven:
            self.path = "none: swaps of this combination are not proven here"
            return
        try:
            self._prepare(model)
        except SwapNotPossible as error:
            self.path = f"none: {error.message}"

    def inspect(
        self, model: Callable[[], Any], model_dir: Path, loras: Sequence[tuple[str, str]]
    ) -> tuple[Checkpoint, ModelDefaults]:
        """What would be swapped in. Raises SwapNotPossible; nothing is touched."""
        if (reason := swap_rules.unswappable(self._shape())) is not None:
            raise SwapNotPossible(reason)
        if not self._prepared:
            self._prepare(model)
        assert self._checkpoint is not None
        try:
            wanted = read_checkpoint(check_directory(model_dir))
            defaults = model_defaults.read(self._config.model_config, model_dir)
        except Exception as error:
            # Whatever somebody's files do to a parser: nothing was touched, and the engine is worth keeping.
            raise SwapNotPossible(f"{model_dir} cannot be served: {type(error).__name__}: {error}") from error
        reason = swap_rules.refusal(self._shape(), self._checkpoint.architecture, wanted.architecture, bool(loras))
        if reason is not None:
            raise SwapNotPossible(reason)
        return wanted, defaults

    def load(self, model: Any, executor: Any, wanted: Checkpoint) -> None:
        """Write the weights of `wanted` over those of `model`. Whatever it raises, neither is whole."""
        if self._copier is not None:
            self._copier.copy(wanted)
        else:
            weight_loading.reload(executor, model, wanted)
        self._checkpoint = wanted

    def _prepare(self, model: Callable[[], Any]) -> None:
        """Find out, once. Raises SwapNotPossible when this engine's own checkpoint cannot be read."""
        if self._checkpoint is None:
            try:
                self._checkpoint = read_checkpoint(Path(self._config.model_config.model))
            except PilotlightError as error:
                raise SwapNotPossible(error.message) from error
        try:
            self._copier = weight_loading.WeightCopier.plan(
                model(), self._checkpoint.places, self._threads, self._spare_bytes
            )
            self.path = "copied"
        except weight_loading.NoPlan as no_plan:
            self.path = f"reloaded: {no_plan}"
        self._prepared = True

    def _shape(self) -> swap_rules.EngineShape:
        config, model = self._config, self._config.model_config
        return swap_rules.EngineShape(
            workers=config.parallel_config.world_size,
            speculative=config.speculative_config is not None,
            lora=config.lora_config is not None,
            multimodal=bool(model.is_multimodal_model),
            foreign_config=bool(model.hf_config_path or model.hf_overrides)
            or model.generation_config not in ("auto", "vllm"),
            folded_weights=compile_cache.folds_weights(config),
            pooling=model.runner_type == "pooling",
        )


def quantization(config: Any) -> str:
    return str(config.model_config.quantization or "none")
