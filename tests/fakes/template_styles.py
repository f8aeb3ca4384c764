"""Chat templates in the styles of public model families, and what each of them wants, read off by hand.

The sources (`chat_templates/NAME.jinja`) are written for these tests after the families' features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "chat_templates"
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


@dataclass(frozen=True)
class Style:
    """`content`: user's, assistant's, system's and tool's form, one for all, or the first three alike and the tool's.

    `calls`: how arguments are shown, "" for a template that shows no calls. `tools`: the shape that is shown.
    """

    content: tuple[str, ...] = ("text",)
    calls: str = ""
    null_only: bool = False
    nine: bool = False
    developer: bool = False
    system: str = "anywhere"
    tools: str = ""
    documents: bool = False
    switches: tuple[str, ...] = ()

    def form(self, role: str) -> str:
        forms = {1: self.content * 4, 2: (self.content[0],) * 3 + self.content[1:], 4: self.content}[len(self.content)]
        return dict(zip(("user", "assistant", "system", "tool"), forms, strict=True)).get(role, forms[2])


NO_TOOL = ("text", "unseen")
TURNS_ONLY = ("text", "text", "unseen", "unseen")
EITHER = ("either",)
THINKS = ("enable_thinking",)

STYLES = {
    "alpaca": Style(NO_TOOL, system="first"),
    "chatml": Style(),
    "command-r": Style(NO_TOOL, system="first"),
    "command-r7b": Style(calls="object", system="first", tools="wrapped", documents=True),
    "deepseek-r1": Style(calls="text", null_only=True),
    "deepseek-v3": Style(calls="text", null_only=True),
    "deepseek-v3.1": Style(calls="text", switches=("thinking",)),
    "exaone": Style(),
    "falcon": Style(),
    "functionary": Style(calls="text"),
    "gemma-2": Style(TURNS_ONLY),
    "gemma-3": Style(("either", "either", "text", "unseen"), system="first"),
    "glm-4": Style(calls="either", tools="wrapped"),
    "glm-4.5": Style(EITHER, calls="object", tools="wrapped", switches=THINKS),
    "gpt-oss": Style(calls="object", developer=True, system="first", tools="wrapped", switches=("reasoning_effort",)),
    "granite-3": Style(calls="object", tools="wrapped"),
    "granite-3.3": Style(tools="wrapped", documents=True, switches=("thinking",)),
    "hermes": Style(calls="object", tools="wrapped"),
    "internlm-2": Style(),
    "jamba": Style(calls="either", tools="wrapped", documents=True),
    "kimi-k2": Style(EITHER, calls="either", tools="wrapped"),
    "llama-2": Style(NO_TOOL, system="first"),
    "llama-3": Style(),
    "llama-3.1": Style(calls="object", tools="wrapped"),
    "llama-3.2-vision": Style(EITHER),
    "llama-4": Style(EITHER, calls="object", tools="wrapped"),
    "llama-guard": Style(TURNS_ONLY),
    "mistral-tekken": Style(EITHER, calls="either", tools="wrapped"),
    "mistral-v1": Style(TURNS_ONLY),
    "mistral-v3": Style(calls="object", nine=True, system="first", tools="wrapped"),
    "nemotron": Style(calls="object", tools="wrapped"),
    "olmo-2": Style(NO_TOOL),
    "openchat": Style(NO_TOOL),
    "parts-with-text-tools": Style(("parts", "text"), calls="object"),
    "phi-3": Style(NO_TOOL),
    "phi-4": Style(NO_TOOL),
    "phi-4-mini": Style(tools="system text"),
    "qwen-2.5": Style(calls="object", tools="wrapped"),
    "qwen-3": Style(calls="either", tools="wrapped", switches=THINKS),
    "qwen-3-coder": Style(calls="object", tools="wrapped"),
    "qwen-3.6": Style(EITHER, calls="object", system="first", switches=THINKS),
    "qwq": Style(calls="object", tools="wrapped"),
    "smollm-2": Style(),
    "smollm-3": Style(system="first", tools="wrapped", switches=THINKS),
    "smolvlm": Style(("parts",)),
    "starling-bare-tools": Style(tools="bare"),
    "strict-roles": Style(calls="object"),
    "vicuna": Style(NO_TOOL, system="first"),
    "yi": Style(NO_TOOL, system="first"),
    "zephyr": Style(NO_TOOL),
}


def source_of(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text()
