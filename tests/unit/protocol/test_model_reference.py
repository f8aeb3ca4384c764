"""What a model's URI names, its one spelling, and which cannot be one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.model_reference import ModelReference, parse_model_reference

REVISIONS = ["main", "v1.0", "refs/pr/1", "0123abc", "c0ffee" + "0" * 34, "release+cu12", "a-b_c~1"]


@pytest.mark.parametrize(
    ("uri", "reference"),
    [
        ("/mnt/models", ModelReference("file", "/mnt/models")),
        ("models/mine", ModelReference("file", "models/mine")),
        ("file:///mnt/a%20model", ModelReference("file", "/mnt/a model")),
        ("file://localhost/mnt/models", ModelReference("file", "/mnt/models")),
        ("FILE:///mnt/models", ModelReference("file", "/mnt/models")),
        ("bundled://demo-awq", ModelReference("bundled", "demo-awq")),
        ("bundled://demo-awq/", ModelReference("bundled", "demo-awq")),
        ("hf://org/name", ModelReference("hf", "org/name")),
        ("HF://org/name/", ModelReference("hf", "org/name")),
        ("pvc://claim", ModelReference("pvc", "claim")),
        ("pvc://claim/a%20folder/", ModelReference("pvc", "claim/a folder")),
        ("s3://bucket/model", ModelReference("s3", "bucket/model")),
        ("gs://bucket/model", ModelReference("gs", "bucket/model")),
        ("az://container/model", ModelReference("az", "container/model")),
        ("https://host:8443/m?sig=x", ModelReference("https", "host:8443/m?sig=x")),
    ],
)
def test_references(uri: str, reference: ModelReference) -> None:
    assert parse_model_reference(uri) == reference
    assert parse_model_reference(reference.uri) == reference
    assert reference.in_place == (reference.scheme in ("file", "bundled"))


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_revision_is_written_as_kserve_does_or_with_an_at(revision: str) -> None:
    pinned = ModelReference("hf", "org/na.me-1", revision)
    assert parse_model_reference(f"hf://org/na.me-1:{revision}") == pinned
    assert parse_model_reference(f"hf://org/na.me-1@{revision}") == pinned
    assert parse_model_reference(pinned.uri) == pinned


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("file://mnt/models", "write file:///absolute/directory"),
        ("file://", "write file:///absolute/directory"),
        ("hf://name", "must look like hf://organisation/name"),
        ("hf://a/b/c", "hf://organisation/name:revision"),
        ("hf://a/b:", "must look like hf://organisation/name"),
        ("hf://a/b@c:d", "must look like hf://organisation/name"),
        ("hf://a:c/b", "must look like hf://organisation/name"),
        ("hf://a/b@c d", "must look like hf://organisation/name"),
        ("hf://../b/c", "must look like hf://organisation/name"),
        ("pvc:///x", "write pvc://claim/folder"),
        ("pvc://../x", "write pvc://claim/folder"),
        ("pvc://team-a/../../etc", "write pvc://claim/folder"),
        ("pvc://team-a/%2e%2e/etc", "write pvc://claim/folder"),
        ("s3://", "names a host or a bucket"),
        ("http://", "names a host or a bucket"),
        ("http://[/", "not a model's URI"),
        ("oci+native://registry/model", "not supported; use one of"),
        ("ftp://h/x", "not supported; use one of"),
    ],
)
def test_what_cannot_be_a_uri_says_how_it_is_written(uri: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_model_reference(uri)


@given(st.text(max_size=40) | st.builds("{}://{}".format, st.sampled_from(["hf", "pvc", "file", "s3"]), st.text()))
def test_whatever_is_given_is_a_reference_with_one_spelling_or_refused(uri: str) -> None:
    try:
        reference = parse_model_reference(uri)
    except InvalidInput:
        return
    if reference.scheme == "file" and not reference.path.startswith("/"):
        return  # a relative folder is written as it is
    assert parse_model_reference(reference.uri) == reference
