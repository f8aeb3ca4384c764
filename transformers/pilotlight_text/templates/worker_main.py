"""What runs in a limited process: rendering templates one after the other, or one look at a model's files.

It gives up what it does not need before it reads its first byte: memory beyond a limit, any file or socket it does not
hold already, core dumps. It ends with its parent, with its socket, and at its CPU limit. Imports are few: a worker's
start is a client's wait.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import resource
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from pilotlight_engine.process.limited_worker import (
    BEGUN,
    OUT_OF_MEMORY,
    give_up,
    limit_cpu,
    read_frame,
    write_all,
    write_frame,
)

if TYPE_CHECKING:
    import jinja2

TEXT, REFUSED, TOO_LONG, UNKNOWN = b"T", b"R", b"L", b"U"
"""First byte of an answer: the text, why not (text), over the limit, and `send the source too`."""

_KEPT_TEMPLATES = 64


def main(task: str, cpu_s: float, memory_bytes: int) -> None:
    try:
        _run(task, cpu_s, memory_bytes)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def _run(task: str, cpu_s: float, memory_bytes: int) -> None:
    if task == "tokenizer":
        import tokenizers

        _give_up(memory_bytes)
        limit_cpu(cpu_s)
        write_all(1, looked_at_tokenizer(tokenizers, _read_to_end(0)))
        return
    rehearse()
    _give_up(memory_bytes)
    if task == "compile":
        limit_cpu(cpu_s)
        write_all(1, looked_at_templates(_read_to_end(0)))
        return
    renderer = Renderer()
    write_all(0, BEGUN)
    while (job := read_frame(0)) is not None:
        limit_cpu(cpu_s)
        answer = renderer.answer(job)
        limit_cpu(0)
        write_frame(0, answer)


def rehearse() -> None:
    """Have imported what Python and Jinja import at the first need of it, when no file can be opened any more."""
    import html  # noqa: F401
    import pprint  # noqa: F401
    import textwrap  # noqa: F401

    import jinja2.constants  # noqa: F401

    from pilotlight_text.templates.jinja_template import TemplateRefused, compiled, rendered

    for codec in ("unicode_escape", "latin_1", "ascii", "utf_16"):
        codecs.lookup(codec)
    template = compiled("{{ strftime_now('%c') }}\n{{ messages | tojson }}{{ raise_exception('x') }}")
    with contextlib.suppress(TemplateRefused):
        rendered(template, {"messages": []}, 100)


class Renderer:
    """Answers jobs `{"template", "source"?, "context", "max_chars"}`, and with `probe` instead of the last two what the
    template wants, as JSON; compiled templates are kept by their digest."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, jinja2.Template] = OrderedDict()

    def keep(self, digest: str, template: jinja2.Template) -> None:
        self._kept[digest] = template

    def answer(self, job: bytes) -> bytes:
        from pilotlight_text.templates.jinja_template import TemplateRefused, TextTooLong, probed_template, rendered

        asked = json.loads(job)
        try:
            template = self._template(asked)
            if template is None:
                return UNKNOWN
            if "probe" in asked:
                return TEXT + json.dumps(probed_template(template, asked["probe"])).encode()
            return TEXT + rendered(template, asked["context"], asked["max_chars"]).encode()
        except TemplateRefused as refusal:
            return REFUSED + str(refusal).encode()
        except TextTooLong:
            return TOO_LONG

    def _template(self, asked: dict[str, Any]) -> jinja2.Template | None:
        from pilotlight_text.templates.jinja_template import compiled

        digest: str = asked["template"]
        template = self._kept.get(digest)
        if template is None:
            if "source" not in asked:
                return None
            template = self._kept[digest] = compiled(asked["source"])
            if len(self._kept) > _KEPT_TEMPLATES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(digest)
        return template


def looked_at_templates(data: bytes) -> bytes:
    """`data`: name to source; the answer is what is wrong with the first that does not compile, or nothing."""
    from pilotlight_text.templates.jinja_template import TemplateRefused, compiled

    for name, source in json.loads(data).items():
        try:
            compiled(source)
        except TemplateRefused as refusal:
            return f"'{name}' {refusal}".encode()
    return b""


def looked_at_tokenizer(tokenizers: Any, data: bytes) -> bytes:
    """What the library says against this tokenizer.json, or nothing. `tokenizers`: the module."""
    try:
        tokenizers.Tokenizer.from_buffer(data).get_vocab_size()
    except BaseException as error:  # a panic in the library is a BaseException
        return (str(error)[:500] or type(error).__name__).encode("utf-8", "replace")
    return b""


def _give_up(memory_bytes: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  # pathlib is 5 ms of a start
        in_use = int(file.read().split()[0]) * resource.getpagesize()
    give_up(resource.RLIMIT_AS, in_use + memory_bytes)


def _read_to_end(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)
