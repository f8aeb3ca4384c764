"""`make demo`: an endpoint at zero answers without a pod, then by its pods to four clients, returns to zero, wakes.

Everything here is a client: `pilotlight up` runs in a process and a state directory of its own, and the demo talks to
it as anybody would.
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import openai
from demo_platform import free_port, platform_up
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from pilotlight_local.cli.control_client import ControlClient
from pilotlight_local.controller.platform_status import ComponentStatus, from_json
from pilotlight_local.embedded.display import slots_table
from pilotlight_local.embedded.display_lines import waterfall_lines
from pilotlight_local.embedded.status_table import status_table
from pilotlight_wire.hop_headers import Phase, parse_phases

SPEC = "inferenceservices/quickstart.yaml"
POOL_DEADLINE_S = 180
COLD_DEADLINE_S = 300
ZERO_DEADLINE_S = 180
REFRESH_S = 0.25

TRITON_HTTP = """
import sys
import numpy as np
import tritonclient.http as http
target, model, prompt = sys.argv[1:]
client = http.InferenceServerClient(target, network_timeout=300.0)
text = http.InferInput("text_input", [1], "BYTES")
text.set_data_from_numpy(np.array([prompt.encode()], dtype=object))
result = client.infer(model, [text], parameters={"max_tokens": 40, "temperature": 0})
print(result.as_numpy("text_output")[0].decode())
"""
TRITON_GRPC = """
import queue, sys
import numpy as np
import tritonclient.grpc as grpc
target, authority, model, prompt = sys.argv[1:]
answers = queue.Queue()
client = grpc.InferenceServerClient(target, channel_args=[("grpc.default_authority", authority)])
text = grpc.InferInput("text_input", [1], "BYTES")
text.set_data_from_numpy(np.array([prompt.encode()], dtype=object))
client.start_stream(lambda result, error: answers.put((result, error)))
parameters = {"max_tokens": 40, "temperature": 0}
client.async_stream_infer(model, [text], parameters=parameters, enable_empty_final_response=True)
while True:
    result, error = answers.get(timeout=300)
    if error:
        sys.exit(str(error))
    pieces = result.as_numpy("text_output")
    if pieces is not None:
        print(b"".join(pieces.reshape(-1).tolist()).decode(), end="", flush=True)
    if result.get_response().parameters["triton_final_response"].bool_param:
        break
