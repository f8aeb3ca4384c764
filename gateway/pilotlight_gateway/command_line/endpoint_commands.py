"""`pilotlight endpoint`: endpoints on demand, asked of a running gateway, as any other client can."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args
from urllib.parse import quote

import click

from pilotlight_engine.quantization import Requested
from pilotlight_gateway.command_line.gateway_client import GatewayClient, reached_options
from pilotlight_gateway.command_line.text_table import text_table
from pilotlight_protocol.endpoint_directory import Front
from pilotlight_protocol.leases import Isolation

_Command = TypeVar("_Command", bound=Callable[..., Any])
_POSITIVE = click.IntRange(min=1)
_URI_HELP = "URI of a model: hf://organisation/name[:revision], or what else the server takes."
_OPTIONS = (
    click.option("--base", metavar="URI", help="Where --model is a LoRA adapter: the model below it."),
    click.option("--adapter", metavar="URI", help="A LoRA adapter over --model."),
    click.option("--quantization", type=click.Choice(get_args(Requested)), help="auto takes the checkpoint as it is."),
    click.option("--max-model-len", type=_POSITIVE, metavar="TOKENS", help="Context length."),
    click.option("--enforce-eager/--no-enforce-eager", default=None, help="No compiled graphs: starts faster."),
    click.option("--tool-parser", metavar="NAME", help="How the model writes calls, by vLLM's name of the parser."),
    click.option("--reasoning-parser", metavar="NAME", help="How the model writes reasoning."),
    click.option("--isolation", type=click.Choice(get_args(Isolation)), help="Of its engines from other tenants'."),
    click.option("--front", type=click.Choice(get_args(Front)), help="Which way requests go."),
    click.option("--max-prompt-tokens", type=_POSITIVE, metavar="TOKENS", help="Of a request."),
    click.option("--max-output-tokens", type=_POSITIVE, metavar="TOKENS", help="Of an answer."),
    click.option("--max-queue", type=_POSITIVE, help="Requests that may wait for a place in the engine's batch."),
    click.option("--min-replicas", type=click.IntRange(min=0), help="Pods that never end; 0 scales to zero."),
    click.option("--max-replicas", type=_POSITIVE, help="Pods under load."),
    click.option("--scale-target", type=_POSITIVE, help="Requests at a time for each pod."),
    click.option("--scale-window-s", type=_POSITIVE, help="Seconds over which load is averaged."),
    click.option("--timeout-s", type=_POSITIVE, help="Of a request."),
)
tenant_option = click.option("--tenant", help="Whose; for an admin's key.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _spec_options(command: _Command) -> _Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group()
def endpoint() -> None:
    """Endpoints on demand: from a model's URI to a name that answers at once."""


@endpoint.command("create")
@click.argument("name")
@click.option("--model", required=True, metavar="URI", help=_URI_HELP)
@_spec_options
@tenant_option
@json_option
@reached_options
def create_endpoint(name: str, url: str, key: str | None, tenant: str | None, as_json: bool, **fields: Any) -> None:
    """Make the endpoint NAME; once more with the same options changes nothing."""
    client = GatewayClient(url, key)
    status, body = client.ask("POST", "/v1/endpoints", {"name": name, **_given(fields)}, {"tenant": tenant})
    made = json.loads(body)
    if as_json:
        _print_json(made)
        return
    click.echo(f"endpoint {name} {'created' if status == 201 else 'is there already, just like that'}")
    click.echo(_how_to_call(made, needs_key=key is not None))


@endpoint.command("list")
@tenant_option
@json_option
@reached_options
def list_endpoints(url: str, key: str | None, tenant: str | None, as_json: bool) -> None:
    """Every endpoint of yours, and how it is."""
    found = GatewayClient(url, key).ask_json("GET", "/v1/endpoints", None, {"tenant": tenant})["endpoints"]
    if as_json:
        _print_json(found)
        return
    if not found:
        click.echo("no endpoints yet; `pilotlight endpoint create NAME --model URI` makes one")
        return
    rows = [(each["tenant"], each["name"], each["phase"], each["made_by"], _model_of(each)) for each in found]
    click.echo(text_table(("TENANT", "NAME", "PHASE", "MADE BY", "MODEL"), rows))
    for each in found:
        if each.get("reason"):
            click.echo(f"{each['tenant']}/{each['name']}: {each['reason']}")


@endpoint.command("get")
@click.argument("name")
@tenant_option
@json_option
@reached_options
def get_endpoint(name: str, url: str, key: str | None, tenant: str | None, as_json: bool) -> None:
    """One endpoint: what it is, how it is, what it took."""
    found = GatewayClient(url, key).ask_json("GET", _path(name), None, {"tenant": tenant})
    if as_json:
        _print_json(found)
        return
    click.echo(_described(found))


