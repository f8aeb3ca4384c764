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

START_DEADLINE_S = 30.0
_BUCKET = "models"
_MOTO = "from moto.server import main; import sys; main(sys.argv[1:])"


@contextlib.contextmanager
def bucket(folders: Sequence[Path], port: int, work: Path) -> Iterator[dict[str, str]]:
    """Serves each folder as `uri_of(folder)`; yields the environment with which obstore finds the server."""
    argv = [sys.executable, "-W", "ignore", "-c", _MOTO, "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=work)
    url = f"http://127.0.0.1:{port}"
    try:
        _until_put(f"{url}/{_BUCKET}", process)
        for path in (path for folder in folders for path in folder.iterdir()):
            _put(f"{url}/{_BUCKET}/{path.parent.name}/{path.name}", path.read_bytes())
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
        }
    finally:
        process.kill()
        process.wait()


def uri_of(folder: Path) -> str:
    return f"s3://{_BUCKET}/{folder.name}"


def _until_put(url: str, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            _put(url, b"")
        except urllib.error.URLError:
            if process.poll() is not None or time.monotonic() > end_s:
                raise
            time.sleep(0.1)
        else:
            return


def _put(url: str, body: bytes) -> None:
    # Not urllib's own content type: moto would read the weights as a form.
    headers = {"Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(url, body, headers, method="PUT"), timeout=10).close()
