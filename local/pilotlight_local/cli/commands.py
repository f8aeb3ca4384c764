"""The commands `pilotlight up|apply|status|logs|delete|down`. Parses arguments and prints, no more.

Exit codes: 0 done, 1 cannot be done now (the message says what to do), 2 wrong arguments or a refused file.
"""

import json
import time
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import click

from pilotlight_local.errors import PlatformError, RefusedError
from pilotlight_local.state_dir import StateDir

DEFAULT_PORT = 8080
DEFAULT_GATEWAY_PORT = 8000
DEFAULT_NAMESPACE = "default"
END_GRACE_S = 10.0
REFUSED_EXIT_CODE = 2
PIPED_COLUMNS = 200
POOL_PACKAGE = "pilotlight_pool"
GATEWAY_PACKAGE = "pilotlight_gateway"
COMMANDS_GROUP = "pilotlight.commands"


@dataclass(frozen=True)
class Surroundings:
    """What the composition root found in the environment."""

    default_state_dir: Path
    search_path: str
    python: str
    model_store: Path
    download_env: dict[str, str]
    started_s: float


class Commands(click.Group):
    """Prints a PlatformError as plain text and turns it into an exit code.

    Other installed packages add commands (`prefetch`, `models`) through the entry point group `pilotlight.commands`.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *metadata.entry_points(group=COMMANDS_GROUP).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for entry in metadata.entry_points(group=COMMANDS_GROUP, name=cmd_name):
            return cast(click.Command, entry.load())
        return None

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except RefusedError as error:
            for message in error.messages:
                click.echo(message, err=True)
            click.echo("Nothing was applied.", err=True)
            ctx.exit(REFUSED_EXIT_CODE)
        except PlatformError as error:
            click.echo(str(error), err=True)
            ctx.exit(1)


state_dir_option = click.option(
    "--state-dir", type=click.Path(path_type=Path), help="Where the platform keeps its state.", show_default="XDG state"
)


def chosen_state_dir(surroundings: Surroundings, chosen: Path | None) -> StateDir:
    return StateDir((chosen or surroundings.default_state_dir).absolute())


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pilotlight")
def cli() -> None:
    """Serve LLM InferenceServices from zero, on this machine."""


@cli.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="Ingress port.")
@click.option(
    "--initial-scale",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Pods a new revision starts with (config-autoscaler's initial-scale; Knative's own default is 1).",
)
@click.option(
    "--autoscaler",
    multiple=True,
    metavar="KEY=VALUE",
    help="A config-autoscaler key, as scale-to-zero-grace-period=5s; may be repeated.",
)
@click.option(
    "--slots", type=click.IntRange(min=1), default=1, show_default=True, help="Engines of the warm pool at a time."
)
@click.option(
    "--allowed-origins",
    default="*",
    show_default=True,
    metavar="ORIGINS",
    help="Web origins whose pages may call, with commas between; '' for none.",
)
@click.option(
    "--gateway-port",
    type=click.IntRange(1, 65535),
    default=DEFAULT_GATEWAY_PORT,
    show_default=True,
    help="Where the gateway answers for every endpoint, by the name of the model.",
)
@click.option(
    "--gateway-config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="The gateway's configuration; `pilotlight gateway check FILE` says what is wrong with one.",
)
@click.option("--no-gateway", is_flag=True, help="No gateway: endpoints are reached through the ingress alone.")
@click.option("--no-pool", is_flag=True, help="No warm pool: every predictor starts an engine of its own.")
@state_dir_option
@click.pass_obj
def up(
    surroundings: Surroundings,
    files: tuple[Path, ...],
    port: int,
    initial_scale: int,
    autoscaler: tuple[str, ...],
    slots: int,
    allowed_origins: str,
    gateway_port: int,
    gateway_config: Path | None,
    no_gateway: bool,
    no_pool: bool,
    state_dir: Path | None,
) -> None:
    """Apply FILES (YAML, JSON or directories; none for endpoints on demand alone) and serve until Ctrl-C or
    `pilotlight down`."""
    from rich.console import Console

    from pilotlight_local.embedded import embedded_platform
    from pilotlight_local.embedded.display import Display
    from pilotlight_specs import kpa
    from pilotlight_wire import cors

    base = replace(kpa.default_config(), initial_scale=initial_scale, allow_zero_initial_scale=True)
    keys = dict(_key_and_value(entry) for entry in autoscaler)
    try:
        config = kpa.parse_config(keys, base)
    except kpa.InvalidScaling as error:
        raise RefusedError([f"--autoscaler: {problem}" for problem in error.problems]) from error
    try:
        policy = cors.allowed_origins(allowed_origins)
    except ValueError as error:
        raise RefusedError([f"--allowed-origins: {error}"]) from error
    settings = embedded_platform.PlatformSettings(
        state_dir=chosen_state_dir(surroundings, state_dir),
        port=port,
        files=tuple(path.absolute() for path in files),
        kpa=config,
        python=surroundings.python,
        search_path=surroundings.search_path,
        model_store=surroundings.model_store,
        download_env=surroundings.download_env,
        end_grace_s=END_GRACE_S,
        pool_slots=0 if no_pool or find_spec(POOL_PACKAGE) is None else slots,
        cors=policy,
        gateway_port=None if no_gateway or find_spec(GATEWAY_PACKAGE) is None else gateway_port,
        gateway_config=None if gateway_config is None else gateway_config.absolute(),
    )
    embedded_platform.run(settings, Display(Console()), surroundings.started_s)


def _key_and_value(entry: str) -> tuple[str, str]:
    key, separator, value = entry.partition("=")
    if not separator:
        raise RefusedError([f"--autoscaler {entry}: write KEY=VALUE"])
    return key, value


@cli.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), required=True)
@state_dir_option
@click.pass_obj
def apply(surroundings: Surroundings, files: tuple[Path, ...], state_dir: Path | None) -> None:
    """Apply FILES to the running platform: new endpoints, new revisions, canary percentages."""
    from pilotlight_local.cli.control_client import ControlClient

    answer = ControlClient(chosen_state_dir(surroundings, state_dir)).apply([str(path.absolute()) for path in files])
    for finding in answer["findings"]:
        click.echo(finding, err=True)
    if answer["errors"]:
        raise RefusedError(answer["errors"])
    for name, verb in answer["applied"]:
        click.echo(f"{name} {verb}")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@state_dir_option
@click.pass_obj
def status(surroundings: Surroundings, as_json: bool, state_dir: Path | None) -> None:
    """Show every endpoint, its revisions and their phase."""
    from pilotlight_local.cli.control_client import ControlClient

    answer = ControlClient(chosen_state_dir(surroundings, state_dir)).status()
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    from rich.console import Console

    from pilotlight_local.controller.platform_status import from_json
    from pilotlight_local.embedded.display import slots_table
    from pilotlight_local.embedded.status_table import status_table

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_COLUMNS)
    rows = [from_json(row) for row in answer["components"]]
    console.print(status_table(rows, answer["port"], console.width))
    if answer["pool"] is not None:
        console.print(slots_table(answer["pool"]))


@cli.command()
@click.argument("endpoint", required=False)
@click.option("-n", "--namespace", default=DEFAULT_NAMESPACE, show_default=True)
@click.option("--pool", is_flag=True, help="The log of the warm pool and its engines, instead of an endpoint's.")
@click.option(
    "-c", "--component", type=click.Choice(["predictor", "transformer"]), default="predictor", show_default=True
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@state_dir_option
@click.pass_obj
def logs(
    surroundings: Surroundings,
    endpoint: str | None,
    namespace: str,
    pool: bool,
    component: str,
    follow: bool,
    state_dir: Path | None,
) -> None:
    """Print the log of the newest pod of ENDPOINT."""
    from pilotlight_local.cli.control_client import ControlClient
    from pilotlight_local.pods.pod_logs import follow_newest, newest_logs, read_log

    if pool == (endpoint is not None):
        raise click.UsageError("Name an ENDPOINT or say --pool.")
    paths = chosen_state_dir(surroundings, state_dir)
    folder = paths.pool_logs if endpoint is None else paths.component_logs(namespace, endpoint, component)
    found = newest_logs(folder)
    if follow or not found:
        rows = ControlClient(paths).status()["components"]
        if endpoint is not None:
            _check_component(rows, namespace, endpoint, component)
    if not found and not follow:
        if endpoint is None:
            raise PlatformError("The warm pool has no log yet; it starts with the first endpoint that uses it.")
        raise PlatformError(
            f"{namespace}/{endpoint} has no log of its {component} yet; it starts with the first request."
        )
    if found:
        click.echo(read_log(found[0]), nl=False)
    if follow:
        for text in follow_newest(folder):
            click.echo(text, nl=False)


def _check_component(rows: list[dict[str, Any]], namespace: str, endpoint: str, component: str) -> None:
    components = {row["component"] for row in rows if (row["namespace"], row["endpoint"]) == (namespace, endpoint)}
    if not components:
        raise _no_such_endpoint(namespace, endpoint)
    if component not in components:
        raise PlatformError(f"{namespace}/{endpoint} has no {component}, only a {' and a '.join(sorted(components))}.")


def _no_such_endpoint(namespace: str, endpoint: str) -> PlatformError:
    return PlatformError(f"There is no endpoint {namespace}/{endpoint}; `pilotlight status` lists them.")


@cli.command()
@click.argument("endpoint")
@click.option("-n", "--namespace", default=DEFAULT_NAMESPACE, show_default=True)
@state_dir_option
@click.pass_obj
def delete(surroundings: Surroundings, endpoint: str, namespace: str, state_dir: Path | None) -> None:
    """Remove ENDPOINT from the running platform and end its pods."""
    from pilotlight_local.cli.control_client import ControlClient

    running = ControlClient(chosen_state_dir(surroundings, state_dir)).delete(namespace, endpoint)
    if running is None:
        raise _no_such_endpoint(namespace, endpoint)
    click.echo(f"{namespace}/{endpoint} deleted" + (f"; {running} request(s) still run to their end" * bool(running)))


@cli.command()
@state_dir_option
@click.pass_obj
def down(surroundings: Surroundings, state_dir: Path | None) -> None:
    """End the platform and every process it started."""
    from pilotlight_local.cli.control_client import ControlClient

    started_s = time.monotonic()
    ControlClient(chosen_state_dir(surroundings, state_dir)).down(timeout_s=END_GRACE_S * 3)
    click.echo(f"ended in {time.monotonic() - started_s:.1f} s, no process is left")
