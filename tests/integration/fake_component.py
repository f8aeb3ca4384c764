"""A stand-in for predictor and transformer: it starts in a moment, echoes, streams, fails on request.

Run by the platform under test as a pod: `python fake_component.py --http_port N [...]`; unknown arguments are fine.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from aiohttp import ClientSession, web


class FakeComponent:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.active = 0
        self.most_active = 0
        self.cancelled = 0

    async def ready(self, _: web.Request) -> web.Response:
        if self.options.not_ready:
            return web.json_response({"error": self.options.not_ready}, status=503)
        return web.json_response({"ready": True})

    async def echo(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.options.log_error:
            print(f"2026-11-23T02:43:34.123Z ERROR pilotlight.engine: {self.options.log_error}", flush=True)
        facts = {
            "answer": self.options.answer,
            "path": request.path_qs,
            "headers": dict(request.headers),
            "body": body.decode(errors="replace"),
            "env": dict(os.environ),
            "argv": sys.argv,
            "cwd": str(Path.cwd()),
        }
        return web.json_response(facts, headers={"Server-Timing": "prefill;dur=3.5", "X-Repeated": "a"})

    async def status(self, request: web.Request) -> web.Response:
        code = int(request.match_info["code"])
        return web.json_response({"error": "as asked"}, status=code, headers={"Retry-After": "7"})

    async def slow(self, request: web.Request) -> web.Response:
        """Answers after `s` seconds; counts how many run at once and how many were cancelled."""
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await asyncio.sleep(float(request.query["s"]))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.active -= 1
        return web.json_response({"answer": self.options.answer, "most_active": self.most_active})

    async def counts(self, _: web.Request) -> web.Response:
        return web.json_response({"active": self.active, "cancelled": self.cancelled, "pid": os.getpid()})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """`n` events, one every `gap` seconds, each with the time it was sent."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.active += 1
        try:
            for index in range(int(request.query.get("n", "5"))):
                event = {"index": index, "sent_s": time.monotonic(), "answer": self.options.answer}
                await response.write(f"data: {json.dumps(event)}\n\n".encode())
                await asyncio.sleep(float(request.query.get("gap", "0.2")))
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            raise
        finally:
            self.active -= 1
        return response

    async def duplex(self, request: web.Request) -> web.StreamResponse:
        """Sends every piece of the request body back as it arrives."""
        response = web.StreamResponse()
        await response.prepare(request)
        async for piece in request.content.iter_any():
            await response.write(piece)
        return response

    async def unready(self, _: web.Request) -> web.Response:
        self.options.not_ready = "as asked"
        return web.json_response({"pid": os.getpid()})

    async def crash(self, _: web.Request) -> web.Response:
        os._exit(3)

    async def via_predictor(self, request: web.Request) -> web.Response:
        async with (
            ClientSession() as session,
            session.get(
                f"http://{self.options.predictor_host}/echo", headers={"x-request-id": request.headers["x-request-id"]}
            ) as answer,
        ):
            facts = await answer.json()
            timings = answer.headers.getall("Server-Timing")
        return web.json_response(
            {"answer": self.options.answer, "predictor": facts}, headers={"Server-Timing": ", ".join(timings)}
        )

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/v2/health/ready", self.ready)
        app.router.add_route("*", "/echo", self.echo)
        app.router.add_get("/status/{code}", self.status)
        app.router.add_route("*", "/slow", self.slow)
        app.router.add_get("/counts", self.counts)
        app.router.add_route("*", "/stream", self.stream)
        app.router.add_post("/duplex", self.duplex)
        app.router.add_post("/crash", self.crash)
        app.router.add_post("/unready", self.unready)
        app.router.add_get("/via_predictor", self.via_predictor)
        app.router.add_post("/v2/models/{name}/generate", self.via_predictor)
        return app


async def serve_grpc(port: int, answer: str) -> None:
    import grpc

    async def say(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return b"echo " + request

    async def count(request: bytes, context: grpc.aio.ServicerContext):
        for index in range(int(request)):
            yield str(index).encode()
            await asyncio.sleep(0.05)

    async def who(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return answer.encode()

    busy = most_busy = 0

    async def crowd(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """Takes so many seconds; answers how many calls ran at once at most."""
        nonlocal busy, most_busy
        busy += 1
        most_busy = max(most_busy, busy)
        try:
            await asyncio.sleep(float(request))
        finally:
            busy -= 1
        return str(most_busy).encode()

    handlers = {
        "Crowd": grpc.unary_unary_rpc_method_handler(crowd),
        "Who": grpc.unary_unary_rpc_method_handler(who),
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    server.add_insecure_port(f"0.0.0.0:{port}")
    await server.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(5.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--http_port", type=int, default=int(os.environ.get("PORT", "8080")))
    parser.add_argument("--predictor_host")
    parser.add_argument("--answer", default="v1")
    parser.add_argument("--boot_s", type=float, default=0.0)
    parser.add_argument("--fail", help="write this and exit 4 before listening")
    parser.add_argument("--not_ready", help="say this to every readiness probe")
    parser.add_argument("--log_error", help="log this as Pilotlight's processes do, once the first request was served")
    parser.add_argument("--deaf", action="store_true", help="go on when SIGTERM comes")
    parser.add_argument("--grpc", action="store_true")
    parser.add_argument("--escape", action="store_true", help="start a grandchild in a session of its own")
    options, _ = parser.parse_known_args()
    print(f"fake component {options.answer} starts", flush=True)
    if options.escape:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if options.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(options.boot_s)
    if options.fail and options.log_error:
        print(f"2026-11-23T02:43:34.123Z ERROR pilotlight.engine: {options.log_error}", flush=True)
    if options.fail:
        print("line before", file=sys.stderr)
        print(options.fail, file=sys.stderr, flush=True)
        raise SystemExit(4)
    if options.grpc:
        asyncio.run(serve_grpc(options.http_port, options.answer))
    else:
        web.run_app(
            FakeComponent(options).app(),
            port=options.http_port,
            print=None,
            handler_cancellation=True,
            handle_signals=not options.deaf,
            shutdown_timeout=10,
        )


if __name__ == "__main__":
    main()
