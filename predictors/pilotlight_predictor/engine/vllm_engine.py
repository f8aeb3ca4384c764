"""The one vLLM engine of this process: requests in, token deltas out. Adapter to vLLM.

`LLMEngine` runs with its core in this process (no second process, no serialization between the two) and without a
tokenizer. Everything here is called by one thread, the one that created it: OpenMP's pools belong to their thread.
It must not know frames or sockets.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pilotlight_protocol.errors import InternalError, InvalidInput, PilotlightError
from pilotlight_protocol.generation import FinishReason, GenerationParameters, TokenDelta, TokenLogprob
from prometheus_client import REGISTRY
from prometheus_client.exposition import generate_latest
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.model_executor.models.registry import ModelRegistry
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor import Executor
from vllm.version import __version__ as vllm_version

from pilotlight_predictor.engine.contract import EngineInfo, EngineStats, GenerateRequest
from pilotlight_predictor.engine.eos import tokenizer_eos_id
from pilotlight_predictor.engine.errors import EngineMisconfigured

_FINISH_REASONS: dict[str | None, FinishReason | None] = {
    None: None,
    "stop": "stop",
    "repetition": "stop",
    "length": "length",
    "abort": "abort",
}
_LOWEST_LOGPROB = -9999.0  # vLLM's OpenAI server sends this for -inf, which JSON cannot carry
_RATE_SMOOTHING_S = 2.0


class VllmEngine:
    """`step` while `has_work`. `on_phase` is told the name of each boot phase as it begins."""

    info: EngineInfo

    def __init__(self, engine_args: Any, loras: Sequence[tuple[str, str]], on_phase: Callable[[str], None]) -> None:
        on_phase("model-class")
        _register_in_process(Path(engine_args.model))
        on_phase("config")
        try:
            config = engine_args.create_engine_config(UsageContext.ENGINE_CONTEXT)
        except (VLLMClientError, ValueError, OSError, NotImplementedError) as error:
            raise EngineMisconfigured(f"vLLM refuses this model or its engine arguments: {error}") from error
        on_phase("load")
        self._engine = LLMEngine(config, _with_phases(Executor.get_class(config), on_phase), log_stats=True)
        self._core = self._engine.engine_core.engine_core
        model = config.model_config
        self._vocab_size = int(model.get_vocab_size())
        self._max_model_len = int(model.max_model_len)
        self._defaults = dict(model.get_diff_sampling_param())
        eos_id = tokenizer_eos_id(Path(model.model))
        self._engine.renderer.get_eos_token_id = lambda: eos_id
        generation_eos = self._engine.input_processor.generation_config_fields.get("eos_token_id")
        self._eos_ids = _as_ids(eos_id) | _as_ids(generation_eos)
        self._loras = {name: LoRARequest(name, number, path) for number, (name, path) in enumerate(loras, 1)}
        self._streams: dict[str, _Stream] = {}
        self._internal_ids: dict[int, str] = {}
        self._rate = _Rate()
        on_phase("warm-up")
        self._generate_one_token()
        on_phase("ready")
        self._config = config

    def describe(self, boot_phases_s: dict[str, float]) -> EngineInfo:
        model, cache = self._config.model_config, self._config.cache_config
        return EngineInfo(
            max_model_len=self._max_model_len,
            vocab_size=self._vocab_size,
            eos_token_ids=sorted(self._eos_ids),
            block_size=int(cache.block_size),
            num_kv_blocks=int(cache.num_gpu_blocks or 0),
            dtype=str(model.dtype).removeprefix("torch."),
            quantization=str(model.quantization or "none"),
            device=str(self._config.device_config.device_type),
            vllm_version=vllm_version,
            loras=list(self._loras),
            boot_phases_s=boot_phases_s,
        )

    def add(self, stream: int, request: GenerateRequest) -> None:
        """Queue a request. Raises InvalidInput where vLLM refuses it; the engine is then as it was."""
        prompt = request.prompt_token_ids
        if not prompt:
            raise InvalidInput("the prompt is empty; send at least one token id", param="input_ids")
        if min(prompt) < 0 or max(prompt) >= self._vocab_size:
            raise InvalidInput(f"token ids must be in [0, {self._vocab_size})", param="input_ids")
        lora = None
        if request.lora is not None and (lora := self._loras.get(request.lora)) is None:
            raise InvalidInput(f"no LoRA adapter '{request.lora}' is loaded", param="lora")
        parameters = request.parameters
        external_id = f"{request.request_id}-{stream}"
        try:
            internal_id = self._engine.add_request(
                external_id,
                tokens_input(prompt, cache_salt=parameters.cache_salt),
                self._sampling_params(parameters, len(prompt)),
                lora_request=lora,
                priority=parameters.priority,
                trace_headers={"traceparent": request.traceparent} if request.traceparent else None,
            )
        except (VLLMClientError, ValueError, TypeError, NotImplementedError) as error:
            self._engine.abort_request([external_id])
            raise InvalidInput(str(error)) from error
        self._streams[external_id] = _Stream(stream, parameters)
        self._internal_ids[stream] = internal_id

    def abort(self, stream: int) -> None:
        """Forget a request and free its KV blocks; unknown and finished ones are ignored."""
        internal_id = self._internal_ids.pop(stream, None)
        if internal_id is not None:
            # By internal id: only then does vLLM drop the parent of an n > 1 request as well.
            self._engine.abort_request([internal_id], internal=True)
            self._streams = {key: value for key, value in self._streams.items() if value.number != stream}

    def has_work(self) -> bool:
        core = self._core
        return bool(self._engine.has_unfinished_requests() or core.scheduler.has_requests() or core.batch_queue)

    def step(self) -> tuple[list[tuple[int, TokenDelta]], list[tuple[int, PilotlightError]]]:
        """One engine step: new tokens by stream, and the streams the engine gave up on."""
        deltas: list[tuple[int, TokenDelta]] = []
        failures: list[tuple[int, PilotlightError]] = []
        tokens = 0
        for output in self._engine.step():
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            for completion in output.outputs:
                if completion.finish_reason == "error":
                    failures.append((stream.number, InternalError("the engine failed on this request; try it again")))
                    break
                tokens += len(completion.token_ids)
                deltas.append((stream.number, stream.delta(output, completion)))
            if output.finished:
                del self._streams[output.request_id]
                self._internal_ids.pop(stream.number, None)
        self._rate.add(tokens, time.monotonic())
        return deltas, failures

    def stats(self) -> EngineStats:
        scheduler = self._core.scheduler
        running, waiting = scheduler.get_request_counts()
        return EngineStats(running, waiting, scheduler.get_kv_cache_usage(), self._rate.per_s)

    def close(self) -> None:
        """End vLLM's worker processes, where it has any."""
        self._engine.engine_core.shutdown()

    def _sampling_params(self, asked: GenerationParameters, prompt_tokens: int) -> SamplingParams:
        room = max(1, self._max_model_len - prompt_tokens)
        values = dict(self._defaults)
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens"):
            if (value := getattr(asked, name)) is not None:
                values[name] = value
        for name in ("presence_penalty", "frequency_penalty"):
            if value := getattr(asked, name):
                values[name] = value
        values["max_tokens"] = min(values.get("max_tokens") or room, room)
        return SamplingParams(
            n=asked.n,
            seed=asked.seed,
            min_tokens=min(asked.min_tokens, values["max_tokens"]),
            stop_token_ids=asked.stop_token_ids or None,
            ignore_eos=asked.ignore_eos,
            logprobs=asked.logprobs,
            prompt_logprobs=asked.prompt_logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            **values,
        )

    def _generate_one_token(self) -> None:
        # Not counted: the first request of a user must be the first in vLLM's metrics.
        loggers, self._engine.logger_manager = self._engine.logger_manager, None
        self._engine.add_request(
            "boot",
            tokens_input([0]),
            # With logprobs: in a compiled engine the first such request compiles for seconds, and everyone waits.
            SamplingParams(max_tokens=1, logprobs=1, detokenize=False),
        )
        while self.has_work():
            self._engine.step()
        self._engine.logger_manager = loggers


