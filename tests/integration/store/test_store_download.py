"""Downloads over HTTP against a server of ours: what is verified, what is refused, what survives a kill."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from pilotlight_protocol.errors import ModelNotFound, PilotlightError
from pilotlight_protocol.manifest import decode_manifest
from pilotlight_store import SourceSettings
from pilotlight_store.errors import (
    DownloadCancelled,
    SourceChanged,
    SourceMissing,
    SourceRefused,
    SourceUnavailable,
    VerificationFailed,
)
from pilotlight_store.sources.addresses import AddressRules
from pilotlight_store.transfer.disk import journal_intervals

pytestmark = pytest.mark.integration
CHUNK_BYTES = 8 * 1024 * 1024
WORKERS = 4


def command(*arguments: str | Path) -> list[str]:
    code = "from pilotlight_store.commands import prefetch; prefetch()"
    return [sys.executable, "-c", code, *map(str, arguments)]


def journaled(store_folder: Path, model: Any) -> int:
    """Bytes of weights that the one download under way has for good."""
    sizes = [len(body) for body in model.files.values()]
    journal = next((store_folder / "staging").glob("*/journal"), store_folder / "none")
    done = dict(zip(model.files, journal_intervals(journal, sizes), strict=True))
    return sum(end - start for start, end in done["model.safetensors"])


def empty(store_folder: Path) -> bool:
    return not any((store_folder / "models").glob("*"))


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("manifest", [False, True])
def test_a_model_arrives_whole_under_its_manifest(
    made: Any, serve_model: Any, make_store: Any, server: Any, shards: int, manifest: bool
) -> None:
    model = made(shards=shards)
    uri = serve_model(model, manifest=manifest)
    store = make_store()
    found = store.ensure(uri + "?X-Signature=s3cret")
    assert {path.name for path in found.path.iterdir()} == {*model.files, "pilotlight-manifest.json"}
    for name, body in model.files.items():
        assert (found.path / name).read_bytes() == body
    published = decode_manifest((found.path / "pilotlight-manifest.json").read_bytes())
    assert (published.dtype, published.context_length, published.quantization) == ("bfloat16", 2048, "none")
    assert published.source == uri
    assert published.digest == found.digest == found.path.name
    assert server.bytes_sent() == model.weights_bytes
    store.close()
    stored = [path for path in Path(found.path).parents[1].rglob("*") if path.is_file()]
    assert not [path for path in stored if b"s3cret" in path.read_bytes()]


def test_the_second_time_costs_no_download(made: Any, serve_model: Any, make_store: Any, server: Any) -> None:
    model = made()
    uri = serve_model(model)
    first = make_store().ensure(uri)
    sent = server.bytes_sent()
    again = make_store().ensure(uri)
    assert (again.digest, again.frequency) == (first.digest, 2)
    assert server.bytes_sent() == sent


def test_the_same_files_from_two_places_are_one_model(made: Any, serve_model: Any, make_store: Any) -> None:
    store = make_store()
    one = store.ensure(serve_model(made(), "/one"))
    two = store.ensure(serve_model(made(), "/two"))
    assert one.digest == two.digest
    assert len(store.list()) == 1


def test_a_source_that_is_down_serves_what_it_served_last(
    made: Any, serve_model: Any, make_store: Any, server: Any, trouble: Any
) -> None:
    uri = serve_model(made())
    store = make_store()
    found = store.ensure(uri)
    server.trouble = trouble(where="/", status=503)
    assert store.ensure(uri).digest == found.digest
    with pytest.raises(SourceUnavailable):
        store.ensure(serve_model(made(seed=2), "/other"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"flip_at": 1_000_000}, VerificationFailed, "not the promised file"),
        ({"cut_after": 100_000}, SourceUnavailable, "early"),
        ({"announce": 7}, VerificationFailed, "announces 7|say how large"),
        ({"shift": 5}, VerificationFailed, "sends others|size"),
        ({"encoding": "gzip"}, VerificationFailed, "compresses"),
        ({"status": 500}, SourceUnavailable, "500"),
        ({"status": 403}, SourceMissing, "token"),
        ({"status": 503, "headers": {"Retry-After": "\xb2"}}, SourceUnavailable, "503"),
        ({"headers": {"Content-Range": f"bytes 0-0/{'9' * 5000}"}}, VerificationFailed, "how large"),
        ({"redirect": "http://[::ffff:169.254.169.254]/latest"}, SourceRefused, "169.254.169.254"),
        ({"redirect": "http://[64:ff9b::a9fe:a9fe]/latest"}, SourceRefused, "169.254.169.254"),
        ({"redirect": "http://2852039166/latest"}, SourceRefused, "169.254.169.254"),
        ({"redirect": "http://169.254.169.254/latest"}, SourceRefused, "169.254.169.254"),
        ({"redirect": "ftp://elsewhere/x"}, PilotlightError, "http"),
        ({"redirect": "/model/model.safetensors"}, SourceRefused, "more than 5"),
        ({"etag": itertools.count().__next__}, SourceChanged, "changed"),
    ],
    ids=lambda value: next(iter(value)) + "-" + str(next(iter(value.values())))[:12] if isinstance(value, dict) else "",
)
def test_servers_that_lie_get_nothing_published(
    made: Any, serve_model: Any, make_store: Any, server: Any, trouble: Any, tmp_path: Path,
    change: dict[str, Any], error: type[Exception], message: str,
) -> None:  # fmt: skip
    if "etag" in change:
        change = {"etag": lambda counter=change["etag"]: f'"{counter()}"'}
    uri = serve_model(made(), manifest=True)
    server.trouble = trouble(**change)
    rules = AddressRules(allowed_hosts=frozenset({"127.0.0.1"}))
    with pytest.raises(error, match=message):
        make_store(sources=SourceSettings(addresses=rules, timeout_s=10.0)).ensure(uri)
    assert empty(tmp_path / "store")
    server.trouble = trouble(times=0)
    assert make_store().ensure(uri).manifest.size_bytes > 0


def test_a_few_failures_and_a_server_without_ranges_are_lived_with(
    made: Any, serve_model: Any, make_store: Any, server: Any, trouble: Any
) -> None:
    model = made()
    uri = serve_model(model, manifest=True)
    server.trouble = trouble(status=503, times=2)
    assert make_store().ensure(uri)
    server.trouble = trouble(ignore_ranges=True)
    assert make_store().ensure(serve_model(made(seed=3), "/three", manifest=True))


def test_a_model_that_changes_between_two_attempts_is_a_new_download(
    made: Any, serve_model: Any, make_store: Any, server: Any
) -> None:
    store = make_store()
    first = store.ensure(serve_model(made(seed=1)))
    second = store.ensure(serve_model(made(seed=2)))
    assert first.digest != second.digest


@pytest.mark.parametrize(
    ("lie", "error", "message"),
    [
        (lambda manifest: manifest["files"][0].update(size_bytes=3), VerificationFailed, "promises 3"),
        (lambda manifest: manifest["files"][3].update(sha256="00" * 32), VerificationFailed, "not the promised"),
        (lambda manifest: manifest.update(dtype="float16"), VerificationFailed, "manifest lies: dtype"),
        (lambda manifest: manifest.update(quantization="awq"), VerificationFailed, "manifest lies: quantization"),
        (lambda manifest: manifest.update(context_length=9), VerificationFailed, "manifest lies: context_length"),
        (lambda manifest: manifest.update(architecture="00"), VerificationFailed, "manifest lies: architecture"),
        (lambda manifest: manifest["files"][0].update(name="../../escape.json"), SourceRefused, "no empty part"),
        (lambda manifest: manifest["files"][0].update(name="pytorch_model.bin"), PilotlightError, "run code|not have"),
        (lambda manifest: manifest["files"][0].update(name="absent.json"), PilotlightError, "not have"),
        (lambda manifest: manifest.update(format=9), SourceRefused, "format 9"),
    ],
)
def test_a_manifest_that_lies_is_enforced(
    made: Any, serve_model: Any, make_store: Any, tmp_path: Path, lie: Any, error: type[Exception], message: str
) -> None:
    model = made()
    model.files["pytorch_model.bin"] = b"pickle"
    lie(model.manifest)
    with pytest.raises(error, match=message):
        make_store().ensure(serve_model(model, manifest=True))
    assert empty(tmp_path / "store")
    assert not list(tmp_path.rglob("escape.json"))


def test_weights_that_contradict_their_own_header_are_not_published(
    made: Any, serve_model: Any, make_store: Any, tmp_path: Path
) -> None:
    model = made()
    model.files["model.safetensors"] = model.files["model.safetensors"][:-5]
    with pytest.raises(VerificationFailed, match="header and tensors"):
        make_store().ensure(serve_model(model))
    assert empty(tmp_path / "store")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (pickle.dumps({"weight": print}), "no valid safetensors file"),
        ((2**40).to_bytes(8, "little") + b"{}", "the header claims 1099511627776 bytes"),
        ((2**63 - 1).to_bytes(8, "little"), "the header claims"),
        (b"\x02\0\0\0\0\0\0\0[]", "no JSON object"),
        ((200_000).to_bytes(8, "little") + b"[" * 200_000, "no JSON"),
    ],
)
def test_what_only_calls_itself_safetensors_is_not_published(
    made: Any, serve_model: Any, make_store: Any, tmp_path: Path, weights: bytes, message: str
) -> None:
    model = made()
    model.files["model.safetensors"] = weights
    with pytest.raises(VerificationFailed, match=message):
        make_store().ensure(serve_model(model))
    assert empty(tmp_path / "store")


def test_a_config_that_is_nested_too_deeply_is_a_clean_error(made: Any, serve_model: Any, make_store: Any) -> None:
    for depth in (900, 960, 980, 990, 100_000):
        model = made()
        model.files["config.json"] = b'{"a":' * depth + b"1" + b"}" * depth
        with contextlib.suppress(VerificationFailed):
            make_store().ensure(serve_model(model, f"/deep-{depth}"))


def test_a_folder_of_too_many_files_is_refused(make_store: Any, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(10_001):
        (folder / f"{number}.json").touch()
    with pytest.raises(SourceRefused, match="more than 10000 files"):
        make_store().ensure(f"file://{folder}")


def test_an_index_cannot_name_files_outside(made: Any, serve_model: Any, make_store: Any) -> None:
    model = made(shards=2)
    model.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "../../x.safetensors"}}).encode()
    with pytest.raises(SourceRefused, match="no empty part"):
        make_store().ensure(serve_model(model))


def test_private_addresses_are_refused_unless_allowed(
    made: Any, serve_model: Any, make_store: Any, server: Any
) -> None:
    uri = serve_model(made())
    for refused in (uri, uri.replace("127.0.0.1", "localhost"), uri.replace("127.0.0.1", "2130706433")):
        with pytest.raises(SourceRefused, match="--allow-host"):
            make_store(sources=SourceSettings()).ensure(refused)
    assert server.requests == []
    port = uri.split(":")[2].split("/")[0]
    rules = AddressRules(allowed_hosts=frozenset({f"127.0.0.1:{port}"}))
    assert make_store(sources=SourceSettings(addresses=rules)).ensure(uri)


def test_cancelling_is_prompt_and_the_next_one_goes_on(
    made: Any, serve_model: Any, make_store: Any, server: Any, trouble: Any
) -> None:
    model = made()
    uri = serve_model(model, manifest=True)
    server.trouble = trouble(pause_after=2_000_000)
    store, cancel, ended = make_store(), threading.Event(), []

    def fetch() -> None:
        try:
            store.ensure(uri, cancel=cancel)
        except DownloadCancelled as error:
            ended.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    until(server.paused.is_set)
    cancel.set()
    thread.join(30)
    assert not thread.is_alive()
    assert ended
    server.trouble = trouble(times=0)
    server.go_on.set()
    assert store.ensure(uri)
    assert server.bytes_sent() - model.weights_bytes <= 3 * 256 * 1024 + 64 * 1024


def test_kill_9_costs_at_most_one_chunk_per_worker(
    made: Any, serve_model: Any, server: Any, trouble: Any, tmp_path: Path
) -> None:
    model = made(weights_bytes=192 * 1024 * 1024)
    uri = serve_model(model, manifest=True)
    arguments = command("--store", tmp_path / "store", "--allow-host", "127.0.0.1", uri)
    before = set(threading.enumerate())  # a server of another test may still have a connection
    have = 0
    for share in (0.3, 0.6):
        server.paused.clear()
        server.trouble = trouble(pause_after=server.bytes_sent() + int(model.weights_bytes * 0.3))
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(server.paused.is_set)
        # The server waits now, so what it sent is in the client's chunks as soon as the client has read its sockets.
        least = have + int(model.weights_bytes * 0.3) - WORKERS * CHUNK_BYTES
        until(partial(lambda least: journaled(tmp_path / "store", model) >= least, least))
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        have = journaled(tmp_path / "store", model)
        assert have < model.weights_bytes * (share + 0.1)
        assert empty(tmp_path / "store")
    server.trouble = trouble(times=0)
    server.go_on.set()
    until(lambda: not [each for each in set(threading.enumerate()) - before if "process_request" in each.name])
    sent = server.bytes_sent()
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert server.bytes_sent() - sent == model.weights_bytes - have
    published = next((tmp_path / "store" / "models").glob("*/model.safetensors"))
    assert published.read_bytes() == model.files["model.safetensors"]


def test_ten_processes_are_one_download_and_all_see_its_progress(
    made: Any, serve_model: Any, server: Any, trouble: Any, tmp_path: Path
) -> None:
    model = made(weights_bytes=32 * 1024 * 1024)
    uri = serve_model(model, manifest=True)
    server.trouble = trouble(pause_after=16 * 1024 * 1024)
    arguments = command("--store", tmp_path / "store", "--allow-host", "127.0.0.1", uri)
    processes = [
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(10)
    ]
    try:
        until(server.paused.is_set)
        until(lambda: sum("manifest" in path for path, _ in server.requests) >= 10, 60)
        server.go_on.set()
        outputs = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * 10
    assert len({stdout for stdout, _ in outputs}) == 1
    assert sum("downloading" in stderr for _, stderr in outputs) == 1
    assert server.bytes_sent() == model.weights_bytes


def test_a_lock_dies_with_its_holder_and_the_waiter_goes_on(
    made: Any, serve_model: Any, server: Any, trouble: Any, tmp_path: Path
) -> None:
    model = made(weights_bytes=32 * 1024 * 1024)
    uri = serve_model(model, manifest=True)
    server.trouble = trouble(pause_after=8 * 1024 * 1024)
    arguments = command("--store", tmp_path / "store", "--allow-host", "127.0.0.1", uri)
    holder = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waiter = None
    try:
        until(server.paused.is_set)
        waiter = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        lines: list[str] = []
        for line in waiter.stderr or ():
            lines.append(line)
            if line.startswith("waiting"):
                break
        assert "waiting" in lines[-1]
        server.trouble = trouble(times=0)
        os.kill(holder.pid, signal.SIGKILL)
        server.go_on.set()
        _, rest = waiter.communicate(timeout=60)
        assert waiter.returncode == 0, rest
        assert "downloading" in rest
    finally:
        for process in (holder, waiter):
            if process is not None:
                process.kill()
                process.wait()


def test_a_digest_that_is_not_there(make_store: Any) -> None:
    store = make_store()
    for digest in ("00" * 32, "../../etc", ""):
        with pytest.raises(ModelNotFound, match="prefetch"):
            store.hold(digest)
