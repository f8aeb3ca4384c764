"""Compiling and running one Jinja template, in a sandbox and with Hugging Face's conventions.

Runs in this process for templates that are known, and in a worker for all others: it must import nothing but Jinja and
`template_probes`.
Source of the conventions: transformers' `apply_chat_template`. It must not read files or know what a message is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.debug  # Jinja imports it with a template's first error, when a worker can open no file any more
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from pilotlight_text.templates.template_probes import probed

_TOLD_CHARS = 500
_PROBE_CHARS = 256 * 1024


class TemplateRefused(Exception):
    """The template does not compile, refuses what it was given, or fails on it; the message says which."""


class TextTooLong(Exception):
    """The rendered text is over the limit."""


def compiled(source: str, now: Callable[[], datetime] = datetime.now) -> jinja2.Template:
    """Raises TemplateRefused."""
    try:
        made = environment(now)
        parsed = made.parse(source)
        made.extend(
            read_names=sorted({name.name for name in parsed.find_all(jinja2.nodes.Name)}),
            read_keys=sorted(_keys_in(parsed)),
        )
        template = made.from_string(parsed)
        template.globals = dict(template.globals)  # not Jinja's ChainMap, which each rendering goes through in Python
        return template
    except MemoryError:
        raise
    except Exception as error:  # it is somebody else's code
        raise TemplateRefused(f"does not compile: {_told(error)}") from error


def rendered(template: jinja2.Template, context: Mapping[str, Any], max_chars: int) -> str:
    """The text, encodable as UTF-8. Raises TemplateRefused, TextTooLong."""
    try:
        text = _joined(template.generate(context), max_chars)
        text.encode()
    except jinja2.TemplateError as error:
        raise TemplateRefused(f"refused the messages: {_told(error)}") from error
    except (MemoryError, TextTooLong):
        raise
    except Exception as error:  # it is somebody else's code
        raise TemplateRefused(f"cannot render these messages: {_told(error)}") from error
    return text


def probed_template(template: jinja2.Template, special_tokens: Mapping[str, str]) -> dict[str, Any]:
    """The fields of TemplateTraits."""

    def render(context: dict[str, Any]) -> str | None:
        try:
            return rendered(template, {**special_tokens, **context}, _PROBE_CHARS)
        except (TemplateRefused, TextTooLong):
            return None

    read: Any = template.environment  # `compiled` has added to it
    return {**probed(render), "read_names": read.read_names, "read_keys": read.read_keys}


def _keys_in(parsed: jinja2.nodes.Template) -> set[str]:
    """Every attribute, and every text that may be the key of something."""
    keys = {node.attr for node in parsed.find_all(jinja2.nodes.Getattr)}
    texts = (node.value for node in parsed.find_all(jinja2.nodes.Const))
    return keys | {text for text in texts if isinstance(text, str) and text.isidentifier()}


def _joined(parts: Iterable[str], max_chars: int) -> str:
    out, chars = [], 0
    for part in parts:
        chars += len(part)
        if chars > max_chars:
            raise TextTooLong
        out.append(part)
    return "".join(out)


def _told(error: Exception) -> str:
    return str(error)[:_TOLD_CHARS].encode("utf-8", "replace").decode()


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks what to train on; for inference it is its body."""

    tags = frozenset({"generation"})  # type: ignore[assignment]  # jinja2 declares a mutable set

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment(now: Callable[[], datetime] = datetime.now) -> jinja2.Environment:
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = lambda pattern: now().strftime(pattern)
    return made


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
