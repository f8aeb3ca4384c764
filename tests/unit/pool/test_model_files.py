"""From URIs to facts: which models are the same, which may be swapped, what is refused."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotlight_engine.quantization import Device
from pilotlight_engine.swap.swap_combination import Versions
from pilotlight_pool.agent.model_files import ModelFiles
from pilotlight_pool.agent.node_facts import NodeFacts, NodeKernels, kv_cache_bytes
from pilotlight_pool.engine_orders import EngineOrder, ModelFacts, ModelOrder
from pilotlight_protocol.errors import Forbidden, InvalidInput, ModelNotFound
from pilotlight_store import SourceSettings, Store, StoreSettings
from pilotlight_store.published.published_models import PublishedModels


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


def described(files: ModelFiles, order: ModelOrder) -> ModelFacts:
    facts = files.known(order)
    assert facts is not None
    return facts


NODE = NodeFacts(
    "cpu", "0.32.0", kernels=NodeKernels(Device("cpu", instructions="x86_64"), Versions("0.32.0", "2.13.0", "ab"), {})
)


@pytest.fixture
def files() -> ModelFiles:
    return ModelFiles(None, NODE)


def test_folders_are_served_from_the_roots_alone_wherever_links_lead(tmp_path: Path) -> None:
    ours, theirs = model(tmp_path / "ours" / "m"), model(tmp_path / "theirs" / "m")
    (tmp_path / "ours" / "link").symlink_to(theirs)
    partly = model(tmp_path / "ours" / "partly")
    (partly / "model.safetensors").unlink()
    (partly / "model.safetensors").symlink_to(theirs / "model.safetensors")
    files = ModelFiles(None, NodeFacts("cpu", "0.32.0"), [tmp_path / "ours"])
    assert described(files, ModelOrder(str(ours))).weights_bytes > 8
    assert described(files, ModelOrder("bundled://demo-awq")).quantization == "awq"
    adapted = ModelOrder(str(ours), loras=(("a", str(adapter(tmp_path / "theirs" / "adapter", 8))),))
    for order in (
        ModelOrder(str(theirs)),
        ModelOrder(f"file://{tmp_path}/ours/link"),
        ModelOrder(str(partly)),
        adapted,
    ):
        with pytest.raises(Forbidden, match="--model_root"):
            described(files, order)


def test_fine_tunes_share_a_fingerprint_and_not_a_key(files: ModelFiles, tmp_path: Path) -> None:
    one = described(files, ModelOrder(str(model(tmp_path / "one", weights=b"1" * 8))))
    two = described(files, ModelOrder(str(model(tmp_path / "two", weights=b"2" * 8, eos_token_id=7))))
    wide = described(files, ModelOrder(str(model(tmp_path / "wide", hidden_size=16))))
    quantized = described(files, ModelOrder(str(model(tmp_path / "q", quantization_config={"quant_method": "gptq"}))))
    assert one.key != two.key
    assert one.fingerprint == two.fingerprint
    assert len({one.fingerprint, wide.fingerprint, quantized.fingerprint}) == 3
    assert (one.swappable, one.quantization) == (True, "none")
    assert one.combination == two.combination == wide.combination != quantized.combination
    assert one.tier == "ram"
    assert one.memory_bytes > one.weights_bytes > 8


def embedder(folder: Path, mode: str = "mean", *, weights: bytes = b"\0" * 8) -> Path:
    model(folder, weights=weights, architectures=["BertModel"])
    modules = [{"type": "Transformer", "path": ""}, {"type": "Pooling", "path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}_tokens": True}))
    return folder


def test_what_pools_otherwise_is_another_engine_and_none_is_swapped(files: ModelFiles, tmp_path: Path) -> None:
    plain = described(files, ModelOrder(str(model(tmp_path / "plain", architectures=["BertModel"]))))
    one = described(files, ModelOrder(str(embedder(tmp_path / "one", weights=b"1" * 8))))
    two = described(files, ModelOrder(str(embedder(tmp_path / "two", weights=b"2" * 8))))
    other = described(files, ModelOrder(str(embedder(tmp_path / "other", "cls"))))
    assert one.fingerprint == two.fingerprint
    assert len({facts.fingerprint for facts in (plain, one, other)}) == 3
    assert not any(facts.swappable for facts in (plain, one, two, other))
    generating = described(files, ModelOrder(str(model(tmp_path / "llama", architectures=["LlamaForCausalLM"]))))
    assert generating.memory_bytes - one.memory_bytes == 256 * 2**20, "an encoder has no KV cache"


def test_how_a_model_pools_is_part_of_what_it_is(files: ModelFiles, tmp_path: Path) -> None:
    folder = embedder(tmp_path / "m")
    before = described(files, ModelOrder(str(folder)))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    after = described(files, ModelOrder(str(folder)))
    assert before.key != after.key
    assert before.fingerprint != after.fingerprint


def test_how_a_model_pools_is_read_from_the_roots_alone(tmp_path: Path) -> None:
    ours, theirs = embedder(tmp_path / "ours" / "m"), embedder(tmp_path / "theirs" / "m")
    shutil.rmtree(ours / "1_Pooling")
    (ours / "1_Pooling").symlink_to(theirs / "1_Pooling")
    files = ModelFiles(None, NodeFacts("cpu", "0.32.0"), [tmp_path / "ours"])
    with pytest.raises(Forbidden, match="--model_root"):
        described(files, ModelOrder(str(ours)))


def test_engine_arguments_and_adapters_are_part_of_the_engine(files: ModelFiles, tmp_path: Path) -> None:
    folder = str(model(tmp_path / "m"))
    small, large = (str(adapter(tmp_path / f"r{rank}", rank)) for rank in (8, 64))
    plain = described(files, ModelOrder(folder))
    eager = described(files, ModelOrder(folder, {"enforce_eager": "true"}))
    with_small = described(files, ModelOrder(folder, loras=(("a", small),)))
    with_large = described(files, ModelOrder(folder, loras=(("a", large),)))
    renamed = described(files, ModelOrder(folder, loras=(("b", small),)))
    assert plain.key == eager.key
    assert len({facts.fingerprint for facts in (plain, eager, with_small, with_large)}) == 4
    assert len({facts.key for facts in (plain, with_small, with_large, renamed)}) == 4


def test_a_quantization_among_the_engine_arguments_counts(files: ModelFiles, tmp_path: Path) -> None:
    folder = str(model(tmp_path / "m"))
    plain = described(files, ModelOrder(folder))
    asked = described(files, ModelOrder(folder, {"quantization": "fp8"}))
    assert plain.kind != asked.kind
    assert asked.quantization == "fp8"
    assert plain.combination != asked.combination


def test_the_kv_cache_is_counted_as_vllm_will_take_it(tmp_path: Path) -> None:
    folder = str(model(tmp_path / "m"))
    by_argument = ModelFiles(None, NodeFacts("cpu", "0.32.0", kv_cache_bytes("cpu", {})))
    space = kv_cache_bytes("cpu", {"VLLM_CPU_KVCACHE_SPACE": "3"})
    by_variable = ModelFiles(None, NodeFacts("cpu", "0.32.0", space))
    asked = ModelOrder(folder, {"kv_cache_memory_bytes": str(2**30)})
    least, gib = described(by_argument, ModelOrder(folder)).memory_bytes, described(by_argument, asked).memory_bytes
    assert gib - least == 2**30 - 256 * 2**20
    assert described(by_variable, asked).memory_bytes == gib + 2 * 2**30
    for text in ("64G", "1e9", "-1", "0", "", "²"):
        with pytest.raises(InvalidInput, match="bytes in digits"):
            described(by_argument, ModelOrder(folder, {"kv_cache_memory_bytes": text}))
    assert kv_cache_bytes("cuda", {"VLLM_CPU_KVCACHE_SPACE": "3"}) is None
    with pytest.raises(InvalidInput, match="whole GiB"):
        kv_cache_bytes("cpu", {"VLLM_CPU_KVCACHE_SPACE": "0.5"})


def test_a_folder_whose_files_change_is_another_model(files: ModelFiles, tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    before = described(files, ModelOrder(str(folder)))
    assert described(files, ModelOrder(folder.as_uri())).key == before.key
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert described(files, ModelOrder(str(folder))).key != before.key


def test_a_file_that_says_it_is_larger_than_any_memory_is_described_without_mapping_it(
    files: ModelFiles, tmp_path: Path
) -> None:
    folder = model(tmp_path / "m", weights=b"")
    length = 2**42
    header = json.dumps({"w": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}}).encode()
    with (folder / "model.safetensors").open("wb") as weights:
        weights.write(struct.pack("<Q", len(header)) + header)
        weights.truncate(8 + len(header) + length)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = described(files, ModelOrder(str(folder)))
    assert (facts.tier, facts.weights_bytes) == ("disk", 8 + len(header) + length)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100_000


def test_a_model_that_lies_is_refused_until_its_files_change(files: ModelFiles, tmp_path: Path) -> None:
    config, order = tmp_path / "m" / "config.json", ModelOrder(str(model(tmp_path / "m", hidden_size=10**9)))
    for _ in range(2):
        with pytest.raises(InvalidInput, match="hidden_size 1000000000, but all tensors together have 8 elements"):
            files.known(order)
    config.write_text('{"hidden_size": 8}')
    (tmp_path / "m" / "generation_config.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"generation_config\.json is not valid JSON"):
        files.known(order)
    (tmp_path / "m" / "generation_config.json").unlink()
    assert described(files, order).weights_bytes > 8


def test_bundled_models(files: ModelFiles) -> None:
    facts = described(files, ModelOrder("bundled://demo-awq"))
    assert (facts.quantization, facts.swappable) == ("awq", True)
    assert facts.weights_bytes > 1_000_000


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("bundled://nothing", ModelNotFound),
        ("relative", InvalidInput),
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
        described(files, ModelOrder(uri.format(tmp=tmp_path)))


def test_without_a_store_only_folders_are_models(files: ModelFiles) -> None:
    with pytest.raises(InvalidInput, match="--store"):
        files.peek(ModelOrder("hf://org/name"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    settings = StoreSettings(tmp_path / "store", sources=SourceSettings(claims_folder=tmp_path / "claims"))
    with Store(settings) as opened:
        yield opened


def fetched(files: ModelFiles, uri: str) -> None:
    files.fetch(uri, threading.Event(), lambda progress: None)


def test_a_stored_model_is_named_by_its_digest_and_kept_while_it_is_used(tmp_path: Path, store: Store) -> None:
    model(tmp_path / "claims" / "team" / "m")
    files = ModelFiles(store, NodeFacts("cpu", "0.32.0"))
    order = ModelOrder("pvc://team/m")
    assert files.known(order) is files.peek(order) is None
    fetched(files, order.uri)
    facts = described(files, order)
    assert facts == files.peek(order)
    assert facts.key == store.list()[0].digest
    located, hold = files.hold(EngineOrder(order, facts, "m"))
    assert hold is not None
    assert (located.folder, store.list()[0].holds) == (hold.path, 1)
    hold.release()
    store.remove(facts.key)
    assert files.known(order) is files.peek(order) is None
    with pytest.raises(ModelNotFound):
        files.hold(EngineOrder(order, facts, "m"))


def test_an_engine_gets_what_was_described_without_its_source(tmp_path: Path, store: Store) -> None:
    source = model(tmp_path / "claims" / "team" / "m")
    files = ModelFiles(store, NodeFacts("cpu", "0.32.0"))
    adapted = ModelOrder("pvc://team/m", loras=(("a", str(adapter(tmp_path / "a", 8))),))
    orders = []
    for asked in (ModelOrder("pvc://team/m"), adapted):
        fetched(files, asked.uri)
        orders.append(EngineOrder(asked, described(files, asked), "m"))
    shutil.rmtree(source)
    restarted = ModelFiles(store, NodeFacts("cpu", "0.32.0"))
    for order in orders:
        assert restarted.known(order.model) is None, "its source has to be asked"
        _, hold = restarted.hold(order)
        assert hold is not None
        hold.release()
    os.utime(tmp_path / "a" / "adapter_config.json", ns=(1, 1))
    with pytest.raises(ModelNotFound, match="ask again"):
        restarted.hold(orders[1])
    assert store.list()[0].holds == 0


def test_a_folder_is_held_as_it_was_described(files: ModelFiles, tmp_path: Path) -> None:
    order = ModelOrder(str(model(tmp_path / "m")))
    engine = EngineOrder(order, described(files, order), "m")
    assert files.hold(engine)[1] is None
    os.utime(tmp_path / "m" / "model.safetensors", ns=(1, 1))
    with pytest.raises(ModelNotFound, match="ask again"):
        files.hold(engine)


def test_what_a_crash_may_have_hurt_is_not_here_before_it_was_read(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(tmp_path / "claims" / "team" / "m")
    files = ModelFiles(store, NodeFacts("cpu", "0.32.0"))
    order = ModelOrder("pvc://team/m")
    fetched(files, order.uri)
    engine = EngineOrder(order, described(files, order), "m")
    monkeypatch.setattr(PublishedModels, "trusted", lambda published, digest: False)
    assert files.known(order) is files.peek(order) is None
    with pytest.raises(ModelNotFound, match="verified first"):
        files.hold(engine)
