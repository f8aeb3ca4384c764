"""Chat messages to a prompt, by the template that came with the model.

Responsible for what a template is given, and for what is refused before it runs. A template never comes from a client.
It must not tokenize. A known template runs here while the conversation is short; every other one runs in a worker,
behind `TemplateRunner`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge
from pilotlight_text.templates.known_templates import KNOWN_DIGESTS

if TYPE_CHECKING:
    import jinja2

Message = Mapping[str, Any]

MAX_SOURCE_CHARS = 512 * 1024
"""The largest public templates have 20,000."""

INLINE_BYTES = 32 * 1024
"""A known template renders so much JSON in less than a millisecond; what is longer goes to a worker."""

_DEFAULT = "default"
_WITH_TOOLS = "tool_use"
_CUT_MARK = "\N{OBJECT REPLACEMENT CHARACTER}continue here\N{OBJECT REPLACEMENT CHARACTER}"
_GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
TEMPLATE_GLOBALS = frozenset(
    ("range", "dict", "lipsum", "cycler", "joiner", "namespace", "raise_exception", "strftime_now")
)
_JINJAS_OWN = frozenset({"self", "loop", "caller", "varargs", "kwargs", "super"})
_encode = msgspec.json.Encoder().encode
_RESERVED = _GIVEN | TEMPLATE_GLOBALS | _JINJAS_OWN


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """`digest`: SHA-256 of the source, in hexadecimal."""

    source: str
    digest: str


def template_source(source: str) -> TemplateSource:
    return TemplateSource(source, sha256(source.encode("utf-8", "surrogatepass")).hexdigest())


class TemplateRunner(Protocol):
    async def render(self, template: TemplateSource, context: bytes, max_chars: int) -> str:
        """The text; `context` is JSON. Raises InvalidInput, PayloadTooLarge, Unavailable (no room to render it now)."""
        ...


class ChatTemplate:
    """The named templates of one model; `special_tokens` are their `bos_token`, `eos_token`, and so on."""

    def __init__(
        self,
        sources: Mapping[str, TemplateSource],
        special_tokens: Mapping[str, str],
        runner: TemplateRunner,
        *,
        max_output_chars: int,
    ) -> None:
        self._sources = dict(sources)
        self._special_tokens = dict(special_tokens)
        self._runner = runner
        self._max_output_chars = max_output_chars
        self._known = {name: _compiled(source) for name, source in sources.items() if source.digest in KNOWN_DIGESTS}

    @property
    def needs_worker(self) -> bool:
        return len(self._known) < len(self._sources)

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text. `variables` (`chat_template_kwargs`) are what the template may read besides.

        Raises InvalidInput (no template, the template refuses the messages or does not end), PayloadTooLarge (text over
        the limit), Unavailable (no room to render it now).
        """
        which = _WITH_TOOLS if tools and _WITH_TOOLS in self._sources else _DEFAULT
        if which not in self._sources:
            raise InvalidInput(
                "this model has no chat template; send the finished prompt to /openai/v1/completions", param="messages"
            )
        for name in variables or ():
            if name in _RESERVED or name in self._special_tokens:
                raise InvalidInput(f"chat_template_kwargs must not set '{name[:64]}'", param="chat_template_kwargs")
        context = {
            **(variables or {}),
            **self._special_tokens,
            "messages": _marked(messages) if continue_final_message else messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        text = await self._text_of(which, context)
        return _cut(text) if continue_final_message else text

    async def _text_of(self, which: str, context: Mapping[str, Any]) -> str:
        try:
            encoded = _encode(context)
        except (OverflowError, RecursionError, ValueError, TypeError) as error:
            raise InvalidInput(f"the conversation cannot be given to a template: {error}", param="messages") from None
        known = self._known.get(which)
        if known is None or len(encoded) > INLINE_BYTES:
            return await self._runner.render(self._sources[which], encoded, self._max_output_chars)
        from pilotlight_text.templates.jinja_template import TemplateRefused, TextTooLong, rendered

        try:
            return rendered(known, context, self._max_output_chars)
        except TemplateRefused as refusal:
            raise refused(str(refusal)) from refusal
        except TextTooLong:
            raise too_long(self._max_output_chars) from None


def refused(why: str) -> InvalidInput:
    """`why`: what the template did or what became of it."""
    return InvalidInput(f"the model's chat template {why}", param="messages")


def too_long(max_chars: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the rendered conversation is longer than {max_chars} characters; send fewer or shorter messages",
        param="messages",
    )


def _compiled(template: TemplateSource) -> jinja2.Template:
    from pilotlight_text.templates.jinja_template import compiled  # Jinja: only where a template runs here

    return compiled(template.source)


def template_sources(
    tokenizer_config: Mapping[str, Any], template_file: str | None, named_files: Mapping[str, str]
) -> dict[str, TemplateSource]:
    """Name to source, from the three places a model may keep them; a file wins over tokenizer_config.json.

    Raises ValueError: what should be a template is none, or is too long for one.
    """
    sources: dict[str, Any] = {}
    configured = tokenizer_config.get("chat_template")
    if isinstance(configured, list):
        for item in configured:
            if not isinstance(item, dict) or not isinstance(item.get("name"), str):
                raise ValueError("an entry of 'chat_template' in tokenizer_config.json has no name")
            sources[item["name"]] = item.get("template")
    elif configured is not None:
        sources[_DEFAULT] = configured
    sources |= named_files
    if template_file is not None:
        sources[_DEFAULT] = template_file
    for name, source in sources.items():
        if not isinstance(source, str) or len(source) > MAX_SOURCE_CHARS:
            raise ValueError(
                f"the model's chat template '{name[:64]}' must be a text of at most {MAX_SOURCE_CHARS} characters"
            )
    return {name: template_source(source) for name, source in sources.items()}


def special_tokens_of(*configs: Mapping[str, Any]) -> dict[str, str]:
    """The `*_token` entries of tokenizer_config.json and special_tokens_map.json, as plain strings."""
    tokens: dict[str, str] = {}
    for config in configs:
        for name, value in config.items():
            content = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(content, str):
                tokens[name] = content
    return tokens


def _marked(messages: Sequence[Message]) -> list[Message]:
    """A copy whose last message ends in a mark, behind which the rendered text is cut off."""
    content = messages[-1].get("content") if messages else None
    if not isinstance(content, str):
        raise InvalidInput(
            "continue_final_message needs a last message with text content to continue", param="continue_final_message"
        )
    return [*messages[:-1], {**messages[-1], "content": content + _CUT_MARK}]


def _cut(text: str) -> str:
    before, mark, _ = text.rpartition(_CUT_MARK)
    if not mark:
        raise InvalidInput(
            "the model's chat template does not show the last message, so it cannot be continued",
            param="continue_final_message",
        )
    return before
