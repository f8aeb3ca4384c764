"""`pilotlight prefetch` and `pilotlight models`: the store for a person at a terminal.

With `__main__`, the only place of this package that reads the environment: `PILOTLIGHT_STORE`, `HF_ENDPOINT`,
`HF_TOKEN` (object stores read their own, see `store.object_store`).
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pilotlight_protocol.byte_sizes import parse_size, shown_size
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.model_reference import STORE_VARIABLE
from pilotlight_protocol.prefetch_report import PrefetchReport
from pilotlight_store.prefetch_progress import kept_report, shown_progress, write_report

if TYPE_CHECKING:
    from pilotlight_store import Model


class ByteSize(click.ParamType[int]):
    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


store_option = click.option(
    "--store",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=STORE_VARIABLE,
    default="~/.cache/pilotlight/store",
    show_default=True,
    help="The store's folder.",
)


@click.command()
@click.argument("uri")
@click.option("--to", "tier", type=click.Choice(["disk", "ram"]), default="disk", show_default=True, help="How near.")
@click.option("--pin", is_flag=True, help="Never evict it, until `pilotlight models --unpin`.")
@click.option("--budget", type=ByteSize(), help="The store's size at most; less used models make room.")
@click.option("--ram-budget", type=ByteSize(), help="Memory for models at most, with --to ram.  [default: half of it]")
@click.option("--bandwidth", type=ByteSize(), help="Bytes per second at most.")
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Parallel transfers.")
@click.option("--allow-host", multiple=True, metavar="HOST[:PORT]", help="A private address to download from.")
@click.option(
    "--hub", envvar="HF_ENDPOINT", default="https://huggingface.co", show_default=True, help="Where hf:// is."
)
@click.option("--hub-token", envvar="HF_TOKEN", help="Better given as HF_TOKEN: others can see arguments.")
@click.option(
    "--claims", type=click.Path(path_type=Path), default=Path("/mnt/pvc"), show_default=True, help="Where pvc:// is."
)
@click.option(
    "--report",
    "report_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep the state in this file, for the program that runs this (pilotlight_protocol.prefetch_report).",
)
@store_option
def prefetch(
    uri: str,
    tier: str,
    pin: bool,
    budget: int | None,
    ram_budget: int | None,
    bandwidth: int | None,
    workers: int,
    allow_host: tuple[str, ...],
    hub: str,
    hub_token: str | None,
    claims: Path,
    report_file: Path | None,
    folder: Path,
) -> None:
    """Download the model at URI, verify it, and keep it on this machine.

    URI is hf://org/name[:revision], s3://, gs://, az://, http(s)://, file:// or pvc://. A download that was ended
    goes on where it stopped; one that another process is doing is waited for.
    """
    from pilotlight_store import SourceSettings, Store, StoreSettings, TransferSettings
    from pilotlight_store.sources.addresses import AddressRules
    from pilotlight_store.transfer.bandwidth import BandwidthCap

    settings = StoreSettings(
        folder.expanduser(),
        disk_budget_bytes=budget,
        ram_budget_bytes=ram_budget,
        bandwidth=BandwidthCap(bandwidth, bandwidth / 4) if bandwidth else None,
        sources=SourceSettings(
            addresses=AddressRules(allowed_hosts=frozenset(host.lower() for host in allow_host)),
            hub_endpoint=hub,
            hub_token=hub_token,
            claims_folder=claims,
        ),
        transfer=TransferSettings(workers=workers),
    )
    reporting = kept_report(report_file) if report_file is not None else shown_progress(uri)
    with _plainly(), _ended_by_signals() as cancel:
        with reporting as report, Store(settings) as store:
            model = store.ensure(uri, "ram" if tier == "ram" else "disk", pin=pin, on_progress=report, cancel=cancel)
            if report_file is not None:
                write_report(report_file, PrefetchReport(state="ready", folder=str(model.path)))
        click.echo(f"{model.digest[:16]}  {shown_size(model.manifest.size_bytes)}  {model.tier}  {model.path}")


@click.command()
@click.option("--verify", is_flag=True, help="Read every byte and compare; a damaged model is withdrawn.")
@click.option("--unpin", metavar="DIGEST", help="Let a pinned model be evicted again.")
@click.option("--remove", metavar="DIGEST", help="Delete a model that is neither pinned nor held.")
@store_option
def models(verify: bool, unpin: str | None, remove: str | None, folder: Path) -> None:
    """List the models on this machine: digest, size, tier, pin, holds, last use, source."""
    from pilotlight_store import Store, StoreSettings

    with _plainly(), _ended_by_signals() as cancel, Store(StoreSettings(folder.expanduser())) as store:
        if unpin:
            store.pin(_digest(unpin, store.list()), False)
        if remove:
            store.remove(_digest(remove, store.list()))
        damaged = 0
        if verify:
            for model in store.list():
                for difference in store.verify(model.digest, cancel):
                    damaged += 1
                    click.echo(f"{model.digest[:16]}: {difference}; it was withdrawn, fetch it again", err=True)
        found = store.list()
        _table(found)
        if not found:
            click.echo(f"{folder} is empty; `pilotlight prefetch URI` fetches a model.", err=True)
    if damaged:
        raise SystemExit(1)


def _table(found: tuple[Model, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("DIGEST", "SIZE", "TIER", "PINNED", "HOLDS", "LAST USE", "QUANTIZATION", "SOURCE"):
        table.add_column(name, no_wrap=True, overflow="fold" if name == "SOURCE" else "ellipsis")
    for model in found:
        manifest = model.manifest
        source = manifest.source + (f" ({manifest.revision[:12]})" if manifest.revision else "")
        table.add_row(
            model.digest[:16],
            shown_size(manifest.size_bytes),
            model.tier,
            "yes" if model.pinned else "",
            str(model.holds or ""),
            _ago(time.time() - model.last_used_s),
            (manifest.quantization or "") if manifest.architecture else "tokenizer only",
            source,
        )
    # Where nobody looks, a script reads: one line per model, whatever the width.
    Console(width=None if sys.stdout.isatty() else 400, markup=False, highlight=False).print(table)


def _digest(beginning: str, found: tuple[Model, ...]) -> str:
    matching = [model.digest for model in found if model.digest.startswith(beginning)]
    if len(matching) != 1:
        raise click.ClickException(f"{len(matching)} models begin with {beginning!r}; see `pilotlight models`")
    return matching[0]


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM end the download; what has arrived stays."""
    cancel = threading.Event()
    previous = {number: signal.signal(number, lambda *_: cancel.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Errors as one sentence, without a traceback; 130 for what the user ended."""
    try:
        yield
    except PilotlightError as error:
        click.echo(f"Error: {error.message}", err=True)
        raise SystemExit(130 if error.http_status == 499 else 1) from error
    except OSError as error:
        click.echo(f"Error: {error.strerror or error}: {error.filename or 'the store'}", err=True)
        raise SystemExit(1) from error


def _ago(seconds: float) -> str:
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"
