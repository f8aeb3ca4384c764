"""What proves that an engine's weights may be exchanged: the combination it holds for, what was seen, and the verdict.

A swap is proven where an engine that was swapped to a model is, tensor by tensor and answer by answer, what an engine
freshly booted for that model is, both ways (decision 0063). Pure: states come in, a verdict goes out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

Verdict = Literal["proven", "refuted", "failed"]
_MOST_DIFFERENCES = 20


class Combination(msgspec.Struct, frozen=True, kw_only=True):
    """What decides how weights are laid out and which kernels read them; a proof holds for exactly this.

    `architecture`: the class vLLM builds. `quantization`: its method, `scheme` everything else that the checkpoint says
    of it, as JSON. `capability`: a GPU's compute capability, or the instruction sets by which a CPU's kernels are
    chosen. `arguments`: every engine argument but those that are known to change neither. `loader`: a hash of the code
    that exchanges weights.
    """

    vllm: str
    torch: str
    loader: str
    architecture: str
    quantization: str
    scheme: str
    dtype: str
    tied: str
    device: str
    capability: str
    compiled: bool
    workers: str
    arguments: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """Hex, 32 digits."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:32]

    @property
    def name(self) -> str:
        """For a person."""
        parts = [self.architecture, self.quantization, self.dtype, f"{self.device} {self.capability}".strip()]
        parts.append("compiled" if self.compiled else "eager")
        if self.tied == "true":
            parts.append("tied")
        if self.workers != "1":
            parts.append(f"{self.workers} workers")
        return ", ".join([*parts, *(f"{name}={value}" for name, value in self.arguments)])


class LiveTensor(msgspec.Struct, frozen=True, array_like=True):
    """One tensor, or number, that a loaded model computes with. `alias_of`: the first name of the same memory, "" for
    a tensor of its own. `digest`: of its bytes in order, 128 bits in hex."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    alias_of: str
    digest: str


class GreedyAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What an engine says to one of the fixed prompts: each token with its natural-log probability."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


class EngineState(msgspec.Struct, frozen=True, array_like=True):
    """Everything of an engine that its weights decide. `digest_s`, `answer_s`: what finding out took."""

    tensors: tuple[LiveTensor, ...]
    answers: tuple[GreedyAnswer, ...]
    digest_s: float = 0.0
    answer_s: float = 0.0

    @property
    def digest(self) -> str:
        """Of all of it, hex."""
        told = msgspec.json.encode((self.tensors, self.answers))
        return hashlib.sha256(told).hexdigest()[:32]


class SwapEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """The states by digest, what differed, and how long it all took, by step. `models`: what the two are called.
    `swap_path`: as in EngineInfo. `made_at`: when, UTC, ISO 8601."""

    models: tuple[str, str]
    booted: tuple[str, str] = ("", "")
    swapped: str = ""
    back: str = ""
    tensors: int = 0
    tokens: int = 0
    swap_path: str = ""
    differences: tuple[str, ...] = ()
    times_s: dict[str, float] = {}
    made_at: str = ""
    made_on: str = ""


class SwapProof(msgspec.Struct, frozen=True, kw_only=True):
    """`reason`: why it is not proven, "" where it is."""

    combination: Combination
    verdict: Verdict
    reason: str
    evidence: SwapEvidence


def outweighs(proof: SwapProof, known: SwapProof | None) -> bool:
    """Whether what is told from elsewhere takes the place of what is known: a refutation does, nothing else does."""
    return known is None or known.verdict == "failed" or (proof.verdict == "refuted" and known.verdict != "refuted")


class ProofStates(msgspec.Struct, frozen=True):
    """`booted_a`, `booted_b`: engines that were booted for these models. `swapped`: the first, swapped to b; `back`:
    the same, swapped to a again."""

    booted_a: EngineState
    booted_b: EngineState
    swapped: EngineState
    back: EngineState


def judge(states: ProofStates) -> tuple[Verdict, str, tuple[str, ...]]:
    """(verdict, reason, differences). Two models that cannot be told apart prove nothing."""
    a, b = states.booted_a, states.booted_b
    if a.tensors == b.tensors:
        return "failed", "the two models have the same weights: they prove nothing", ()
    if a.answers == b.answers:
        return "failed", "the two models give the same answers: they prove nothing", ()
    found = [f"swapped to the second: {text}" for text in differences(b, states.swapped)]
    found += [f"swapped back: {text}" for text in differences(a, states.back)]
    if not found:
        return "proven", "", ()
    more = len(found) - _MOST_DIFFERENCES
    shown = tuple(found[:_MOST_DIFFERENCES]) + ((f"and {more} more",) if more > 0 else ())
    return "refuted", found[0], shown


def differences(booted: EngineState, swapped: EngineState) -> Iterator[str]:
    """How a swapped engine is not the booted one, a text for each."""
    expected = {tensor.name: tensor for tensor in booted.tensors}
    found = {tensor.name: tensor for tensor in swapped.tensors}
    yield from (f"{name} is gone" for name in expected.keys() - found.keys())
    yield from (f"{name} is there, and is not in a booted engine" for name in found.keys() - expected.keys())
    for name, tensor in expected.items():
        if name in found and (aspects := list(_aspects(tensor, found[name]))):
            yield f"{name} has {', '.join(aspects)}"
    for number, (one, other) in enumerate(zip(booted.answers, swapped.answers, strict=False)):
        if (place := _first_difference(one, other)) is not None:
            yield f"prompt {number}: token {place} is {_at(other, place)}, a booted engine's is {_at(one, place)}"
    if len(booted.answers) != len(swapped.answers):
        yield f"{len(swapped.answers)} answers, a booted engine gives {len(booted.answers)}"


def _aspects(one: LiveTensor, other: LiveTensor) -> Iterator[str]:
    for aspect in ("dtype", "shape", "strides"):
        if getattr(one, aspect) != getattr(other, aspect):
            yield f"{aspect} {getattr(other, aspect)} instead of {getattr(one, aspect)}"
    if one.alias_of != other.alias_of:
        yield f"memory of {other.alias_of or 'its own'} instead of {one.alias_of or 'its own'}"
    if one.digest != other.digest:
        yield "other values"


def _first_difference(one: GreedyAnswer, other: GreedyAnswer) -> int | None:
    pairs, others = _pairs(one), _pairs(other)
    if pairs == others:
        return None
    return next(
        (place for place, (a, b) in enumerate(zip(pairs, others, strict=False)) if a != b), min(len(pairs), len(others))
    )


def _pairs(answer: GreedyAnswer) -> Sequence[tuple[int, float]]:
    return list(zip(answer.tokens, answer.logprobs, strict=True))


def _at(answer: GreedyAnswer, place: int) -> str:
    pairs = _pairs(answer)
    return f"{pairs[place][0]} ({pairs[place][1]:.6f})" if place < len(pairs) else "missing"
