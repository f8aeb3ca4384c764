"""Exchanges the weights of a live vLLM model for those of another checkpoint of the same architecture.

vLLM's own `reload_weights` is right for most models and is what is used where nothing faster is known. Where every
weight has a step of weight_steps.py or awq_weights.py, `WeightCopier` does the same work without the per-tensor
bookkeeping: each goes from the mapped file into place once, and the steps are shared out over threads. Adapter to vLLM
and torch; it changes weights and nothing else of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from pilotlight_engine.swap import awq_weights, weight_steps
from pilotlight_engine.swap.kept_packs import FilesStamp, KeptPacks, stamp
from pilotlight_engine.swap.mapped_weights import MappedWeights
from pilotlight_engine.swap.weight_steps import Copy, OneDnnPack, Scratch, Step
from pilotlight_models.checkpoint import Checkpoint, TensorPlace

# Less than this one thread has written before a second one has started.
_WORTH_THREADS_BYTES = 8 << 20


def reload(executor: Any, model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """vLLM's way, for everything `WeightCopier.plan` has no plan for."""
    executor.collective_rpc("reload_weights", kwargs={"weights_path": str(checkpoint.directory)})
    _repack_tied(model)


def _repack_tied(model: torch.nn.Module) -> None:
    # vLLM's reload reaches a tied weight through one of its layers only. On a CPU the other one, the head, keeps a
    # packed copy of its own, which would go on answering with the old model's logits.
    owners: dict[int, str] = {}
    for name, layer in model.named_modules():
        weight = layer._parameters.get("weight")
        if weight is None or not weight.numel():
            continue
        if owners.setdefault(id(weight), name) != name and hasattr(layer, "cpu_linear"):
            layer.quant_method.process_weights_after_loading(layer)


class NoPlan(Exception):
    """Why the weights of this model go vLLM's way, as half a sentence."""


class WeightCopier:
    """What to copy where, found once per engine. `served`: the files the live weights came from.

    `spare_bytes`: what packed weights of models that were served before may take beside those of the served one.
    """

    def __init__(self, steps: Sequence[Step], threads: int, served: FilesStamp, spare_bytes: int) -> None:
        # The largest first: the threads then end at about the same time.
        ordered = sorted(steps, key=lambda step: step.size_bytes, reverse=True)
        self._packs = [step for step in ordered if isinstance(step, OneDnnPack)]
        self._others = [step for step in ordered if not isinstance(step, OneDnnPack)]
        self._threads = threads
        self._on_cuda = any(isinstance(step, Copy) and step.target.is_cuda for step in steps)
        self._served = served
        packed_bytes = sum(step.size_bytes for step in self._packs)
        self._kept = KeptPacks(spare_bytes // packed_bytes if packed_bytes else 0)

    @property
    def steps(self) -> list[Step]:
        return [*self._packs, *self._others]

    @classmethod
    def plan(
        cls, model: torch.nn.Module, places: Mapping[str, TensorPlace], threads: int, spare_bytes: int = 0
    ) -> WeightCopier:
        """Raises NoPlan unless every tensor of the checkpoint and every parameter of the model has its step, and the
        steps find the model as they would have left it. `places`: the checkpoint vLLM has loaded into `model`.

        Names and shapes do not tell whether a model's loader moves rows about, as those of Falcon and Bloom do.
        """
        fused: Mapping[str, Sequence[str]] = getattr(model, "packed_modules_mapping", {})
        steps: list[Step] = []
        sources_of: dict[int, tuple[str, ...]] = {}
        for path, layer in model.named_modules():
            parameters = {name: value for name, value in layer._parameters.items() if value is not None}
            tied = {name for name, value in parameters.items() if id(value) in sources_of}
            sources = {
                name: sources_of.setdefault(id(value), _sources(path, name, fused))
                for name, value in parameters.items()
            }
            if missing := {source for names in sources.values() for source in names} - places.keys():
                raise NoPlan(f"{path} is made of tensors that have other names in the checkpoint ({min(missing)})")
            entries = {name: [places[source].entry for source in names] for name, names in sources.items()}
            if awq_weights.is_awq(layer):
                packed = awq_weights.step(layer, entries)
                if packed is None:
                    raise NoPlan(f"the AWQ kernel of {path} lays its weights out in a way that is not known here")
                steps.append(packed)
                entries = {name: found for name, found in entries.items() if name not in awq_weights.PARAMETERS}
            for name in entries:
                found = weight_steps.steps(layer, name, parameters[name], entries[name])
                if not found:
                    kept, given = str(parameters[name].dtype).removeprefix("torch."), entries[name][0].dtype
                    raise NoPlan(f"{path}.{name} ({kept}, {given} in the checkpoint) is kept in a way not known here")
                steps += [step for step in found if not (name in tied and isinstance(step, Copy))]
        if unused := places.keys() - {source for step in steps for source in step.sources}:
            raise NoPlan(f"the checkpoint has tensors that no layer of the model is made of ({min(unused)})")
        served = _stamp(places)
        weights, scratch = MappedWeights(places), Scratch()
        for step in steps:
            if not step.holds(weights, scratch):
                raise NoPlan(f"vLLM changes {step.sources[0]} while it loads it")
        if any(isinstance(step, OneDnnPack) and step.matrix.aliases for step in steps):
            weight_steps.padding_pays()
        return cls(steps, threads, served, spare_bytes)

    def copy(self, checkpoint: Checkpoint) -> None:
        """Returns when every weight is in place; whatever is raised, the model must not be used any more."""
        wanted = _stamp(checkpoint.places)
        kept = self._kept.exchange(self._served, [step.packed for step in self._packs], wanted)
        if kept is None:
            self._run(self.steps, checkpoint)
        else:
            for step, packed in zip(self._packs, kept, strict=True):
                step.put_back(packed)
            self._run(self._others, checkpoint)
        self._served = wanted
        if self._on_cuda:
            torch.cuda.synchronize()

    def _run(self, steps: Sequence[Step], checkpoint: Checkpoint) -> None:
        weights, scratch = MappedWeights(checkpoint.places), Scratch()
        if self._threads == 1 or sum(step.size_bytes for step in steps) < _WORTH_THREADS_BYTES:
            for step in steps:
                step.run(weights, scratch)
            return
        with ThreadPoolExecutor(self._threads, "weights", torch.set_num_threads, (1,)) as pool:
            for done in [pool.submit(step.run, weights, scratch) for step in steps]:
                done.result()


def _stamp(places: Mapping[str, TensorPlace]) -> FilesStamp:
    return stamp(place.file for place in places.values())


def _sources(path: str, name: str, fused: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    parent, _, own = path.rpartition(".")
    prefix = f"{parent}." if parent else ""
    return tuple(f"{prefix}{part}.{name}" for part in fused.get(own, (own,)))
