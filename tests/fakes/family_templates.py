"""Chat templates cut down to what tells the families apart: how a turn begins, and how a turn with calls is written."""

from __future__ import annotations

_EACH = "{% for c in m.tool_calls %}"
_ARGUMENTS = "{{ c.function.arguments | tojson }}"
_NAMED = '{"name": "{{ c.function.name }}", "%s": ' + _ARGUMENTS + "}"


def _turns(begins: str, ends: str, calls: str, *, says: str = "") -> str:
    """`says`: what the family's template has in it besides."""
    said = "{% if tools %}{{ tools | tojson }}{% endif %}{# " + says + " #}"
    turn = (
        begins.replace("ROLE", "{{ m.role }}")
        + "{% if m.tool_calls %}"
        + calls
        + "{% else %}{{ m.content }}{% endif %}"
    )
    asked = "{% if add_generation_prompt %}" + begins.replace("ROLE", "assistant") + "{% endif %}"
    return said + "{% for m in messages %}" + turn + ends + "{% endfor %}" + asked


_CHATML = ("<|im_start|>ROLE\n", "<|im_end|>\n")
_LLAMA = ("<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|eot_id|>")
_HERMES_CALLS = _EACH + "<tool_call>\n" + _NAMED % "arguments" + "\n</tool_call>{% endfor %}"
_PYTHONIC_CALLS = (
    "[" + _EACH + "{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}={{ v | tojson }}"
    "{% endfor %}){% endfor %}]"
)
_DEEPSEEK = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>%s<｜tool▁call▁end｜><｜tool▁calls▁end｜>"

FAMILIES: dict[str, str] = {
    "hermes": _turns(*_CHATML, _HERMES_CALLS),
    "qwen3_coder": _turns(
        *_CHATML,
        _EACH + "<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments.items() %}"
        "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}",
    ),
    "llama3_json": _turns(*_LLAMA, _EACH + _NAMED % "parameters" + "{% endfor %}", says="tools_in_user_message"),
    "pythonic": _turns(*_LLAMA, _PYTHONIC_CALLS, says="[func_name1(params_name1=params_value1, ...), func_name2()]"),
    "llama4_pythonic": _turns(
        "<|header_start|>ROLE<|header_end|>\n\n", "<|eot|>", _PYTHONIC_CALLS, says="func_name1( <|python_start|>"
    ),
    "mistral": _turns("", "</s>", _EACH + "[TOOL_CALLS]{{ c.function.name }}[ARGS]" + _ARGUMENTS + "{% endfor %}"),
    "deepseek_v3": _turns(
        "<｜ROLE｜>",
        "<｜end▁of▁sentence｜>",
        _EACH
        + _DEEPSEEK % f"function<｜tool▁sep｜>{{{{ c.function.name }}}}\n```json\n{_ARGUMENTS}\n```"
        + "{% endfor %}",
    ),
    "deepseek_v31": _turns(
        "<｜ROLE｜>",
        "<｜end▁of▁sentence｜>",
        _EACH + _DEEPSEEK % f"{{{{ c.function.name }}}}<｜tool▁sep｜>{_ARGUMENTS}" + "{% endfor %}",
    ),
    "granite": _turns(
        "<|start_of_role|>ROLE<|end_of_role|>",
        "<|end_of_text|>\n",
        "<|tool_call|>[" + _EACH + _NAMED % "arguments" + "{% endfor %}]",
    ),
    "granite4": _turns("<|start_of_role|>ROLE<|end_of_role|>", "<|end_of_text|>\n", _HERMES_CALLS),
    "phi4_mini_json": _turns(
        "<|ROLE|>",
        "<|end|>",
        "<|tool_call|>[" + _EACH + _NAMED % "arguments" + "{% endfor %}]<|/tool_call|>",
        says="<|tool|> <|/tool|>",
    ),
    "openai": _turns(
        "<|start|>ROLE",
        "",
        _EACH + "<|channel|>commentary to=functions.{{ c.function.name }} <|constrain|>json<|message|>" + _ARGUMENTS
        + "<|call|>{% endfor %}",
    ),
}  # fmt: skip
