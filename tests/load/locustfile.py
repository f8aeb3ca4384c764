"""Load on a platform's front door: streamed chats, V2, gRPC, tenants that think, and traces as they were recorded.

    make load        headless, with a report and thresholds; what the platform runs is inferenceservices/quickstart.yaml
    make load-ui     the same users behind Locust's web page

Every user is chosen by name (`locust -f tests/load/locustfile.py ChatUser TenantUser`). A trace is replayed by
TraceUser alone: `--trace` a CSV of Azure's LLM trace or a JSONL of Mooncake's, `--speed` times as fast.
"""

from __future__ import annotations

import csv
import json
import random
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, User, between, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from streamed_chat import Ask, stream

WORD = "word "
MOST_TOKENS = 64
REPLAY_AT_ONCE = 256


def arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--model", default="quickstart", help="the model that is asked for")
    parser.add_argument("--keys", default="", help="API keys of tenants with commas between; '' where the door is open")
    parser.add_argument("--grpc-host", default="127.0.0.1:8000", help="HOST:PORT of gRPC")
    parser.add_argument("--trace", default="", help="a file of ../shared/traces")
    parser.add_argument("--speed", type=float, default=1.0, help="times as fast as the trace was recorded")
    parser.add_argument("--most-requests", type=int, default=500, help="of the trace")
    parser.add_argument(
        "--most-failures", type=float, default=0.0001, help="share of requests; above it Locust exits with 1"
    )


def judged(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    assert options is not None
    total, allowed = environment.stats.total, options.most_failures
    if not total.num_requests:
        print("threshold missed: nothing was asked")
        environment.process_exit_code = 1
    elif total.fail_ratio > allowed:
        print(f"threshold missed: {total.fail_ratio:.4%} of {total.num_requests} failed, {allowed:.4%} may")
        environment.process_exit_code = 1
    else:
        print(f"thresholds held: {total.num_failures} of {total.num_requests} failed")


events.init_command_line_parser.add_listener(arguments)  # type: ignore[no-untyped-call]
events.quitting.add_listener(judged)  # type: ignore[no-untyped-call]


def headers(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


class Asking(FastHttpUser):
    """`key` is one of the tenants', the same for the whole life of the user."""

    abstract = True
    network_timeout = 300.0

    def on_start(self) -> None:
        options = self.environment.parsed_options
        self.model = options.model
        self.key = random.choice(options.keys.split(","))

    def chat(self, name: str, words: int, max_tokens: int) -> None:
        messages = [{"role": "user", "content": WORD * words}]
        body = {"model": self.model, "messages": messages, "max_tokens": max_tokens, "ignore_eos": True}
        stream(self.client, self.environment.events, Ask(name, body, headers(self.key)))


class ChatUser(Asking):
    """One stream after the other."""

    weight = 4
    wait_time = constant(0.1)

    @task
    def streamed(self) -> None:
        self.chat("chat", random.randint(4, 60), random.randint(4, 32))


class V2User(Asking):
    weight = 2
    wait_time = between(0.2, 1.0)

    @task
    def generate(self) -> None:
        body = {"text_input": "Say a word.", "parameters": {"max_tokens": 8}}
        path = f"/v2/models/{self.model}/generate"
        self.client.post(path, json=body, headers=headers(self.key), name="V2 generate")

    @task
    def metadata(self) -> None:
        self.client.get(f"/v2/models/{self.model}", headers=headers(self.key), name="V2 metadata")


class TenantUser(Asking):
    """Somebody who reads and thinks between turns, and looks which models there are."""

    weight = 4

    def wait_time(self) -> float:
        return min(30.0, random.lognormvariate(0.5, 0.8))

    @task(5)
    def turn(self) -> None:
        self.chat("tenant's chat", random.randint(8, 40), 16)

    @task
    def models(self) -> None:
        self.client.get("/v1/models", headers=headers(self.key), name="models")


class GrpcUser(User):
    """V2's infer over gRPC."""

    weight = 1
    wait_time = between(0.5, 1.5)

    def on_start(self) -> None:
        import grpc.experimental.gevent
        import numpy
        from tritonclient import grpc as triton

        grpc.experimental.gevent.init_gevent()
        options = self.environment.parsed_options
        self.model, self.headers = options.model, headers(random.choice(options.keys.split(",")))
        self.client = triton.InferenceServerClient(options.grpc_host)
        self.text = triton.InferInput("text_input", [1], "BYTES")
        self.text.set_data_from_numpy(numpy.array([b"Say a word."], dtype=object))

    def on_stop(self) -> None:
        """Else its threads keep the process alive."""
        self.client.close()

    @task
    def infer(self) -> None:
        began_s = gevent.get_hub().loop.now()
        failure = None
        try:
            self.client.infer(self.model, [self.text], parameters={"max_tokens": 8}, headers=self.headers)
        except Exception as error:
            failure = error
        gevent.get_hub().loop.update_now()
        self.environment.events.request.fire(
            request_type="gRPC",
            name="ModelInfer",
            response_time=1000 * (gevent.get_hub().loop.now() - began_s),
            response_length=0,
            exception=failure,
            context={},
        )


class TraceUser(Asking):
    """Sends a trace's requests at its times, however long earlier ones take."""

    fixed_count = 1
    weight = 0
    wait_time = constant(0)

    @task
    def replay(self) -> None:
        options = self.environment.parsed_options
        if not options.trace:
            raise SystemExit("TraceUser needs --trace")
        places = threading.Semaphore(REPLAY_AT_ONCE)
        began_s = gevent.get_hub().loop.now()
        greenlets = []
        for number, (at_s, prompt, output) in enumerate(arrivals(Path(options.trace))):
            if number >= options.most_requests:
                break
            gevent.sleep(max(0.0, began_s + at_s / options.speed - gevent.get_hub().loop.now()))
            places.acquire()
            one = gevent.spawn(self.chat, "trace", min(prompt, 400), max(1, min(output, MOST_TOKENS)))
            one.link(lambda _: places.release())
            greenlets.append(one)
        gevent.joinall(greenlets)
        self.environment.runner.quit()


def arrivals(path: Path) -> Iterator[tuple[float, int, int]]:
    """(seconds since the first, prompt tokens, output tokens) of each request."""
    if path.suffix == ".jsonl":
        for line in path.read_text().splitlines():
            said = json.loads(line)
            yield said["timestamp"] / 1000, said["input_length"], said["output_length"]
        return
    first = None
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            at = datetime.fromisoformat(row["TIMESTAMP"][:26])
            first = first or at
            yield (at - first).total_seconds(), int(row["ContextTokens"]), int(row["GeneratedTokens"])
