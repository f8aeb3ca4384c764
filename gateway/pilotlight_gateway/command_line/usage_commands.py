"""`pilotlight usage`: what was taken and what it costs, asked of a running gateway."""

from __future__ import annotations

import json
from typing import Any

import click

from pilotlight_gateway.command_line.gateway_client import GatewayClient, reached_options
from pilotlight_gateway.command_line.text_table import text_table

_NUMBERS = ("REQUESTS", "PROMPT", "CACHED", "OUTPUT", "SLOT SECONDS", "COST")
_DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--tenant", help="One tenant's; for an admin's key, which sees everybody's without it.")
@click.option("--endpoint", metavar="NAME", help="Of one endpoint.")
@click.option("--by", metavar="WORDS", help="What makes a line: of day, tenant, endpoint, model, with commas between.")
@click.option("--from", "first", type=_DAY, help="First day, by UTC.  [default: of the month]")
@click.option("--to", "last", type=_DAY, help="Last day, by UTC.  [default: today]")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@reached_options
def usage(
    tenant: str | None,
    endpoint: str | None,
    by: str | None,
    first: Any,
    last: Any,
    as_csv: bool,
    as_json: bool,
    url: str,
    key: str | None,
) -> None:
    """What was taken, and what it costs: this month's, by endpoint and day, unless said otherwise."""
    query = {"tenant": tenant, "endpoint": endpoint, "by": by, "from": _iso(first), "to": _iso(last)}
    client = GatewayClient(url, key)
    if as_csv:
        _, body = client.ask("GET", "/v1/usage", None, query, {"accept": "text/csv"})
        click.echo(body.decode().replace("\r\n", "\n"), nl=False)
        return
    told = client.ask_json("GET", "/v1/usage", None, query)
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(_shown(told))


def _iso(day: Any) -> str | None:
    return None if day is None else day.date().isoformat()


def _shown(told: dict[str, Any]) -> str:
    by = told["by"]
    headings = [*(word.upper() for word in by), *_NUMBERS[:-1], f"COST {told['currency']}"]
    rows = [[*(each[word] for word in by), *_numbers(each)] for each in told["usage"]]
    if by and rows:
        rows.append([*("total" if place == 0 else "" for place in range(len(by))), *_numbers(told["total"])])
    title = f"{told['from']} to {told['to']}, by UTC"
    if not rows:
        return f"{title}: nothing was taken"
    return f"{title}\n{text_table(headings, rows, right=headings[len(by) :])}"


def _numbers(line: dict[str, Any]) -> list[str]:
    counts = [f"{line[name]:,}" for name in ("requests", "prompt_tokens", "cached_tokens", "output_tokens")]
    return [*counts, f"{line['slot_seconds']:,.3f}", line["cost"]]
