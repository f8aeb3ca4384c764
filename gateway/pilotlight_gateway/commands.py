"""`pilotlight tenant` and `pilotlight key`: tenants and their keys, for a person at the machine of the gateway.
`pilotlight gateway`: its configuration file.

They change the gateway's file and need no running platform: whoever may write the file may make the first admin's key.
A running gateway hears of it within a second. Must not: decide what may be done (`tenant_orders`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import click

from pilotlight_gateway.limits.limit_terms import LimitTerms
from pilotlight_gateway.request_steps import PriorityClass, Role
from pilotlight_gateway.tenants import tenant_orders
from pilotlight_gateway.tenants.api_keys import ID_BYTES, SECRET_BYTES, ApiKey, new_key
from pilotlight_gateway.tenants.sqlite_store import FILE_NAME, SqliteTenants
from pilotlight_gateway.tenants.tenant_records import KeyRecord, TenantSettings
from pilotlight_protocol.errors import PilotlightError

GATEWAY_FOLDER = "gateway"

state_dir_option = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the platform keeps its state.",
    show_default="XDG state",
)


@click.group()
def tenant() -> None:
    """Who may use the front door, and how much."""


@click.group()
def gateway() -> None:
    """The front door's configuration."""


@gateway.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def check_config(file: Path) -> None:
    """Say what is wrong with the configuration FILE, or "ok". A running gateway would say the same and keep its own."""
    from pilotlight_gateway.configuration.config_file import BrokenConfig, read_config

    try:
        read_config(file)
    except BrokenConfig as error:
        raise click.ClickException(error.message) from error
    click.echo("ok")


@click.group()
def key() -> None:
    """The keys of tenants. A key is shown once, when it is made."""


@tenant.command("create")
@click.argument("name")
@click.option("--model", "models", multiple=True, metavar="NAME", help="A model its keys may ask for; all without one.")
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    help="A namespace whose endpoints it may use beside its own; the first one's by short names, too.",
)
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), default="normal", show_default=True)
@click.option("--requests-per-minute", type=click.IntRange(min=1))
@click.option("--tokens-per-minute", type=click.IntRange(min=1), help="Of prompts and answers.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Requests at a time.")
@click.option("--tokens-per-day", type=click.IntRange(min=1), help="By UTC.")
@click.option("--tokens-per-month", type=click.IntRange(min=1), help="By UTC.")
@click.option("--max-endpoints", type=click.IntRange(min=0), help="On demand.  [default: the server's]")
@click.option("--max-replicas", type=click.IntRange(min=0), help="Of each endpoint.  [default: the server's]")
@state_dir_option
def create_tenant(
    name: str,
    models: tuple[str, ...],
    namespaces: tuple[str, ...],
    priority: PriorityClass,
    max_endpoints: int | None,
    max_replicas: int | None,
    state_dir: Path | None,
    **limits: int | None,
) -> None:
    """Make the tenant NAME, who owns the endpoints of the namespace NAME. From the first one on, keys are asked for."""
    settings = TenantSettings(priority, models, namespaces, LimitTerms(**limits), max_endpoints, max_replicas)
    with _store(state_dir) as store:
        store.change(name, tenant_orders.create_tenant(name, settings, time.time()))
    click.echo(f"tenant {name} created; `pilotlight key create {name}` makes it a key")


@tenant.command("list")
@state_dir_option
def list_tenants(state_dir: Path | None) -> None:
    """Every tenant, and what it may do."""
    with _store(state_dir) as store:
        for record in store.tenants():
            if record.deleted_s is None:
                limits = record.settings.limits
                shown = [f"{name}={value}" for name in limits.__struct_fields__ if (value := getattr(limits, name))]
                quotas = ("max_endpoints", "max_replicas")
                shown += [f"{name}={value}" for name in quotas if (value := getattr(record.settings, name)) is not None]
                click.echo("  ".join((record.name, record.settings.priority, *shown)))


@tenant.command("delete")
@click.argument("name")
@state_dir_option
def delete_tenant(name: str, state_dir: Path | None) -> None:
    """Delete a tenant and revoke its keys. Its endpoints stay, and its name is nobody's ever again."""
    with _store(state_dir) as store:
        store.change(name, tenant_orders.delete_tenant(name, time.time()))
    click.echo(f"tenant {name} deleted, its keys are revoked")


@key.command("create")
@click.argument("tenant_name", metavar="TENANT")
@click.option("--role", type=click.Choice(get_args(Role)), default="tenant", show_default=True)
@click.option("--label", default="", help="What it is for.")
@click.option(
    "--model", "models", multiple=True, metavar="NAME", help="A model it may ask for; its tenant's without one."
)
@click.option("--expires-in-days", type=click.FloatRange(min=0, min_open=True))
@state_dir_option
def create_key(
    tenant_name: str,
    role: Role,
    label: str,
    models: tuple[str, ...],
    expires_in_days: float | None,
    state_dir: Path | None,
) -> None:
    """Make a key of TENANT and print it, alone: it is shown only now."""
    made, now_s = random_key(), time.time()
    expires_s = None if expires_in_days is None else now_s + expires_in_days * 86_400
    decide = tenant_orders.create_key(
        tenant_name, made, now_s, role=role, label=label, models=models, expires_s=expires_s
    )
    with _store(state_dir) as store:
        store.change(tenant_name, decide)
    click.echo(made.shown)


@key.command("list")
@click.argument("tenant_name", metavar="TENANT")
@state_dir_option
def list_keys(tenant_name: str, state_dir: Path | None) -> None:
    """The keys of TENANT by their ids, the oldest first."""
    with _store(state_dir) as store:
        for record in store.keys(tenant_name):
            click.echo(_shown(record, time.time()))


@key.command("rotate")
@click.argument("tenant_name", metavar="TENANT")
@click.argument("key_id", metavar="KEY_ID")
@click.option("--grace-hours", type=click.FloatRange(min=0), default=24.0, show_default=True)
@state_dir_option
def rotate_key(tenant_name: str, key_id: str, grace_hours: float, state_dir: Path | None) -> None:
    """Make a key in place of KEY_ID, which goes on for the grace period, and print it, alone."""
    made = random_key()
    with _store(state_dir) as store:
        store.change(tenant_name, tenant_orders.rotate_key(tenant_name, key_id, made, grace_hours * 3600, time.time()))
    click.echo(made.shown)


@key.command("revoke")
@click.argument("tenant_name", metavar="TENANT")
@click.argument("key_id", metavar="KEY_ID")
@state_dir_option
def revoke_key(tenant_name: str, key_id: str, state_dir: Path | None) -> None:
    """Revoke KEY_ID: it is refused within a second."""
    with _store(state_dir) as store:
        store.change(tenant_name, tenant_orders.revoke_key(tenant_name, key_id, time.time()))
    click.echo(f"key {key_id} revoked")


def random_key() -> ApiKey:
    return new_key(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))


def _shown(record: KeyRecord, now_s: float) -> str:
    made = datetime.fromtimestamp(record.created_s, UTC).strftime("%Y-%m-%d %H:%M")
    return "  ".join(filter(None, (record.id, record.state(now_s), record.role, made, record.label)))


@contextmanager
def _store(state_dir: Path | None) -> Iterator[SqliteTenants]:
    """Refusals become messages."""
    folder = state_dir or click.get_current_context().find_root().obj.default_state_dir
    try:
        store = SqliteTenants(folder.absolute() / GATEWAY_FOLDER / FILE_NAME)
        try:
            yield store
        finally:
            store.close()
    except PilotlightError as error:
        raise click.ClickException(error.message) from error
