"""The LoRA adapters that leases have brought to this engine: loaded while it runs, and unloaded for others.

vLLM would load an adapter again from its folder in the middle of a step once it has unloaded it by itself, and a folder
that is another by then would end the engine for everybody. So it never does: what is to go is decided here, before its
own limit is reached. Adapter to vLLM.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from vllm.lora.request import LoRARequest

from pilotlight_engine.boot.boot_failures import told
from pilotlight_engine.boot.lora import checked_adapter
from pilotlight_models.adapter import WEIGHTS_NAME, folder_stamp
from pilotlight_models.checkpoint import read_checkpoint
from pilotlight_protocol.engine_frames import Adapter, GenerateRequest
from pilotlight_protocol.errors import InvalidInput, PilotlightError, Unavailable


class LoadedAdapters:
    """`engine`: vLLM's LLMEngine, `config` its VllmConfig. `configured`: (name, directory) of those that it serves from
    the start, which requests choose by name."""

    def __init__(self, engine: Any, config: Any, configured: Sequence[tuple[str, str]]) -> None:
        self._engine = engine
        self._base = Path(config.model_config.model)
        self._capacity = int(config.lora_config.max_cpu_loras) if config.lora_config is not None else 0
        self._configured = {name: LoRARequest(name, number, path) for number, (name, path) in enumerate(configured, 1)}
        self._loaded: OrderedDict[str, LoRARequest] = OrderedDict()
        self._numbers = itertools.count(1_000_000)  # configured ones are numbered from 1

    def load(self, adapter: Adapter, in_use: Container[str]) -> None:
        """Returns when it may be generated with. Those `in_use` stay, whoever was used least recently goes first.

        Raises InvalidInput: it cannot be served; Unavailable: there is no room, or the folder has another content by
        now. What else is loaded is then as it was.
        """
        if adapter.name in self._loaded:
            self._loaded.move_to_end(adapter.name)
            return
        try:
            request = self._load(adapter, in_use)
        except PilotlightError as error:
            self._check_stamp(adapter, error)
            raise
        try:
            self._check_stamp(adapter)
        except Unavailable:
            self._engine.remove_lora(request.lora_int_id)
            raise
        self._loaded[adapter.name] = request

    def _load(self, adapter: Adapter, in_use: Container[str]) -> LoRARequest:
        # It was looked at before it came here; a folder that is served in place may have changed since.
        checked_adapter(Path(adapter.directory), read_checkpoint(self._base))
        _check_numbers(Path(adapter.directory) / WEIGHTS_NAME)
        while len(self._loaded) >= self._capacity:
            self._unload(self._least_recently_used(in_use))
        request = LoRARequest(adapter.name, next(self._numbers), adapter.directory)
        try:
            self._engine.add_lora(request)
        except Exception as error:
            self._engine.remove_lora(request.lora_int_id)
            if isinstance(error, MemoryError):
                raise Unavailable("the engine has too little memory for another adapter") from error
            reason = told(error).replace(adapter.directory, "the adapter")
            raise InvalidInput(f"vLLM cannot load this adapter: {reason}", param="adapter") from error
        return request

    def _check_stamp(self, adapter: Adapter, cause: PilotlightError | None = None) -> None:
        """What was read is what the name stands for, from the agent's look at it until now."""
        if folder_stamp(Path(adapter.directory)) != adapter.stamp:
            raise Unavailable("the adapter has changed since it was asked for: ask again") from cause

    def bound(self, request: GenerateRequest, adapter: str) -> GenerateRequest:
        """The request with its lease's adapter; "": it has none, and the request may choose. Raises InvalidInput."""
        if request.lora is not None and (adapter or request.lora not in self._configured):
            raise InvalidInput(f"no LoRA adapter '{request.lora}' is loaded", param="lora")
        return msgspec.structs.replace(request, lora=adapter) if adapter else request

    def request_for(self, name: str | None) -> LoRARequest | None:
        """Of a bound request. Raises Unavailable: the adapter was unloaded, so its lease is over."""
        if name is None or name in self._configured:
            return self._configured[name] if name is not None else None
        if name not in self._loaded:
            raise Unavailable("the lease's adapter is not loaded any more")
        return self._loaded[name]

    def _least_recently_used(self, in_use: Container[str]) -> str:
        for name in self._loaded:
            if name not in in_use:
                return name
        raise Unavailable(f"all of the {self._capacity} adapters that the engine has room for are in use")

    def _unload(self, name: str) -> None:
        self._engine.remove_lora(self._loaded.pop(name).lora_int_id)


def _check_numbers(weights: Path) -> None:
    """What is not finite would spread to whatever shares memory with it."""
    try:
        with safe_open(weights, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (it is no mapping)
                if not bool(torch.isfinite(opened.get_tensor(name)).all()):
                    raise InvalidInput(f"the adapter cannot be served: {name} holds what is no number", param="adapter")
    except (OSError, SafetensorError) as error:
        raise InvalidInput(f"the adapter cannot be read: {type(error).__name__}", param="adapter") from error
