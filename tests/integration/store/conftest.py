"""Servers of our own for the store's tests: one that counts ranges and misbehaves on request, and a small hub."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from model_sources import RangeServer, Trouble, bucket_of, publish_on_hub, s3_server

from pilotlight_protocol.back_off import BackOff
from pilotlight_store import SourceSettings, Store, StoreSettings, TransferSettings
from pilotlight_store.sources.addresses import AddressRules
from pilotlight_store.transfer.retry import RetryRules

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class MadeModel:
    """A tiny model: its files, and the manifest as a dict that fits them."""

    files: dict[str, bytes]
    manifest: dict[str, object] = field(default_factory=dict)

    @property
    def weights_bytes(self) -> int:
        return sum(len(body) for name, body in self.files.items() if name.endswith(".safetensors"))


def make_model(weights_bytes: int = 3_000_000, shards: int = 1, seed: int = 0) -> MadeModel:
    noise = random.Random(seed)
    files = {
        "config.json": json.dumps(
            {"model_type": "llama", "hidden_size": 8, "max_position_embeddings": 2048, "torch_dtype": "bfloat16"}
        ).encode(),
        "tokenizer.json": b'{"seed": %d}' % seed,
        "tokenizer_config.json": b"{}",
    }
    weight_map = {}
    for number in range(shards):
        size = weights_bytes // shards
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        entry = {f"w{number}": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
        header = json.dumps(entry).encode()
        files[name] = len(header).to_bytes(8, "little") + header + noise.randbytes(size)
        weight_map[f"w{number}"] = name
    if shards > 1:
        files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    manifest = {
        "format": 1,
        "files": [
            {"name": name, "size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            for name, body in files.items()
        ],
        "quantization": "none",
        "dtype": "bfloat16",
        "context_length": 2048,
    }
    return MadeModel(files, manifest)


@pytest.fixture
def made() -> Callable[..., MadeModel]:
    return make_model


@pytest.fixture
def server() -> Iterator[RangeServer]:
    running = RangeServer()
    yield running
    running.close()


@pytest.fixture
def trouble() -> type[Trouble]:
    return Trouble


@pytest.fixture
def serve_model(server: RangeServer) -> Callable[..., str]:
    """Puts a model below /model (or another folder) and returns its URI."""

    def serve(model: MadeModel, folder: str = "/model", *, manifest: bool = False) -> str:
        server.files |= {f"{folder}/{name}": body for name, body in model.files.items()}
        if manifest:
            server.files[f"{folder}/pilotlight-manifest.json"] = json.dumps(model.manifest).encode()
        return server.origin + folder

    return serve


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """A store with small chunks, quick retries, and loopback allowed unless said otherwise."""
    opened: list[Store] = []

    def make(folder: Path | None = None, **change: Any) -> Store:
        sources = change.pop("sources", SourceSettings(addresses=AddressRules(allow_private=True), timeout_s=10.0))
        transfer = TransferSettings(
            workers=3,
            chunk_bytes=CHUNK_BYTES,
            longest_run_bytes=4 * CHUNK_BYTES,
            retries=RetryRules(attempts=3, back_off=BackOff(0.01, 0.05)),
        )
        settings = StoreSettings(folder or tmp_path / "store", sources=sources, transfer=transfer, **change)
        opened.append(Store(settings))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def hub(server: Any) -> Any:
    """Makes the counting server answer like a hub for org/name."""

    def publish(model: Any, repository: str = "org/name") -> None:
        publish_on_hub(server, model.files, repository)

    return publish


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[dict[str, str]]:
    """obstore's options for a moto server of its own."""
    with s3_server(tmp_path) as options:
        yield options


@pytest.fixture
def bucket(s3: dict[str, str]) -> Any:
    return bucket_of(s3, "models")