print()
client.stop_stream()
"""

console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    work = Path(tempfile.mkdtemp(prefix="pilotlight-demo-"))
    try:
        door = free_port()
        with platform_up(console, work, SPEC, gateway_port=door) as (control, port):
            run(control, port, door)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(control: ControlClient, port: int, gateway_port: int) -> None:
    base = f"http://127.0.0.1:{port}/serving/default/quickstart"
    pods, door = f"{base}/openai/v1", f"http://127.0.0.1:{gateway_port}/v1"
    heading("1. The endpoint is applied and at zero: no pod, no memory, no accelerator.")
    console.print(status_table(rows(control), port, console.width))

    heading("2. The warm pool imports vLLM, once per machine; engines are forked from it.")
    watch(control, port, lambda: control.status()["pool"]["state"] == "ready", POOL_DEADLINE_S)
    console.print(slots_table(control.status()["pool"]))

    heading(
        "3. The first request, at the front door: the gateway tokenizes and leases the engine itself. No pod starts."
    )
    ask_openai(control, port, door, "What is scale to zero?", cold=True)
    console.print(status_table(rows(control), port, console.width))

    heading("4. The pods' way: a request at the ingress wakes transformer and predictor at once.")
    ask_openai(control, port, pods, "What is scale to zero?", cold=True)
    heading("   The same, now that it is warm.")
    ask_openai(control, port, pods, "Who are you?", cold=False)

    heading("5. curl, V2 generate_stream.")
    body = json.dumps({"text_input": "Once upon a time", "parameters": {"max_tokens": 16, "temperature": 0}})
    command = ["curl", "-sSN", "--fail-with-body", f"{base}/v2/models/quickstart/generate_stream", "-d", body]
    show([*command, "-H", "Content-Type: application/json"], 60)

    heading("6. tritonclient over HTTP, V2 infer.")
    target = f"127.0.0.1:{port}"
    show(
        [
            sys.executable,
            "-c",
            TRITON_HTTP,
            f"{target}/serving/default/quickstart",
            "quickstart",
            "The quick brown fox",
        ],
        60,
    )

    heading("7. tritonclient over gRPC on the same port, ModelStreamInfer.")
    authority = f"quickstart.default.localhost:{port}"
    show([sys.executable, "-c", TRITON_GRPC, target, authority, "quickstart", "The sun was"], 60)

    heading("8. Nobody asks any more: Knative's autoscaler takes it back to zero (20 s window, 30 s grace).")
    begun = time.monotonic()
    watch(control, port, lambda: all(not row.pods for row in rows(control)), ZERO_DEADLINE_S)
    console.print(status_table(rows(control), port, console.width))
    console.print(f"[green]At zero {time.monotonic() - begun:.0f} s after the last request.[/]")

    heading("9. From zero again, both ways: no pod runs, the pool's engine still has the weights.")
    ask_openai(control, port, door, "What is a warm pool?", cold=False)
    heading("   and by the pods:")
    ask_openai(control, port, pods, "What is a warm pool?", cold=True)


def rows(control: ControlClient) -> list[ComponentStatus]:
    return [from_json(row) for row in control.status()["components"]]


def ask_openai(control: ControlClient, port: int, base: str, question: str, *, cold: bool) -> None:
    client = openai.OpenAI(base_url=base, api_key="unused", timeout=COLD_DEADLINE_S, max_retries=0)
    texts: queue.SimpleQueue[str | openai.OpenAIError | None] = queue.SimpleQueue()
    phases: list[Phase] = []
    first_text_ms: list[float] = []

    def send() -> None:
        begun = time.monotonic()
        try:
            answer = client.chat.completions.with_raw_response.create(
                model="quickstart",
                messages=[{"role": "user", "content": question}],
                max_tokens=64,
                temperature=0,
                stream=True,
            )
            phases.extend(parse_phases(answer.headers.get("server-timing", "")))
            for chunk in answer.parse():
                text = chunk.choices[0].delta.content if chunk.choices else None
                if text:
                    first_text_ms.append(1000 * (time.monotonic() - begun))
                    texts.put(text)
            texts.put(None)
        except openai.OpenAIError as error:
            texts.put(error)

    threading.Thread(target=send, daemon=True).start()
    if cold:
        watch(control, port, lambda: not texts.empty(), COLD_DEADLINE_S)
    console.print(f"[cyan]{question}[/] ", end="")
    while (text := texts.get(timeout=COLD_DEADLINE_S)) is not None:
        if isinstance(text, openai.OpenAIError):
            raise SystemExit(f"the request failed: {text}")
        console.print(text, end="", markup=False)
    console.print()
    for line in waterfall_lines("  until the first text:", phases, first_text_ms[0], rest="the rest"):
        console.print(line, markup=False, style="dim")


def watch(control: ControlClient, port: int, done: Callable[[], bool], deadline_s: float) -> None:
    """A live table until `done`; raises SystemExit with the table when it takes too long."""
    begun = time.monotonic()
    if not console.is_terminal:
        console.print("waiting …")
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not done():
            waited = time.monotonic() - begun
            if waited > deadline_s:
                console.print(status_table(rows(control), port, console.width))
                raise SystemExit(f"still waiting after {deadline_s:.0f} s")
            if console.is_terminal:
                live.update(
                    Group(status_table(rows(control), port, console.width), Text(f"{waited:.0f} s")), refresh=True
                )
            time.sleep(REFRESH_S)


def show(command: list[str], deadline_s: float) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, check=False)
    console.print(done.stdout.rstrip(), markup=False)
    if done.returncode != 0 or not done.stdout.strip():
        raise SystemExit(f"{command[0]} failed ({done.returncode}): {done.stderr[-2000:]}")


def heading(text: str) -> None:
    console.print(f"\n[bold yellow]{text}[/]")


if __name__ == "__main__":
    main()
