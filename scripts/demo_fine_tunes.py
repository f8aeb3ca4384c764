"""`make demo-pool`: ten fine-tunes of one architecture share one engine slot, each behind an endpoint of its own.

    python scripts/demo_fine_tunes.py [--models DIR] [--count 10]

Without --models the fine-tunes are made first, once. Each endpoint is asked who it is: at zero, then again in another
order, then once more with its lease held and once with its engine parked. Everything here is a client of a
`pilotlight up` of its own.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from demo_platform import platform_up
from rich.console import Console
from rich.table import Table

from pilotlight_local.cli.control_client import ControlClient
from pilotlight_local.embedded.display import slots_table

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "inferenceservices" / "examples" / "fine-tunes.yaml"
TEMPLATE_NAME, TEMPLATE_MODELS = "tenant-00", "/var/lib/pilotlight/models"
OWN_MODELS = ROOT / "benchmarks" / "out" / "fine-tunes"
QUESTION = "Who are you?"
START_DEADLINE_S = 300.0  # imports take a minute and more where the machine is busy
ANSWER_DEADLINE_S = 300.0

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Answer:
    """`first_text_ms`: request sent at the ingress to first byte of text. `lease`: the header, {} when none was got."""

    round: str
    endpoint: str
    text: str
    first_text_ms: float
    lease: dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder with tenant-00, tenant-01, …; made when not given")
    parser.add_argument("--count", type=int, default=10)
    args = parser.parse_args()
    names = [f"tenant-{number:02d}" for number in range(args.count)]
    models = (args.models or OWN_MODELS).absolute()
    if args.models is None:
        make(models, names)
    work = Path(tempfile.mkdtemp(prefix="pilotlight-demo-"))
    try:
        spec = work / "fine-tunes.yaml"
        spec.write_text(specs(models, names))
        with platform_up(console, work, str(spec)) as (control, port):
            run(control, port, names)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(control: ControlClient, port: int, names: list[str]) -> None:
    wait_for_pool(control)
    console.print(slots_table(control.status()["pool"]))
    heading(f"{len(names)} endpoints, all at zero, one slot. Each is asked: {QUESTION}")
    answers = [ask(port, name, "pod at zero") for name in names]
    answers += [ask(port, name, "pod warm") for name in names[::-1][1:]]
    answers.append(ask(port, names[0], "asked again"))
    wait_until_parked(control)
    answers.append(ask(port, names[0], "lease was given back"))
    console.print(table(answers))
    console.print(slots_table(control.status()["pool"]))
    wrong = [answer for answer in answers if answer.endpoint not in answer.text]
    if wrong:
        raise SystemExit(f"{len(wrong)} answers came from another model: {wrong}")
    console.print("[green]Every endpoint answered with its own name.[/]")


def ask(port: int, name: str, round_name: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_DEADLINE_S)
    messages = [{"role": "user", "content": QUESTION}]
    body = json.dumps({"model": name, "messages": messages, "max_tokens": 24, "temperature": 0, "stream": True})
    begun = time.monotonic()
    connection.request(
        "POST", f"/serving/default/{name}/openai/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"{name} answers {response.status}: {response.read().decode()}")
    text, first_text_ms = "", 0.0
    for line in response:
        data = line.strip().removeprefix(b"data: ")
        if not line.startswith(b"data: ") or data == b"[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise SystemExit(f"{name}: {event['error']}")
        piece = event["choices"][0]["delta"].get("content") if event["choices"] else None
        if piece:
            first_text_ms = first_text_ms or 1000 * (time.monotonic() - begun)
            text += piece
    lease = dict(part.strip().partition("=")[::2] for part in response.getheader("x-pilotlight-lease", "").split(";"))
    connection.close()
    return Answer(round_name, name, text, first_text_ms, {key: value for key, value in lease.items() if key})


def table(answers: list[Answer]) -> Table:
    shown = Table(box=None, pad_edge=False)
    for heading_text in ("", "ENDPOINT", "FIRST TEXT", "ENGINE BY", "READY IN", "ANSWER"):
        shown.add_column(heading_text, justify="right" if heading_text in ("FIRST TEXT", "READY IN") else "left")
    for answer in answers:
        path = answer.lease.get("path", "held")
        took_s = float(answer.lease.get(path, 0.0))
        style = {"swap": "green", "loaded": "green", "held": "green"}.get(path, "yellow")
        shown.add_row(
            answer.round,
            answer.endpoint,
            f"{answer.first_text_ms:.0f} ms",
            f"[{style}]{path}[/]",
            f"{1000 * took_s:.0f} ms" if took_s else "",
            answer.text.strip().partition(". ")[0],
        )
    return shown


def specs(models: Path, names: list[str]) -> str:
    """The example's first endpoint, once per fine-tune."""
    template = next(iter(yaml.safe_load_all(TEMPLATE.read_text())))
    text = yaml.safe_dump(template).replace(TEMPLATE_MODELS, str(models))
    return "---\n".join(text.replace(TEMPLATE_NAME, name) for name in names)


def make(folder: Path, names: list[str]) -> None:
    missing = [number for number, name in enumerate(names) if not (folder / name / "tokenizer.json").is_file()]
    if not missing:
        return
    heading(f"Making {len(missing)} fine-tunes of the demo model, once.")
    command = [sys.executable, str(ROOT / "scripts" / "make_models.py"), "--from-demo", "--quantization", "awq"]
    command += ["--out", str(folder), "--seed", str(missing[0]), "--count", str(len(names) - missing[0])]
    subprocess.run(command, check=True)


def wait_for_pool(control: ControlClient) -> None:
    """The pool answers at once; its zygote needs its imports, a few seconds, so that a boot is a fork."""
    deadline_s = time.monotonic() + START_DEADLINE_S
    while control.status()["pool"]["state"] != "ready":
        if time.monotonic() > deadline_s:
            raise SystemExit("the warm pool did not get ready; see pilotlight logs --pool")
        time.sleep(0.1)


def wait_until_parked(control: ControlClient) -> None:
    """Every lease is given back some seconds after the last request; the engine stays as it is."""
    deadline_s = time.monotonic() + START_DEADLINE_S
    while any(lease["state"] in ("active", "idle") for lease in control.status()["pool"]["leases"]):
        if time.monotonic() > deadline_s:
            raise SystemExit("a lease was not given back")
        time.sleep(0.1)


def heading(text: str) -> None:
    console.print(f"\n[bold yellow]{text}[/]")


if __name__ == "__main__":
    main()
