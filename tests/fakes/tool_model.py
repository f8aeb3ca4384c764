"""A model folder with the demo model's tokenizer and a chat template for tools and calls as Hermes has them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from inline_templates import InlineTemplates
from text_app import demo_text

from pilotlight_models import bundled_model_path
from pilotlight_text.answer_parts.answer_format import AnswerFormat
from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.templates.template_sources import template_source
from pilotlight_text.text_model import LoadedText

TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}A call is <tool_call>{"name": …, "arguments": …}</tool_call>.<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def tool_model(folder: Path) -> str:
    """Writes it into `folder` and returns its URI; it has no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled_model_path("demo-awq") / name, folder / name)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return f"file://{folder}"


def tool_text(answer_format: AnswerFormat | None) -> LoadedText:
    """The same, loaded in the test's own process, with a format of answers of the test's choice."""
    sources = {"default": template_source(TEMPLATE)}
    template = ChatTemplate(sources, {}, InlineTemplates(), max_output_chars=100_000)
    return replace(demo_text(), template=template, answer_format=answer_format)
