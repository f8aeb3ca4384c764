"""Tenants' tokenizers and templates in real workers: the same text as here, and whom a bad one costs what."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from process_table import is_alive
from tokenizer_kinds import ALL, byte_level
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from pilotlight_models import bundled_model_path
from pilotlight_protocol.errors import InvalidInput, PilotlightError, Unavailable
from pilotlight_text.answer_parts.format_choice import AS_THE_TEMPLATE_SAYS
from pilotlight_text.templates.limited_process import ProcessLimits
from pilotlight_text.text_model import LoadedText, TextCodec, library_codec
from pilotlight_text.text_workers import text_worker
from pilotlight_text.text_workers.loading import text_in_worker
from pilotlight_text.text_workers.text_worker import LoadRefused
from pilotlight_text.text_workers.worker_room import WorkerRoom
from pilotlight_text.tokenization.adapter_files import AdapterFiles
from pilotlight_text.tokenization.text_loading import TextFilesRead
from pilotlight_text.tokenization.tokenizer_files import TokenizerFiles
from pilotlight_text.tokenization.tokenizer_jobs import NoRoom, Rows

pytestmark = pytest.mark.integration

MIB = 1 << 20
REAL_MODELS = Path(__file__).parents[2] / ".real-model"
HELLO = [{"role": "user", "content": "hello"}]
_MANY = "{% for a in range(99999) %}{% for b in range(99999) %}"
LOOPS = _MANY + "{% endfor %}{% endfor %}"


@asynccontextmanager
async def room(max_bytes: int = 1 << 30) -> AsyncIterator[WorkerRoom]:
    made = WorkerRoom(max_bytes)
    try:
        yield made
    finally:
        await made.close()


async def loaded(
    room: WorkerRoom, tokenizer: Tokenizer | bytes, template: str | None = None, **more: Any
) -> LoadedText:
    tokenizer_json = tokenizer if isinstance(tokenizer, bytes) else tokenizer.to_str().encode()
    found = TextFilesRead(TokenizerFiles(tokenizer_json, template=template))
    return (await text_in_worker(found, None, AS_THE_TEMPLATE_SAYS, room)).text


def demo_json(name: str = "demo-awq") -> bytes:
    return (bundled_model_path(name) / "tokenizer.json").read_bytes()


def _real(name: str) -> Tokenizer:
    path = REAL_MODELS / name / "tokenizer.json"
    return Tokenizer.from_file(str(path))


KINDS: dict[str, Callable[[], Tokenizer]] = {
    **ALL,
    "demo": lambda: Tokenizer.from_buffer(demo_json()),
    **{
        name: partial(_real, name)
        for name in ("smollm2-135m", "minilm-l6-v2")
        if (REAL_MODELS / name / "tokenizer.json").exists()
    },
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[asyncio.Runner, TextCodec, TextCodec, Tokenizer]]:
    """A codec here and one in a worker."""
    tokenizer = KINDS[request.param]()
    with asyncio.Runner() as runner:
        made = WorkerRoom(1 << 30)

        async def load() -> LoadedText:
            return await loaded(made, tokenizer)

        try:
            yield runner, library_codec(tokenizer, max_model_len=None), runner.run(load()).codec, tokenizer
        finally:
            runner.run(made.close())


TEXTS = st.one_of(st.text(max_size=40), st.sampled_from(["the quick brown fox", "naïve café 😀 你好", "a" * 5000, ""]))


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3), special=st.booleans(), most=st.integers(1, 9), data=st.data())
def test_a_worker_makes_the_same_tokens_and_the_same_text(
    pair: tuple[asyncio.Runner, TextCodec, TextCodec, Tokenizer],
    texts: list[str],
    special: bool,
    most: int,
    data: st.DataObject,
) -> None:
    runner, here, there, tokenizer = pair

    async def of(codec: TextCodec) -> list[object]:
        encoder = codec.encoder
        seconds = [text[::-1] for text in texts]
        return [
            [await encoder.ids(text, special) for text in texts],
            [await encoder.starts(text, special) for text in texts],
            await encoder.ids_of_each(texts),
            await _rows(codec, Rows(texts, None, special, most, "left")),
            await _rows(codec, Rows(texts, seconds, True, most + 3, "right")),
            await encoder.shortened(texts, most),
        ]

    known = runner.run(of(here))
    assert runner.run(of(there)) == known
    assert there.special_tokens == here.special_tokens
    beyond = tokenizer.get_vocab_size() + 3
    ids = data.draw(st.one_of(st.just(tokenizer.encode(texts[0]).ids), st.lists(st.integers(0, beyond), max_size=30)))
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=6).map(sorted))
    for skip in (True, False):
        shown = [_pieces(codec, ids, cuts, skip) for codec in (here, there)]
        assert shown[0] == shown[1]
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    assert [runner.run(codec.text_of(ids)) for codec in (here, there)] == [whole, whole]
    assert [there.token_text(token) for token in ids] == [tokenizer.id_to_token(token) for token in ids]


async def _rows(codec: TextCodec, asked: Rows) -> object:
    try:
        return await codec.encoder.rows(asked)
    except NoRoom:
        return "no room"


def _pieces(codec: TextCodec, ids: list[int], cuts: list[int], skip: bool) -> list[str]:
    detokenizer = codec.vocabulary.detokenizer(skip_special_tokens=skip)
    spans = zip([0, *cuts], [*cuts, len(ids)], strict=True)
    return [*(detokenizer.push(ids[start:end]) for start, end in spans), detokenizer.finish()]


async def test_what_is_no_text_is_refused_as_it_is_here(pair: Any) -> None:
    _, here, there, _ = pair
    for codec in (here, there):
        with pytest.raises(InvalidInput, match="tokenizer fails on this text"):
            await codec.encoder.ids("\ud800", True)


async def test_an_adapters_tokenizer_and_end_are_looked_at_in_the_worker() -> None:
    files = TokenizerFiles(demo_json())
    base = Tokenizer.from_buffer(files.tokenizer_json)
    own = Tokenizer.from_buffer(files.tokenizer_json)
    own.add_special_tokens([AddedToken("<|mine|>")])
    mine = AdapterFiles(own.to_str().encode(), special_tokens_map={"eos_token": "<|im_end|>"})
    async with room() as place:

        async def text_of(adapter: AdapterFiles, rows: int | None) -> LoadedText:
            found = TextFilesRead(TokenizerFiles(demo_json(), vocab_size=rows), adapter)
            return (await text_in_worker(found, None, AS_THE_TEMPLATE_SAYS, place)).text

        text = await text_of(mine, own.get_vocab_size())
        assert text.end == base.token_to_id("<|im_end|>")
        assert await text.codec.encoder.ids("<|mine|>", False) == [base.get_vocab_size()]
        with pytest.raises(LoadRefused, match="no weights for"):
            await text_of(mine, base.get_vocab_size())
        with pytest.raises(LoadRefused, match=r"brings no tokenizer\.json"):
            await text_of(AdapterFiles(tokens=(("<|mine|>", 5000),)), None)


def with_step(**steps: Any) -> bytes:
    made = json.loads(Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).to_str())
    return json.dumps({**made, **steps}).encode()


def with_tokens(vocab: dict[str, int]) -> bytes:
    return Tokenizer(models.WordLevel(vocab, unk_token="a")).to_str().encode()


def letters_by(expression: str) -> bytes:
    return with_step(pre_tokenizer={
        "type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False
    })  # fmt: skip


def decoded_by(decoder: decoders.Decoder) -> bytes:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.decoder = decoder
    return tokenizer.to_str().encode()


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "no JSON": (lambda: b"{", "not a tokenizer's JSON"),
    "no tokenizer": (lambda: b'{"model": {"type": "none"}}', "cannot be read"),
    "takes memory": (lambda: letters_by("\\p{L}" * 600_000), "memory"),
    "a far number": (
        lambda: with_tokens({"a": 0, "b": 7}).replace(b'"b":7', b'"b":2147483648'),
        "token 2147483648; numbers below",
    ),
    "a long token": (lambda: with_tokens({"a": 0, "b" * MIB: 1}), "a token of 1.04858e\\+06 bytes"),
    "grows when shown": (
        lambda: decoded_by(decoders.Sequence([decoders.Replace("a", "a" * 1000)])),
        "its decoder may make a text 1e\\+03 times as long",
    ),
    "an expression when shown": (lambda: decoded_by(decoders.Replace(Regex("(a+)+$"), "b")), "front: pods"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_tokenizer_that_is_none_is_refused_with_what_is_wrong(name: str) -> None:
    make, told = BAD[name]
    async with room() as place:
        with pytest.raises(LoadRefused, match=told) as caught:
            await loaded(place, make())
        assert "/" not in str(caught.value).replace("pilotlight.dev/front", ""), "no path of this machine"
        assert place.in_use_bytes == 0


async def test_a_template_that_does_not_compile_is_refused() -> None:
    async with room() as place:
        with pytest.raises(LoadRefused, match="chat template 'default' does not compile"):
            await loaded(place, demo_json(), "{% for %}")


async def test_a_load_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_worker, "LOAD_LIMITS", ProcessLimits(0.05, 60.0, 1024 * MIB))
    async with room() as place:
        with pytest.raises(LoadRefused, match=r"took more than 0\.05 s of CPU time"):
            await loaded(place, with_tokens({str(number): number for number in range(400_000)} | {"a": 400_000}))


def quadratic() -> bytes:
    """Each letter is looked at from every other."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Replace(Regex("a[^b]*b"), "c")
    return tokenizer.to_str().encode()


