"""The specs are taken by a real API server with KServe 0.20's resource definitions and come back whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilotlight_pool.arguments import parse

ROOT = Path(__file__).parents[2]
PLATFORM = ROOT / "inferenceservices" / "platform"
SPECS = sorted(path for path in (ROOT / "inferenceservices").rglob("*.yaml") if PLATFORM not in path.parents)

END_PORT_SINCE = 22  # a NetworkPolicy's range of ports; older API servers drop its end

pytestmark = pytest.mark.cluster


def contains(stored: Any, given: Any, path: str = "$") -> list[str]:
    """Where `stored` lacks something of `given`: an API server prunes what a schema does not know."""
    if isinstance(given, dict):
        if not isinstance(stored, dict):
            return [path]
        return [miss for key, value in given.items() for miss in contains(stored.get(key), value, f"{path}.{key}")]
    if isinstance(given, list):
        if not isinstance(stored, list) or len(stored) != len(given):
            return [path]
        return [
            miss for i, (a, b) in enumerate(zip(stored, given, strict=True)) for miss in contains(a, b, f"{path}[{i}]")
        ]
    return [] if str(stored) == str(given) else [path]


def kustomized(kubectl: Any, folder: Path) -> list[Any]:
    built = kubectl("kustomize", str(folder))
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


@pytest.mark.parametrize("folder", ["cpu", "cuda"])
def test_the_pools_platform_is_taken_whole(folder: str, kubectl: Any) -> None:
    documents = kustomized(kubectl, PLATFORM / folder)
    version = kubectl("version", "-o", "json")
    minor = int(json.loads(version.stdout)["serverVersion"]["minor"].rstrip("+"))
    known = minor >= END_PORT_SINCE
    applied = kubectl("apply", *(() if known else ("--validate=false",)), "-k", str(PLATFORM / folder))
    assert applied.returncode == 0, applied.stderr
    for document in documents:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind in {"Deployment", "DaemonSet"}:
            (container,) = document["spec"]["template"]["spec"]["containers"]
            parse([word.replace("$(NODE_NAME)", "n").replace("$(POD_IP)", "10.0.0.1") for word in container["args"]])
        stored = kubectl("get", kind, name, "-o", "json", "-n", "pilotlight-system")
        assert stored.returncode == 0, stored.stderr
        missing = contains(json.loads(stored.stdout).get("spec", {}), document.get("spec", {}))
        assert [path for path in missing if known or not path.endswith(".endPort")] == []


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_real_api_server_takes_it_and_prunes_nothing(path: Path, kubectl: Any) -> None:
    applied = kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))
    assert applied.returncode == 0, applied.stderr
    for document in yaml.safe_load_all(path.read_text()):
        kind, name = document["kind"], document["metadata"]["name"]
        stored = kubectl("get", kind, name, "-o", "json", *(("-n", "default") if kind == "InferenceService" else ()))
        assert stored.returncode == 0, stored.stderr
        assert contains(json.loads(stored.stdout)["spec"], document["spec"]) == []
