"""The proofs an agent knows: those that came with this version, those in the store's folder, and its own.

A later one of the same combination is believed instead of an earlier one. Files are written whole or not at all; what
cannot be read is as if it were not there, and is proven again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from pilotlight_protocol.swap_proofs import Combination, SwapProof, Verdict, outweighs

log = logging.getLogger(__name__)
SHIPPED = Path(__file__).with_name("shipped_proofs.json")
_MOST_PROOFS = 512
_LARGEST_BYTES = 1 << 20
_DECODER = msgspec.json.Decoder(SwapProof)


class ProofBook:
    """`folder` None: nothing is kept beyond this process. `shipped`: a JSON list."""

    def __init__(self, folder: Path | None, shipped: Path | None = SHIPPED) -> None:
        self._folder = folder
        self._proofs: dict[str, SwapProof] = {}
        for proof in _shipped(shipped) if shipped is not None else ():
            self._proofs[proof.combination.key] = proof
        for proof in _kept(folder) if folder is not None else ():
            self._proofs[proof.combination.key] = proof

    @property
    def proofs(self) -> Mapping[str, SwapProof]:
        """By the combination's key."""
        return self._proofs

    def verdict(self, combination: Combination | None) -> Verdict | None:
        proof = self._proofs.get(combination.key) if combination is not None else None
        return proof.verdict if proof is not None else None

    def learn(self, proofs: Iterable[SwapProof]) -> None:
        """Made on other nodes of this kind: kept here where nothing is known, or where they refute."""
        for proof in proofs:
            if outweighs(proof, self._proofs.get(proof.combination.key)):
                self.add(proof)

    def add(self, proof: SwapProof) -> None:
        """Made here. What could not be tried again is as known as it was."""
        key = proof.combination.key
        if proof.verdict == "failed" and key in self._proofs:
            return
        self._proofs.pop(key, None)
        self._proofs[key] = proof
        if len(self._proofs) > _MOST_PROOFS:
            self._forget()
        # What could not be tried is no knowledge of the combination.
        if self._folder is not None and proof.verdict != "failed":
            try:
                _write(self._folder / f"{key}.json", proof)
            except OSError as error:
                log.warning("the proof %s is known to this process alone: %s", key, error)

    def _forget(self) -> None:
        """The one that was learned first, of those that refute nothing where there are any: to be booted is safe."""
        key = next((key for key, proof in self._proofs.items() if proof.verdict != "refuted"), next(iter(self._proofs)))
        del self._proofs[key]
        if self._folder is not None:
            (self._folder / f"{key}.json").unlink(missing_ok=True)


def _shipped(path: Path) -> list[SwapProof]:
    return msgspec.json.decode(path.read_bytes(), type=list[SwapProof]) if path.exists() else []


def _kept(folder: Path) -> list[SwapProof]:
    found: list[SwapProof] = []
    for path in sorted(folder.glob("*.json"))[:_MOST_PROOFS]:
        try:
            if path.stat().st_size > _LARGEST_BYTES:
                raise ValueError("it is too large")
            proof = _DECODER.decode(path.read_bytes())
            if path.stem != proof.combination.key:
                raise ValueError("it has another combination's name")
        except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            log.warning("%s is no proof of a swap: %s", path, error)
            continue
        found.append(proof)
    return found


def _write(path: Path, proof: SwapProof) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(proof)))
    beside.rename(path)
