"""Every spec we ship fits the schemas of KServe 0.20."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from crds import definitions

ROOT = Path(__file__).parents[3]
PLATFORM = ROOT / "inferenceservices" / "platform"
SPECS = sorted(path for path in (ROOT / "inferenceservices").rglob("*.yaml") if PLATFORM not in path.parents)


@pytest.fixture(scope="module")
def schemas() -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {}
    for crd in definitions().values():
        for version in crd["spec"]["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            found[f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]] = close(schema)
    return found


def close(schema: Any) -> Any:
    """As the API server with strict field validation: unknown fields are errors; int-or-string means just that."""
    if isinstance(schema, list):
        return [close(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {key: close(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not open_ended:
        closed["additionalProperties"] = False
    return closed


@pytest.mark.parametrize("path", SPECS, ids=lambda path: str(path.relative_to(ROOT)))
def test_spec_fits_the_schema(path: Path, schemas: dict[tuple[str, str], Any]) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        schema = dict(schemas[document["apiVersion"], document["kind"]])
        document["metadata"] = {}
        schema["properties"] = {**schema["properties"], "metadata": {"type": "object"}}
        errors = [
            f"{error.json_path}: {error.message[:200]}"
            for error in jsonschema.Draft202012Validator(schema).iter_errors(document)
        ]
        assert errors == []


def test_there_are_specs() -> None:
    assert len(SPECS) >= 5


def test_the_schemas_refuse_what_nobody_knows(schemas: dict[tuple[str, str], Any]) -> None:
    schema = schemas["serving.kserve.io/v1beta1", "InferenceService"]
    wrong = {"spec": {"predictor": {"minReplica": 0, "model": {"modelFormat": {"name": 1}}}}}
    said = [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(wrong)]
    assert any("minReplica" in message for message in said)
    assert any("1 is not of type 'string'" in message for message in said)
