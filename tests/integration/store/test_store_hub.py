"""Models on a hub: our own small one over HTTP, and hf-xet itself over a content-addressed store in a folder."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from model_sources import COMMIT

from pilotlight_local.errors import ModelUnavailable
from pilotlight_local.pods.model_mounts import ModelMounts
from pilotlight_protocol.back_off import BackOff
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.model_reference import parse_model_reference
from pilotlight_store import SourceSettings, Store, StoreSettings, TransferSettings
from pilotlight_store.errors import SourceInvalid, SourceMissing, SourceRefused, SourceUnavailable, VerificationFailed
from pilotlight_store.sources.addresses import AddressRules
from pilotlight_store.sources.http_ranges import HttpRanges
from pilotlight_store.sources.hub import HubSource
from pilotlight_store.sources.xet_ranges import XetConnection, XetRanges
from pilotlight_store.transfer.bandwidth_gate import BandwidthGate
from pilotlight_store.transfer.disk import Staging
from pilotlight_store.transfer.retry import RetryRules
from pilotlight_store.transfer.transfer import Transfer

pytestmark = pytest.mark.integration


def test_the_hub(made: Any, make_store: Any, server: Any, hub: Any) -> None:
    model = made(shards=2)
    hub(model)
    sources = SourceSettings(hub_endpoint=server.origin, hub_token="hf_s3cret")
    store = make_store(sources=sources)
    found = store.ensure("hf://org/name")
    assert (found.manifest.revision, found.manifest.license) == (COMMIT, "mit")
    for name, body in model.files.items():
        assert (found.path / name).read_bytes() == body
    assert all(
        headers.get("Authorization") == "Bearer hf_s3cret" for path, headers in server.requests if "resolve" in path
    )
    for pinned in (f"hf://org/name@{COMMIT}", f"hf://org/name:{COMMIT}"):
        assert store.ensure(pinned).digest == found.digest
    for uri, error in (("hf://org/absent", SourceMissing), ("hf://name", InvalidInput), ("hf://a/b/c", InvalidInput)):
        with pytest.raises(error):
            store.ensure(uri)
    assert "s3cret" not in repr(sources)


def test_the_hubs_token_does_not_follow_a_redirect_and_private_targets_are_refused(
    made: Any, make_store: Any, server: Any, hub: Any, trouble: Any
) -> None:
    hub(made())
    port = server.origin.rpartition(":")[2]
    server.files["/cdn/model.safetensors"] = made().files["model.safetensors"]
    server.trouble = trouble(where="/resolve/", redirect=f"http://localhost:{port}/cdn/model.safetensors")
    with pytest.raises(SourceRefused, match="localhost"):
        make_store(sources=SourceSettings(hub_endpoint=server.origin, hub_token="hf_s3cret")).ensure("hf://org/name")
    server.trouble = trouble(
        where="resolve/" + COMMIT + "/model.safetensors",
        redirect=f"http://localhost:{port}/cdn/model.safetensors?Signature=1",
    )
    rules = AddressRules(allowed_hosts=frozenset({"localhost"}))
    sources = SourceSettings(addresses=rules, hub_endpoint=server.origin, hub_token="hf_s3cret")
    assert make_store(sources=sources).ensure("hf://org/name")
    on_cdn = [headers for path, headers in server.requests if path.startswith("/cdn/")]
    assert on_cdn
    assert not any("Authorization" in headers for headers in on_cdn)


@pytest.mark.parametrize("what", ["model.safetensors", "config.json"])
def test_the_hubs_own_hashes_are_enforced(
    made: Any, make_store: Any, server: Any, hub: Any, trouble: Any, what: str
) -> None:
    hub(made())
    server.trouble = trouble(where=f"{COMMIT}/{what}", flip_at=10)
    with pytest.raises(VerificationFailed, match="not the promised"):
        make_store(sources=SourceSettings(hub_endpoint=server.origin)).ensure("hf://org/name")


TOKEN_ROUTE = f"/api/models/org/name/xet-read-token/{COMMIT}"


@pytest.fixture
def xet_hub(hub: Any, server: Any, tmp_path: Path) -> Callable[..., XetConnection]:
    """A hub whose weights are in Xet storage: hf-xet puts them into a folder, the hub tells their Xet names."""
    from hf_xet import XetSession

    def publish(model: Any) -> XetConnection:
        hub(model)
        endpoint = f"local://{tmp_path}/cas"
        uploads = {}
        with XetSession().new_upload_commit(endpoint=endpoint) as commit:
            for name, body in model.files.items():
                if name.endswith(".safetensors"):
                    uploads[name] = commit.start_upload_bytes(body, name=name)
        for name, upload in uploads.items():
            server.heads[f"/org/name/resolve/{COMMIT}/{name}"] = {
                "ETag": f'"{name}"',
                "X-Repo-Commit": COMMIT,
                "Content-Length": str(len(model.files[name])),
                "X-Xet-Hash": upload.result().xet_info.hash,
                "X-Xet-Refresh-Route": f"{server.origin}{TOKEN_ROUTE}",
            }
        return XetConnection(endpoint)

    return publish


def source(server: Any, xet: XetRanges | None = None) -> HubSource:
    port = urlsplit(server.origin).port
    ranges = HttpRanges(AddressRules(allowed_hosts=frozenset({f"127.0.0.1:{port}"})), timeout_s=10.0)
    return HubSource(parse_model_reference("hf://org/name"), server.origin, None, ranges, xet)


def fetched(hub_source: HubSource, folder: Path) -> dict[str, str]:
    """Downloads everything the source lists; sha256 by file name."""
    settings = TransferSettings(
        workers=3,
        chunk_bytes=256 * 1024,
        longest_run_bytes=2**20,
        retries=RetryRules(attempts=2, back_off=BackOff(0.01, 20.0)),
    )
    with contextlib.closing(hub_source):
        files = hub_source.listing().files
        staging = Staging(folder, files)
        transfer = Transfer(hub_source, files, staging, settings, BandwidthGate(None), threading.Event())
        return dict(zip((file.name for file in files), transfer.run(lambda: None), strict=True))


def test_weights_in_xet_storage_come_through_hf_xet(made: Any, server: Any, xet_hub: Any, tmp_path: Path) -> None:
    model = made(weights_bytes=9_000_000, shards=2)
    connection = xet_hub(model)
    hashes = fetched(source(server, XetRanges(lambda: connection)), tmp_path / "staging")
    assert hashes == {name: hashlib.sha256(body).hexdigest() for name, body in model.files.items()}
    for name, body in model.files.items():
        assert (tmp_path / "staging" / "files" / name).read_bytes() == body
    assert server.bytes_sent() == 0


def test_what_xet_storage_sends_must_be_what_the_hub_promises(
    made: Any, server: Any, hub: Any, xet_hub: Any, tmp_path: Path
) -> None:
    connection = xet_hub(made(seed=1))
    hub(made(seed=2))  # the promised sha256 are another model's, of the same size
    with pytest.raises(VerificationFailed, match="not the promised"):
        fetched(source(server, XetRanges(lambda: connection)), tmp_path / "staging")


def test_chunks_that_xet_storage_lost_end_in_a_clean_error(
    made: Any, server: Any, xet_hub: Any, tmp_path: Path
) -> None:
    xet_hub(made())
    empty = XetConnection(f"local://{tmp_path}/another")
    with pytest.raises((SourceUnavailable, SourceMissing), match="Xet storage"):
        fetched(source(server, XetRanges(lambda: empty)), tmp_path / "staging")


def test_a_hub_that_gives_no_access_to_its_xet_storage_is_read_over_http(
    made: Any, make_store: Any, server: Any, xet_hub: Any
) -> None:
    model = made()
    xet_hub(model)
    found = make_store(sources=SourceSettings(hub_endpoint=server.origin)).ensure("hf://org/name")
    assert (found.path / "model.safetensors").read_bytes() == model.files["model.safetensors"]
    assert server.bytes_sent() == model.weights_bytes
    assert [path for path, _ in server.requests if "xet-read-token" in path] == [TOKEN_ROUTE]


@pytest.mark.parametrize(
    ("storage", "error", "message"),
    [
        ("http://169.254.169.254/cas", SourceRefused, "169.254.169.254"),
        ("local:///etc", SourceInvalid, "no http"),
        (None, VerificationFailed, "makes no sense"),
    ],
)
def test_xet_storage_at_a_private_address_is_refused(
    made: Any, make_store: Any, server: Any, xet_hub: Any, storage: str | None, error: type[Exception], message: str
) -> None:
    xet_hub(made())
    answer = {"casUrl": storage, "accessToken": "xet-s3cret", "exp": 2**31} if storage else {"casUrl": 1}
    server.files[TOKEN_ROUTE] = json.dumps(answer).encode()
    with pytest.raises(error, match=message) as raised:
        make_store(sources=SourceSettings(hub_endpoint=server.origin)).ensure("hf://org/name")
    assert "s3cret" not in str(raised.value)
    assert server.bytes_sent() == 0


def test_xet_storage_that_nobody_serves_is_given_up_on(made: Any, make_store: Any, server: Any, xet_hub: Any) -> None:
    xet_hub(made())
    answer = {"casUrl": "http://127.0.0.1:9", "accessToken": "t", "exp": 2**31}
    server.files[TOKEN_ROUTE] = json.dumps(answer).encode()
    rules = AddressRules(allowed_hosts=frozenset({"127.0.0.1:9"}))
    store = make_store(sources=SourceSettings(addresses=rules, hub_endpoint=server.origin))
    with pytest.raises(SourceUnavailable, match="Xet storage"):
        store.ensure("hf://org/name")


async def test_a_pod_mounts_what_was_prefetched(made: Any, server: Any, hub: Any, tmp_path: Path) -> None:
    model = made(weights_bytes=3_000_000)
    hub(model)
    environment = {"PATH": os.environ["PATH"], "HF_ENDPOINT": server.origin}
    mounts = ModelMounts(tmp_path / "logs", tmp_path / "store", environment)
    first, again = await asyncio.gather(mounts.resolve("hf://org/name"), mounts.resolve("hf://org/name"))
    assert first == again
    assert first.is_relative_to(tmp_path / "store")
    assert (first / "model.safetensors").read_bytes() == model.files["model.safetensors"]
    with Store(StoreSettings(tmp_path / "store")) as store:
        assert [model.pinned for model in store.list()] == [True]
    fetched = sum("resolve" in path for path, _ in server.requests)
    assert await mounts.resolve("hf://org/name") == first
    assert sum("resolve" in path for path, _ in server.requests) == fetched
    assert mounts.progress("hf://org/name") is None
    with pytest.raises(ModelUnavailable, match=r"^hf://org/absent cannot be downloaded: .*org/absent"):
        await mounts.resolve("hf://org/absent")
    with pytest.raises(ModelUnavailable, match="ftp:// are not supported"):
        await mounts.resolve("ftp://host/model")
    await mounts.close()
