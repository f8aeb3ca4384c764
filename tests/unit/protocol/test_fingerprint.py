from __future__ import annotations

import hashlib
import json
import tracemalloc
from typing import Any

import pytest

from pilotlight_protocol.fingerprint import (
    HeaderInvalid,
    TensorEntry,
    TensorSpan,
    architecture_hash,
    canonical_config,
    engine_fingerprint,
    merged_inventory,
    tensor_spans,
)

CONFIG: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 64,
    "torch_dtype": "bfloat16",
    "rope": {"theta": 1e4},
}
TENSORS = (TensorEntry("a", "BF16", (2, 3)), TensorEntry("b", "I32", (4,)))


def header(entries: Any) -> bytes:
    body = json.dumps(entries).encode()
    return len(body).to_bytes(8, "little") + body


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_where_the_tensors_of_a_header_lie() -> None:
    prefix = header(
        {"b": tensor("I32", [4], 12, 28), "a": tensor("BF16", [2, 3], 0, 12), "__metadata__": {"format": "pt"}}
    )
    first, second = tensor_spans(prefix, len(prefix) + 28)
    assert first == TensorSpan(len(prefix), len(prefix) + 12, TENSORS[0])
    assert second == TensorSpan(len(prefix) + 12, len(prefix) + 28, TENSORS[1])


def test_metadata_may_be_called_as_what_tensors_have() -> None:
    metadata = {"dtype": "bf16", "shape": "wide", "data_offsets": "none", "ss_args": json.dumps([{"a": 1}] * 99)}
    assert tensor_spans(header({"__metadata__": metadata}), len(header({"__metadata__": metadata}))) == ()


def repeated(entry: str, size_bytes: int) -> bytes:
    body = ("{" + ",".join(entry.replace("NAME", f"{n:x}") for n in range(size_bytes // len(entry))) + "}").encode()
    return len(body).to_bytes(8, "little") + body


@pytest.mark.parametrize(
    "entry",
    [
        '"NAME":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}',
        '"NAME":{}',
        '"NAME":1',
        '"":{}',
        '"NAME":{"dtype":"I8","shape":[0],"data_offsets":[0,0],"more":[[],[],[],[]]}',
        '"NAME":{"dtype":"I8","shape":[[],[],[]],"data_offsets":[0,0]}',
    ],
)
def test_a_header_of_nothing_but_entries_is_refused_before_they_take_memory(entry: str) -> None:
    prefix = repeated(entry, 48 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(HeaderInvalid):
            tensor_spans(prefix, len(prefix))
        assert tracemalloc.get_traced_memory()[1] < len(prefix)
    finally:
        tracemalloc.stop()


def test_the_hash_of_many_tensors_is_that_of_their_canonical_json() -> None:
    many = tuple(TensorEntry(f"layer.{number}", "BF16", (number, 2)) for number in range(5000))
    by_name = sorted(many, key=lambda tensor: tensor.name)
    whole = {"config": {}, "quantization": "none", "tensors": [[t.name, t.dtype, list(t.shape)] for t in by_name]}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    assert architecture_hash({}, many, "none") == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("prefix", "extra_bytes", "message"),
    [
        (b"\x01", 0, "at least 8"),
        ((2**62).to_bytes(8, "little"), 0, "claims"),
        (header({})[:-1], 0, "ends inside"),
        (header([1]), 0, "no JSON object"),
        (b"\x03\0\0\0\0\0\0\0{]}", 0, "no JSON"),
        ((200_005).to_bytes(8, "little") + b'{"a":' + b"[" * 200_000, 0, "no JSON"),
        ((10).to_bytes(8, "little") + b'{"a":"\xff\xff"}', 0, "no JSON"),
        ((8).to_bytes(8, "little") + b'{"\xff":{}}', 0, "no JSON"),
        (header({"a": 1}), 0, "no JSON object"),
        (header({"a": tensor("F32", [2], 0, 7)}), 7, "does not fill"),
        (header({"a": tensor("F32", [-1], 0, 4)}), 4, "no JSON object of tensors: .*shape"),
        (header({"a": tensor("F32", [1], 4, 8)}), 8, "begins at 4"),
        (header({"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 2, 6)}), 6, "begins at 2"),
        (header({"a": tensor("F32", [1], 0, 4)}), 5, "bytes of"),
        (header({"a": {"dtype": "F32", "shape": [1]}}), 4, "lacks"),
        (header({"a": tensor("F32", [2**64], 0, 4)}), 4, "no JSON object of tensors: .*shape"),
        (header({"a": tensor("F32", [1] * 65, 0, 4)}), 4, "no JSON object of tensors: .*shape"),
        (header({"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}), 4, "lacks"),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}), 4, "lacks"),
    ],
)
def test_a_header_that_contradicts_itself_or_its_file_is_refused(prefix: bytes, extra_bytes: int, message: str) -> None:
    with pytest.raises(HeaderInvalid, match=message):
        tensor_spans(prefix, len(prefix) + extra_bytes)


def test_how_tensors_are_spread_over_files_does_not_matter_but_twice_is_once_too_often() -> None:
    assert merged_inventory([TENSORS[1:], TENSORS[:1]]) == merged_inventory([TENSORS]) == TENSORS
    with pytest.raises(HeaderInvalid, match="two files"):
        merged_inventory([TENSORS, TENSORS[:1]])


@pytest.mark.parametrize(
    "change",
    [
        {"transformers_version": "5.0"},
        {"_name_or_path": "elsewhere"},
        {"eos_token_id": [1, 2]},
        {"temperature": 0.1},
        {"attention_dropout": 0.1},
        {"torch_dtype": "bfloat16"},
    ],
)
def test_what_a_fine_tune_may_change(change: dict[str, object]) -> None:
    assert architecture_hash(CONFIG | change, TENSORS, "none") == architecture_hash(CONFIG, TENSORS, "none")


@pytest.mark.parametrize(
    ("config", "tensors", "quantization"),
    [
        (CONFIG | {"hidden_size": 65}, TENSORS, "none"),
        (CONFIG | {"rope": {"theta": 5e5}}, TENSORS, "none"),
        (CONFIG | {"sliding_window": None}, TENSORS, "none"),
        (CONFIG, TENSORS[:1], "none"),
        (CONFIG, (TensorEntry("a", "BF16", (3, 2)), TENSORS[1]), "none"),
        (CONFIG, (TensorEntry("a", "F16", (2, 3)), TENSORS[1]), "none"),
        (CONFIG, TENSORS, "awq"),
    ],
)
def test_what_makes_another_architecture(
    config: dict[str, object], tensors: tuple[TensorEntry, ...], quantization: str
) -> None:
    assert architecture_hash(config, tensors, quantization) != architecture_hash(CONFIG, TENSORS, "none")


def test_dtype_has_two_names_and_nested_configs_are_canonical_too() -> None:
    nested = {"text_config": {"torch_dtype": "float16", "use_cache": True, "layers": 2}}
    assert canonical_config(nested) == {"text_config": {"dtype": "float16", "layers": 2}}


def test_every_part_of_the_engine_counts() -> None:
    def made(**change: Any) -> str:
        parts: dict[str, Any] = {
            "engine_arguments": {"max_model_len": 512},
            "vllm_version": "0.32.0",
            "device": "cpu",
        }
        return engine_fingerprint("a1", **(parts | change))

    variants = [
        made(),
        made(engine_arguments={"max_model_len": 1024}),
        made(vllm_version="0.33.0"),
        made(device="NVIDIA H100"),
    ]
    assert len(set(variants)) == len(variants)
    assert made() == made()
