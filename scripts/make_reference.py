"""Writes docs/reference.md from the code: flags, environment, headers, metrics, lease API.

    python scripts/make_reference.py [--check]

What can be read from the code is; what a name means and the code does not say in one place stands here, and
`tests/unit/layout/test_docs.py` fails when a name is missing or nobody uses it any more.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from pilotlight_gateway import settings as gateway_settings
from pilotlight_gateway.command_line.endpoint_commands import endpoint
from pilotlight_gateway.command_line.usage_commands import usage
from pilotlight_gateway.commands import key, tenant
from pilotlight_gateway.configuration.gateway_config import GatewayConfig
from pilotlight_local.cli.commands import cli
from pilotlight_pool import arguments as pool_arguments
from pilotlight_predictor import arguments as predictor_arguments
from pilotlight_protocol import leases
from pilotlight_store import commands as store_commands
from pilotlight_text.openai_api import field_tables
from pilotlight_transformer import settings as transformer_settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference.md"
FOLDERS = ("protocol", "serving", "specs", "predictors", "transformers", "warmup", "gateway", "local")
METRICS = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram", "GaugeMetricFamily": "gauge"}

ENVIRONMENT = {
    "INFERENCE_SERVICE_NAME": "KServe's: the default of `--model_name`",
    "PORT": "KServe's and Knative's: the default of `--http_port`",
    "PILOTLIGHT_ENGINE_ARGS": "predictor: engine arguments as a JSON object or words, below `--engine_arg`",
    "PILOTLIGHT_ADAPTER": "predictor, transformer: the annotation `pilotlight.dev/adapter`; `pilotlight up` sets it",
    "PILOTLIGHT_LOG_LEVEL": "transformer: INFO unless set",
    "PILOTLIGHT_POOL_KEY": "predictor: the tenant's lease key, where the pool wants one",
    "PILOTLIGHT_POOL_URL": "predictor: default of `--pool_url`; `pilotlight up` sets it",
    "PILOTLIGHT_REDIS_URL": "gateway: the Redis that replicas share limits and named requests by, with its password",
    "PILOTLIGHT_PREWARM": "predictor: the annotation `pilotlight.dev/prewarm`; `pilotlight up` sets it",
    "PILOTLIGHT_STORE": "every process: the model store's folder, `~/.cache/pilotlight/store` unless set",
    "PILOTLIGHT_API_KEY": "`pilotlight endpoint` and `usage`: default of `--key`",
    "PILOTLIGHT_TENANT": "predictor: default of `--tenant`; `pilotlight up` sets it to the namespace",
    "PILOTLIGHT_URL": "`pilotlight endpoint` and `usage`: default of `--url`",
    "HF_ENDPOINT": "store: the hub's address",
    "HF_TOKEN": "store: the hub's token",
}
HEADERS = {
    "x-request-id": "both ways: taken from the client or made; the engine's request id; in every log line of a request",
    "server-timing": "answer: phases in ms, `activate`, `lease` and its parts, `queue`, `prefill`",
    "traceparent": "request: W3C trace context, passed on unchanged (so is tracestate)",
    "retry-after": "answer 429 and 503: seconds; gRPC: trailing metadata",
    "x-pilotlight-elsewhere": "request: it may be sent to another pod; answer 503: another pod has an engine",
    "x-pilotlight-error-code": "answer 4xx: OpenAI's word for the fault, as `context_length_exceeded`",
    "x-pilotlight-loose": "answer: what asked to be strict and cannot be enforced for this model, as `tools`",
    "x-pilotlight-ignored-fields": "answer: what of a request is ignored: names that nobody knows, and what "
    "this model's chat template does not read, as `documents`, `messages.name`, `messages[0].content`",
    "x-pilotlight-lease": "answer: how the engine was got and what it took",
    "x-pilotlight-param": "answer 400: the parameter that is wrong",
    "x-pilotlight-priority": "request: high, normal, low or idle, at most its key's class; passed on as decided",
    "x-pilotlight-output-tokens": "request to a predictor: tokens at the prompt's end that were generated elsewhere",
    "x-pilotlight-history": "request of a gateway: it keeps responses; bytes of the body, behind which stands what the "
    "request continues",
    "x-pilotlight-resume": "request of a gateway: go on with a broken answer; what was told follows the body",
    "x-pilotlight-tell": "request of a gateway: tell in comments of the stream of which tokens it is made",
    "x-pilotlight-tenant": "request: whose it is, as a gateway says: of stored responses and cached prefixes",
    "x-pilotlight-route": "answer of the gateway: what in the route of that name chose the endpoint, and what failed",
    "x-pilotlight-escalation": "answer of a cascade: what the first answer took, which nobody is billed for",
    "x-pilotlight-mirror": "request to a route's mirror, 1: a copy, whose answer nobody sees",
    "x-model-version": "request: a version of the route that the model names; another one is 404",
    "x-request-timeout": "request: seconds until the answer must begin, else 504; a target too late is not asked; told "
    "on as what is left",
    "x-session-id": "request: what a canary keeps together, where the body says no user",
    "x-pilotlight-way": "answer of the gateway: short or pods, and why",
    "x-pilotlight-progress": "request, 1: a stream that waits says why in SSE comments",
}
# Between our own processes only.
PRIVATE = ("PILOTLIGHT_PREPARED_PROCESS",)
LEASE_TYPES = ("LeaseRequest", "LeaseAnswer", "PrewarmRequest", "LeaseLine", "SlotLine", "ModelLine") + (
    "SlotTimesAnswer",
    "SlotTime",
    "ErrorBody",
)


def page() -> str:
    parts = [
        "# Reference",
        "Made from the code by `make reference`; a test compares them.",
        "## Flags",
        *_parsers(),
        "## Commands",
        *_commands(),
        "## The gateway's configuration file",
        "YAML (`--config FILE`), or JSON in a file called `*.json`. `pilotlight gateway check FILE` says what is "
        "wrong with one.",
        *_sections(GatewayConfig, "the file"),
        "## Environment",
        _table(("variable", "meaning"), sorted(ENVIRONMENT.items())),
        "## Headers",
        _table(("header", "meaning"), sorted(HEADERS.items())),
        "## OpenAI requests",
        "Every field of OpenAI's and vLLM's requests for chat and completions is done, but for these. A field with any "
        "other name is ignored, logged once, and named in `x-pilotlight-ignored-fields`.",
        _table(("field", "refused: 400"), _fields(field_tables.REFUSED)),
        _table(("field", "without effect"), _fields(field_tables.WITHOUT_EFFECT)),
        "## Metrics",
        _table(("family", "type", "labels", "meaning"), sorted(metrics())),
        "## Lease API",
        _table(("method", "path", "of"), sorted(routes())),
        *_lease_types(),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _fields(table: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(f"`{name}`", why) for name, why in sorted(table.items())]


def names_in_code(pattern: str) -> set[str]:
    """Every string literal of the product that matches whole."""
    return {
        node.value
        for _, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(pattern, node.value)
    }


def metrics() -> Iterator[tuple[str, str, str, str]]:
    """(family, type, labels, meaning) of every Prometheus metric that the product declares."""
    for _, tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in METRICS:
                literals = [_literal(argument) for argument in node.args]
                if len(literals) >= 2 and isinstance(literals[0], str) and isinstance(literals[1], str):
                    labels = next((each for each in literals[2:] if isinstance(each, list)), None) or next(
                        (_literal(each.value) for each in node.keywords if each.arg in {"labelnames", "labels"}), None
                    )
                    yield literals[0], METRICS[node.func.id], ", ".join(labels or ()), literals[1]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                if found := re.fullmatch(r"# HELP (\w+) (.+)", node.value):
                    yield found[1], "counter", "", found[2]
            elif isinstance(node, ast.Tuple) and len(node.elts) == 3:
                name, text = _literal(node.elts[0]), _literal(node.elts[1])
                if isinstance(name, str) and name.startswith("pilotlight_") and isinstance(text, str):
                    yield name, "gauge", "", text


def routes() -> Iterator[tuple[str, str, str]]:
    """(method, path, process) of FastAPI's decorators."""
    for path, tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
                for decorator in node.decorator_list:
                    if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute) and decorator.args:
                        where = _literal(decorator.args[0])
                        if decorator.func.attr in {"get", "post", "delete", "put"} and isinstance(where, str):
                            yield decorator.func.attr.upper(), f"`{where}`", path.parts[1].removeprefix("pilotlight_")


