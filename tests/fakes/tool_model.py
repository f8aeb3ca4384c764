"""A model folder with the demo model's tokenizer and a chat template for tools and calls as Hermes has them."""

from __future__ import annotations

import shutil
from pathlib import Path

from pilotlight_models import bundled_model_path

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
