"""Adapters of several leases on one engine: real vLLM on the CPU, judged by the demo model with merged weights."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pool_agent import Host, ZygoteProcess, private_dir
from random_adapters import BASE, Tensors, could_say, logprobs_of, write_adapter
from tokenizers import Tokenizer

from pilotlight_engine.client import pool_client
from pilotlight_models.adapter import folder_stamp
from pilotlight_protocol.adapters import AT_ONCE, kept
from pilotlight_protocol.engine_frames import (
    Adapter,
    GenerateRequest,
    Grant,
    Granted,
    GrantRefused,
    HostConfig,
    Revoke,
    Revoked,
    Shutdown,
)
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters, TokenDelta
from pilotlight_protocol.structured_outputs import StructuredOutputs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
RANK = 16
# More than a KV block (128 tokens on a CPU), so that it could be found in a prefix cache.
PROMPT = [(number * 37) % 2000 + 5 for number in range(150)]
SECRET = "0" * 64
GREEDY = GenerationParameters(temperature=0.0, max_tokens=16, ignore_eos=True)
_numbers = itertools.count(1)


class Slot:
    """A host that takes adapters; its leases are let in beside each other."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.booted = host.wait_booted()
        self.granted = False

    def grant(self, tenant: str, folder: Path, stamp: str = "") -> Granted | GrantRefused:
        lease_id, stamp = f"lease-{next(_numbers)}", stamp or folder_stamp(folder)
        adapter = Adapter(adapter_name(tenant, folder, stamp), str(folder), stamp)
        secret = hashlib.sha256(SECRET.encode()).hexdigest()
        self.host.send(Grant(lease_id, secret, tenant, folder.name, self.granted, adapter))
        answer: Granted | GrantRefused = self.host.until(Granted, GrantRefused)  # type: ignore[assignment]  # F is one of them
        self.granted = self.granted or isinstance(answer, Granted)
        return answer

    def lease(self, tenant: str, folder: Path) -> str:
        answer = self.grant(tenant, folder)
        assert isinstance(answer, Granted), answer
        return answer.lease_id

    def end(self, lease_id: str) -> None:
        self.host.send(Revoke(lease_id, "done"))
        assert self.host.until(Revoked).lease_id == lease_id

    async def say(self, lease_id: str, lora: str | None = None) -> tuple[list[int], int, bytes]:
        """The tokens, how many of the prompt's were cached, and the metrics."""
        engine = await pool_client.connect(self.booted.endpoint, lease_id, SECRET)
        try:
            request = GenerateRequest("r", PROMPT, GREEDY, lora)
            deltas = [delta async for some in engine.generate(request) for delta in some]
            cached = deltas[0].cached_tokens or 0
            return tokens_of(deltas), cached, await engine.metrics()
        finally:
            await engine.close()

    async def ask(self, lease_id: str, **parameters: Any) -> list[TokenDelta]:
        engine = await pool_client.connect(self.booted.endpoint, lease_id, SECRET)
        try:
            request = GenerateRequest("r", PROMPT, msgspec.structs.replace(GREEDY, **parameters))
            return [delta async for some in engine.generate(request) for delta in some]
        finally:
            await engine.close()

    def answer(self, lease_id: str) -> list[int]:
        return asyncio.run(self.say(lease_id))[0]


def adapter_name(tenant: str, folder: Path, stamp: str) -> str:
    return hashlib.sha256(f"{tenant} {folder} {stamp}".encode()).hexdigest()