async def test_a_text_that_costs_too_much_costs_its_own_tenant_alone() -> None:
    async with room() as place:
        bad, good = await loaded(place, quadratic()), await loaded(place, byte_level())
        assert await bad.codec.encoder.ids("a", False) == [0]
        costly = asyncio.create_task(bad.codec.encoder.ids("a" * 200_000, False))
        for _ in range(50):
            assert await good.codec.encoder.ids("the", False) == byte_level().encode("the").ids
        assert not costly.done(), "nobody waited for it"
        with pytest.raises(InvalidInput, match=r"tokenizer took more than .* s of CPU time on this text"):
            await costly
        assert await bad.codec.encoder.ids("a", False) == [0], "another process took its place"


async def test_a_template_that_loops_costs_its_own_tenant_alone() -> None:
    async with room() as place:
        bad = await loaded(place, demo_json(), "{% if messages[0].content == 'x' %}" + LOOPS + "{% endif %}ok")
        good = await loaded(place, byte_level(), "{% for m in messages %}<{{ m.content }}>{% endfor %}")
        assert await bad.template.render(HELLO) == "ok"
        loops = asyncio.create_task(bad.template.render([{"role": "user", "content": "x"}]))
        assert [await good.template.render(HELLO) for _ in range(20)] == ["<hello>"] * 20
        assert not loops.done(), "nobody waited for it"
        with pytest.raises(InvalidInput, match=r"chat template took more than 0\.5 s of CPU time") as caught:
            await loops
        assert caught.value.param == "messages"
        assert await bad.template.render(HELLO) == "ok"


