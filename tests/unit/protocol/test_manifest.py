from __future__ import annotations

import json
from typing import Any

import pytest

from pilotlight_protocol.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    ManifestFile,
    ManifestInvalid,
    broken_promises,
    decode_manifest,
    encode_manifest,
    unsafe_name,
    without_secrets,
)

SHA = "ab" * 32
MANIFEST = Manifest(
    files=(ManifestFile("model.safetensors", 10, SHA), ManifestFile("config.json", 2, "cd" * 32)),
    architecture="a1",
    quantization="awq",
    dtype="float16",
    context_length=4096,
    license="apache-2.0",
    source="hf://org/name",
    revision="f00",
)


def test_a_manifest_survives_the_round_trip_with_its_files_in_order() -> None:
    decoded = decode_manifest(encode_manifest(MANIFEST))
    assert [file.name for file in decoded.files] == ["config.json", "model.safetensors"]
    assert decoded.size_bytes == 12
    assert decoded.digest == MANIFEST.digest


def test_the_digest_names_the_files_alone_in_any_order() -> None:
    other = Manifest(files=MANIFEST.files[::-1], source="s3://bucket/name", license="mit")
    assert other.digest == MANIFEST.digest
    changed = Manifest(files=(ManifestFile("model.safetensors", 10, "00" * 32), MANIFEST.files[1]))
    assert changed.digest != MANIFEST.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": []}, "1 to"),
        ({"format": 2}, "format 2"),
        ({"surprise": 1}, "not a manifest"),
        ({"files": [{"name": "../x", "size_bytes": 1, "sha256": SHA}]}, "no empty part"),
        ({"files": [{"name": "/etc/passwd", "size_bytes": 1, "sha256": SHA}]}, "relative"),
        ({"files": [{"name": "x", "size_bytes": -1, "sha256": SHA}]}, "size_bytes is -1"),
        ({"files": [{"name": "x", "size_bytes": 1, "sha256": "AB" * 32}]}, "lower-case hex"),
        ({"files": [{"name": "x", "size_bytes": 1, "sha256": SHA}] * 2}, "twice"),
        ({"files": [{"name": n, "size_bytes": 1, "sha256": SHA} for n in ("a", "A")]}, "twice"),
        ({"files": [{"name": "pilotlight-manifest.json", "size_bytes": 1, "sha256": SHA}]}, "itself"),
    ],
)
def test_what_may_not_be_enforced_is_refused_with_its_reason(change: dict[str, Any], message: str) -> None:
    body = json.loads(encode_manifest(MANIFEST)) | change
    with pytest.raises(ManifestInvalid, match=message):
        decode_manifest(json.dumps(body).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"null", b" " * (MAX_MANIFEST_BYTES + 1)])
def test_nonsense_is_no_manifest(body: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        decode_manifest(body)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "a/../b",
        "./a",
        "a//b",
        "/a",
        "a/",
        "a\\b",
        "c:d",
        "a\0b",
        "a\nb",
        "x" * 300,
        "y/" * 300 + "z",
        "\ud800",
    ],
)
def test_unsafe_names(name: str) -> None:
    assert unsafe_name(name)


@pytest.mark.parametrize("name", ["config.json", "a/b/c.safetensors", "model-00001-of-00002.safetensors", "…/é.txt"])
def test_safe_names(name: str) -> None:
    assert unsafe_name(name) is None


def test_a_lie_is_found_and_what_was_not_claimed_is_none() -> None:
    shipped = Manifest(files=MANIFEST.files, quantization="none", context_length=4096)
    assert broken_promises(shipped, MANIFEST) == ("quantization is 'awq', the manifest says 'none'",)
    assert broken_promises(Manifest(files=MANIFEST.files), MANIFEST) == ()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:pw@host:8443/a/b?X-Amz-Signature=s3cret#f", "https://host:8443/a/b"),
        ("hf://org/name@main", "hf://org/name@main"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("file:///srv/model", "file:///srv/model"),
    ],
)
def test_no_secret_is_shown(uri: str, shown: str) -> None:
    assert without_secrets(uri) == shown
