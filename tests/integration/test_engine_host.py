"""The engine host with real vLLM on the CPU and the bundled AWQ model: one boot for most of the file."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from process_table import cpu_s, is_alive
from waiting import until_async

from pilotlight_engine.client.child_provider import ChildEngineProvider, ChildSettings
from pilotlight_engine.client.host_control import HostControl
from pilotlight_engine.client.own_engine import child_provider
from pilotlight_engine.contract import Engine, GenerateRequest
from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_models import bundled_model_path
from pilotlight_protocol.engine_frames import HostConfig
from pilotlight_protocol.errors import InvalidInput, Unavailable
from pilotlight_protocol.generation import GenerationParameters, TokenDelta

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

MODEL = "demo-awq"
ARGUMENTS = {"enforce_eager": "true", "max_num_seqs": "8"}
PROMPTS = [[5, 6, 7, 8], [100, 200, 300], [42] * 40]

OFFLINE = """
import json, sys
from vllm import LLM, ModelRegistry, SamplingParams
from vllm.model_executor.models.llama import LlamaForCausalLM

ModelRegistry.register_model("LlamaForCausalLM", LlamaForCausalLM)  # else vLLM looks at it in one more process

if __name__ == "__main__":
    model, prompts = sys.argv[1], json.loads(sys.argv[2])
    llm = LLM(model, skip_tokenizer_init=True, enforce_eager=True, kv_cache_memory_bytes=2**28, max_num_seqs=8)
    params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, detokenize=False)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    print("TOKENS", json.dumps([list(output.outputs[0].token_ids) for output in outputs]))
"""

PARENT = """
import asyncio, os, sys
from pilotlight_models import bundled_model_path
from pilotlight_engine.client.own_engine import child_provider
from pilotlight_protocol.engine_frames import HostConfig

async def main():
    model_dir = str(bundled_model_path(sys.argv[1]))
    config = HostConfig(model_dir=model_dir, model_name="demo", engine_args={"enforce_eager": "true"})
    provider = child_provider(config, os.environ)
    await provider.acquire()
    print("CHILD", provider.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def new_provider(**settings: Any) -> ChildEngineProvider:
    values: dict[str, Any] = {"engine_args": ARGUMENTS, **settings}
    return child_provider(HostConfig(model_dir=str(bundled_model_path(MODEL)), model_name="demo", **values), os.environ)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[ChildEngineProvider]:
    yield new_provider()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(provider: ChildEngineProvider) -> AsyncIterator[Engine]:
    engine = await provider.acquire()
    yield engine
    await provider.release(engine)


def request(ids: list[int], name: str = "test", **parameters: Any) -> GenerateRequest:
    return GenerateRequest(name, ids, GenerationParameters(**parameters))


async def collect(engine: Engine, ask: GenerateRequest) -> list[TokenDelta]:
    async with contextlib.aclosing(engine.generate(ask)) as stream:
        return [delta async for deltas in stream for delta in deltas]


def tokens(deltas: list[TokenDelta], index: int = 0) -> list[int]:
    return [token for delta in deltas if delta.index == index for token in delta.token_ids]


async def test_a_child_that_cannot_be_told_what_to_run_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(control: HostControl, frame: object) -> None:
        raise Unavailable("the socket is gone")

    def children() -> str:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    monkeypatch.setattr(HostControl, "send", refuse)
    config = HostConfig(model_dir="/model", model_name="demo")
    provider = ChildEngineProvider(ChildSettings(config, os.environ, argv=("sleep", "600")))
    before = children()
    for _ in range(2):
        with pytest.raises(Unavailable, match="the socket is gone"):
            async with asyncio.timeout(30):
                await provider.acquire()
        assert provider.pid is None
        await until_async(lambda: children() == before)


async def test_it_says_what_it_is(engine: Engine) -> None:
    info = engine.info
    assert (info.quantization, info.device, info.max_model_len, info.vocab_size) == ("awq", "cpu", 2048, 2048)
    assert info.eos_token_ids == [0, 2]
    assert list(info.boot_phases_s)[:2] == ["import", "model-class"]
    assert "warm-up" in info.boot_phases_s


async def test_greedy_tokens_are_vllms_own(engine: Engine, tmp_path: Path) -> None:
    ask: dict[str, Any] = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True}
    ours = [tokens(await collect(engine, request(prompt, **ask))) for prompt in PROMPTS]
    again = await asyncio.gather(*(collect(engine, request(prompt, **ask)) for prompt in PROMPTS))
    assert [tokens(deltas) for deltas in again] == ours
    script = tmp_path / "offline.py"
    script.write_text(OFFLINE)
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(bundled_model_path(MODEL)), json.dumps(PROMPTS), env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    found = re.search(rb"TOKENS (.*)", output)
    assert found, output.decode()
    assert json.loads(found[1]) == ours


