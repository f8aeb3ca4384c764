"""A real API server with KServe's and Knative's resource definitions; the server itself is not in the repository."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crds import definitions
from server_ports import free_port

SHARED = Path(__file__).parents[3] / "shared"
Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@contextlib.contextmanager
def running(argv: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as sink:
        process = subprocess.Popen(argv, stdout=sink, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    setup = SHARED / "envtest" / "setup"
    if not setup.exists():
        pytest.skip("no API server to test against (../shared/envtest is not on this machine)")
    found = subprocess.run([str(setup)], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assets = Path(found.stdout.strip().splitlines()[-1])
    work = tmp_path_factory.mktemp("envtest")
    client, peer, port = free_port(), free_port(), free_port()
    key = work / "sa.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True, timeout=60)
    (work / "tokens.csv").write_text("admin-token,admin,admin,system:masters\n")
    etcd = [
        str(assets / "etcd"),
        f"--data-dir={work / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
    ]
    server = [
        str(assets / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{client}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={work / 'certs'}",
        f"--token-auth-file={work / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--disable-admission-plugins=ServiceAccount",
    ]
    base = [
        str(assets / "kubectl"),
        f"--server=https://127.0.0.1:{port}",
        "--token=admin-token",
        "--insecure-skip-tls-verify=true",
        f"--cache-dir={work / 'cache'}",
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(work)}

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*base, *args], capture_output=True, text=True, timeout=120, env=environment)

    with running(etcd, work / "etcd.log"), running(server, work / "apiserver.log"):
        deadline = time.monotonic() + 90
        while call("get", "--raw", "/readyz").returncode != 0:
            assert time.monotonic() < deadline, (work / "apiserver.log").read_text()[-2000:]
            time.sleep(0.3)
        resources = work / "crds.json"
        resources.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(definitions().values())}))
        applied = call("apply", "--server-side", "-f", str(resources))
        assert applied.returncode == 0, applied.stderr
        # kubectl wait fails outright on a definition whose status is still empty.
        while (established := call("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")).returncode:
            assert time.monotonic() < deadline, established.stderr
            time.sleep(0.3)
        yield call
