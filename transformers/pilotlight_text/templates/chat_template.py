"""Chat messages to a prompt, by the template that came with the model.

Responsible for what a template is given, and for what is refused before it runs. A template never comes from a client.
It must not tokenize. A known template runs here while the conversation is short; every other one runs in a worker,
behind `TemplateRunner`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge
from pilotlight_text.templates.known_templates import KNOWN_DIGESTS
from pilotlight_text.templates.template_sources import DEFAULT, TemplateSource

if TYPE_CHECKING:
    import jinja2

Message = Mapping[str, Any]

INLINE_BYTES = 32 * 1024
"""A known template renders so much JSON in less than a millisecond; what is longer goes to a worker."""

_WITH_TOOLS = "tool_use"
_CUT_MARK = "\N{OBJECT REPLACEMENT CHARACTER}continue here\N{OBJECT REPLACEMENT CHARACTER}"
_GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
TEMPLATE_GLOBALS = frozenset(
    ("range", "dict", "lipsum", "cycler", "joiner", "namespace", "raise_exception", "strftime_now")
)
_JINJAS_OWN = frozenset({"self", "loop", "caller", "varargs", "kwargs", "super"})
_encode = msgspec.json.Encoder().encode
_RESERVED = _GIVEN | TEMPLATE_GLOBALS | _JINJAS_OWN


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
        which = _WITH_TOOLS if tools and _WITH_TOOLS in self._sources else DEFAULT
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
        try:
            text = known.render(context)
        except Exception as error:  # what it was given does not suit it
            raise refused(f"cannot render these messages: {str(error)[:500]}") from error
        if len(text) > self._max_output_chars:
            raise too_long(self._max_output_chars)
        return text


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


def template_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as templates expect them: text parts joined, a tool call's arguments decoded. Raises InvalidInput."""
    return [_template_message(f"messages[{place}]", message) for place, message in enumerate(messages)]


def _template_message(where: str, message: Mapping[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidInput(f"'{where}.role' must be a string such as 'user'", param=f"{where}.role")
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(_text_part(f"{where}.content[{place}]", part) for place, part in enumerate(content))
    elif content is None:
        if role != "assistant":
            raise InvalidInput(f"'{where}.content' is missing", param=f"{where}.content")
        content = ""
    elif not isinstance(content, str):
        raise InvalidInput(f"'{where}.content' must be a string or a list of parts", param=f"{where}.content")
    result = {**message, "role": role, "content": content}
    if message.get("tool_calls"):
        result["tool_calls"] = _tool_calls(f"{where}.tool_calls", message["tool_calls"])
    return result


def _text_part(where: str, part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise InvalidInput(f"'{where}': this model reads text only; send parts of type 'text'", param=where)
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidInput(f"'{where}.text' must be a string", param=f"{where}.text")
    return text


def _tool_calls(where: str, calls: Any) -> list[dict[str, Any]]:
    """Templates read a call's arguments as an object; the API carries them as JSON text."""
    decoded = []
    for place, call in enumerate(calls if isinstance(calls, list) else [None]):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise InvalidInput(f"'{where}[{place}].function' must be an object", param=f"{where}[{place}].function")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = msgspec.json.decode(arguments or "{}")
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                param = f"{where}[{place}].function.arguments"
                deep = ": it is nested too deeply" if isinstance(error, RecursionError) else ""
                raise InvalidInput(f"'{param}' is not valid JSON{deep}", param=param) from None
        decoded.append({**call, "function": {**function, "arguments": arguments}})
    return decoded
