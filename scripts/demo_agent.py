"""`make demo-agent`: a real model and two fine-tunes of it behind three endpoints at zero, used by unchanged clients.

    python scripts/demo_agent.py

Needs `make real-model`. One engine slot: the first request boots an engine, the others exchange its weights. OpenAI's
and Anthropic's clients ask a question, let the model call a Python function until it has its answer, and read a record
that fits a schema. Everything here is a client of a `pilotlight up` of its own.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import anthropic
import httpx
import openai
import yaml
from demo_fine_tunes import TEMPLATE, TEMPLATE_MODELS, TEMPLATE_NAME, heading, wait_for_pool
from demo_platform import platform_up
from pydantic import BaseModel
from rich.console import Console

ROOT = Path(__file__).parents[1]
MODELS = ROOT / ".real-model"
ENDPOINTS = {"assistant": "smollm2-135m", "tools": "smollm2-135m-tools", "records": "smollm2-135m-records"}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
STEPS = 4

console = Console(highlight=False, soft_wrap=True)


class Person(BaseModel):
    name: str
    age: int
    job: Literal["baker", "pilot", "nurse", "teacher", "farmer"]
    city: str


def main() -> None:
    missing = [name for name in ENDPOINTS.values() if not (MODELS / name).exists()]
    if missing:
        raise SystemExit(f"{', '.join(missing)} not under {MODELS.name}: run `make real-model` first")
    work = Path(tempfile.mkdtemp(prefix="pilotlight-demo-"))
    try:
        spec = work / "agent.yaml"
        spec.write_text(specs(), encoding="utf-8")
        with platform_up(console, work, str(spec)) as (control, port):
            heading("The warm pool imports vLLM, once per machine; engines are forked from it.")
            begun_s = time.monotonic()
            wait_for_pool(control)
            console.print(f"  ready after {time.monotonic() - begun_s:.0f} s")
            ask(port)
            use_tools(port)
            read_record(port)
            ask_as_anthropic(port)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def specs() -> str:
    """The example's first endpoint, once per model."""
    template = yaml.safe_dump(next(iter(yaml.safe_load_all(TEMPLATE.read_text(encoding="utf-8")))))
    return "---\n".join(
        template.replace(f"{TEMPLATE_MODELS}/{TEMPLATE_NAME}", str(MODELS / model)).replace(TEMPLATE_NAME, name)
        for name, model in ENDPOINTS.items()
    )


def openai_client(port: int, endpoint: str) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"http://127.0.0.1:{port}/serving/default/{endpoint}/openai/v1",
        api_key="unused",
        max_retries=0,
        http_client=openai.DefaultHttpxClient(event_hooks={"response": [tell_lease]}),
    )


def tell_lease(response: httpx.Response) -> None:
    """How the engine was had: by a fork of the zygote, by exchanging weights, or as it was."""
    lease = dict(part.strip().partition("=")[::2] for part in response.headers.get("x-pilotlight-lease", "").split(";"))
    if path := lease.get("path"):
        took = f" in {1000 * float(lease[path]):.0f} ms" if path in lease else ""
        console.print(f"  engine by {path}{took}", style="dim")


def ask(port: int) -> None:
    heading("openai, chat, streamed, endpoint at zero: What is the capital of France?")
    begun_s = time.monotonic()
    stream = openai_client(port, "assistant").chat.completions.create(
        model="assistant",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=24,
        temperature=0,
        stream=True,
    )
    said = ""
    for chunk in stream:
        text = chunk.choices[0].delta.content if chunk.choices else None
        if text and not said:
            console.print(f"  first text after {1000 * (time.monotonic() - begun_s):.0f} ms")
        said += text or ""
    console.print(f"  {said}")
    expect("Paris" in said, said)


def get_weather(city: str) -> dict[str, Any]:
    return {"sky": "foggy", "degrees": len(city)}


def use_tools(port: int) -> None:
    heading("openai, tools, endpoint at zero: How is the weather in Kyoto now?")
    client, begun_s = openai_client(port, "tools"), time.monotonic()
    messages: list[Any] = [{"role": "user", "content": "How is the weather in Kyoto now?"}]
    for _ in range(STEPS):
        answer = client.chat.completions.create(
            model="tools", messages=messages, tools=[WEATHER], max_tokens=64, temperature=0
        )
        message = answer.choices[0].message
        calls: list[Any] = list(message.tool_calls or ())
        messages.append(message.model_dump(exclude_none=True))
        if not calls:
            break
        for call in calls:
            result = get_weather(**json.loads(call.function.arguments))
            console.print(f"  {1000 * (time.monotonic() - begun_s):.0f} ms: {call.function.name}", end="")
            console.print(f"({call.function.arguments}) → {result}", markup=False)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})
    console.print(f"  {1000 * (time.monotonic() - begun_s):.0f} ms: {messages[-1].get('content')}")
    expect("foggy" in str(messages[-1].get("content")), messages[-1])


def read_record(port: int) -> None:
    sentence = "In Quito lives Ada, a pilot of 41 years."
    heading(f"openai, parse into a pydantic class, endpoint at zero: {sentence}")
    begun_s = time.monotonic()
    answer = openai_client(port, "records").chat.completions.parse(
        model="records",
        messages=[{"role": "user", "content": sentence}],
        response_format=Person,
        max_tokens=96,
        temperature=0,
    )
    person = answer.choices[0].message.parsed
    console.print(f"  {1000 * (time.monotonic() - begun_s):.0f} ms: {person!r}")
    expect(person is not None, answer)


def ask_as_anthropic(port: int) -> None:
    heading("anthropic, messages, the first endpoint again: What is the capital of Italy?")
    begun_s = time.monotonic()
    client = anthropic.Anthropic(
        base_url=f"http://127.0.0.1:{port}/serving/default/assistant/openai",
        api_key="unused",
        max_retries=0,
        http_client=anthropic.DefaultHttpxClient(event_hooks={"response": [tell_lease]}),
    )
    answer = client.messages.create(
        model="assistant",
        messages=[{"role": "user", "content": "What is the capital of Italy?"}],
        max_tokens=24,
        extra_body={"temperature": 0},
    )
    said = "".join(block.text for block in answer.content if block.type == "text")
    console.print(f"  {1000 * (time.monotonic() - begun_s):.0f} ms: {said}")
    expect("Rome" in said, answer)


def expect(holds: bool, said: object) -> None:
    if not holds:
        raise SystemExit(f"that is not the answer of this model: {said}")


if __name__ == "__main__":
    main()