async def test_the_stream_has_the_shape_of_the_contract(engine: Engine) -> None:
    deltas = await collect(engine, request([5, 6, 7], temperature=0.0, max_tokens=5, ignore_eos=True))
    assert deltas[0].prompt_tokens == 3
    assert deltas[0].cached_tokens == 0
    assert all(delta.prompt_tokens == -1 for delta in deltas[1:])
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason == "length"
    assert len(tokens(deltas)) == 5


async def test_many_requests_at_once_do_not_mix(engine: Engine) -> None:
    asks = [request([n, n + 1, n + 2], temperature=0.0, max_tokens=16, ignore_eos=True) for n in range(32)]
    alone = [tokens(await collect(engine, ask)) for ask in asks[:4]]
    together = await asyncio.gather(*(collect(engine, ask) for ask in asks))
    assert [tokens(deltas) for deltas in together[:4]] == alone
    assert all(len(tokens(deltas)) == 16 for deltas in together)


async def test_a_repeated_prompt_is_cached_but_not_across_salts(engine: Engine) -> None:
    prompt = [n % 2000 + 3 for n in range(300)]
    first = await collect(engine, request(prompt, max_tokens=1, cache_salt="tenant-a"))
    second = await collect(engine, request(prompt, max_tokens=1, cache_salt="tenant-a"))
    other = await collect(engine, request(prompt, max_tokens=1, cache_salt="tenant-b"))
    assert (first[0].cached_tokens, second[0].cached_tokens > 0, other[0].cached_tokens) == (0, True, 0)


async def test_choices_seeds_and_logprobs(engine: Engine) -> None:
    ask: dict[str, Any] = {"temperature": 1.0, "seed": 7, "max_tokens": 12, "ignore_eos": True, "n": 3}
    first, second = [await collect(engine, request([9, 10], **ask)) for _ in range(2)]
    choices = [tokens(first, index) for index in range(3)]
    assert choices == [tokens(second, index) for index in range(3)]
    assert len({tuple(choice) for choice in choices}) > 1
    assert sum(delta.finish_reason == "length" for delta in first) == 3
    deltas = await collect(engine, request([9, 10, 11], temperature=0.0, max_tokens=4, logprobs=2, prompt_logprobs=1))
    entries = [entry for delta in deltas for entry in delta.logprobs or []]
    assert [entry.token_id for entry in entries] == tokens(deltas)
    assert all(len(entry.top) == 2 and entry.top[0] == (entry.token_id, entry.logprob) for entry in entries)
    prompt_logprobs = deltas[0].prompt_logprobs
    assert prompt_logprobs is not None
    assert [entry.token_id if entry else None for entry in prompt_logprobs] == [None, 10, 11]


async def test_stop_tokens_end_a_choice_and_say_which(engine: Engine) -> None:
    free = tokens(await collect(engine, request([5, 6, 7], temperature=0.0, max_tokens=8, ignore_eos=True)))
    deltas = await collect(
        engine, request([5, 6, 7], temperature=0.0, max_tokens=8, ignore_eos=True, stop_token_ids=[free[2]])
    )
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", free[2])
    assert tokens(deltas) == free[: free.index(free[2]) + 1]


