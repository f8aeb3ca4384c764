"""Where models come from, as servers of a test's own: one that counts ranges and misbehaves on request, a hub, S3."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
import server_ports
from obstore.store import S3Store

COMMIT = "c0ffee" + "0" * 34  # of the hub's one revision


@dataclass
class Trouble:
    """What the server does wrong, for paths that contain `where`."""

    where: str = ".safetensors"
    status: int | None = None
    times: int = 1_000_000
    flip_at: int | None = None
    cut_after: int | None = None
    announce: int | None = None
    shift: int = 0
    encoding: str | None = None
    etag: Callable[[], str] | None = None
    redirect: str | None = None
    ignore_ranges: bool = False
    extra: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)  # instead of the right ones
    pause_after: int | None = None  # bytes served of the weights in total; then wait for `go_on`


class RangeServer:
    """Serves `files`; notes every range of every file it sent in full or part."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.heads: dict[str, dict[str, str]] = {}  # what HEAD answers, by path
        self.trouble = Trouble(times=0)
        self.validators: dict[str, str] | None = None  # instead of an ETag
        self.sent: list[tuple[str, int, int]] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.go_on = threading.Event()
        self.paused = threading.Event()
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner.serve(self)

            def do_HEAD(self) -> None:
                headers = owner.heads.get(unquote(urlsplit(self.path).path))
                owner._head(self, 404 if headers is None else 200, headers or {"Content-Length": "0"})

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # clients that are killed are what these tests are about

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def bytes_sent(self, suffix: str = ".safetensors") -> int:
        return sum(end - start for name, start, end in self.sent if name.endswith(suffix) and end - start > 1)

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        with self._lock:
            self.requests.append((request.path, dict(request.headers)))
            trouble = self.trouble if self.trouble.where in path and self.trouble.times > 0 else Trouble(times=0)
            if trouble.times:
                trouble.times -= 1
        if trouble.redirect is not None:
            return self._head(request, 302, {"Location": trouble.redirect, "Content-Length": "0"})
        if trouble.status is not None:
            return self._head(request, trouble.status, {"Content-Length": "0", "Retry-After": "0"} | trouble.headers)
        if path not in self.files:
            return self._head(request, 404, {"Content-Length": "0"})
        body = self.files[path]
        etag = trouble.etag() if trouble.etag else f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if request.headers.get("If-Match", etag) != etag:
            return self._head(request, 412, {"Content-Length": "0"})
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        start, end, status = 0, len(body), 200
        headers = {"ETag": etag} if self.validators is None else dict(self.validators)
        unmodified_since = request.headers.get("If-Unmodified-Since")
        if unmodified_since is not None and unmodified_since != headers.get("Last-Modified"):
            return self._head(request, 412, {"Content-Length": "0"})
        if asked and not trouble.ignore_ranges:
            start, end, status = int(asked[1]), min(int(asked[2]) + 1, len(body)), 206
            if start >= len(body):
                return self._head(request, 416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"})
            headers["Content-Range"] = f"bytes {start + trouble.shift}-{end - 1 + trouble.shift}/{len(body)}"
        if trouble.encoding:
            headers["Content-Encoding"] = trouble.encoding
        headers["Content-Length"] = str(trouble.announce or end - start + len(trouble.extra))
        self._head(request, status, headers | trouble.headers)
        self._body(request, path, body, start, end, trouble)
        return None

    def _head(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()

    def _body(
        self, request: BaseHTTPRequestHandler, path: str, body: bytes, start: int, end: int, trouble: Trouble
    ) -> None:
        data = bytearray(body[start:end])
        if trouble.flip_at is not None and start <= trouble.flip_at < end:
            data[trouble.flip_at - start] ^= 1
        if trouble.cut_after is not None and end - start > 1:
            data = data[: trouble.cut_after]
        data += trouble.extra
        for position in range(0, len(data), 16_384):
            # A probe is answered: whoever comes second must find out that somebody downloads already.
            if trouble.pause_after is not None and end - start > 1 and self.bytes_sent() >= trouble.pause_after:
                self.paused.set()
                self.go_on.wait(60)
            block = data[position : position + 16_384]
            request.wfile.write(block)
            with self._lock:
                self.sent.append((path, start + position, start + position + len(block)))
        if trouble.cut_after is not None or trouble.announce:
            request.close_connection = True


def publish_on_hub(server: RangeServer, files: Mapping[str, bytes], repository: str) -> None:
    """Makes the server answer like a hub that has the files."""
    siblings = []
    for name, body in files.items():
        entry: dict[str, object] = {
            "rfilename": name,
            "size": len(body),
            "blobId": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest(),
        }
        if name.endswith(".safetensors"):
            entry["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 1}
        siblings.append(entry)
        server.files[f"/{repository}/resolve/{COMMIT}/{name}"] = body
    info = {"id": repository, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}, "tags": []}
    for path in (f"/api/models/{repository}", f"/api/models/{repository}/revision/{COMMIT}"):
        server.files[path] = json.dumps(info).encode()


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """obstore's options for a moto server of its own."""
    port = server_ports.free_port()
    code = "from moto.server import main; import sys; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    try:
        server_ports.until_open(port, process)
        yield {
            "endpoint": f"http://127.0.0.1:{port}",
            "access_key_id": "testing",
            "secret_access_key": "testing",
            "region": "us-east-1",
            "virtual_hosted_style_request": "false",
        }
    finally:
        process.kill()
        process.wait()


def bucket_of(options: dict[str, str], name: str) -> Callable[[str, bytes], object]:
    """Makes the bucket; what puts a body under a name of it."""
    urllib.request.urlopen(urllib.request.Request(f"{options['endpoint']}/{name}", method="PUT"), timeout=10).close()
    store = S3Store(name, client_options={"allow_http": True}, **options)
    return lambda key, body: obstore.put(store, key, body)
