"""What every source of models keeps to: the same model, part by part, once, and whoever asks in whatever spelling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_sources import COMMIT

from pilotlight_engine import model_source
from pilotlight_protocol.errors import InvalidInput, ModelNotFound
from pilotlight_protocol.model_reference import parse_model_reference
from pilotlight_store import SourceSettings
from pilotlight_store.sources.addresses import AddressRules
from pilotlight_store.stored_folder import stored_folder
from pilotlight_text.tokenization.tokenizer_files import TokenizerFilesError, model_folder, read

pytestmark = pytest.mark.integration

TOKENIZER = {
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b'{"bos_token": "<s>"}',
    "chat_template.jinja": b"hi",
    "additional_chat_templates/rag.jinja": b"rag",
}


@pytest.fixture(params=["file", "pvc", "http", "hf", "hf:revision", "hf@revision", "s3", "gs"])
def source(request: pytest.FixtureRequest, made: Any, tmp_path: Path) -> tuple[str, str, SourceSettings, Any]:
    """A model's URI, one where nothing is, how they are reached, and the model."""
    model = made(shards=2)
    model.files.update(TOKENIZER)
    kind = request.param
    if kind in ("file", "pvc"):
        folder = tmp_path / "claims" / "team" / "a model"
        for name, body in model.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(body)
        uris = ("pvc://team/a%20model", "pvc://team/none") if kind == "pvc" else (folder.as_uri(), "file:///none/here")
        return *uris, SourceSettings(claims_folder=tmp_path / "claims"), model
    if kind in ("s3", "gs"):
        put, s3 = request.getfixturevalue("bucket"), request.getfixturevalue("s3")
        for name, body in model.files.items():
            put(f"org/name/{name}", body)
        options = s3 if kind == "s3" else {"base_url": s3["endpoint"], "bearer_token": "testing"}
        return f"{kind}://models/org/name", f"{kind}://models/none", SourceSettings(object_store_options=options), model
    server = request.getfixturevalue("server")
    if kind == "http":
        del model.files["additional_chat_templates/rag.jinja"]  # HTTP cannot list a folder
        rules = AddressRules(allow_private=True)
        uri = request.getfixturevalue("serve_model")(model)
        return uri, f"{server.origin}/none", SourceSettings(addresses=rules), model
    request.getfixturevalue("hub")(model)
    revision = {"hf": "", "hf:revision": f":{COMMIT}", "hf@revision": f"@{COMMIT}"}[kind]
    return f"hf://org/name{revision}", f"hf://org/none{revision}", SourceSettings(hub_endpoint=server.origin), model


def stored(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - {"pilotlight-manifest.json"}


def test_the_model_is_here_byte_for_byte_and_fetched_once(source: Any, make_store: Callable[..., Any]) -> None:
    uri, _, sources, model = source
    store = make_store(sources=sources)
    found = store.ensure(uri)
    assert {name: (found.path / name).read_bytes() for name in stored(found.path)} == model.files
    states: list[str] = []
    assert store.ensure(uri, on_progress=lambda progress: states.append(progress.state)).digest == found.digest
    assert "downloading" not in states


def test_the_tokenizers_files_come_alone_and_never_twice(source: Any, make_store: Callable[..., Any]) -> None:
    uri, _, sources, model = source
    store = make_store(sources=sources)
    part = store.ensure(uri, part="tokenizer")
    assert stored(part.path) == {"config.json", *TOKENIZER} & set(model.files)
    assert part.manifest.architecture is None
    assert store.ensure(uri, part="tokenizer").digest == part.digest
    whole = store.ensure(uri)
    assert whole.digest != part.digest
    assert store.ensure(uri, part="tokenizer").digest == whole.digest


def test_what_was_asked_for_in_another_spelling_is_the_same_model(source: Any, make_store: Callable[..., Any]) -> None:
    uri, _, sources, _ = source
    store = make_store(sources=sources)
    assert store.ensure(parse_model_reference(uri).uri).digest == store.ensure(uri).digest
    assert store.last_fetched(uri).digest == store.last_fetched(parse_model_reference(uri).uri).digest


def test_what_is_not_there_is_not_found(source: Any, make_store: Callable[..., Any]) -> None:
    _, absent, sources, _ = source
    for part in ("all", "tokenizer"):
        with pytest.raises(ModelNotFound):
            make_store(sources=sources).ensure(absent, part=part)


def test_a_bundled_model_can_be_stored_too(make_store: Callable[..., Any]) -> None:
    store = make_store()
    assert store.ensure("bundled://demo-awq").manifest.quantization == "awq"
    with pytest.raises(ModelNotFound):
        store.ensure("bundled://none")


@pytest.mark.parametrize("revision", ["", f":{COMMIT}", f"@{COMMIT}"])
def test_both_components_fetch_through_the_store(
    made: Any, server: Any, hub: Any, tmp_path: Path, revision: str
) -> None:
    model = made()
    model.files.update(TOKENIZER)
    hub(model)
    environment = {"PILOTLIGHT_STORE": str(tmp_path / "store"), "HF_ENDPOINT": server.origin}
    reference = parse_model_reference(f"hf://org/name{revision}")
    with model_folder(reference.uri, environment) as folder:
        assert folder.is_relative_to(tmp_path / "store")
        assert read(folder).named_templates == {"rag": "rag"}
    assert not server.bytes_sent()
    with stored_folder(reference, environment) as hold:
        assert model_source.check_directory(hold.path).is_relative_to(tmp_path / "store")
        assert server.bytes_sent() == model.weights_bytes


def test_a_component_that_cannot_fetch_says_what_to_do(tmp_path: Path, server: Any) -> None:
    environment = {"PILOTLIGHT_STORE": str(tmp_path / "store"), "HF_ENDPOINT": server.origin}
    with (
        pytest.raises(TokenizerFilesError, match="not on the hub, or needs a token"),
        model_folder("hf://org/none:main", environment),
    ):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="set PILOTLIGHT_STORE"):
        stored_folder(parse_model_reference("hf://org/n"), environment | {"PILOTLIGHT_STORE": str(tmp_path / "file")})