@pytest.mark.parametrize(
    ("ids", "parameters", "message"),
    [
        ([], {}, "empty"),
        ([2048], {}, r"\[0, 2048\)"),
        ([-1], {}, r"\[0, 2048\)"),
        ([1] * 2048, {}, "maximum model length"),
        ([1] * 5000, {}, "longer than"),
        ([1], {"n": 2, "temperature": 0.0}, "greedy"),
    ],
)
async def test_a_bad_request_fails_alone(
    engine: Engine, ids: list[int], parameters: dict[str, Any], message: str
) -> None:
    good = asyncio.create_task(collect(engine, request([5, 6], max_tokens=4, ignore_eos=True)))
    with pytest.raises(InvalidInput, match=message):
        await collect(engine, request(ids, **parameters))
    assert len(tokens(await good)) == 4


async def test_an_unknown_adapter_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match="no LoRA adapter 'x'"):
        await collect(engine, GenerateRequest("r", [1], GenerationParameters(), lora="x"))


@pytest.mark.parametrize("choices", [1, 2])
async def test_leaving_early_frees_the_kv_cache(engine: Engine, choices: int) -> None:
    async with contextlib.aclosing(engine.generate(request([1, 2], n=choices, max_tokens=2000, ignore_eos=True))) as s:
        await anext(s)
        assert engine.stats.running == choices
        assert engine.stats.kv_cache_usage > 0.0
    await until_async(lambda: engine.stats.running == 0 and engine.stats.kv_cache_usage == 0.0)


async def test_lower_priority_values_go_first(engine: Engine) -> None:
    order: list[str] = []

    async def ask(name: str, priority: int, length: int) -> None:
        await collect(engine, request([3, 4], max_tokens=length, ignore_eos=True, priority=priority))
        order.append(name)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(ask("running", 0, 60))
        await until_async(lambda: engine.stats.running == 8)
        for _ in range(4):
            group.create_task(ask("low", 10, 4))
        await until_async(lambda: engine.stats.waiting == 4)
        for _ in range(8):
            group.create_task(ask("high", 1, 4))
    queued = [name for name in order if name != "running"]
    assert queued == ["high"] * 8 + ["low"] * 4


async def test_metrics_are_vllms_own(engine: Engine) -> None:
    text = (await engine.metrics()).decode()
    for name in (
        "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "time_to_first_token_seconds_count",
        "inter_token_latency_seconds_bucket", "generation_tokens_total", "request_success_total", "cache_config_info",
    ):  # fmt: skip
        assert re.search(rf"^vllm:{name}\{{", text, re.MULTILINE), name
    assert 'model_name="demo"' in text
    assert "python_info" not in text
    assert re.search(r"^vllm:num_requests_running\{[^}]*\} 0\.0$", text, re.MULTILINE)


async def test_it_burns_nothing_while_it_idles(engine: Engine, provider: ChildEngineProvider) -> None:
    await engine.check()
    pid = provider.pid
    assert pid is not None
    before_s = cpu_s(pid)
    await asyncio.sleep(2.0)
    assert cpu_s(pid) - before_s < 0.1


async def test_signals_of_the_terminal_are_the_predictors_business(
    engine: Engine, provider: ChildEngineProvider
) -> None:
    assert provider.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(provider.pid, number)
    await engine.check()


async def test_a_wrong_engine_argument_is_a_misconfiguration() -> None:
    provider = new_provider(engine_args={"max_model_length": "5"})
    with pytest.raises(EngineMisconfigured, match="did you mean max_model_len"):
        await provider.acquire()
    assert provider.pid is None


async def test_a_killed_parent_leaves_no_engine(tmp_path: Path) -> None:
    # What a container gives: no HOME, no user, nothing but a path and a place to write.
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", PARENT, MODEL], env=environment, cwd="/", stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        line = await asyncio.to_thread(parent.stdout.readline)
        pid = int(line.split()[1])
        assert is_alive(pid)
        parent.kill()
    await until_async(lambda: not is_alive(pid))
