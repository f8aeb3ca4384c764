"""An endpoint's pods that speak V2 by REST and say what they were asked: a server of threads, as foreign ones are."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class V2Backend:
    """Answers `infer` and `generate_stream` with the text it was sent, word by word. `bodies`: what it was asked."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        """Yields the port."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(10)
            server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                backend.paths.append(self.path)
                if self.path.endswith("/ready"):
                    self._whole({"name": "m", "ready": True})
                else:
                    tensors = [{"name": "text_input", "datatype": "BYTES", "shape": [-1]}]
                    self._whole({"name": "m", "versions": None, "platform": "a test", "inputs": tensors, "outputs": []})

            def do_POST(self) -> None:
                backend.paths.append(self.path)
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                backend.bodies.append(asked)
                if self.path.endswith("/generate_stream"):
                    self._stream(asked["text_input"].split())
                    return
                data = [f"heard {text}" for text in asked["inputs"][0]["data"]]
                output = {"name": "text_output", "datatype": "BYTES", "shape": [len(data)], "data": data}
                self._whole({"model_name": "m", "model_version": None, "id": asked.get("id"), "outputs": [output]})

            def _whole(self, body: dict[str, Any]) -> None:
                encoded = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

            def _stream(self, words: list[str]) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for place, word in enumerate(words):
                    reason = "stop" if place == len(words) - 1 else None
                    event = {"model_name": "m", "model_version": "1", "index": 0, "text_output": word}
                    data = b"data: " + json.dumps({**event, "finish_reason": reason}).encode() + b"\n\n"
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, format: str, *args: Any) -> None:
                return

        return Handler
