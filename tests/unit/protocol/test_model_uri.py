"""What a model's URI names, and which cannot be one."""

import pytest

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.model_uri import BundledModel, Folder, HubModel, ModelPlace, RemoteModel, parse_model_uri


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("/mnt/models", Folder("/mnt/models")),
        ("models/mine", Folder("models/mine")),
        ("file:///mnt/a%20model", Folder("/mnt/a model")),
        ("file://localhost/mnt/models", Folder("/mnt/models")),
        ("FILE:///mnt/models", Folder("/mnt/models")),
        ("bundled://demo-awq", BundledModel("demo-awq")),
        ("bundled://demo-awq/", BundledModel("demo-awq")),
        ("hf://org/name", HubModel("org/name", None)),
        ("hf://org/name@v1.0", HubModel("org/name", "v1.0")),
        ("hf://org/name@refs/pr/1", HubModel("org/name", "refs/pr/1")),
        ("s3://bucket/model", RemoteModel("s3")),
        ("oci+native://registry/model", RemoteModel("oci+native")),
    ],
)
def test_places(uri: str, place: ModelPlace) -> None:
    assert parse_model_uri(uri) == place


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("file://mnt/models", "write file:///absolute/directory"),
        ("file://", "write file:///absolute/directory"),
        ("hf://name", "must look like hf://organisation/name"),
        ("hf://a/b:c", "must look like hf://organisation/name"),
        ("hf://a/b@c d", "must look like hf://organisation/name"),
        ("hf://../b/c", "must look like hf://organisation/name"),
    ],
)
def test_what_cannot_be_a_uri_says_how_it_is_written(uri: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_model_uri(uri)