def tokens_of(deltas: list[TokenDelta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


@contextlib.contextmanager
def host(zygote: ZygoteProcess, run_dir: Path, **config: Any) -> Iterator[Host]:
    forked = zygote.fork(
        HostConfig(
            slot=run_dir.name, listen=f"unix://{private_dir(run_dir)}/engine.sock", model_dir=str(BASE),
            model_name="base", engine_args={"max_num_seqs": "16", "max_model_len": "1024"}, cpus=2, **config,
        )
    )  # fmt: skip
    yield forked
    with contextlib.suppress(OSError):
        forked.send(Shutdown())


@pytest.fixture(scope="module")
def slot(zygote: ZygoteProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slot]:
    with host(zygote, tmp_path_factory.mktemp("slot") / "s", adapter_rank=RANK) as forked:
        yield Slot(forked)


@pytest.fixture
def leased(slot: Slot) -> Iterator[Callable[[str, Path], str]]:
    """Leases that end with the test."""
    ids: list[str] = []

    def lease(tenant: str, folder: Path) -> str:
        ids.append(slot.lease(tenant, folder))
        return ids[-1]

    yield lease
    for lease_id in ids:
        slot.end(lease_id)


Leased = Callable[[str, Path], str]


def test_each_lease_is_answered_with_its_own_adapter_at_the_same_time(
    slot: Slot, leased: Leased, tmp_path: Path
) -> None:
    folders = [write_adapter(tmp_path / f"a{seed}", seed, rank=rank) for seed, rank in ((1, 8), (2, 16), (3, 5))]
    leases = [leased(tenant, folder) for tenant, folder in zip(("a", "b", "a"), folders, strict=True)]

    async def all_at_once() -> list[tuple[list[int], int, bytes]]:
        return await asyncio.gather(*(slot.say(lease_id) for lease_id in leases))

    answers = asyncio.run(all_at_once())
    said = [tokens for tokens, _, _ in answers]
    assert [tokens for tokens, _, _ in asyncio.run(all_at_once())] == said
    assert len({tuple(tokens) for tokens in said}) == 3
    for folder, tokens in zip(folders, said, strict=True):
        assert could_say(folder, PROMPT, tokens)
        assert not could_say(None, PROMPT, tokens), "the oracle tells an adapter from the base"
    assert {metrics for _, _, metrics in answers} == {b""}, "the engine's counters are of two tenants"


def test_a_prompt_is_cached_for_its_tenant_and_adapter_alone(slot: Slot, leased: Leased, tmp_path: Path) -> None:
    one, other = write_adapter(tmp_path / "one", 4), write_adapter(tmp_path / "other", 5)
    mine = leased("a", one)
    asyncio.run(slot.say(mine))
    assert asyncio.run(slot.say(mine))[1] > 0
    assert asyncio.run(slot.say(leased("a", other)))[1] == 0
    assert asyncio.run(slot.say(leased("b", one)))[1] == 0, "another tenant's cache would tell what it has asked"


def test_a_holder_cannot_name_an_adapter(slot: Slot, leased: Leased, tmp_path: Path) -> None:
    theirs = write_adapter(tmp_path / "theirs", 6)
    leased("b", theirs)
    mine = leased("a", write_adapter(tmp_path / "mine", 7))
    with pytest.raises(InvalidInput, match="no LoRA adapter"):
        asyncio.run(slot.say(mine, "b theirs"))
    with pytest.raises(InvalidInput, match="no LoRA adapter"):
        asyncio.run(slot.say(mine, adapter_name("b", theirs, folder_stamp(theirs))))


def test_adapters_make_room_for_others_and_come_back(slot: Slot, leased: Leased, tmp_path: Path) -> None:
    first, stays = write_adapter(tmp_path / "first", 8), leased("b", write_adapter(tmp_path / "stays", 9))
    lease_id = slot.lease("a", first)
    before, neighbour = slot.answer(lease_id), slot.answer(stays)
    slot.end(lease_id)
    for number in range(kept(RANK) + 1):
        slot.end(slot.lease("c", write_adapter(tmp_path / f"other{number}", 100 + number)))
    first.rename(tmp_path / "moved")
    assert isinstance(slot.grant("a", first), GrantRefused), "it was unloaded, and its folder is not there"
    (tmp_path / "moved").rename(first)
    assert slot.answer(leased("a", first)) == before
    assert slot.answer(stays) == neighbour, "one that is leased stays, whatever comes and goes"


def test_logprobs_of_prompt_and_answer_are_each_adapters_own(slot: Slot, leased: Leased, tmp_path: Path) -> None:
    """Also of one that scales by the root of its rank."""
    folders = [write_adapter(tmp_path / "one", 30), write_adapter(tmp_path / "two", 31, rank=16, use_rslora=True)]
    leases = [leased(tenant, folder) for tenant, folder in zip(("a", "b"), folders, strict=True)]

    async def all_at_once() -> list[list[TokenDelta]]:
        return await asyncio.gather(*(slot.ask(each, logprobs=2, prompt_logprobs=1) for each in leases))

    for place, deltas in enumerate(asyncio.run(all_at_once())):
        said = tokens_of(deltas)
        assert could_say(folders[place], PROMPT, said)
        told = [each.logprob for each in deltas[0].prompt_logprobs or () if each is not None]
        told += [each.logprob for delta in deltas for each in delta.logprobs or ()]
        own, other = (logprobs_of(folders[which], PROMPT + said) for which in (place, 1 - place))
        assert len(told) == len(own)
        assert _distance(told, own) < 0.1 < 0.5 < _distance(told, other)


def _distance(told: list[float], expected: list[float]) -> float:
    return sum(abs(one - other) for one, other in zip(told, expected, strict=True)) / len(told)


def test_constrained_answers_run_beside_each_other_and_beside_free_ones(
    slot: Slot, leased: Leased, tmp_path: Path
) -> None:
    folders = [write_adapter(tmp_path / str(seed), seed) for seed in (32, 33, 34)]
    leases = [leased(tenant, folder) for tenant, folder in zip(("a", "b", "a"), folders, strict=True)]
    patterns = (r"[0-9]{3}-[0-9]{3}", r"(yes|no), (sir|madam)", None)
    free = slot.answer(leases[2])

    async def all_at_once() -> list[list[TokenDelta]]:
        asks = (
            slot.ask(lease_id, ignore_eos=False, max_tokens=32, logprobs=0)
            if pattern is None
            else slot.ask(
                lease_id, ignore_eos=False, max_tokens=32, structured_outputs=StructuredOutputs(regex=pattern)
            )
            for lease_id, pattern in zip(leases, patterns, strict=True)
        )
        return await asyncio.gather(*asks)

    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    answers = asyncio.run(all_at_once())
    for pattern, deltas in zip(patterns[:2], answers[:2], strict=True):
        assert pattern is not None
        assert re.fullmatch(pattern, tokenizer.decode(tokens_of(deltas))), pattern
        assert deltas[-1].finish_reason == "stop"
    assert tokens_of(answers[2])[: len(free)] == free[: len(tokens_of(answers[2]))]


def test_a_folder_that_changed_since_it_was_looked_at_is_not_loaded_under_its_old_name(
    slot: Slot, leased: Leased, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a", 35)
    stamp = folder_stamp(folder)
    shutil.rmtree(folder)
    refused = slot.grant("a", write_adapter(folder, 36), stamp=stamp)
    assert isinstance(refused, GrantRefused)
    assert (refused.status, "has changed" in refused.reason) == (503, True)
    now = folder_stamp(folder)
    granted = slot.grant("a", folder, stamp=now)
    assert isinstance(granted, Granted)
    assert could_say(folder, PROMPT, slot.answer(granted.lease_id))
    slot.end(granted.lease_id)


def _wrong_inputs(tensors: Tensors) -> Tensors:
    return {name: half[:, :-1].contiguous() if "lora_A" in name else half for name, half in tensors.items()}


def _other_layer(tensors: Tensors) -> Tensors:
    return {name.replace("layers.0", "layers.77"): half for name, half in tensors.items()}


def _no_numbers(tensors: Tensors) -> Tensors:
    return {name: half / 0.0 if "lora_B" in name else half for name, half in tensors.items()}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"r": 10**9}, "rank 256 at most"),
        ({"rank": 32}, "greater than max_lora_rank"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"change": _wrong_inputs}, "as rank and base make it"),
        ({"change": _other_layer}, "no layer of the base"),
        ({"change": _no_numbers}, "no number"),
    ],
)
def test_a_hostile_adapter_is_refused_and_its_neighbour_answers_as_before(
    slot: Slot, leased: Leased, tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    neighbour = leased("a", write_adapter(tmp_path / "good", 10))
    before = slot.answer(neighbour)
    refused = slot.grant("b", write_adapter(tmp_path / "bad", 11, **wrong))
    assert isinstance(refused, GrantRefused)
    assert words in refused.reason
    assert str(tmp_path) not in refused.reason
    assert slot.answer(neighbour) == before


def test_weights_that_overflow_spoil_their_own_answers_alone(slot: Slot, leased: Leased, tmp_path: Path) -> None:
    """Its keys and values are no numbers; the blocks that held them are the neighbour's later."""
    neighbour = leased("a", write_adapter(tmp_path / "good", 12))
    before = slot.answer(neighbour)

    def huge(tensors: Tensors) -> Tensors:
        return {name: half * 1e36 for name, half in tensors.items()}

    bad = slot.lease("b", write_adapter(tmp_path / "huge", 13, change=huge))

    async def beside() -> list[int]:
        spoilt = asyncio.create_task(slot.say(bad))
        tokens, _, _ = await slot.say(neighbour)
        await spoilt
        return tokens

    assert asyncio.run(beside()) == before
    slot.end(bad)
    assert slot.answer(neighbour) == before
    assert slot.answer(leased("c", write_adapter(tmp_path / "fresh", 14)))


def test_a_request_for_the_base_is_not_answered_with_an_adapter_that_runs_beside_it(
    zygote: ZygoteProcess, tmp_path: Path
) -> None:
    """Of adapters that an engine is configured with (`--lora_module`): vLLM's own products on a CPU mix them up."""
    tuned = write_adapter(tmp_path / "tuned", 1)
    with host(zygote, tmp_path / "s", loras=[("tuned", str(tuned))]) as forked:
        endpoint = forked.wait_booted().endpoint
        forked.grant("lease", SECRET, "a")

        async def both() -> tuple[list[int], list[int]]:
            engine = await pool_client.connect(endpoint, "lease", SECRET)

            async def tokens(lora: str | None) -> list[int]:
                request = GenerateRequest("r", PROMPT, GREEDY, lora)
                return [t async for some in engine.generate(request) for delta in some for t in delta.token_ids]

            said = await asyncio.gather(tokens("tuned"), tokens(None))
            await engine.close()
            return said

        with_adapter, without = asyncio.run(both())
    assert could_say(tuned, PROMPT, with_adapter)
    assert could_say(None, PROMPT, without)


def test_as_many_are_served_at_once_as_placement_counts_with(slot: Slot, leased: Leased, tmp_path: Path) -> None:
    folders = [write_adapter(tmp_path / str(number), 20 + number) for number in range(AT_ONCE[RANK])]
    leases = [leased("a", folder) for folder in folders]

    async def all_at_once() -> list[list[int]]:
        return [tokens for tokens, _, _ in await asyncio.gather(*(slot.say(lease_id) for lease_id in leases))]

    said = asyncio.run(all_at_once())
    assert all(could_say(folder, PROMPT, tokens) for folder, tokens in zip(folders, said, strict=True))
