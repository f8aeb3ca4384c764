"""Chat messages to a prompt, by the template that came with the model.

Responsible for compiling a model's Jinja template once, in a sandbox and with Hugging Face's conventions, and for
turning whatever goes wrong in it into an InvalidInput. A template never comes from a client. It must not tokenize.
Source of the conventions: transformers' `apply_chat_template`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge

Message = Mapping[str, Any]

_DEFAULT = "default"
_WITH_TOOLS = "tool_use"
_CUT_MARK = "\N{OBJECT REPLACEMENT CHARACTER}continue here\N{OBJECT REPLACEMENT CHARACTER}"
_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


class ChatTemplate:
    """The named templates of one model; `special_tokens` are their `bos_token`, `eos_token`, and so on.

    Raises ValueError when a template does not compile: the model's files are broken and the server must not start.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        special_tokens: Mapping[str, str],
        *,
        max_output_chars: int,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        environment = _environment(now)
        self._templates: dict[str, jinja2.Template] = {}
        for name, source in sources.items():
            try:
                self._templates[name] = environment.from_string(source)
            except jinja2.TemplateError as error:
                raise ValueError(f"the model's chat template '{name}' does not compile: {error}") from error
        self._special_tokens = dict(special_tokens)
        self._max_output_chars = max_output_chars

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text. `variables` (`chat_template_kwargs`) are what the template may read besides.

        Raises InvalidInput (no template, the template refuses the messages), PayloadTooLarge (text over the limit).
        """
        template = self._templates.get(_WITH_TOOLS if tools and _WITH_TOOLS in self._templates else _DEFAULT)
        if template is None:
            raise InvalidInput(
                "this model has no chat template; send the finished prompt to /openai/v1/completions", param="messages"
            )
        for name in variables or ():
            if name in _RESERVED or name in self._special_tokens:
                raise InvalidInput(f"chat_template_kwargs must not set '{name}'", param="chat_template_kwargs")
        if continue_final_message:
            messages = _marked(messages)
        text = self._text_of(
            template.generate(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
                **(variables or {}),
            )
        )
        return _cut(text) if continue_final_message else text

    def _text_of(self, parts: Any) -> str:
        out, chars = [], 0
        try:
            for part in parts:
                chars += len(part)
                if chars > self._max_output_chars:
                    raise PayloadTooLarge(
                        f"the rendered conversation is longer than {self._max_output_chars} characters; "
                        "send fewer or shorter messages",
                        param="messages",
                    )
                out.append(part)
        except jinja2.TemplateError as error:
            raise InvalidInput(f"the model's chat template refused the messages: {error}", param="messages") from error
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
            raise InvalidInput(
                f"the model's chat template cannot render these messages: {error}", param="messages"
            ) from error
        return "".join(out)


def template_sources(
    tokenizer_config: Mapping[str, Any], template_file: str | None, named_files: Mapping[str, str]
) -> dict[str, str]:
    """Name to source, from the three places a model may keep them; a file wins over tokenizer_config.json."""
    sources: dict[str, str] = {}
    configured = tokenizer_config.get("chat_template")
    if isinstance(configured, str):
        sources[_DEFAULT] = configured
    elif isinstance(configured, list):
        sources |= {item["name"]: item["template"] for item in configured}
    sources |= named_files
    if template_file is not None:
        sources[_DEFAULT] = template_file
    return sources


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


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks what to train on; for inference it is its body."""

    tags = frozenset({"generation"})  # type: ignore[assignment]  # jinja2 declares a mutable set

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(now: Callable[[], datetime]) -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: now().strftime(pattern)
    return environment


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