class _Stream:
    __slots__ = ("_first", "_logprobs", "number")

    def __init__(self, number: int, parameters: GenerationParameters) -> None:
        self.number = number
        self._logprobs = parameters.logprobs
        self._first = True

    def delta(self, output: Any, completion: Any) -> TokenDelta:
        delta = TokenDelta(completion.index, list(completion.token_ids))
        if completion.finish_reason is not None:
            delta.finish_reason = _FINISH_REASONS[completion.finish_reason]
            delta.stop_reason = completion.stop_reason
        if self._logprobs is not None and completion.logprobs:
            delta.logprobs = [
                _token_logprob(token_id, entry, self._logprobs)
                for token_id, entry in zip(completion.token_ids, completion.logprobs, strict=True)
            ]
        if self._first and completion.index == 0:
            self._first = False
            delta.prompt_tokens = len(output.prompt_token_ids)
            delta.cached_tokens = output.num_cached_tokens or 0
            if output.prompt_logprobs:
                delta.prompt_logprobs = [
                    None if entry is None else _token_logprob(token_id, entry, len(entry))
                    for token_id, entry in zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
                ]
        return delta


class _Rate:
    """Tokens per second, exponentially smoothed over the time in which the engine steps."""

    def __init__(self) -> None:
        self.per_s = 0.0
        self._last_s = 0.0

    def add(self, tokens: int, now_s: float) -> None:
        elapsed_s, self._last_s = now_s - self._last_s, now_s
        if 0.0 < elapsed_s < _RATE_SMOOTHING_S:
            weight = elapsed_s / (_RATE_SMOOTHING_S + elapsed_s)
            self.per_s += weight * (tokens / elapsed_s - self.per_s)


