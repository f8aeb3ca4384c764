"""Which model a source has now: what tells it from the one before, and whom the one before is given."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pilotlight_store import Progress
from pilotlight_store.errors import DownloadCancelled, SourceChanged, SourceMissing, SourceUnavailable

pytestmark = pytest.mark.integration
MODIFIED = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
LATER = {"Last-Modified": "Thu, 22 Oct 2015 07:28:00 GMT"}
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """`python -m http.server`: Last-Modified only, no ranges, HTTP/1.0."""
    root = tmp_path / "www"
    root.mkdir()
    code = (
        "import functools, http.server, sys\n"
        "handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])\n"
        "server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)\n"
        "print(server.server_address[1], flush=True)\n"
        "server.serve_forever()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", root
    finally:
        process.kill()
        process.communicate()


def put(folder: Path, files: dict[str, bytes], modified_s: float) -> None:
    for name, body in files.items():
        (folder / name).write_bytes(body)
        os.utime(folder / name, (modified_s, modified_s))


@pytest.mark.parametrize("age_s", [3600, -5])
def test_a_server_that_says_when_a_file_was_changed_and_nothing_else(
    made: Any, make_store: Any, folder_server: tuple[str, Path], age_s: float
) -> None:
    """A time that is not over yet says nothing: the file may change again within the same second."""
    uri, root = folder_server
    store = make_store()
    put(root, made(seed=1).files, time.time() - age_s)
    states: list[str] = []
    first = store.ensure(uri)
    assert store.ensure(uri, on_progress=lambda progress: states.append(progress.state)).digest == first.digest
    assert ("downloading" in states) == (age_s < 0)
    put(root, made(seed=2).files, time.time() - age_s + (60 if age_s > 0 else 0))
    second = store.ensure(uri)
    assert second.digest != first.digest
    assert (second.path / WEIGHTS).read_bytes() == made(seed=2).files[WEIGHTS]


@pytest.mark.parametrize("validators", [MODIFIED, {}])
def test_a_source_that_is_replaced_between_two_attempts_is_not_mixed(
    made: Any, serve_model: Any, make_store: Any, server: Any, trouble: Any, validators: dict[str, str]
) -> None:
    server.validators = validators
    store = make_store()
    uri = serve_model(made(seed=1))
    server.trouble, cancel = trouble(pause_after=1_500_000), threading.Event()

    def end_halfway(progress: Progress) -> None:
        if progress.done_bytes > 1_000_000:
            cancel.set()

    with pytest.raises(DownloadCancelled):
        store.ensure(uri, cancel=cancel, on_progress=end_halfway)
    server.trouble = trouble(times=0)
    server.go_on.set()
    serve_model(made(seed=2))
    server.validators = LATER if validators else {}
    found = store.ensure(uri)
    assert (found.path / WEIGHTS).read_bytes() == made(seed=2).files[WEIGHTS]


def test_what_nothing_tells_from_the_next_is_neither_reused_nor_kept_halfway(
    made: Any, serve_model: Any, make_store: Any, server: Any, trouble: Any, tmp_path: Path
) -> None:
    server.validators = {}
    store = make_store()
    uri = serve_model(made(seed=1))
    first = store.ensure(uri)
    assert {headers.get("Range", "bytes=0-0") for _, headers in server.requests} == {"bytes=0-0"}
    serve_model(made(seed=2))
    assert store.ensure(uri).digest != first.digest
    server.trouble = trouble(cut_after=100_000)
    with pytest.raises(SourceUnavailable):
        store.ensure(uri)
    assert not list((tmp_path / "store" / "staging").glob("*/plan.json"))


def test_a_file_that_changes_while_it_is_fetched_is_refused_by_its_time(
    made: Any, serve_model: Any, make_store: Any, server: Any, trouble: Any
) -> None:
    server.validators = MODIFIED
    uri = serve_model(made())
    server.trouble = trouble(pause_after=1_000_000)
    store, ended = make_store(), []

    def fetch() -> None:
        try:
            store.ensure(uri)
        except SourceChanged as error:
            ended.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    assert server.paused.wait(30)
    server.validators = LATER
    server.go_on.set()
    thread.join(30)
    assert ended
    assert any(headers.get("If-Unmodified-Since") == MODIFIED["Last-Modified"] for _, headers in server.requests)


def test_a_promise_is_as_good_as_an_etag(made: Any, serve_model: Any, make_store: Any, server: Any) -> None:
    server.validators = {}
    uri = serve_model(made(), manifest=True)
    make_store().ensure(uri)
    sent = server.bytes_sent()
    make_store().ensure(uri)
    assert server.bytes_sent() == sent


def test_a_shipped_manifest_of_the_same_length_is_enforced(
    made: Any, serve_model: Any, make_store: Any, server: Any
) -> None:
    server.validators = MODIFIED
    store = make_store()
    first = store.ensure(serve_model(made(seed=1), manifest=True))
    one, other = (json.dumps(made(seed=seed).manifest) for seed in (1, 2))
    assert len(one) == len(other)
    assert store.ensure(serve_model(made(seed=2), manifest=True)).digest != first.digest


def test_a_query_that_chooses_a_model_chooses_what_is_given_when_the_server_is_down(
    made: Any, serve_model: Any, make_store: Any, server: Any, trouble: Any
) -> None:
    uri = serve_model(made())
    store = make_store()
    found = store.ensure(uri + "?ref=main")
    assert found.manifest.source == uri
    hold = store.last_fetched(uri + "?ref=main")
    assert hold is not None
    hold.release()
    server.trouble = trouble(where="/", status=503)
    assert store.ensure(uri + "?ref=main").digest == found.digest
    for query in ("", "?ref=dev", "?ref=main&sig=guessed"):
        assert store.last_fetched(uri + query) is None
        with pytest.raises(SourceUnavailable):
            store.ensure(uri + query)


def test_a_fresh_signature_goes_on_and_a_wrong_one_gets_nothing(
    made: Any, serve_model: Any, make_store: Any, server: Any, trouble: Any
) -> None:
    uri = serve_model(made())
    store = make_store()
    found = store.ensure(uri + "?X-Amz-Signature=1&X-Amz-Date=1")
    sent = server.bytes_sent()
    assert store.ensure(uri + "?X-Amz-Signature=2&X-Amz-Date=2").digest == found.digest
    assert server.bytes_sent() == sent
    server.trouble = trouble(where="/", status=403)
    with pytest.raises(SourceMissing, match="fresh signed URL"):
        store.ensure(uri + "?X-Amz-Signature=3&X-Amz-Date=3")
    server.trouble = trouble(where="/", status=503)
    with pytest.raises(SourceUnavailable):
        store.ensure(uri + "?X-Amz-Signature=3&X-Amz-Date=3")


@pytest.fixture
def dripping() -> Iterator[str]:
    """Sends a byte of a manifest ten times a second, for ever, and says that the connection will be closed."""
    listener, over = socket.create_server(("127.0.0.1", 0)), threading.Event()
    threads: list[threading.Thread] = []

    def drip(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n")
                while not over.wait(0.1):
                    connection.sendall(b" ")
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=drip, args=(connection,)))
            threads[-1].start()

    accepter = threading.Thread(target=accept)
    accepter.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/model"
    over.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in (accepter, *threads):
        thread.join(10)


@pytest.mark.parametrize("end", ["deadline", "cancel"])
def test_a_source_that_drips_its_listing_is_given_up_on(
    make_store: Callable[..., Any], dripping: str, end: str
) -> None:
    cancel = threading.Event()
    store = make_store(listing_s=0.5 if end == "deadline" else 600.0)
    timer = threading.Timer(0.5, cancel.set)
    if end == "cancel":
        timer.start()
    started_s = time.monotonic()
    with pytest.raises(SourceUnavailable if end == "deadline" else DownloadCancelled, match=r"longer than|was ended"):
        store.ensure(dripping, cancel=cancel)
    assert time.monotonic() - started_s < 60
    timer.cancel()
