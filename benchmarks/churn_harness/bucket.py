"""An S3 server with models in it, for endpoints whose engines get their weights through the store."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import obstore
from obstore.store import S3Store

START_DEADLINE_S = 30.0
_BUCKET = "models"
_MOTO = "from moto.server import main; import sys; main(sys.argv[1:])"


@contextlib.contextmanager
def bucket(folders: Sequence[Path], port: int, work: Path) -> Iterator[dict[str, str]]:
    """Serves each folder as `uri_of(folder)`; yields the environment with which obstore finds the server."""
    argv = [sys.executable, "-W", "ignore", "-c", _MOTO, "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=work)
    options = {
        "endpoint": f"http://127.0.0.1:{port}",
        "access_key_id": "testing",
        "secret_access_key": "testing",
        "region": "us-east-1",
        "virtual_hosted_style_request": "false",
    }
    try:
        _make_bucket(f"{options['endpoint']}/{_BUCKET}", process)
        store = S3Store(_BUCKET, client_options={"allow_http": True}, **options)
        for path in (path for folder in folders for path in folder.iterdir()):
            obstore.put(store, f"{path.parent.name}/{path.name}", path.read_bytes())
        yield {f"AWS_{name.upper()}": value for name, value in options.items()} | {"AWS_ALLOW_HTTP": "true"}
    finally:
        process.kill()
        process.wait()


def uri_of(folder: Path) -> str:
    return f"s3://{_BUCKET}/{folder.name}"


def _make_bucket(url: str, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10).close()
        except (urllib.error.URLError, TimeoutError):
            if process.poll() is not None or time.monotonic() > end_s:
                raise
            time.sleep(0.1)
        else:
            return
