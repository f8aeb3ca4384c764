"""Which checkpoints may be exchanged inside one running engine.

`architecture_hash` covers what the model's files fix (config, tensor inventory, quantization); `engine_fingerprint`
adds what the engine fixes (its arguments, vLLM's version, the device). Equal fingerprints mean that a swap is
*possible*; whether it is allowed on a device is the list of proven combinations'. Pure: header bytes come in, hashes go
out.

What is left out of the config, and why it is safe: names and versions of the tools that wrote it, initial values and
dropout that only training reads, and token ids and sampling defaults, which a swap sets anew (design 4.2).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit
HEADER_LENGTH_BYTES = 8
MAX_RANK = 64  # PyTorch's own limit on a tensor's dimensions
MAX_TENSORS = 2**19
"""Of one model. A GPTQ of the largest published one (384 experts, 60 layers) has some 280,000."""
_METADATA_BRACES = 2**16  # trainers write JSON into its texts
_HASHED_AT_ONCE = 2048  # the encoder lets no other thread run meanwhile
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_WRITTEN_BY_TOOLS = frozenset(
    {"_name_or_path", "_commit_hash", "transformers_version", "unsloth_version", "unsloth_fixed"}
)
_TRAINING_ONLY = frozenset({
    "initializer_range", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "gradient_checkpointing", "use_cache", "torchscript", "router_aux_loss_coef", "output_router_logits",
})  # fmt: skip
_SET_BY_A_SWAP = frozenset({
    "bos_token_id", "eos_token_id", "pad_token_id", "temperature", "top_p", "top_k", "typical_p", "do_sample",
    "max_length", "min_length", "repetition_penalty", "length_penalty", "num_beams", "num_beam_groups",
    "no_repeat_ngram_size", "early_stopping", "num_return_sequences", "diversity_penalty",
})  # fmt: skip
_IGNORED = _WRITTEN_BY_TOOLS | _TRAINING_ONLY | _SET_BY_A_SWAP


class HeaderInvalid(ValueError):
    """The bytes are no safetensors header, or one that contradicts itself or its file."""


# Bounded, because a header of huge numbers would keep their product busy for hours.
_Numbers = Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]], msgspec.Meta(max_length=MAX_RANK)]


class _Entry(msgspec.Struct, gc=False):
    """What a header says of one tensor, or its `__metadata__`: texts by names, which may be these."""

    dtype: str = ""
    shape: _Numbers | str = ""
    data_offsets: _Numbers | str = ""


_HEADER = msgspec.json.Decoder(dict[str, _Entry])


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as its file's header states it; `dtype` in safetensors' words (`BF16`, `I32`)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """Where a tensor's bytes lie in its file: [start, end), from the file's first byte."""

    start: int
    end: int
    entry: TensorEntry


def header_length(prefix: bytes) -> int:
    """Bytes of JSON that follow the first eight. Raises HeaderInvalid when the file cannot be safetensors."""
    if len(prefix) < HEADER_LENGTH_BYTES:
        raise HeaderInvalid("a safetensors file has at least 8 bytes")
    length = int.from_bytes(prefix[:HEADER_LENGTH_BYTES], "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise HeaderInvalid(f"the header claims {length} bytes, allowed are 2 to {MAX_HEADER_BYTES}")
    return length


def tensor_spans(header: bytes, file_size_bytes: int) -> tuple[TensorSpan, ...]:
    """Where the tensors of one file lie, in the order of their bytes.

    `header` is the file's beginning: the eight length bytes and the JSON after them. Raises HeaderInvalid when the
    tensors do not tile the rest of the file exactly (safetensors format: no holes, no overlap, no trailing bytes).
    """
    length = header_length(header)
    if len(header) < HEADER_LENGTH_BYTES + length:
        raise HeaderInvalid("the file ends inside its header")
    end = data_start = HEADER_LENGTH_BYTES + length
    if header.count(b"{") > MAX_TENSORS + _METADATA_BRACES:  # before anything is made of them
        raise HeaderInvalid(f"the header has more than {MAX_TENSORS} tensors")
    try:
        entries = _HEADER.decode(memoryview(header)[HEADER_LENGTH_BYTES:data_start])
    except msgspec.ValidationError as error:
        raise HeaderInvalid(f"the header is no JSON object of tensors: {error}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise HeaderInvalid(f"the header is no JSON: {error}") from error
    entries.pop("__metadata__", None)
    spans = sorted((_span(name, entry, data_start) for name, entry in entries.items()), key=_place)
    for span in spans:
        if span.start != end:
            raise HeaderInvalid(
                f"tensor {span.entry.name!r} begins at {span.start - data_start}, "
                f"the one before it ends at {end - data_start}"
            )
        end = span.end
    if end != file_size_bytes:
        raise HeaderInvalid(f"header and tensors take {end} bytes of {file_size_bytes}")
    return tuple(spans)


def _place(span: TensorSpan) -> tuple[int, int]:
    return span.start, span.end


def _span(name: str, entry: _Entry, data_start: int) -> TensorSpan:
    dtype, shape, offsets = entry.dtype, entry.shape, entry.data_offsets
    if not dtype or isinstance(shape, str) or isinstance(offsets, str) or len(offsets) != 2:
        raise HeaderInvalid(f"tensor {name!r} lacks dtype, shape or data_offsets")
    begin, stop = offsets
    bits = _BITS.get(dtype)
    if stop < begin or (bits is not None and math.prod(shape) * bits != (stop - begin) * 8):
        raise HeaderInvalid(f"tensor {name!r}: {dtype} {shape} does not fill bytes {begin} to {stop}")
    return TensorSpan(data_start + begin, data_start + stop, TensorEntry(name, dtype, tuple(shape)))


def merged_inventory(files: Iterable[Sequence[TensorEntry]]) -> tuple[TensorEntry, ...]:
    """All tensors of a model, whichever way they are spread over files. Raises HeaderInvalid for a name given twice."""
    merged = sorted((tensor for tensors in files for tensor in tensors), key=_name)
    for previous, tensor in itertools.pairwise(merged):
        if previous.name == tensor.name:
            raise HeaderInvalid(f"tensor {tensor.name!r} is in two files")
    return tuple(merged)


def _name(tensor: TensorEntry) -> str:
    return tensor.name


def canonical_config(config: Mapping[str, object]) -> dict[str, object]:
    """The part of a config.json that decides what an engine builds; nested configs (text, vision) alike.

    `torch_dtype` is transformers' older name of `dtype`. null is kept: it is not the same as a key left out.
    """
    canonical: dict[str, object] = {}
    for key, value in config.items():
        if key in _IGNORED:
            continue
        name = "dtype" if key == "torch_dtype" else key
        canonical[name] = canonical_config(value) if isinstance(value, Mapping) else value
    return canonical


def architecture_hash(config: Mapping[str, object], tensors: Sequence[TensorEntry], quantization: str) -> str:
    """Hex sha256 of what a model's own files fix; the `architecture` of its manifest."""
    empty = _canonical({"config": canonical_config(config), "tensors": [], "quantization": quantization})
    digest = hashlib.sha256(empty[:-2].encode())
    ordered = sorted(tensors, key=_name)
    for start in range(0, len(ordered), _HASHED_AT_ONCE):
        some = [[tensor.name, tensor.dtype, tensor.shape] for tensor in ordered[start : start + _HASHED_AT_ONCE]]
        digest.update((("," if start else "") + _canonical(some)[1:-1]).encode())
    digest.update(b"]}")
    return digest.hexdigest()


def engine_fingerprint(
    architecture: str,
    *,
    engine_arguments: Mapping[str, object],
    vllm_version: str,
    device: str,
) -> str:
    """Hex sha256 of what a running engine can exchange weights within.

    `engine_arguments`: every vLLM argument that is set, without the model's path and name. `device` is the kind, not
    the index (`cpu`, `NVIDIA H100`).
    """
    return _hash({
        "architecture": architecture,
        "engine_arguments": dict(engine_arguments),
        "vllm_version": vllm_version,
        "device": device,
    })  # fmt: skip


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True)


def _hash(value: object) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()
