"""Templates and tokenizers as a tenant may write them, in real processes: who waits, what is taken, what is told."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from process_table import cpu_s, is_alive
from waiting import until

from pilotlight_protocol.errors import ContextLengthExceeded, InvalidInput, PilotlightError, Unavailable
from pilotlight_text.templates import jinja_template, worker_connection, worker_lane
from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.templates.limited_process import MIB, ProcessLimits, command
from pilotlight_text.templates.template_sources import template_source
from pilotlight_text.templates.template_workers import TemplateWorkers
from pilotlight_text.templates.worker_connection import start_worker
from pilotlight_text.tokenization import tokenizer_check
from pilotlight_text.tokenization.text_loading import load_text
from pilotlight_text.tokenization.tokenizer_check import TokenizerRefused
from pilotlight_text.tokenization.tokenizer_files import TokenizerFilesError

pytestmark = pytest.mark.integration

HELLO = [{"role": "user", "content": "hello"}]
GOOD = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
_MANY = "{% for a in range(99999) %}{% for b in range(99999) %}"
LOOPS = _MANY + "{% endfor %}{% endfor %}"
LOOPS_IN_C = _MANY + "{% set x = ('a' * 9999).count('b') %}{% endfor %}{% endfor %}"
ALLOCATES = "{% set x = messages[0].content * 300000000 %}{{ x | length }}"
GROWS = "{% set ns = namespace(x='x') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"


LIMITS = ProcessLimits(cpu_s=0.3, wall_s=60.0, memory_bytes=128 * MIB)


@pytest.fixture
async def workers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TemplateWorkers]:
    """Every template that misbehaves takes a worker with it, and on a busy machine the next one starts in seconds: only
    CPU time and memory are bounds here."""
    monkeypatch.setattr(worker_lane, "WAIT_S", 60.0)
    made = TemplateWorkers(partial(start_worker, LIMITS))
    try:
        yield made
    finally:
        await made.close()


def chat(workers: TemplateWorkers, source: str, limit: int = 10_000) -> ChatTemplate:
    return ChatTemplate({"default": template_source(source)}, {}, workers, max_output_chars=limit)


async def test_what_a_template_makes_comes_back(workers: TemplateWorkers) -> None:
    for source in (GOOD, GOOD + "{{ '\\u00e9\\n' }}"):
        text = await chat(workers, source).render([{"role": "user", "content": "\N{GRINNING FACE}é"}])
        assert text.startswith("<user>\N{GRINNING FACE}é")


async def test_probes_are_rendered_where_the_template_is(workers: TemplateWorkers) -> None:
    parts = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
    template = chat(workers, parts)
    assert (await template.traits()).form_of("user") == "parts"
    assert await template.render(HELLO) == "hello"
    with pytest.raises(InvalidInput, match="CPU time"):
        await chat(workers, LOOPS).traits()


@pytest.mark.parametrize(
    ("source", "told"),
    [(LOOPS, "CPU time"), (LOOPS_IN_C, "CPU time"), (ALLOCATES, "MiB of memory"), (GROWS, "MiB of memory")],
    ids=["loops", "loops in C", "allocates", "grows"],
)
async def test_a_template_that_does_not_end_is_its_own_trouble(
    workers: TemplateWorkers, source: str, told: str
) -> None:
    good = chat(workers, GOOD)
    await good.render(HELLO)
    bad = [asyncio.create_task(chat(workers, source).render(HELLO)) for _ in range(3)]
    rendered = 0
    while not all(task.done() for task in bad):
        assert await good.render(HELLO) == "<user>hello"
        rendered += 1
        await asyncio.sleep(0.01)
    for task in bad:
        with pytest.raises(InvalidInput, match=told):
            await task
    # Memory is used up in milliseconds, which leaves no time to count in.
    assert rendered > (10 if told == "CPU time" else 0), "the good template waited for the bad one"


async def test_the_loop_of_the_server_goes_on(workers: TemplateWorkers) -> None:
    bad = asyncio.create_task(chat(workers, LOOPS).render(HELLO))
    ticks = 0
    while not bad.done():
        await asyncio.sleep(0.01)
        ticks += 1
    with pytest.raises(InvalidInput, match="was stopped"):
        await bad
    assert ticks > 10


async def test_a_client_that_goes_leaves_a_whole_worker(workers: TemplateWorkers) -> None:
    bad = asyncio.create_task(chat(workers, LOOPS).render(HELLO))
    await asyncio.sleep(0.05)
    bad.cancel()
    await asyncio.gather(bad, return_exceptions=True)
    assert await chat(workers, GOOD).render(HELLO) == "<user>hello"


async def test_a_slow_start_is_not_the_first_templates_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*arguments: Any) -> list[str]:
        *python, code = command(*arguments)
        return [*python, f"import time; time.sleep(1.0); {code}"]

    monkeypatch.setattr(worker_connection, "command", late)
    made = TemplateWorkers(partial(start_worker, ProcessLimits(cpu_s=5.0, wall_s=0.9, memory_bytes=128 * MIB)))
    try:
        assert await chat(made, GOOD).render(HELLO) == "<user>hello"
    finally:
        await made.close()


async def test_a_worker_that_cannot_start_is_no_fault_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_connection, "command", lambda *arguments: [sys.executable, "-c", "raise SystemExit(1)"])
    made = TemplateWorkers(partial(start_worker, LIMITS))
    with pytest.raises(Unavailable, match="ended as it started"):
        await chat(made, GOOD).render(HELLO)
    await made.close()


async def test_refusals_and_limits_travel(workers: TemplateWorkers) -> None:
    for source, told in (
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "does not compile"),
        ("{{ messages.__class__.__mro__ }}", "refused"),
        ("{{ '\\ud800' }}", "cannot render"),
    ):
        with pytest.raises(InvalidInput, match=told):
            await chat(workers, source).render(HELLO)
    with pytest.raises(ContextLengthExceeded):
        await chat(workers, "{{ 'x' * 51 }}", limit=50).render(HELLO)


LAZY = {"batch", "items", "map", "random", "reject", "rejectattr", "select", "selectattr", "slice"}


@pytest.mark.parametrize("given", ["'a b c d e'", "[3, 1, 2]", "{'a': 1}", "12"])
async def test_a_worker_renders_what_this_process_would(workers: TemplateWorkers, given: str) -> None:
    """Each filter, also those that import something at their first use, when a worker can open no file any more."""
    for name in sorted(set(jinja_template.environment().filters) - LAZY):
        source = "{{ (" + given + " | " + name + ") | string }}" + "{{ lipsum(0) }}"
        try:
            here = jinja_template.rendered(jinja_template.compiled(source), {}, 10_000)
        except jinja_template.TemplateRefused as refusal:
            here = str(refusal)
        try:
            there = await chat(workers, source).render(HELLO)
        except PilotlightError as error:
            there = error.message.removeprefix("the model's chat template ")
        if " at 0x" not in here:
            assert there == here, name


async def test_a_worker_is_given_nothing_of_ours(workers: TemplateWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    read, write = os.pipe()
    os.set_inheritable(read, True)
    try:
        await chat(workers, GOOD).render(HELLO)
        (worker,) = workers._doubtful._all
        proc = Path(f"/proc/{worker._process.pid}")
        assert proc.joinpath("environ").read_bytes() == b""
        assert {int(fd.name) for fd in proc.joinpath("fd").iterdir()} == {0, 1, 2}
        limits = proc.joinpath("limits").read_text()
        assert "Max open files            3 " in limits
    finally:
        os.close(read)
        os.close(write)


def test_a_worker_ends_with_its_parent() -> None:
    """Also while it renders: the parent is killed, and the kernel ends the worker."""
    limits = ProcessLimits(cpu_s=60.0, wall_s=60.0, memory_bytes=128 * MIB)
    job = json.dumps({"template": "x", "source": LOOPS, "context": {}, "max_chars": 9})
    parent = (
        "import socket, subprocess, struct, time\n"
        "ours, theirs = socket.socketpair()\n"
        f"worker = subprocess.Popen({command('render', limits)!r}, stdin=theirs)\n"
        f"job = {job!r}.encode()\n"
        "ours.sendall(struct.pack('<I', len(job)) + job)\n"
        "print(worker.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        until(lambda: cpu_s(pid) > 0.3, what="the worker never began")
        process.kill()
        process.wait()
    until(lambda: not is_alive(pid), what="the worker outlived its parent")


def model_dir(folder: Path, tokenizer: dict[str, Any], template: str | None = None) -> str:
    folder.joinpath("tokenizer.json").write_text(json.dumps(tokenizer))
    folder.joinpath("tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return str(folder)


def tokenizer_json(**parts: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
    return {"version": "1.0", "added_tokens": [], **empty, "model": model} | parts


REGEX = {"type": "Replace", "pattern": {"Regex": "\\p{L}" * 500_000}, "content": ""}
TRIE = [[chr(0x4E00 + i) + "".join(chr(33 + (i * 7919 * j) % 90) for j in range(200)), 0.0] for i in range(20_000)]
EXPANDING: dict[str, dict[str, Any]] = {
    "a regular expression": {"normalizer": REGEX},
    "an Unigram trie": {"model": {"type": "Unigram", "unk_id": 0, "vocab": TRIE, "byte_fallback": False}},
    "objects nobody reads": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "x": [{"": 0}] * 1_500_000}},
    "a panic": {"model": {"type": "BPE", "vocab": {"!": 0}, "merges": [["!", "!"]] * 2_000_000}},
}


@pytest.mark.parametrize("kind", EXPANDING)
def test_a_tokenizer_that_expands_is_refused_at_no_cost_to_us(kind: str, tmp_path: Path) -> None:
    uri = model_dir(tmp_path, tokenizer_json(**EXPANDING[kind]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TokenizerFilesError, match="cannot be read") as refusal:
        load_text(uri, None, TemplateWorkers(), {})
    assert "Traceback" not in str(refusal.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


@pytest.mark.parametrize(
    "template", ["{% if %}", "{{ " + "(" * 100_000 + " }}", "{{ 1" + " + 1" * 100_000 + " }}", "{{ x }}" * 70_000]
)
def test_a_template_is_compiled_elsewhere(template: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerFilesError, match="chat template"):
        load_text(model_dir(tmp_path, tokenizer_json(), template), None, TemplateWorkers(), {})


def test_a_good_tokenizer_of_a_doubtful_kind_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_check, "memory_estimate", lambda data: None)
    tokenizer_check.check(json.dumps(tokenizer_json()).encode())
    with pytest.raises(TokenizerRefused):
        tokenizer_check.check(json.dumps(tokenizer_json(model={"type": "BPE"})).encode())
