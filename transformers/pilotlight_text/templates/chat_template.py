"""Chat messages to a prompt, by the template that came with the model.

Responsible for what a template is given, which of a model's templates, and where it runs. A template never comes from a
client. What it wants `template_probes` finds out, and `conversation_shape` does. It must not tokenize. A known template
runs here while the conversation is short; every other one runs in a worker, behind `TemplateRunner`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from pilotlight_protocol.errors import ContextLengthExceeded, InvalidInput, PilotlightError
from pilotlight_text.templates.conversation_check import Message, check_conversation
from pilotlight_text.templates.known_templates import KNOWN_DIGESTS
from pilotlight_text.templates.template_sources import DEFAULT, TemplateSource
from pilotlight_text.templates.template_traits import TemplateTraits

if TYPE_CHECKING:
    import jinja2

INLINE_BYTES = 32 * 1024
"""A known template renders so much JSON in less than a millisecond; what is longer goes to a worker."""

_WITH_TOOLS, _WITH_DOCUMENTS = "tool_use", "rag"
_GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
TEMPLATE_GLOBALS = frozenset(
    ("range", "dict", "lipsum", "cycler", "joiner", "namespace", "raise_exception", "strftime_now")
)
_JINJAS_OWN = frozenset({"self", "loop", "caller", "varargs", "kwargs", "super"})
_encode = msgspec.json.Encoder().encode
_decode_traits = msgspec.json.Decoder(TemplateTraits).decode
_RESERVED = _GIVEN | TEMPLATE_GLOBALS | _JINJAS_OWN


class TemplateRunner(Protocol):
    async def render(self, template: TemplateSource, context: bytes, max_chars: int) -> str:
        """The text; `context` is JSON. Raises InvalidInput, PayloadTooLarge, Unavailable (no room to render it now)."""
        ...

    async def probe(self, template: TemplateSource, special_tokens: bytes) -> bytes:
        """The template's TemplateTraits; both as JSON. Raises what `render` does."""
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
        self._traits: dict[str, TemplateTraits] = {}
        self._known = {name: _compiled(source) for name, source in sources.items() if source.digest in KNOWN_DIGESTS}

    @property
    def needs_worker(self) -> bool:
        return len(self._known) < len(self._sources)

    async def traits(self, *, tools: bool = False, documents: bool = False) -> TemplateTraits:
        """What the template wants that a conversation with these gets; found out once, by rendering probes.

        Raises what `render` does.
        """
        return await self._traits_of(self._name(tools=tools, documents=documents))

    async def learn(self) -> None:
        """Ask for the traits ahead of the first conversation, which would wait for them otherwise."""
        with suppress(PilotlightError):  # whoever renders is told
            await self.traits()

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        reasoning_effort: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
        check_chars: Callable[[int], None] | None = None,
    ) -> str:
        """The prompt text. `messages` and `tools` are as OpenAI's chat API has them; `variables`
        (`chat_template_kwargs`) are what the template may read besides; `check_chars` may refuse the conversation's
        length before anything is rendered.

        Raises InvalidInput (no template, the template refuses the messages or does not end), ContextLengthExceeded
        (text over the limit), Unavailable (no room to render it now).
        """
        chars = check_conversation(messages)
        if check_chars is not None:
            check_chars(chars)
        name = self._name(tools=bool(tools), documents=bool(documents))
        for variable in variables or ():
            if variable in _RESERVED or variable in self._special_tokens:
                raise InvalidInput(f"chat_template_kwargs must not set '{variable[:64]}'", param="chat_template_kwargs")
        traits = await self._traits_of(name)
        turns, shown = _turns(messages, tools, traits)
        if continue_final_message:
            from pilotlight_text.templates.final_message import cut_at_mark, marked

            turns, continued = marked(turns, messages[-1] if messages else {})
        context = {
            **_switched(variables or {}, reasoning_effort, traits),
            **self._special_tokens,
            "messages": turns,
            "tools": shown,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        text = await self._text_of(name, context)
        return cut_at_mark(text, continued) if continue_final_message else text

    async def unseen(
        self,
        messages: Sequence[Message],
        text: str,
        *,
        tools: bool = False,
        documents: bool = False,
        reasoning_effort: bool = False,
        variables: Collection[str] = (),
    ) -> list[str]:
        """The names of what `render` was given and the template does not read; `text`: what it rendered."""
        traits = await self._traits_of(self._name(tools=tools, documents=documents))
        asks = tools or documents or reasoning_effort or variables
        if not asks and all(len(message) == 2 and traits.shows(message["role"]) for message in messages):
            return []
        from pilotlight_text.templates.unseen_fields import unseen_variables, unseen_words

        unread = unseen_variables(
            traits, variables, tools=tools, documents=documents, reasoning_effort=reasoning_effort
        )
        return [*unread, *unseen_words(messages, traits, text)]

    def _name(self, *, tools: bool, documents: bool) -> str:
        """Which of the model's templates: `tool_use` and `rag` are the names that Cohere's and others' models have."""
        if tools and _WITH_TOOLS in self._sources:
            return _WITH_TOOLS
        if documents and not tools and _WITH_DOCUMENTS in self._sources:
            return _WITH_DOCUMENTS
        if DEFAULT not in self._sources:
            raise InvalidInput(
                "this model has no chat template; send the finished prompt to /openai/v1/completions", param="messages"
            )
        return DEFAULT

    async def _traits_of(self, name: str) -> TemplateTraits:
        traits = self._traits.get(name)
        if traits is None:
            known = self._known.get(name)
            if known is not None:
                from pilotlight_text.templates.jinja_template import probed_template  # Jinja, as in `_compiled`

                found = probed_template(known, self._special_tokens)
                traits = msgspec.convert(found, TemplateTraits)
            else:
                answer = await self._runner.probe(self._sources[name], _encode(self._special_tokens))
                traits = _decode_traits(answer)
            self._traits[name] = traits
        return traits

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


def _turns(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, traits: TemplateTraits
) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """Messages and tools as the template wants them. What does it is imported when there is something to render."""
    from pilotlight_text.templates.conversation_shape import shaped

    turns = shaped(messages, traits)
    if not tools:
        return turns, None
    from pilotlight_text.templates.shown_tools import shown_tools, told_by_system

    if traits.tools == "system text":
        turns = told_by_system(turns, tools, traits)
    return turns, shown_tools(tools, traits)


def refused(why: str) -> InvalidInput:
    """`why`: what the template did or what became of it."""
    return InvalidInput(f"the model's chat template {why}", param="messages")


def too_long(max_chars: int) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"This model's maximum context length is exceeded: the rendered conversation is longer than {max_chars} "
        "characters. Send fewer or shorter messages",
        param="messages",
    )


def _compiled(template: TemplateSource) -> jinja2.Template:
    from pilotlight_text.templates.jinja_template import compiled  # Jinja: only where a template runs here

    return compiled(template.source)


def _switched(variables: Mapping[str, Any], reasoning_effort: str | None, traits: TemplateTraits) -> Mapping[str, Any]:
    """`reasoning_effort` as templates read it: itself, and as a switch of thinking unless the client has set that."""
    if reasoning_effort is None:
        return variables
    thinks = reasoning_effort != "none"
    switches = {"enable_thinking", *traits.switches} & {"enable_thinking", "thinking"}
    return {**dict.fromkeys(switches, thinks), **variables, "reasoning_effort": reasoning_effort}
