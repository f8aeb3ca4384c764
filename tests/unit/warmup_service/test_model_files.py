"""From URIs to facts: which models are the same, which may be swapped, what is refused."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
from pilotlight_predictor.engine.swap_rules import PROVEN
from pilotlight_protocol.errors import Forbidden, InvalidInput, ModelNotFound
from pilotlight_warmup.agent.model_files import PROVEN_SWAPS, ModelFiles, NodeFacts
from pilotlight_warmup.agent_port import ModelOrder
from pilotlight_warmup.store import Store, StoreSettings


def model(folder: Path, *, weights: bytes = b"\0" * 8, dtype: str = "U8", **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8} | config))
    header = json.dumps({"w": {"dtype": dtype, "shape": [len(weights)], "data_offsets": [0, len(weights)]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + weights)
    return folder


def adapter(folder: Path, rank: int) -> Path:
    model(folder)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return folder


@pytest.fixture
def files() -> ModelFiles:
    return ModelFiles(None, NodeFacts("cpu", "0.32.0"))


def test_folders_are_served_from_the_roots_alone_wherever_links_lead(tmp_path: Path) -> None:
    ours, theirs = model(tmp_path / "ours" / "m"), model(tmp_path / "theirs" / "m")
    (tmp_path / "ours" / "link").symlink_to(theirs)
    partly = model(tmp_path / "ours" / "partly")
    (partly / "model.safetensors").unlink()
    (partly / "model.safetensors").symlink_to(theirs / "model.safetensors")
    files = ModelFiles(None, NodeFacts("cpu", "0.32.0"), [tmp_path / "ours"])
    assert files.describe(ModelOrder(str(ours))).weights_bytes > 8
    assert files.describe(ModelOrder("bundled://demo-awq")).quantization == "awq"
    adapted = ModelOrder(str(ours), loras=(("a", str(adapter(tmp_path / "theirs" / "adapter", 8))),))
    for order in (
        ModelOrder(str(theirs)),
        ModelOrder(f"file://{tmp_path}/ours/link"),
        ModelOrder(str(partly)),
        adapted,
    ):
        with pytest.raises(Forbidden, match="--model_root"):
            files.describe(order)


def test_fine_tunes_share_a_fingerprint_and_not_a_key(files: ModelFiles, tmp_path: Path) -> None:
    one = files.describe(ModelOrder(str(model(tmp_path / "one", weights=b"1" * 8))))
    two = files.describe(ModelOrder(str(model(tmp_path / "two", weights=b"2" * 8, eos_token_id=7))))
    wide = files.describe(ModelOrder(str(model(tmp_path / "wide", hidden_size=16))))
    quantized = files.describe(ModelOrder(str(model(tmp_path / "q", quantization_config={"quant_method": "gptq"}))))
    assert one.key != two.key
    assert one.fingerprint == two.fingerprint
    assert len({one.fingerprint, wide.fingerprint, quantized.fingerprint}) == 3
    assert (one.swappable, one.quantization, quantized.swappable) == (True, "none", False)
    assert one.tier == "ram"
    assert one.memory_bytes > one.weights_bytes > 8


def test_engine_arguments_and_adapters_are_part_of_the_engine(files: ModelFiles, tmp_path: Path) -> None:
    folder = str(model(tmp_path / "m"))
    small, large = (str(adapter(tmp_path / f"r{rank}", rank)) for rank in (8, 64))
    plain = files.describe(ModelOrder(folder))
    eager = files.describe(ModelOrder(folder, {"enforce_eager": "true"}))
    with_small = files.describe(ModelOrder(folder, loras=(("a", small),)))
    with_large = files.describe(ModelOrder(folder, loras=(("a", large),)))
    renamed = files.describe(ModelOrder(folder, loras=(("b", small),)))
    assert plain.key == eager.key
    assert len({facts.fingerprint for facts in (plain, eager, with_small, with_large)}) == 4
    assert len({facts.key for facts in (plain, with_small, with_large, renamed)}) == 4


def test_a_quantization_among_the_engine_arguments_counts(files: ModelFiles, tmp_path: Path) -> None:
    folder = str(model(tmp_path / "m"))
    plain = files.describe(ModelOrder(folder))
    asked = files.describe(ModelOrder(folder, {"quantization": "fp8"}))
    assert plain.kind != asked.kind
    assert (asked.quantization, asked.swappable) == ("fp8", False)


def test_a_folder_whose_files_change_is_another_model(files: ModelFiles, tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    before = files.describe(ModelOrder(str(folder)))
    assert files.describe(ModelOrder(folder.as_uri())).key == before.key
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert files.describe(ModelOrder(str(folder))).key != before.key


def test_bundled_models(files: ModelFiles) -> None:
    facts = files.describe(ModelOrder("bundled://demo-awq"))
    assert (facts.quantization, facts.swappable) == ("awq", True)
    assert facts.weights_bytes > 1_000_000


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("bundled://nothing", ModelNotFound),
        ("relative", InvalidInput),
        ("hf://org/name", InvalidInput),  # there is no store
        ("{tmp}/nowhere", ModelNotFound),
        ("{tmp}/pickled", InvalidInput),
        ("{tmp}/damaged", InvalidInput),
    ],
)
def test_what_is_no_model(files: ModelFiles, tmp_path: Path, uri: str, error: type[Exception]) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    damaged = model(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(error):
        files.describe(ModelOrder(uri.format(tmp=tmp_path)))


def test_a_stored_model_is_named_by_its_digest_and_kept_while_it_is_used(tmp_path: Path) -> None:
    source = model(tmp_path / "claims" / "team" / "m")
    settings = StoreSettings(tmp_path / "store")
    settings = StoreSettings(settings.folder, sources=type(settings.sources)(claims_folder=tmp_path / "claims"))
    with Store(settings) as store:
        files = ModelFiles(store, NodeFacts("cpu", "0.32.0"))
        order = ModelOrder("pvc://team/m")
        facts = files.describe(order)
        assert facts.key == store.list()[0].digest
        lease = files.keep(files.locate(order.uri))
        assert lease is not None
        assert store.list()[0].leases == 1
        lease.release()
        # Known for a while without asking the source; evicted, it is fetched again.
        store.remove(facts.key)
        assert files.describe(order).key == facts.key
    assert source.is_dir()


def test_the_list_of_proven_swaps_is_the_engine_hosts() -> None:
    assert PROVEN_SWAPS == PROVEN
