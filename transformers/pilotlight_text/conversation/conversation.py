"""What a surface asks of the core: a conversation, its tools, and how it is to be answered. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from pilotlight_protocol.generation import GenerationParameters
from pilotlight_text.conversation.constraint_field import CONSTRAINT
from pilotlight_text.tokenization.truncation import Truncation

ChoiceMode = Literal["auto", "none", "required", "named"]


class FunctionTool(msgspec.Struct, frozen=True):
    """A function the model may call. `parameters`: the JSON schema of its arguments, None for "takes none".

    `unread`: what else the client said of it, by the names of its request; models are not shown that.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool = False
    unread: tuple[str, ...] = ()


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether functions are called: as the model sees fit, never, at least one, or the one called `name`."""

    mode: ChoiceMode = "auto"
    name: str | None = None


class TemplateOptions(msgspec.Struct, frozen=True):
    """What the chat template is given besides messages and tools. `variables` are `chat_template_kwargs`.

    `called`: what the request calls a field of chat's, where that is something else."""

    variables: Mapping[str, Any] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    reasoning_effort: str | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    called: Mapping[str, str] = {}


class Conversation(msgspec.Struct, frozen=True):
    """`messages` are OpenAI's chat messages. `parameters.stop` are the stop strings; `include_reasoning` False keeps
    what the model says to itself from the client. `format_field`: the client's name for `structured_outputs`."""

    model_name: str
    messages: Sequence[Mapping[str, Any]]
    parameters: GenerationParameters
    tools: tuple[FunctionTool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    template: TemplateOptions = TemplateOptions()
    include_stop_str_in_output: bool = False
    include_reasoning: bool = True
    skip_special_tokens: bool = True
    return_token_ids: bool = False
    truncation: Truncation | None = None
    format_field: str = CONSTRAINT

    @property
    def constraint_field(self) -> str:
        """What the client sent that holds the answer to something, should it hold it to anything."""
        return "tools" if self.parameters.structured_outputs is None else self.format_field

    @property
    def calls_tools(self) -> bool:
        return bool(self.tools) and self.tool_choice.mode != "none"
