"""What an agent finds out about an adapter that a lease brings: which engine it needs, and whether it has changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from adapter_folders import write_adapter

from pilotlight_engine.quantization import Device
from pilotlight_engine.swap.swap_combination import Versions
from pilotlight_models.adapter import folder_stamp
from pilotlight_pool.agent.model_files import ModelFiles
from pilotlight_pool.agent.node_facts import NodeFacts, NodeKernels
from pilotlight_pool.engine_orders import EngineOrder, GrantedAdapter, ModelFacts, ModelOrder
from pilotlight_protocol.errors import Forbidden, InvalidInput, ModelNotFound, Unavailable
from pilotlight_store import Store, StoreSettings

BASE = "bundled://demo-bf16"


@pytest.fixture
def files() -> ModelFiles:
    kernels = NodeKernels(Device("cpu"), Versions("0.32.0", "2.13.0", "ab"), {})
    return ModelFiles(None, NodeFacts("cpu", "0.32.0", kernels=kernels))


def described(files: ModelFiles, adapter: Path | str = "", base: str = BASE) -> ModelFacts:
    facts = files.known(ModelOrder(base, adapter=str(adapter)))
    assert facts is not None
    return facts


def test_adapters_of_one_rank_class_need_one_engine(files: ModelFiles, tmp_path: Path) -> None:
    plain = described(files)
    small, middle, large = (described(files, write_adapter(tmp_path / str(rank), rank)) for rank in (2, 16, 17))
    assert small.kind == middle.kind
    assert small.adapter_key != middle.adapter_key
    assert (small.adapter_rank, large.adapter_rank, plain.adapter_rank) == (16, 64, 0)
    assert len({plain.fingerprint, small.fingerprint, large.fingerprint}) == 3
    assert plain.key == small.key == large.key, "the base's bytes"
    assert (plain.swappable, small.swappable) == (True, False)
    assert small.memory_bytes - plain.memory_bytes > 16 * 2 * (256 + 512) * 4, (
        "room for adapters, not for this one alone"
    )


def test_the_same_adapter_of_another_base_is_refused(files: ModelFiles, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a")
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    with pytest.raises(InvalidInput, match="cannot be served with this base"):
        described(files, adapter)
    with pytest.raises(InvalidInput, match="not a LoRA adapter"):
        described(files, BASE)


def test_an_adapter_that_changed_since_it_was_asked_for_is_not_granted(files: ModelFiles, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    key = described(files, folder).adapter_key
    assert files.hold_adapter(GrantedAdapter(str(folder), key)) == (folder, folder_stamp(folder), None)
    write_adapter(folder, 16)
    with pytest.raises(Unavailable, match="has changed"):
        files.hold_adapter(GrantedAdapter(str(folder), key))
    shutil.rmtree(folder)
    with pytest.raises(ModelNotFound):
        files.hold_adapter(GrantedAdapter(str(folder), key))


def test_an_adapter_that_was_evicted_is_asked_for_again(tmp_path: Path) -> None:
    """404 would end the predictor; asking again has it fetched again."""
    with Store(StoreSettings(tmp_path / "store")) as store:
        files = ModelFiles(store, NodeFacts("cpu", "0.32.0"))
        with pytest.raises(Unavailable, match="evicted"):
            files.hold_adapter(GrantedAdapter("s3://bucket/adapter", "0" * 64))


def test_an_engine_holds_its_base_whatever_becomes_of_the_first_adapter(files: ModelFiles, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    order = ModelOrder(BASE, adapter=str(folder))
    facts = described(files, folder)
    (folder / "adapter_config.json").unlink()
    located, _ = files.hold(EngineOrder(order, facts, "m"))
    assert located.identity == facts.key


def test_an_adapter_outside_of_the_roots_is_not_served(tmp_path: Path) -> None:
    files = ModelFiles(None, NodeFacts("cpu", "0.32.0"), [tmp_path / "models"])
    with pytest.raises(Forbidden, match="model_root"):
        described(files, write_adapter(tmp_path / "elsewhere"))


def test_a_stamp_is_of_one_content(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    stamps = [folder_stamp(folder), folder_stamp(write_adapter(folder, 16))]
    (folder / "adapter_config.json").unlink()
    stamps.append(folder_stamp(folder))
    assert len(set(stamps)) == 3
    assert stamps[-1] == "", "there is nothing to load"


@pytest.mark.parametrize(("named", "told"), [("mistral-7b", True), ("/root/models/demo-bf16/", False)])
def test_an_adapter_that_names_another_base_is_told_of_once(
    files: ModelFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture, named: str, told: bool
) -> None:
    """Weights of the same shapes cannot tell, so it is served."""
    folder = write_adapter(tmp_path / "a")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": named}))
    for _ in range(2):
        described(files, folder)
    said = [record.getMessage() for record in caplog.records if "was trained on" in record.getMessage()]
    assert len(said) == int(told), said
