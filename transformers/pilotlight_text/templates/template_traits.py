"""What one template wants of a conversation, as probes found it; see `template_probes`. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

ContentForm = Literal["text", "parts", "one part", "either", "unseen"]
"""How a role's words reach the prompt: as a string, as a list of parts, as a list of one part at most, either way as
the client sent them, or not at all."""

CallContent = Literal["null", "empty", "absent"]
"""What stands for the content of an assistant's turn that has tool calls and no words."""


class TemplateTraits(msgspec.Struct, frozen=True, kw_only=True):
    """`content`: by role (user, assistant, system, tool). `call_content`: what shows the calls, the best first.

    `splits_calls`: a turn with words and calls loses its calls, and two turns show both. `system_places`: where system
    messages are shown (`leading`: before all others, however many). `call_ids`: `nine` where only ids of nine letters
    and digits are taken. `tools`: the shape in which they are shown, `""` where they are not. `switches`: those of
    enable_thinking, thinking and reasoning_effort that change the prompt. `generation_prompt`: what
    `add_generation_prompt` adds. `shows_names`: the `name` of a user or an assistant; `shows_reasoning`: an
    assistant's, in some place. `read_names`: every variable that stands in the template; `read_keys`: every key of
    something. `call_text`: how this template writes a call of `probe_function` with the arguments
    {"probe_key": "probe value"}, with what stands before and behind it in that turn.
    """

    content: dict[str, ContentForm] = {}
    arguments: Literal["object", "text", "either"] = "object"
    call_content: tuple[CallContent, ...] = ("empty",)
    splits_calls: bool = False
    call_ids: Literal["any", "nine"] = "any"
    developer_role: bool = False
    system_role: bool = True
    system_places: Literal["anywhere", "leading", "first"] = "anywhere"
    tools: Literal["wrapped", "bare", "system text", ""] = ""
    shows_documents: bool = False
    shows_thinking_key: bool = False
    shows_names: bool = False
    shows_reasoning: bool = False
    read_names: tuple[str, ...] = ()
    read_keys: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    generation_prompt: str = ""
    call_text: str = ""

    @property
    def shows_tools(self) -> bool:
        return bool(self.tools)

    @property
    def shows_calls(self) -> bool:
        return bool(self.call_text)

    def shows(self, role: str) -> bool:
        """Whether the probes saw words of that role."""
        return self.content.get(role, "unseen") != "unseen"

    def form_of(self, role: str) -> ContentForm:
        """A role that is never shown, or that the probes did not try, is written like the user's."""
        form = self.content.get(role, "unseen")
        return self.content.get("user", "text") if form == "unseen" else form
