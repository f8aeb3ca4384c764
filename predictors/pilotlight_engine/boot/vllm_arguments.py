"""Checks engine arguments with vLLM's own command-line parser, so that they mean what they mean to `vllm serve`.

Adapter to vLLM: used in the engine host only.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from vllm.engine.arg_utils import EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

from pilotlight_engine.errors import EngineMisconfigured

_TRUE = frozenset({"", "true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]
    def error(self, message: str) -> NoReturn:
        raise EngineMisconfigured(f"engine argument refused by vLLM: {message}")


def build(fixed: dict[str, Any], arguments: Sequence[tuple[str, str]]) -> Any:
    """`vllm.EngineArgs` from texts as (field name, value); `fixed` fields are ours and win.

    Raises EngineMisconfigured for an unknown name (with close matches) and for a value that vLLM's parser refuses.
    """
    parser = EngineArgs.add_cli_args(_Parser(add_json_tip=False))
    flags = {action.dest: action for action in parser._actions if action.option_strings}
    known = {field.name for field in dataclasses.fields(EngineArgs)} & flags.keys()
    argv: list[str] = []
    for name, text in arguments:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else "; `vllm serve --help` lists them"
            raise EngineMisconfigured(f"vLLM has no engine argument '{name}'{hint}")
        argv += _argv(name, text, flags[name])
    parsed = parser.parse_args(argv)
    for name, value in fixed.items():
        setattr(parsed, name, value)
    return EngineArgs.from_cli_args(parsed)


def _argv(name: str, text: str, action: argparse.Action) -> list[str]:
    flag = max((option for option in action.option_strings if not option.startswith("--no-")), key=len)
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        lowered = text.strip().lower()
        if lowered in _TRUE:
            return [flag]
        if lowered in _FALSE:
            negative = [option for option in action.option_strings if option.startswith("--no-")]
            return negative[:1]
        raise EngineMisconfigured(f"engine argument '{name}' must be true or false, not '{text}'")
    if action.nargs in ("+", "*"):
        return [flag, *text.split(",")]
    return [f"{flag}={text}"]