@endpoint.command("update")
@click.argument("name")
@click.option("--model", metavar="URI", help=_URI_HELP)
@_spec_options
@click.option("--unset", multiple=True, metavar="OPTION", help="Back to its default, as --unset max-model-len.")
@click.option("--generation", type=_POSITIVE, help="Only if nobody has changed it since.")
@tenant_option
@json_option
@reached_options
def update_endpoint(
    name: str,
    url: str,
    key: str | None,
    tenant: str | None,
    as_json: bool,
    unset: tuple[str, ...],
    generation: int | None,
    **fields: Any,
) -> None:
    """Change the endpoint NAME: what is not said stays."""
    changes = {**_given(fields), **{option.removeprefix("--").replace("-", "_"): None for option in unset}}
    headers = {} if generation is None else {"if-match": f'"{generation}"'}
    client = GatewayClient(url, key)
    changed = client.ask_json("PATCH", _path(name), changes, {"tenant": tenant}, headers)
    if as_json:
        _print_json(changed)
        return
    click.echo(f"endpoint {name} is at generation {changed['generation']}")


@endpoint.command("delete")
@click.argument("name")
@tenant_option
@reached_options
def delete_endpoint(name: str, url: str, key: str | None, tenant: str | None) -> None:
    """Delete the endpoint NAME; requests that run go on to their end."""
    answer = GatewayClient(url, key).ask_json("DELETE", _path(name), None, {"tenant": tenant})
    if not answer["deleted"]:
        click.echo(f"there is no endpoint {name}; nothing was to be deleted")
        return
    running = f"; {answer['running']} request(s) still run to their end" if answer["running"] else ""
    click.echo(f"endpoint {name} deleted{running}")


def _path(name: str) -> str:
    return f"/v1/endpoints/{quote(name, safe='')}"


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def _model_of(found: dict[str, Any]) -> str:
    spec = found.get("spec")
    if spec is None:
        return ", ".join(found.get("models", ()))
    return f"{spec['model']} + {spec['adapter']}" if spec.get("adapter") else str(spec["model"])


def _how_to_call(made: dict[str, Any], *, needs_key: bool) -> str:
    key = ' \\\n    -H "Authorization: Bearer $PILOTLIGHT_API_KEY"' if needs_key else ""
    body = json.dumps({"model": made["model"], "messages": [{"role": "user", "content": "Hello"}]})
    return f"""it answers at once:
  curl {made["url"]}/chat/completions{key} \\
    -H 'Content-Type: application/json' \\
    -d '{body}'"""


def _described(found: dict[str, Any]) -> str:
    lines = [("name", f"{found['tenant']}/{found['name']}"), ("phase", found["phase"])]
    lines += [("reason", found["reason"])] if found.get("reason") else []
    lines += [("url", found["url"]), ("model name", found["model"])]
    lines += [("generation", str(found["generation"]))] if found.get("generation") else [("made by", "a file")]
    spec = found.get("spec") or {}
    lines += [(name.replace("_", " "), str(value)) for name, value in spec.items() if name != "name"]
    width = max(len(name) for name, _ in lines)
    text = "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines)
    rows = [
        (each["component"], each["revision"], each["phase"], f"{each['ready']}/{each['desired']}", each["reason"])
        for each in (_with_reason(each) for each in found.get("revisions", ()))
    ]
    tables = [text_table(("COMPONENT", "REVISION", "PHASE", "PODS", "REASON"), rows)] if rows else []
    if starts := found.get("cold_starts"):
        tables.append(_cold_starts(starts))
    if usage := found.get("usage"):
        tables.append(_usage(usage))
    return "\n\n".join([text, *tables])


def _cold_starts(starts: list[dict[str, Any]]) -> str:
    rows = [
        (
            datetime.fromtimestamp(each["at_s"], UTC).strftime("%Y-%m-%d %H:%M:%S"),
            f"{each['first_ms']:,.0f} ms",
            each["lease"],
            each["way"],
        )
        for each in starts
    ]
    return text_table(("COLD START (UTC)", "FIRST PART", "ENGINE", "WAY"), rows, right=("FIRST PART",))


def _usage(usage: dict[str, Any]) -> str:
    names = ("requests", "prompt_tokens", "cached_tokens", "output_tokens", "slot_seconds", "cost")
    headings = [*(name.replace("_", " ").upper() for name in names[:-1]), f"COST {usage['currency']}"]
    row = [usage["cost"] if name == "cost" else f"{usage[name]:,}" for name in names]
    return f"since {usage['since']}:\n{text_table(headings, [row], right=headings)}"


def _with_reason(revision: dict[str, Any]) -> dict[str, Any]:
    return {"reason": "", **revision}
