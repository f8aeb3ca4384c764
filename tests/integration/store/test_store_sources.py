"""The other sources: an S3 server (moto), nginx, claims on disk; and the commands."""

from __future__ import annotations

import base64
import email.utils
import hmac
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import server_ports

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.model_reference import parse_model_reference
from pilotlight_store import SourceSettings
from pilotlight_store.errors import SourceChanged, SourceMissing, SourceRefused, VerificationFailed
from pilotlight_store.sources.local_files import LocalFiles

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("manifest", [False, True])
def test_s3(made: Any, make_store: Any, s3: dict[str, str], bucket: Any, manifest: bool) -> None:
    model = made(shards=2)
    for name, body in model.files.items():
        bucket(f"org/name/{name}", body)
    bucket("org/name-other/config.json", b"not ours")
    if manifest:
        bucket("org/name/pilotlight-manifest.json", json.dumps(model.manifest).encode())
    found = make_store(sources=SourceSettings(object_store_options=s3)).ensure("s3://models/org/name")
    for name, body in model.files.items():
        assert (found.path / name).read_bytes() == body
    assert found.manifest.source == "s3://models/org/name"


def test_s3_at_an_http_endpoint_that_the_environment_names(
    made: Any, make_store: Any, s3: dict[str, str], bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made()
    for name, body in model.files.items():
        bucket(f"m/{name}", body)
    for name, value in s3.items():
        monkeypatch.setenv(f"AWS_{name.upper()}", value)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    assert make_store().ensure("s3://models/m").manifest.source == "s3://models/m"


def test_s3_that_changes_lies_or_is_empty(made: Any, make_store: Any, s3: dict[str, str], bucket: Any) -> None:
    model = made()
    for name, body in model.files.items():
        bucket(f"m/{name}", body)
    store = make_store(sources=SourceSettings(object_store_options=s3))
    first = store.ensure("s3://models/m")
    bucket("m/model.safetensors", made(seed=5).files["model.safetensors"])
    assert store.ensure("s3://models/m").digest != first.digest
    bucket("m/pilotlight-manifest.json", json.dumps(model.manifest).encode())
    with pytest.raises(VerificationFailed):
        store.ensure("s3://models/m")
    with pytest.raises(SourceMissing):
        store.ensure("s3://models/nothing")
    bucket("pickle/pytorch_model.bin", b"x")
    with pytest.raises(SourceRefused, match="run code"):
        store.ensure("s3://models/pickle")


def test_google_cloud_storage(made: Any, make_store: Any, s3: dict[str, str], bucket: Any) -> None:
    """Its XML interface, which obstore reads, is S3's but for the signature: moto serves it."""
    model = made(shards=2)
    for name, body in model.files.items():
        bucket(f"org/name/{name}", body)
    options = {"base_url": s3["endpoint"], "bearer_token": "testing"}
    store = make_store(sources=SourceSettings(object_store_options=options))
    found = store.ensure("gs://models/org/name")
    for name, body in model.files.items():
        assert (found.path / name).read_bytes() == body
    with pytest.raises(SourceMissing):
        store.ensure("gs://models/nothing")


AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # it is in its manual
)


