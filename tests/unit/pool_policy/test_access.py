"""Lease keys: what a tenant may ask for, and what a wrong file is told."""

import hashlib
import json

import pytest

from pilotlight_pool.policy.leases.access import TRUSTED, Caller, check_order, parse_keys, tenant_of
from pilotlight_protocol.errors import Forbidden, InvalidInput

HASH = hashlib.sha256(b"key").hexdigest()
ACME = Caller(
    "acme", operator=False, sources=("s3://acme/", "hf://acme/tiny@", "file:///models/acme/", "bundled://demo")
)


def test_keys_are_one_tenants_or_the_operators() -> None:
    entries = [{"sha256": HASH, "tenant": "acme", "sources": ["s3://acme/"]}, {"sha256": "0" * 64, "operator": True}]
    keys = parse_keys(json.dumps({"keys": entries}))
    assert keys == {HASH: Caller("acme", False, ("s3://acme/",)), "0" * 64: Caller(None, True)}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"sha256": "key", "tenant": "acme", "sources": ["s3://acme/"]}, "64 lower-case hex digits"),
        ({"sha256": HASH, "sources": ["s3://acme/"]}, "one tenant's or the operator's"),
        ({"sha256": HASH, "tenant": "acme", "operator": True}, "one tenant's or the operator's"),
        ({"sha256": HASH, "tenant": "", "sources": ["s3://acme/"]}, "one tenant's or the operator's"),
        ({"sha256": HASH, "tenant": "acme"}, "needs 'sources'"),
        ({"sha256": HASH, "tenant": "acme", "sources": [""]}, "needs 'sources'"),
        ({"sha256": HASH, "tenant": "acme", "source": ["s3://acme/"]}, "only sha256"),
        ("key", "64 lower-case hex digits"),
    ],
)
def test_an_entry_that_is_wrong_is_named_and_never_quoted(entry: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=f"lease key 2: .*{says}") as raised:
        parse_keys(json.dumps({"keys": [{"sha256": "0" * 64, "operator": True}, entry]}))
    assert HASH not in raised.value.message


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": 3}', "not json"])
def test_a_file_that_is_no_list_of_keys(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_keys(text)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://acme/m",
        "S3://acme/m",
        "s3://acme/a/b",
        "hf://acme/tiny@v1",
        "hf://acme/tiny:v1",
        "bundled://demo",
        "bundled://demo/",
        "/models/acme/m",
        "file:///models/acme/a%20b",
        "file://localhost/models/acme/m",
    ],
)
def test_sources_a_tenant_was_given(uri: str) -> None:
    check_order(ACME, [uri], {"max_model_len": "512"})


@pytest.mark.parametrize(
    "uri",
    [
        "s3://acme-secret/m",
        "s3://acme/../globex/m",
        "s3://acme/%2e%2e/globex/m",
        "file:///models/acme/../globex",
        "file:///models/acme/./../globex",
        "hf://acme/tiny-other",
        "bundled://demo-awq",
        "/models/globex/m",
        "/models/acme/../globex/m",
        "models/acme/m",
        "hf://acme/tiny",
        "pvc://acme/m",
        "ftp://acme/m",
    ],
)
def test_sources_a_tenant_was_not_given(uri: str) -> None:
    with pytest.raises(Forbidden, match="no source of tenant 'acme'"):
        check_order(ACME, ["s3://acme/m", uri], {})
    check_order(TRUSTED, [uri], {})


@pytest.mark.parametrize("source", ["hf://acme/tiny:v1", "hf://acme/tiny@v1"])
@pytest.mark.parametrize("uri", ["hf://acme/tiny:v1", "hf://acme/tiny@v1"])
def test_a_revision_is_the_same_however_key_and_request_spell_it(source: str, uri: str) -> None:
    keys = parse_keys(json.dumps({"keys": [{"sha256": HASH, "tenant": "acme", "sources": [source]}]}))
    check_order(keys[HASH], [uri], {})
    with pytest.raises(Forbidden):
        check_order(keys[HASH], [uri + "2"], {})


@pytest.mark.parametrize(
    "name", ["gpu_memory_utilization", "worker_extension_cls", "logits_processors", "hf_overrides", "download_dir", "x"]
)
def test_engine_arguments_that_could_run_code_read_files_or_take_others_memory(name: str) -> None:
    with pytest.raises(Forbidden, match=f"'{name}'"):
        check_order(ACME, ["s3://acme/m"], {"seed": "1", name: "y"})
    check_order(TRUSTED, ["s3://acme/m"], {name: "y"})


def test_a_key_leases_for_its_tenant_alone() -> None:
    assert (tenant_of(ACME, None), tenant_of(ACME, "acme")) == ("acme", "acme")
    assert (tenant_of(TRUSTED, None), tenant_of(TRUSTED, "globex")) == ("default", "globex")
    with pytest.raises(Forbidden):
        tenant_of(ACME, "globex")
    assert ACME.owns("acme")
    assert not ACME.owns("globex")
    assert TRUSTED.owns("globex")
