"""From a model's URI to a folder, a fingerprint and a tier. Blocking: called in threads.

Folders (a path, `file://`, `bundled://`) are served where they are; everything else goes through the store, under a
store hold for as long as an engine holds it. What was read of a model is kept per identity: a folder's is its files'
names, sizes and times, a stored model's its digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pilotlight_engine.boot import checkpoint_check
from pilotlight_engine.boot.lora import adapter_arguments
from pilotlight_models.adapter import folder_stamp
from pilotlight_models.checkpoint import adapter_rank, read_checkpoint
from pilotlight_models.folder_files import FileRefused, check_folder, read_object
from pilotlight_models.in_place import folder_in_place
from pilotlight_models.pooling_files import read_pooling_files
from pilotlight_pool.agent.brought_adapters import Brought, BroughtAdapters
from pilotlight_pool.agent.node_facts import NodeFacts, kv_bytes
from pilotlight_pool.engine_orders import EngineOrder, GrantedAdapter, ModelFacts, ModelOrder
from pilotlight_pool.policy.placement.prediction import Tier
from pilotlight_protocol.errors import Forbidden, InvalidInput, ModelNotFound, Unavailable
from pilotlight_protocol.fingerprint import engine_fingerprint
from pilotlight_protocol.model_config import dtype_of
from pilotlight_protocol.model_reference import parse_model_reference
from pilotlight_protocol.pooling_config import is_encoder, pooling_task
from pilotlight_store import Hold, Progress, Store
from pilotlight_store.published import page_cache

_Value = TypeVar("_Value")
_REMEMBERED = 1024
_RESOLUTION_KEPT_S = 300.0
_TIER_KEPT_S = 2.0
_ENGINE_BYTES = {"cpu": 1536 * 2**20, "cuda": 2 * 2**30}  # process and device context, without weights and KV cache


@dataclass(frozen=True)
class Located:
    """A model on this node. `digest` where the store has it, "" for a folder; `files` are its weights, `beside` what
    says how they pool."""

    identity: str
    folder: Path
    digest: str
    files: tuple[Path, ...]
    weights_bytes: int
    beside: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Architecture:
    """`pools`: it embeds or classifies. `caches`: its engine has a KV cache. `dtype`: `model_config.dtype_of`."""

    hash: str
    quantization: str
    pools: bool
    caches: bool
    config: Mapping[str, Any]
    dtype: str | None


class ModelFiles:
    """Thread-safe. `store` None: only folders are served. `roots`: folders outside of these are not, whatever links
    lead there; the bundled models always are."""

    def __init__(self, store: Store | None, node: NodeFacts, roots: Sequence[Path] = (Path("/"),)) -> None:
        self._roots = [root.resolve() for root in roots]
        self._store = store
        self._node = node
        self._lock = threading.Lock()
        self._architectures: OrderedDict[str, _Architecture] = OrderedDict()
        self._contents: OrderedDict[str, str] = OrderedDict()
        self._digests: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._adapters = BroughtAdapters()
        self._tiers: OrderedDict[str, tuple[Tier, float]] = OrderedDict()

    def _within_roots(self, located: Located, uri: str) -> Located:
        if not _is_bundled(uri):
            for path in (located.folder, *located.files, *located.beside, located.folder / "config.json"):
                if not any(path.resolve().is_relative_to(root) for root in self._roots):
                    raise Forbidden(f"{uri} is not a folder this pool serves from (--model_root)")
        return located

    def fetch(self, uri: str, cancel: threading.Event, report: Callable[[Progress], None]) -> None:
        """Have the store fetch what the source has now; `known` knows it then for a while. Takes minutes. Raises
        PilotlightError (400, 403, 404, 499, 502, 503, 507)."""
        hold, model = self._stored(uri).acquire(uri, cancel=cancel, on_progress=report)
        hold.release()
        with self._lock:
            _remember(self._digests, uri, (model.digest, time.monotonic() + _RESOLUTION_KEPT_S))

    def known(self, order: ModelOrder) -> ModelFacts | None:
        """What the model is; None where its source has to be asked first. Nothing is fetched here or below. Raises
        PilotlightError, InvalidInput for a folder that is no model."""
        return self._described(order, self._hold_fresh)

    def peek(self, order: ModelOrder) -> ModelFacts | None:
        """`known`, but a copy that has become old counts."""
        return self._described(order, lambda uri: self._stored(uri).last_fetched(uri))

    def is_known(self, uri: str) -> bool:
        """Whether its source need not be asked."""
        if _folder(uri) is not None:
            return True
        hold = self._hold_fresh(uri)
        if hold is not None:
            hold.release()
        return hold is not None

    def _hold_fresh(self, uri: str) -> Hold | None:
        with self._lock:
            digest, until_s = self._digests.get(uri, ("", 0.0))
        if not digest or time.monotonic() >= until_s:
            return None
        try:
            return self._stored(uri).hold(digest)
        except ModelNotFound:
            return None

    def _described(self, order: ModelOrder, hold: Callable[[str], Hold | None]) -> ModelFacts | None:
        with contextlib.ExitStack() as held:
            found: list[Located] = []
            for uri in order.uris:
                if _folder(uri) is not None:
                    found.append(self._in_place(uri))
                    continue
                kept = hold(uri)
                if kept is None:
                    return None
                held.callback(kept.release)
                found.append(_located(kept.path, kept.digest))
            return self._describe(order, *found)

    def hold(self, order: EngineOrder) -> tuple[Located, Hold | None]:
        """The model as it was described, kept from eviction while an engine serves it; None for a folder.

        Raises ModelNotFound where it is not here (any more), or is another one.
        """
        hold = self._kept(order)
        try:
            located = self._in_place(order.model.uri) if hold is None else _located(hold.path, hold.digest)
            if self._describe(msgspec.structs.replace(order.model, adapter=""), located).key != order.facts.key:
                raise ModelNotFound(f"{order.model.uri} has changed since it was asked for: ask again")
        except BaseException:
            if hold is not None:
                hold.release()
            raise
        return located, hold

    def hold_adapter(self, adapter: GrantedAdapter) -> tuple[Path, str, Hold | None]:
        """The adapter of a lease as it was described, kept from eviction, and its folder's stamp.

        Raises Unavailable where it has changed or was evicted since; ModelNotFound where there is none any more.
        """
        folder = _folder(adapter.uri)
        if folder is None:
            try:
                hold = self._stored(adapter.uri).hold(adapter.key)
            except ModelNotFound as error:
                raise Unavailable(f"{adapter.uri} was evicted since it was asked for: ask again") from error
            return hold.path, folder_stamp(hold.path), hold
        # Taken before the look at its content, so that it can only be of that content or of an earlier one.
        stamp = folder_stamp(folder)
        located = self._in_place(adapter.uri)
        if located.identity != adapter.key:
            raise Unavailable(f"{adapter.uri} has changed since it was asked for: ask again")
        return located.folder, stamp, None

    def _kept(self, order: EngineOrder) -> Hold | None:
        uri = order.model.uri
        if _folder(uri) is not None:
            return None
        # With adapters the key is more than the digest.
        hold = self._stored(uri).last_fetched(uri) if order.model.loras else self._stored(uri).hold(order.facts.key)
        if hold is None:
            raise ModelNotFound(f"{uri} has been evicted")
        return hold

    def _in_place(self, uri: str) -> Located:
        folder = _folder(uri)
        assert folder is not None  # whoever calls has looked
        located = self._within_roots(_located(folder, ""), uri)
        return self._by_content(located) if _is_bundled(uri) else located

    def _describe(self, order: ModelOrder, located: Located, adapter: Located | None = None) -> ModelFacts:
        brought = Brought()
        if adapter is not None:
            brought = self._adapters.described(
                adapter.identity, adapter.folder, located.identity, located.folder, order.uri, order.adapter
            )
        architecture = self._architecture(located)
        adapters = [
            (name, self._within_roots(_located(_adapter_folder(path), ""), path).identity) for name, path in order.loras
        ]
        arguments: dict[str, object] = dict(order.engine_args)
        if adapters:
            arguments |= {"enable_lora": True, "max_lora_rank": max(_rank(path) for _, path in order.loras)}
        if brought.rank and architecture.pools:
            raise InvalidInput("adapters are for models that generate, and this base makes vectors", param="adapter")
        if brought.rank:
            arguments |= adapter_arguments(brought.rank)
        quantization = order.quantization if order.quantization != "auto" else architecture.quantization
        by_argument = order.engine_args.get("quantization")
        arguments["quantization"] = quantization if by_argument is None else [quantization, by_argument]
        fingerprint = engine_fingerprint(
            architecture.hash,
            engine_arguments=arguments,
            vllm_version=self._node.vllm_version,
            device=self._node.device,
        )
        combination = None
        if not (brought.rank or architecture.pools):
            combination = self._node.combination(order, architecture.config, architecture.dtype)
        return ModelFacts(
            key=_hash([located.identity, adapters]) if adapters else located.identity,
            fingerprint=fingerprint,
            quantization=by_argument or quantization,
            weights_bytes=located.weights_bytes,
            memory_bytes=located.weights_bytes
            + _ENGINE_BYTES[self._node.device]
            + (kv_bytes(order, self._node) if architecture.caches else 0)
            + brought.room_bytes,
            tier=self.tier(located),
            swappable=combination is not None,
            adapter_key=brought.key,
            adapter_rank=brought.rank,
            combination=combination,
        )

    def tier(self, located: Located) -> Tier:
        """Measured, and believed for two seconds."""
        now_s = time.monotonic()
        with self._lock:
            known = self._tiers.get(located.identity)
        if known is not None and now_s < known[1]:
            return known[0]
        tier: Tier = "ram" if _is_resident(located) else "disk"
        with self._lock:
            _remember(self._tiers, located.identity, (tier, now_s + _TIER_KEPT_S))
        return tier

    def _stored(self, uri: str) -> Store:
        if self._store is None:
            raise InvalidInput(f"{uri}: this pool has no store; start it with --store, or give a folder")
        return self._store

    def _by_content(self, located: Located) -> Located:
        """Known by what is in it: every node has its own copy of an installed package's files, with its own times."""
        with self._lock:
            known = self._contents.get(located.identity)
        if known is None:
            files = sorted(check_folder(located.folder))
            known = _hash([[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])
            with self._lock:
                _remember(self._contents, located.identity, known)
        return replace(located, identity=known)

    def _architecture(self, located: Located) -> _Architecture:
        with self._lock:
            known = self._architectures.get(located.identity)
        if known is not None:
            return known
        read = _read_architecture(located)
        with self._lock:
            _remember(self._architectures, located.identity, read)
        return read


def _folder(uri: str) -> Path | None:
    """Where the model lies on this machine, None when the store has to fetch it."""
    folder = folder_in_place(parse_model_reference(uri))
    if folder is not None and not folder.is_absolute():
        raise InvalidInput(f"{uri!r} is neither a URI nor an absolute path")
    return folder


def _is_bundled(uri: str) -> bool:
    return parse_model_reference(uri).scheme == "bundled"


def _located(folder: Path, digest: str) -> Located:
    try:
        found = sorted(check_folder(folder).items())
        pooling = read_pooling_files(folder)
        # What makes vectors of the same weights, in folders of its own.
        beside = [(path, path.stat()) for path in pooling.files] if pooling is not None else []
    except OSError as error:
        raise ModelNotFound(f"{folder}: {error.strerror or error}") from error
    except FileRefused as error:
        raise InvalidInput(f"{folder} cannot be served: {error.message}") from error
    weights = [(path, facts) for path, facts in found if path.suffix == ".safetensors"]
    if not weights:
        raise InvalidInput(f"{folder} holds no safetensors weights; pickled ones are refused, convert the model first")
    files = [
        [str(path.relative_to(folder)), facts.st_size, facts.st_mtime_ns, facts.st_ino]
        for path, facts in (*found, *beside)
    ]
    return Located(
        digest or _hash([str(folder.resolve()), files]),
        folder,
        digest,
        tuple(path for path, _ in weights),
        sum(facts.st_size for _, facts in weights),
        tuple(path for path, _ in beside),
    )


def _read_architecture(located: Located) -> _Architecture:
    try:
        checkpoint = read_checkpoint(located.folder)
        generation_config = read_object(located.folder / "generation_config.json")
        has_modules = checkpoint.pooling is not None and checkpoint.pooling.has_modules
        read = _Architecture(
            checkpoint.architecture,
            checkpoint.quantization,
            pooling_task(checkpoint.config, has_modules=has_modules) is not None,
            not is_encoder(checkpoint.config),
            checkpoint.config,
            dtype_of(checkpoint.config, checkpoint.inventory),
        )
    except FileRefused as error:
        raise InvalidInput(f"{located.folder} cannot be served: {error.message}") from error
    if found := checkpoint_check.reasons(checkpoint.config, checkpoint.inventory, generation_config):
        raise InvalidInput(f"{located.folder} cannot be served: {'; '.join(found)}")
    return read


def _is_resident(located: Located) -> bool:
    most_bytes = located.weights_bytes * page_cache.RESIDENT_SHARE
    if most_bytes > os.sysconf("SC_PHYS_PAGES") * page_cache.PAGE_BYTES:
        return False  # without a look: a sparse file of petabytes would keep one busy for minutes
    return sum(page_cache.resident_bytes(path) for path in located.files) >= most_bytes


def _adapter_folder(path: str) -> Path:
    folder = _folder(path)
    if folder is None:
        raise InvalidInput(f"adapter {path!r} is not a folder of this node")
    return folder


def _rank(path: str) -> int:
    try:
        return adapter_rank(_adapter_folder(path))
    except FileRefused as error:
        raise InvalidInput(f"{path}: {error.message}") from error


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _remember(known: OrderedDict[str, _Value], key: str, value: _Value) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > _REMEMBERED:
        known.popitem(last=False)