@pytest.fixture
def azurite(tmp_path: Path) -> Iterator[dict[str, str]]:
    """obstore's options for an Azurite of its own, with the container `models`."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not installed (npm install -g azurite)")
    port = server_ports.free_port()
    arguments = ["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--blobPort", str(port)]
    process = subprocess.Popen(
        [program, *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        server_ports.until_open(port, process)
        account, version = "devstoreaccount1", "2021-08-06"
        date = email.utils.formatdate(usegmt=True)
        text = f"x-ms-date:{date}\nx-ms-version:{version}\n/{account}/{account}/models\nrestype:container"
        digest = hmac.digest(base64.b64decode(AZURITE_KEY), ("PUT" + "\n" * 12 + text).encode(), "sha256")
        signature = f"SharedKey {account}:{base64.b64encode(digest).decode()}"
        headers = {"x-ms-date": date, "x-ms-version": version, "Authorization": signature, "Content-Length": "0"}
        endpoint = f"http://127.0.0.1:{port}/{account}"
        url = f"{endpoint}/models?restype=container"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=10).close()
        yield {"account_name": account, "account_key": AZURITE_KEY, "endpoint": endpoint}
    finally:
        process.kill()
        process.wait()


def test_azure_blob_storage(made: Any, make_store: Any, azurite: dict[str, str]) -> None:
    import obstore
    from obstore.store import AzureStore

    model = made(shards=2)
    container = AzureStore("models", client_options={"allow_http": True}, **azurite)
    for name, body in model.files.items():
        obstore.put(container, f"org/name/{name}", body)
    store = make_store(sources=SourceSettings(object_store_options=azurite))
    found = store.ensure("az://models/org/name")
    for name, body in model.files.items():
        assert (found.path / name).read_bytes() == body
    obstore.put(container, "org/name/model-00001-of-00002.safetensors", b"changed")
    with pytest.raises(VerificationFailed):
        store.ensure("az://models/org/name")


def test_nginx(made: Any, make_store: Any, tmp_path: Path) -> None:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    root = tmp_path / "www" / "model"
    root.mkdir(parents=True)
    model = made(weights_bytes=20_000_000, shards=2)
    for name, body in model.files.items():
        (root / name).write_bytes(body)
    tmp_path.chmod(0o755)
    port = server_ports.free_port()
    temporary = " ".join(f"{kind}_temp_path {tmp_path};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; {user} pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log {tmp_path}/access.log; client_body_temp_path {tmp_path}; {temporary}\n"
        "gzip on; gzip_types *;\n"
        f"server {{ listen 127.0.0.1:{port}; root {tmp_path}/www; }} }}\n"
    )
    process = subprocess.Popen(
        [nginx, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)], stderr=subprocess.DEVNULL
    )
    try:
        server_ports.until_open(port, process)
        found = make_store().ensure(f"http://127.0.0.1:{port}/model")
        for name, body in model.files.items():
            assert (found.path / name).read_bytes() == body
    finally:
        process.terminate()
        process.wait(10)


def test_claims(made: Any, make_store: Any, tmp_path: Path) -> None:
    folder = tmp_path / "claims" / "team-a" / "llm"
    folder.mkdir(parents=True)
    for name, body in made().files.items():
        (folder / name).write_bytes(body)
    store = make_store(sources=SourceSettings(claims_folder=tmp_path / "claims"))
    assert store.ensure("pvc://team-a/llm").manifest.source == "pvc://team-a/llm"
    with pytest.raises(SourceMissing):
        store.ensure("pvc://team-b/llm")
    for uri in ("pvc://team-a/../../etc", "pvc://../x", "pvc:///x", "file://host/x"):
        with pytest.raises(InvalidInput):
            store.ensure(uri)


@pytest.mark.parametrize("link", ["model", "folder", "claim", "store", "file"])
def test_a_claims_links_lead_nowhere_else(made: Any, make_store: Any, tmp_path: Path, link: str) -> None:
    claims = tmp_path / "claims"
    secret = claims / "globex" / "deep" / "secret"
    secret.mkdir(parents=True)
    (claims / "acme" / "own").mkdir(parents=True)
    for folder, seed in ((secret, 1), (claims / "acme" / "own", 2)):
        for name, body in made(seed=seed).files.items():
            (folder / name).write_bytes(body)
    (claims / "acme" / "own-too").symlink_to("own")
    store = make_store(sources=SourceSettings(claims_folder=claims))
    path, target = {
        "model": ("acme/m", "../globex/deep/secret"),
        "folder": ("acme/m", "../globex/deep"),
        "claim": ("other", "globex/deep/secret"),
        "store": ("acme/m", store.ensure("pvc://globex/deep/secret").path),
        "file": ("acme/own/model.safetensors", secret / "model.safetensors"),
    }[link]
    (claims / path).unlink(missing_ok=True)
    (claims / path).symlink_to(target)
    uri = {"folder": "pvc://acme/m/secret", "claim": "pvc://other", "file": "pvc://acme/own"}.get(link, "pvc://acme/m")
    with pytest.raises(SourceRefused, match="link that leaves"):
        store.ensure(uri)
    if link != "file":
        assert store.ensure("pvc://acme/own-too").manifest.source == "pvc://acme/own-too"


def test_a_folder_that_becomes_a_link_after_it_was_listed(tmp_path: Path) -> None:
    own, secret = tmp_path / "claims" / "acme" / "m" / "sub", tmp_path / "secret"
    own.mkdir(parents=True)
    secret.mkdir()
    (secret / "model.safetensors").write_bytes(b"weights")
    os.link(secret / "model.safetensors", own / "model.safetensors")  # the same inode, size and time
    source = LocalFiles.of_claim(parse_model_reference("pvc://acme/m"), tmp_path / "claims")
    (file,) = source.listing().files
    assert [bytes(block) for block in source.blocks(file, 0, 7)] == [b"weights"]
    own.rename(own.with_name("away"))
    own.symlink_to(secret)
    with pytest.raises(SourceChanged):
        list(source.blocks(file, 0, 7))


@pytest.mark.parametrize(
    "uri", ["ftp://h/x", "model", "", "s3://", "s3://b?x=1", "http://", "http://u:p@h/x", "http://[/"]
)
def test_uris_that_mean_nothing(make_store: Any, uri: str) -> None:
    with pytest.raises(InvalidInput):
        make_store().ensure(uri)


def run_command(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"from pilotlight_store.commands import {name}; {name}()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_the_commands(made: Any, serve_model: Any, tmp_path: Path) -> None:
    uri = serve_model(made())
    store = str(tmp_path / "store")
    refused = run_command("prefetch", uri, PILOTLIGHT_STORE=store)
    assert refused.returncode == 1
    assert "--allow-host" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = run_command("prefetch", uri + "?sig=s3cret", "--pin", "--allow-host", "127.0.0.1", PILOTLIGHT_STORE=store)
    assert done.returncode == 0, done.stderr
    digest = done.stdout.split()[0]
    assert re.search(r"ready http://127.0.0.1:\d+/model  3\.0 MB of 3\.0 MB", done.stderr)
    listed = run_command("models", PILOTLIGHT_STORE=store)
    header, row = listed.stdout.splitlines()
    assert header.split() == ["DIGEST", "SIZE", "TIER", "PINNED", "HOLDS", "LAST", "USE", "QUANTIZATION", "SOURCE"]
    assert row.startswith(digest)
    assert "yes" in row
    assert "s3cret" not in done.stdout + done.stderr + listed.stdout
    assert "pinned" in run_command("models", "--remove", digest, PILOTLIGHT_STORE=store).stderr
    gone = run_command("models", "--unpin", digest, "--remove", digest, "--verify", PILOTLIGHT_STORE=store)
    assert gone.returncode == 0, gone.stderr
    assert len(gone.stdout.splitlines()) == 1
    assert "is empty; `pilotlight prefetch URI`" in gone.stderr


def test_two_million_bytes_a_second_take_their_time(made: Any, serve_model: Any, tmp_path: Path) -> None:
    uri = serve_model(made(weights_bytes=3_000_000), manifest=True)
    started = time.monotonic()
    done = run_command(
        "prefetch", uri, "--allow-host", "127.0.0.1", "--bandwidth", "2M", "--store", str(tmp_path / "store")
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started >= 1.2


def test_the_pilotlight_command_has_the_stores_commands() -> None:
    def pilotlight(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pilotlight_local", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    listed = pilotlight("--help").stdout
    assert re.search(r"^  prefetch +Download the model", listed, re.MULTILINE)
    assert re.search(r"^  models +List the models", listed, re.MULTILINE)
    assert "hf://org/name[:revision]" in pilotlight("prefetch", "--help").stdout
    assert pilotlight("prefetsh").returncode == 2
    assert re.search(r"version \d+\.\d+", pilotlight("--version").stdout)