def _trees() -> Iterator[tuple[Path, ast.Module]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("pilotlight_*/**/*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _parsers() -> Iterator[str]:
    for parser in (
        predictor_arguments.command_line({}),
        transformer_settings.command_line({}),
        pool_arguments.command_line(),
        gateway_settings.command_line({}),
    ):
        rows = []
        for action in parser._actions:
            if action.option_strings and action.dest != "help":
                default = "" if action.default in (None, argparse.SUPPRESS, "", []) else action.default
                rows.append((f"`{action.option_strings[-1]}`", f"{default}", action.help or ""))
        yield f"### {parser.prog}"
        yield _table(("flag", "default", "meaning"), rows)


def _commands() -> Iterator[str]:
    commands = {**cli.commands, "prefetch": store_commands.prefetch, "models": store_commands.models}
    commands["usage"] = usage
    for group in (tenant, key, endpoint):
        commands |= {f"{group.name} {name}": command for name, command in group.commands.items()}
    for name, command in sorted(commands.items()):
        rows = [
            (f"`{option.opts[-1]}`", option.help or "") for option in command.params if isinstance(option, click.Option)
        ]
        yield f"### pilotlight {name}"
        yield (command.help or "").strip().splitlines()[0]
        if rows:
            yield _table(("option", "meaning"), rows)


def _sections(kind: Any, shown: str) -> Iterator[str]:
    """A table for the struct, and one for each struct of its fields."""
    fields = msgspec.structs.fields(kind)
    rows = [
        (f"`{field.encode_name}`", _type_text(field.type), "required" if field.required else _default_of(field))
        for field in fields
    ]
    yield f"### {shown}"
    yield " ".join((kind.__doc__ or "").split())
    yield _table(("field", "type", "default"), rows)
    for field in fields:
        for inner in _structs_of(field.type):
            yield from _sections(inner, field.encode_name if kind is GatewayConfig else f"{shown}, {field.encode_name}")


def _structs_of(kind: Any) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [found for inner in get_args(kind) for found in _structs_of(inner)]


def _default_of(field: msgspec.structs.FieldInfo) -> str:
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if isinstance(default, msgspec.Struct):
        return ""
    return msgspec.json.encode(default).decode()


def _lease_types() -> Iterator[str]:
    for name in LEASE_TYPES:
        kind = getattr(leases, name)
        rows = [
            (f"`{field.encode_name}`", _type_text(field.type), "required" if field.required else "")
            for field in msgspec.structs.fields(kind)
        ]
        yield f"### {name}"
        yield " ".join((kind.__doc__ or "").split())
        yield _table(("field", "type", ""), rows)


def _type_text(kind: Any) -> str:
    (schema,), named = msgspec.json.schema_components([kind])
    either = [named.get(one.get("$ref", "").rpartition("/")[2], one) for one in schema.get("anyOf", [schema])]
    return " or ".join(str(one.get("type") or one.get("enum")) for one in either)


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    text = page()
    known = {*ENVIRONMENT, *HEADERS, *PRIVATE}
    if missing := names_in_code(r"PILOTLIGHT_[A-Z_]+|x-pilotlight-[a-z-]+") - known:
        sys.stderr.write(f"say in scripts/make_reference.py what these are: {', '.join(sorted(missing))}\n")
        return 1
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.read_text(encoding="utf-8") == text else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