def pid_of(codec: TextCodec) -> int:
    connection = codec.encoder._worker._connection  # type: ignore[attr-defined]
    assert connection is not None
    return int(connection.pid)


async def test_a_worker_that_is_killed_costs_its_own_request_and_is_started_again() -> None:
    async with room() as place:
        text = await loaded(place, quadratic())
        running = asyncio.create_task(text.codec.encoder.ids("a" * 100_000, False))
        await asyncio.sleep(0.05)
        os.kill(pid_of(text.codec), signal.SIGKILL)
        with pytest.raises(Unavailable, match="try again"):
            await running
        assert await text.codec.encoder.ids("aa", False) == [1]


async def test_a_client_that_leaves_leaves_the_worker_whole() -> None:
    async with room() as place:
        text = await loaded(place, byte_level())
        before = pid_of(text.codec)
        leaves = asyncio.create_task(text.codec.encoder.ids("the " * 100_000, False))
        waits = asyncio.create_task(text.codec.encoder.ids("the", False))
        await asyncio.sleep(0.01)
        leaves.cancel()
        assert await waits == byte_level().encode("the").ids
        assert pid_of(text.codec) == before


async def test_of_those_that_are_idle_the_least_recently_used_makes_room() -> None:
    async with room(max_bytes=100 * MIB) as place:
        texts = [await loaded(place, byte_level()) for _ in range(6)]
        assert place.in_use_bytes <= 100 * MIB
        wanted = byte_level().encode("the fox").ids
        for _ in range(2):
            assert [await text.codec.encoder.ids("the fox", False) for text in texts] == [wanted] * len(texts)
            assert place.in_use_bytes <= 100 * MIB
        answers = await asyncio.gather(*(text.codec.encoder.ids("the fox", False) for text in texts))
        assert answers == [wanted] * len(texts)


async def test_who_finds_no_room_is_told_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from pilotlight_text.text_workers import worker_room

    async with room(max_bytes=40 * MIB) as place:
        busy = await loaded(place, quadratic())
        monkeypatch.setattr(worker_room, "WAIT_S", 0.2)
        running = asyncio.create_task(busy.codec.encoder.ids("a" * 60_000, False))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="in use by others"):
            await loaded(place, byte_level())
        with pytest.raises(PilotlightError):
            await running
        monkeypatch.undo()
        await loaded(place, byte_level())


async def test_nothing_is_left_of_it() -> None:
    async with room() as place:
        text = await loaded(place, byte_level())
        pids = [pid_of(text.codec)]
        text.codec.close()
        with pytest.raises(Unavailable):
            await text.codec.encoder.ids("a", False)
        pids.append(pid_of((await loaded(place, byte_level())).codec))
    assert not any(map(is_alive, pids))
