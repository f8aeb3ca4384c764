"""GPT-OSS's channels where no calls are looked for; see tool_parsers/harmony.py. Pure."""

from __future__ import annotations

from pilotlight_text.answer_parts.formats import ReasoningFormat
from pilotlight_text.tool_parsers.harmony import MARKS, harmony

HARMONY = ReasoningFormat(lambda prompt_end, calls: harmony(calls=False), MARKS, "<|channel|>final<|message|>")
