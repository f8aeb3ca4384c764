"""What a tenant asks for: one endpoint, in a few words. Pure.

An adapter is named in two ways, which mean the same: `model` and an `adapter` over it, or a `model` that is the adapter
and its `base`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from pilotlight_engine.quantization import Requested
from pilotlight_gateway.endpoints.endpoint_rules import EndpointRules
from pilotlight_gateway.endpoints.model_sources import checked_source
from pilotlight_protocol.endpoint_directory import Front
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.json_bodies import read_json
from pilotlight_protocol.leases import Isolation
from pilotlight_specs.metadata import ISVC_NAME_MAX, is_isvc_name
from pilotlight_text.answer_parts.format_names import known_reasoning_parser, known_tool_parser

Uri = Annotated[str, msgspec.Meta(max_length=1024)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]


class EndpointSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`quantization`: `auto` takes the checkpoint as it is. `max_model_len`: the context in tokens, the model's own
    without one. `enforce_eager`: no compiled graphs: the first start is faster, tokens are slower. Replicas are pods,
    which are for sustained load; `scale_target`: requests at a time for each of them; `scale_window_s`: how long load
    is averaged, and so about how long pods stay without any. `timeout_s`: of a request."""

    name: str
    model: Uri
    base: Uri = ""
    adapter: Uri = ""
    quantization: Requested = "auto"
    max_model_len: Tokens | None = None
    enforce_eager: bool = False
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    isolation: Isolation | None = None
    front: Front = "auto"
    max_prompt_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None
    max_queue: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    min_replicas: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    max_replicas: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    scale_target: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 32
    scale_window_s: Annotated[int, msgspec.Meta(ge=6, le=3600)] = 60
    timeout_s: Annotated[int, msgspec.Meta(ge=1, le=600)] = 300


_specs = msgspec.json.Decoder(EndpointSpec)
_objects = msgspec.json.Decoder(dict[str, Any])
_FIXED = ("name",)


def read_spec(body: bytes, rules: EndpointRules) -> EndpointSpec:
    """Raises InvalidInput that names the field."""
    return checked(_decoded(lambda: read_json(_specs, body, "an endpoint")), rules)


def changed_spec(spec: EndpointSpec, body: bytes, rules: EndpointRules) -> EndpointSpec:
    """The spec with the fields of a JSON merge patch (RFC 7396): null takes one back to its default."""
    changes = read_json(_objects, body, "a change of an endpoint")
    for field in _FIXED:
        if changes.get(field, spec.name) != spec.name:
            raise InvalidInput(f"'{field}' cannot be changed; create another endpoint", param=field)
    if not changes:
        raise InvalidInput("nothing is to be changed; send the fields that are to be others")
    fields = {**msgspec.to_builtins(spec), **changes}
    kept = {name: value for name, value in fields.items() if value is not None or name in ("name", "model")}
    return checked(_decoded(lambda: msgspec.convert(kept, EndpointSpec)), rules)


def checked(spec: EndpointSpec, rules: EndpointRules) -> EndpointSpec:
    """In its one spelling. Raises InvalidInput."""
    if not is_isvc_name(spec.name):
        raise InvalidInput(
            f"'name' must be lower-case letters, digits and hyphens, begin with a letter, end with no hyphen, and have "
            f"at most {ISVC_NAME_MAX} characters",
            param="name",
        )
    if spec.base and spec.adapter:
        raise InvalidInput(
            "give 'base' where 'model' is an adapter, or 'adapter' where 'model' is its base, not both", param="base"
        )
    if spec.base:
        spec = msgspec.structs.replace(spec, model=spec.base, adapter=spec.model, base="")
    uris = {field: uri for field in ("model", "adapter") if (uri := getattr(spec, field)) or field == "model"}
    uris = {field: checked_source(uri, rules.sources, field) for field, uri in uris.items()}
    for field, known in (("tool_parser", known_tool_parser), ("reasoning_parser", known_reasoning_parser)):
        _check_parser(field, getattr(spec, field), known)
    if spec.min_replicas > spec.max_replicas:
        raise InvalidInput(
            f"'min_replicas' ({spec.min_replicas}) must not be more than 'max_replicas' ({spec.max_replicas})",
            param="min_replicas",
        )
    return msgspec.structs.replace(spec, **uris)


def differences(one: EndpointSpec, other: EndpointSpec) -> list[str]:
    return [name for name in one.__struct_fields__ if getattr(one, name) != getattr(other, name)]


def _check_parser(field: str, name: str | None, known: Callable[[str], str]) -> None:
    if name is None:
        return
    try:
        known(name)
    except ValueError as error:
        raise InvalidInput(f"'{field}': {error}", param=field) from error


def _decoded(decode: Callable[[], EndpointSpec]) -> EndpointSpec:
    """msgspec says `… - at `$.name``: the field is the error's."""
    try:
        return decode()
    except (msgspec.ValidationError, InvalidInput) as error:
        said = str(error)
        _, at, path = said.partition("`$.")
        field = path.partition("`")[0] if at else None
        raise InvalidInput(said.removeprefix("not an endpoint: "), param=field) from error
