"""vLLM's engine arguments as texts: from the command line and the environment, under our defaults. Pure, no vLLM.

Types and unknown names are checked by vLLM's own parser, in the engine host (engine/vllm_arguments.py); here only what
can be decided without it. Precedence: our defaults < PILOTLIGHT_ENGINE_ARGS < --engine_arg.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence

from pilotlight_protocol.errors import InvalidInput

_NAME = re.compile(r"[a-z][a-z0-9_]*")

_OURS = {
    "model": "it comes from --model_dir or --model_uri",
    "tokenizer": "it is the model's",
    "served_model_name": "it comes from --model_name",
    "skip_tokenizer_init": "a predictor sees tokens only",
    "trust_remote_code": "code from a model repository is never run",
    "disable_log_stats": "autoscaling and /metrics need them",
    "enable_lora": "pass --lora name=path instead",
}

DEFAULTS: Mapping[str, str] = {"scheduling_policy": "priority", "enable_prefix_caching": "true"}
# vLLM knows of which pooling models' vectors a cached prefix is a part.
POOLING_DEFAULTS: Mapping[str, str] = {"scheduling_policy": "priority"}


def parse_engine_args(flags: Sequence[str], variable: str = "") -> dict[str, str]:
    """`flags`: values of --engine_arg, each `name=value` or `name` (true). `variable`: PILOTLIGHT_ENGINE_ARGS, a JSON
    object or `name=value` separated by spaces or commas.

    Names may be written with dashes. Raises InvalidInput that names the argument which is ours to set or malformed.
    """
    arguments = _parse_variable(variable.strip())
    arguments |= dict(_pair(flag, "--engine_arg") for flag in flags)
    for name in arguments:
        if name in _OURS:
            raise InvalidInput(f"engine argument '{name}' cannot be set: {_OURS[name]}", param=name)
    if arguments.get("data_parallel_size", "1") != "1":
        raise InvalidInput(
            "engine argument 'data_parallel_size' must be 1: a predictor owns one engine; "
            "run more replicas instead (minReplicas/maxReplicas), they scale on their own",
            param="data_parallel_size",
        )
    return arguments


def with_defaults(
    arguments: Mapping[str, str], chosen: Mapping[str, str | None], defaults: Mapping[str, str] = DEFAULTS
) -> dict[str, str]:
    """The texts vLLM's parser gets. `chosen`: what we derived (quantization, dtype, ...; None is left out); like
    `defaults` it gives way to `arguments`."""
    derived = {name: text for name, text in chosen.items() if text is not None}
    return {**defaults, **derived, **arguments, "skip_tokenizer_init": "true"}


def _parse_variable(text: str) -> dict[str, str]:
    if not text:
        return {}
    if text.startswith("{"):
        try:
            values = json.loads(text)
        except ValueError as error:
            raise InvalidInput(f"PILOTLIGHT_ENGINE_ARGS is not a JSON object: {error}") from None
        return {_name(name, "PILOTLIGHT_ENGINE_ARGS"): _as_text(value) for name, value in values.items()}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidInput(f"PILOTLIGHT_ENGINE_ARGS cannot be split into words: {error}") from None
    pairs = [part for word in words for part in _split_commas(word)]
    return dict(_pair(part, "PILOTLIGHT_ENGINE_ARGS") for part in pairs)


def _split_commas(word: str) -> list[str]:
    # Only a comma before another `name=` separates: `a=1,b=2` but not `cpu_offload_params=x,y` or a JSON value.
    return [part for part in re.split(r",(?=[a-z][a-z0-9_-]*=)", word) if part]


def _pair(text: str, source: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    return _name(name, source), value if equals else "true"


def _name(text: str, source: str) -> str:
    name = text.strip().removeprefix("--").replace("-", "_")
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{source}: '{text}' is not an engine argument; write name=value")
    return name


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