class _VllmCollectors:
    """Only vLLM's metrics of the default registry: those of this process (`python_info`) collide with the front's."""

    def collect(self) -> list[Any]:
        return [metric for metric in REGISTRY.collect() if metric.name.startswith("vllm:")]


def exposition() -> bytes:
    """vLLM's Prometheus metrics in text format. May be called by any thread."""
    return bytes(generate_latest(_VllmCollectors()))


def _register_in_process(model_dir: Path) -> None:
    """Import the model's class here and now, where it is needed anyway.

    vLLM looks at a class it has not registered in a second Python process that imports everything once more, which
    takes longer than the rest of the boot whenever its cache is new.
    """
    config = json.loads((model_dir / "config.json").read_bytes())
    for architecture in config.get("architectures") or ():
        lazy = ModelRegistry.models.get(architecture)
        if hasattr(lazy, "load_model_cls"):
            ModelRegistry.register_model(architecture, lazy.load_model_cls())


def _token_logprob(token_id: int, entry: Any, count: int) -> TokenLogprob:
    ranked = sorted(((value.rank or 0, key, value.logprob) for key, value in entry.items()))
    top = [(key, max(logprob, _LOWEST_LOGPROB)) for rank, key, logprob in ranked if rank <= count]
    return TokenLogprob(token_id, max(entry[token_id].logprob, _LOWEST_LOGPROB), top[:count])


def _as_ids(value: int | list[int] | None) -> set[int]:
    if value is None:
        return set()
    return {value} if isinstance(value, int) else set(value)


def _with_phases(executor_class: type[Any], on_phase: Callable[[str], None]) -> type[Any]:
    """The executor vLLM chose, telling where the boot is: weights, memory profiling, KV cache, compilation."""

    class PhasedExecutor(executor_class):  # type: ignore[misc]
        def determine_available_memory(self) -> Any:
            on_phase("profile")
            return super().determine_available_memory()

        def initialize_from_config(self, kv_cache_configs: Any) -> Any:
            on_phase("kv-cache")
            return super().initialize_from_config(kv_cache_configs)

        def compile_or_warm_up_model(self) -> Any:
            on_phase("compile")
            return super().compile_or_warm_up_model()

    return PhasedExecutor
