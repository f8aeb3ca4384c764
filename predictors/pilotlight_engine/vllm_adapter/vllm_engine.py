"""The one vLLM engine of this process: requests in, token deltas out. Adapter to vLLM.

`LLMEngine` runs with its core in this process (no second process, no serialization between the two) and without a
tokenizer. Everything here is called by one thread, the one that created it: OpenMP's pools belong to their thread.
It must not know frames or sockets.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor import Executor
from vllm.v1.metrics.loggers import StatLoggerManager

from pilotlight_engine.boot.boot_failures import told
from pilotlight_engine.errors import EngineMisconfigured, SwapBroken, SwapNotPossible
from pilotlight_engine.vllm_adapter import (
    engine_examination,
    lora_kernels,
    model_defaults,
    pooler,
    vllm_boot,
    vllm_metrics,
    weight_exchange,
)
from pilotlight_engine.vllm_adapter.constrained_requests import ConstrainedRequests
from pilotlight_engine.vllm_adapter.constraint_preparation import Compiled
from pilotlight_engine.vllm_adapter.loaded_adapters import LoadedAdapters
from pilotlight_engine.vllm_adapter.model_defaults import ModelDefaults
from pilotlight_engine.vllm_adapter.phase_clock import PhaseClock, SwapReport
from pilotlight_engine.vllm_adapter.pooler import Pooler
from pilotlight_engine.vllm_adapter.sampling import sampling_params
from pilotlight_engine.vllm_adapter.token_deltas import Rate, Stream
from pilotlight_engine.vllm_adapter.weight_exchange import WeightExchange
from pilotlight_protocol.engine_frames import (
    Adapter,
    EngineInfo,
    EngineRequest,
    EngineStats,
    GenerateRequest,
    SwapCheck,
)
from pilotlight_protocol.errors import InternalError, InvalidInput, PilotlightError
from pilotlight_protocol.generation import GenerationParameters, TokenDelta
from pilotlight_protocol.pooling import PooledVector, PoolRequest, not_generating, not_pooling
from pilotlight_protocol.swap_proofs import EngineState

_SWAP_CHECK_PROMPT = (0,)


class VllmEngine:
    """`step` while `has_work`. `on_phase` is told the name of each boot phase as it begins.

    `swap_threads`: how many threads a swap's copying may take; 1 where nobody swaps. `share_graph`: use what was
    compiled for another checkpoint of the architecture. `exchange`: what exchanges its weights.
    """

    def __init__(
        self,
        engine_args: Any,
        loras: Sequence[tuple[str, str]],
        on_phase: Callable[[str], None],
        swap_threads: int = 1,
        share_graph: bool = True,
        exchange: type[WeightExchange] = WeightExchange,
    ) -> None:
        vllm_boot.allow_amx()
        on_phase("model-class")
        vllm_boot.register_in_process(Path(engine_args.model))
        on_phase("config")
        try:
            config = engine_args.create_engine_config(UsageContext.ENGINE_CONTEXT)
        except (VLLMClientError, ValueError, OSError, NotImplementedError) as error:
            raise EngineMisconfigured(f"vLLM refuses this model or its engine arguments: {told(error)}") from error
        on_phase("load")
        self._config = config
        vllm_boot.prepare_for_adapters(config)
        self._weights = exchange(config, swap_threads)
        if share_graph:
            self._weights.share_compiled_graph()
        self._engine = LLMEngine(config, vllm_boot.with_phases(Executor.get_class(config), on_phase), log_stats=True)
        self._core = self._engine.engine_core.engine_core
        if config.parallel_config.world_size == 1:
            vllm_boot.remove_rendezvous(self._core.model_executor.driver_worker.worker.distributed_init_method)
            if config.lora_config is not None:
                lora_kernels.watch(self._model())
        # A constraint is checked where it is compiled, off this thread.
        self._engine.input_processor.structured_outputs_config = None
        self.constrained = ConstrainedRequests(self._core)
        model = config.model_config
        self._vocab_size = int(model.get_vocab_size())
        self._max_model_len = int(model.max_model_len)
        try:
            self._adopt(model_defaults.read(model, Path(model.model)))
        except Exception as error:
            raise EngineMisconfigured(f"{model.model} cannot be served: {type(error).__name__}: {error}") from error
        self._adapters = LoadedAdapters(self._engine, config, loras)
        self._streams: dict[str, Stream] = {}
        self._ids: dict[int, tuple[str, str]] = {}
        self._rate = Rate()
        self._pooler = pooler.pooler_of(config, self._engine.get_supported_tasks())
        self._pooled: list[tuple[int, PooledVector]] = []
        vllm_metrics.name_no_adapters(self._engine.logger_manager)
        on_phase("warm-up")
        self.swap_check = self._warm_up()
        on_phase("ready")

    def _warm_up(self) -> SwapCheck:
        if self._pooler is not None:
            return self._pooler.check(self._answer_one(self._pooler.plain_params()))
        # Sampled and with logprobs: in a compiled engine the first such request compiles for seconds, everyone waits.
        self._answer_one(SamplingParams(max_tokens=1, logprobs=1, detokenize=False))
        return self._check_swap()

    def describe(self, boot_phases_s: dict[str, float]) -> EngineInfo:
        cache = self._config.cache_config
        return EngineInfo(
            max_model_len=self._max_model_len,
            vocab_size=self._vocab_size,
            eos_token_ids=self._defaults.eos_ids,
            block_size=int(cache.block_size),
            num_kv_blocks=int(cache.num_gpu_blocks or 0) if pooler.has_kv_cache(self._config) else 0,
            quantization=weight_exchange.quantization(self._config),
            device=str(self._config.device_config.device_type),
            boot_phases_s=boot_phases_s,
            default_max_tokens=self._defaults.sampling.get("max_tokens"),
            swap_path=self._weights.path,
            pooling=None if self._pooler is None else self._pooler.info,
        )

    def plan_swaps(self, spare_bytes: int = 0, *, proven: bool = True) -> None:
        """Part of the boot of an engine that may be swapped: its first swap then takes as long as any other.
        `spare_bytes`: of memory, for packed weights of models that come back."""
        try:
            self._weights.plan(self._model, spare_bytes, proven=proven)
        except Exception as error:
            # A layer of a kind that nobody has met (a mixture's gate) is no reason not to serve the model.
            self._weights.path = f"none: {type(error).__name__}: {error}"

    def swap(self, model_dir: Path, model_name: str, loras: Sequence[tuple[str, str]] = ()) -> SwapReport:
        """Serve the model in `model_dir` from now on, under `model_name` (design.md 4.2). No request may be running.

        Raises SwapNotPossible: nothing was touched, the old model is served as before. Raises SwapBroken: the engine
        holds neither model and must not generate again.
        """
        clock = PhaseClock()
        with clock.phase("inspect"):
            if self.has_work():
                raise SwapNotPossible("requests are still running")
            try:
                wanted, defaults = self._weights.inspect(self._model, model_dir, loras)
            except (AttributeError, RuntimeError, ValueError) as error:
                raise SwapNotPossible(f"its weights are kept in a way not known here: {error}") from error
        model = self._config.model_config
        try:
            with clock.phase("weights"):
                self._weights.load(self._model(), self._core.model_executor, wanted)
            with clock.phase("reset"):
                self.forget()
            with clock.phase("defaults"):
                model.model = model.tokenizer = str(model_dir)
                model.model_weights, model.revision, model.served_model_name = "", None, model_name
                self._adopt(defaults)
                self.renew_metrics()
            with clock.phase("check"):
                self.swap_check = self._check_swap()
        except Exception as error:
            raise SwapBroken(f"the swap to {model_dir} broke off: {type(error).__name__}: {error}") from error
        return SwapReport(clock.phases_s)

    def examine(self) -> EngineState:
        """See `engine_examination`. No request may be running."""
        self.forget()
        return engine_examination.examine(self._model(), self._answer_one, self._vocab_size, self._max_model_len)

    def forget(self) -> None:
        """Drop every cached key, value and encoder output, and the measured rate.

        Raises SwapBroken when something still holds one.
        """
        if not self._engine.reset_prefix_cache():
            raise SwapBroken("the prefix cache is still in use")
        self._engine.reset_mm_cache()
        self._engine.reset_encoder_cache()
        self._rate = Rate()

    def renew_metrics(self) -> None:
        """Start vLLM's metrics at zero, under the name of the model that is served now."""
        self._engine.logger_manager = StatLoggerManager(vllm_config=self._config)
        self._engine.logger_manager.log_engine_initialized()
        vllm_metrics.name_no_adapters(self._engine.logger_manager)

    def rename(self, model_name: str) -> None:
        """Serve the same weights under another name; its metrics start at zero."""
        self._config.model_config.served_model_name = model_name
        self.renew_metrics()

    def sleep(self, level: int) -> None:
        """vLLM's sleep: 1 moves the weights to pinned memory, 2 drops them. No request may be running. CUDA only."""
        self._engine.sleep(level)

    def wake(self) -> None:
        self._engine.wake_up()

    @property
    def device_type(self) -> str:
        return str(self._config.device_config.device_type)

    @property
    def batch_size(self) -> int:
        """How many requests it has at work at once, at most."""
        return int(self._config.scheduler_config.max_num_seqs)

    @property
    def can_sleep(self) -> bool:
        return self.device_type == "cuda" and bool(self._config.model_config.enable_sleep_mode)

    def load_adapter(self, adapter: Adapter, in_use: Container[str]) -> None:
        """See `LoadedAdapters.load`."""
        self._adapters.load(adapter, in_use)

    def add(self, stream: int, request: EngineRequest, adapter: str = "") -> None:
        """Queue a request, with its lease's `adapter`; one whose constraint is not compiled yet waits beside the queue.

        Raises InvalidInput where vLLM refuses it, TooManyRequests; the engine is then as it was.
        """
        prompt = request.prompt_token_ids
        if not prompt:
            raise InvalidInput("the prompt is empty; send at least one token id", param="input_ids")
        if min(prompt) < 0 or max(prompt) >= self._vocab_size:
            raise InvalidInput(f"token ids must be in [0, {self._vocab_size})", param="input_ids")
        if isinstance(request, PoolRequest):
            self._add_pool(stream, request)
            return
        if self._pooler is not None:
            raise not_generating(self._pooler.info.task)
        request = self._adapters.bound(request, adapter)
        if request.parameters.structured_outputs is None:
            self._enter(stream, request)
        elif (compiled := self.constrained.compiled(stream, request)) is not None:
            self._enter_constrained(stream, request, compiled)

    def _enter_constrained(self, stream: int, request: GenerateRequest, compiled: Compiled) -> None:
        with self.constrained.entering(stream, request, compiled):
            self._enter(stream, request)

    def _enter(self, stream: int, request: GenerateRequest) -> None:
        parameters, prompt = request.parameters, request.prompt_token_ids
        external_id = f"{request.request_id}-{stream}"
        try:
            internal_id = self._engine.add_request(
                external_id,
                tokens_input(prompt, cache_salt=parameters.cache_salt),
                sampling_params(parameters, self._defaults.sampling, max(1, self._max_model_len - len(prompt))),
                lora_request=self._adapters.request_for(request.lora),
                priority=parameters.priority,
                trace_headers={"traceparent": request.traceparent} if request.traceparent else None,
            )
        except (PilotlightError, VLLMClientError, ValueError, TypeError, NotImplementedError) as error:
            self._engine.abort_request([external_id])
            raise error if isinstance(error, PilotlightError) else InvalidInput(str(error)) from error
        self._streams[external_id] = Stream(stream, parameters)
        self._ids[stream] = (external_id, internal_id)

    def _add_pool(self, stream: int, request: PoolRequest) -> None:
        if self._pooler is None:
            raise not_pooling()
        external_id = f"{request.request_id}-{stream}"
        try:
            internal_id = self._engine.add_request(
                external_id,
                tokens_input(request.prompt_token_ids, cache_salt=request.parameters.cache_salt),
                self._pooler.params(request),
                priority=request.parameters.priority,
                trace_headers={"traceparent": request.traceparent} if request.traceparent else None,
            )
        except (VLLMClientError, ValueError, TypeError, NotImplementedError) as error:
            self._engine.abort_request([external_id])
            raise InvalidInput(str(error)) from error
        self._streams[external_id] = Stream(stream, GenerationParameters())
        self._ids[stream] = (external_id, internal_id)

    def abort(self, stream: int) -> None:
        """Forget a request and free its KV blocks; unknown and finished ones are ignored."""
        self.constrained.forget(stream)
        external_id, internal_id = self._ids.pop(stream, ("", ""))
        if internal_id:
            # By internal id: only then does vLLM drop the parent of an n > 1 request as well.
            self._engine.abort_request([internal_id], internal=True)
            self._streams.pop(external_id, None)

    def has_work(self) -> bool:
        core = self._core
        return bool(
            self._engine.has_unfinished_requests()
            or core.scheduler.has_requests()
            or core.batch_queue
            or self.constrained.has_news
        )

    def step(self) -> tuple[list[tuple[int, TokenDelta]], list[tuple[int, PilotlightError]]]:
        """One engine step: new tokens by stream, and the streams the engine gave up on."""
        deltas: list[tuple[int, TokenDelta]] = []
        failures = self._let_in()
        tokens = 0
        for output in self._engine.step():
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            if self._pooler is not None:
                tokens += self._end_pool(stream.number, output, self._pooler, failures)
            for completion in output.outputs if self._pooler is None else ():
                if completion.finish_reason == "error" and (why := self.constrained.settle(stream.number, completion)):
                    failures.append((stream.number, why))
                    break
                tokens += len(completion.token_ids)
                deltas.append((stream.number, stream.delta(output, completion)))
            if output.finished:
                del self._streams[output.request_id]
                self._ids.pop(stream.number, None)
                self.constrained.forget(stream.number)
        self._rate.add(tokens, time.monotonic())
        return deltas, failures

    def _let_in(self) -> list[tuple[int, PilotlightError]]:
        """Requests that waited for their constraint; the failures among them."""
        failures: list[tuple[int, PilotlightError]] = []
        for stream, request, result in self.constrained.arrived() if self.constrained.has_news else ():
            try:
                if isinstance(result, PilotlightError):
                    raise result
                self._enter_constrained(stream, request, result)
            except PilotlightError as error:
                failures.append((stream, error))
        return failures

    def _end_pool(self, number: int, output: Any, by: Pooler, failures: list[tuple[int, PilotlightError]]) -> int:
        """Keeps the vector, or why there is none; returns the tokens that were read for it."""
        try:
            vector = by.vector(output)
        except InternalError as error:
            failures.append((number, error))
            return 0
        self._pooled.append((number, vector))
        return vector.prompt_tokens

    def take_pooled(self) -> list[tuple[int, PooledVector]]:
        """What the steps since the last call have pooled, by stream."""
        pooled, self._pooled = self._pooled, []
        return pooled

    def stats(self) -> EngineStats:
        scheduler = self._core.scheduler
        running, waiting = scheduler.get_request_counts()
        return EngineStats(
            running, waiting + self.constrained.waiting, scheduler.get_kv_cache_usage(), self._rate.per_s
        )

    def close(self) -> None:
        """End vLLM's worker processes, where it has any; the rest ends with this process.

        vLLM's own way out of one process collects every object the engine has: more than two seconds, in which the
        model that displaced this one waits for the slot.
        """
        if self._config.parallel_config.world_size > 1:
            self._engine.engine_core.shutdown()

    def _model(self) -> Any:
        return self._core.model_executor.driver_worker.worker.get_model()

    def _adopt(self, defaults: ModelDefaults) -> None:
        self._defaults = defaults
        self.constrained.serve(defaults)
        self._engine.renderer.get_eos_token_id = lambda: defaults.tokenizer_eos_id
        self._engine.input_processor.generation_config_fields = dict(defaults.generation_fields)

    def _check_swap(self) -> SwapCheck:
        output = self._answer_one(SamplingParams(temperature=0.0, max_tokens=1, logprobs=1, detokenize=False))
        (token_id,) = output.outputs[0].token_ids
        logprob = output.outputs[0].logprobs[0][token_id].logprob
        if not math.isfinite(logprob):
            raise InternalError(f"the engine's logits are not finite (logprob {logprob})")
        return SwapCheck(token_id, logprob)

    def _answer_one(
        self, parameters: SamplingParams | PoolingParams, prompt: Sequence[int] = _SWAP_CHECK_PROMPT
    ) -> Any:
        # Not counted: the first request of a user must be the first in vLLM's metrics.
        loggers, self._engine.logger_manager = self._engine.logger_manager, None
        self._engine.add_request("boot", tokens_input(list(prompt)), parameters)
        outputs: list[Any] = []
        while self.has_work():
            outputs += self._engine.step()
        self._engine.logger_manager = loggers
        return outputs[-1]
