"""A proof sees whatever a loader leaves wrong: here are a model with all that vLLM makes, and loaders that break it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch

from pilotlight_engine.swap.live_state import live_tensors
from pilotlight_protocol.swap_proofs import EngineState, GreedyAnswer, ProofStates, judge

WIDTH, VOCABULARY = 8, 16
Weights = dict[str, torch.Tensor]
Loader = Callable[["Model", Weights], None]


class Packing:
    """What vLLM hangs on a layer: a method with a kernel. Its module is said to be vLLM's."""

    __module__ = "vllm.fake"

    def __init__(self) -> None:
        self.scales = torch.zeros(0)


class Linear(torch.nn.Module):  # type: ignore[misc]
    """A weight, which `finish` packs for a kernel: as an attribute, in a closure, in an object, and as a number."""

    packed: torch.Tensor
    multiply: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(WIDTH, WIDTH), requires_grad=False)
        self.method = Packing()

    def finish(self) -> None:
        packed = self.weight.data.t().contiguous()
        self.packed = packed.clone()
        self.multiply = lambda x: x @ packed
        self.halved = functools.partial(torch.matmul, packed / 2)
        self.method.scales = packed.abs().amax(0)
        self.scale = float(packed.abs().max())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.multiply(x) / self.scale


class Model(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.up, self.down = Linear(), Linear()
        self.register_buffer("rope", torch.zeros(WIDTH), persistent=False)
        self.kv_cache = torch.zeros(4)
        load(self, weights)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.down(self.up(self.embedding(tokens) + self.rope)))
        return logits


def load(model: Model, weights: Weights) -> None:
    """As it should be; the broken ones begin with it, or leave some of it out."""
    with torch.no_grad():
        model.embedding.weight.copy_(weights["embedding"])
        model.up.weight.copy_(weights["up"])
        model.down.weight.copy_(weights["down"])
        model.rope = weights["rope"] * 2
        model.up.finish()
        model.down.finish()


def leaves_one_behind(model: Model, weights: Weights) -> None:
    load(model, weights | {"down": model.down.weight.clone()})


def exchanges_two_of_a_shape(model: Model, weights: Weights) -> None:
    load(model, weights | {"up": weights["down"], "down": weights["up"]})


def moves_rows(model: Model, weights: Weights) -> None:
    load(model, weights | {"up": weights["up"].roll(1, 0)})


def forgets_a_buffer(model: Model, weights: Weights) -> None:
    rope = model.rope
    load(model, weights)
    model.rope = rope


def forgets_a_packed_attribute(model: Model, weights: Weights) -> None:
    packed = model.up.packed
    load(model, weights)
    model.up.packed = packed


def forgets_what_is_in_a_closure(model: Model, weights: Weights) -> None:
    multiply = model.up.multiply
    load(model, weights)
    model.up.multiply = multiply


def forgets_a_partial(model: Model, weights: Weights) -> None:
    halved = model.up.halved
    load(model, weights)
    model.up.halved = halved


def forgets_what_a_kernel_holds(model: Model, weights: Weights) -> None:
    scales = model.up.method.scales
    load(model, weights)
    model.up.method.scales = scales


def forgets_a_number(model: Model, weights: Weights) -> None:
    scale = model.up.scale
    load(model, weights)
    model.up.scale = scale


def breaks_tied_heads(model: Model, weights: Weights) -> None:
    load(model, weights)
    model.head.weight = torch.nn.Parameter(model.head.weight.clone(), requires_grad=False)


def ties_to_the_old_head(model: Model, weights: Weights) -> None:
    old = model.embedding.weight.detach().clone()
    load(model, weights)
    model.head.weight = torch.nn.Parameter(old, requires_grad=False)


def gives_other_strides(model: Model, weights: Weights) -> None:
    load(model, weights)
    model.up.packed = model.up.packed.t().contiguous().t()


def widens(model: Model, weights: Weights) -> None:
    load(model, weights)
    model.up.packed = model.up.packed.double()


BROKEN: dict[Loader, str] = {
    leaves_one_behind: "down.weight has other values",
    exchanges_two_of_a_shape: "up.weight has other values",
    moves_rows: "up.weight has other values",
    forgets_a_buffer: "rope has other values",
    forgets_a_packed_attribute: "up.packed has other values",
    forgets_what_is_in_a_closure: "up.multiply.packed has other values",
    forgets_a_partial: "up.halved.arguments.0 has other values",
    forgets_what_a_kernel_holds: "up.method.scales has other values",
    forgets_a_number: "up.scale has other values",
    breaks_tied_heads: "head.weight has memory of its own instead of embedding.weight",
    ties_to_the_old_head: "head.weight has memory of its own",
    gives_other_strides: "up.packed has strides (1, 8) instead of (8, 1)",
    widens: "up.packed has dtype torch.float64 instead of torch.float32",
}


def weights(seed: int) -> Weights:
    random = torch.Generator().manual_seed(seed)
    shapes = {"embedding": (VOCABULARY, WIDTH), "up": (WIDTH, WIDTH), "down": (WIDTH, WIDTH), "rope": (WIDTH,)}
    return {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}


def examined(model: Model) -> EngineState:
    logits = model(torch.arange(3)).log_softmax(-1)
    tokens = logits.argmax(-1)
    picked = logits.gather(-1, tokens[:, None])[:, 0]
    answer = GreedyAnswer(tuple(tokens.tolist()), tuple(picked.tolist()))
    return EngineState(live_tensors(model), (answer,))


def proof(loader: Loader) -> ProofStates:
    a, b = weights(1), weights(2)
    live = Model(a)
    live.kv_cache += 1
    booted_a = examined(live)
    loader(live, b)
    swapped = examined(live)
    load(live, a)
    return ProofStates(booted_a, examined(Model(b)), swapped, examined(live))


def test_a_loader_that_does_everything_is_proven() -> None:
    assert judge(proof(load)) == ("proven", "", ())


@pytest.mark.parametrize("loader", BROKEN, ids=lambda loader: loader.__name__)
def test_one_that_forgets_anything_is_refuted(loader: Loader) -> None:
    verdict, reason, found = judge(proof(loader))
    assert verdict == "refuted"
    assert reason == found[0]
    assert any(BROKEN[loader] in text for text in found), found


def test_the_way_back_counts_too() -> None:
    states = proof(load)
    broken = ProofStates(states.booted_a, states.booted_b, states.swapped, states.swapped)
    verdict, reason, _ = judge(broken)
    assert (verdict, reason.startswith("swapped back: ")) == ("refuted", True)


def test_models_that_cannot_be_told_apart_prove_nothing() -> None:
    state = examined(Model(weights(1)))
    assert judge(ProofStates(state, state, state, state))[0] == "failed"
    silent = EngineState(examined(Model(weights(2))).tensors, state.answers)
    assert judge(ProofStates(state, silent, silent, state))[0] == "failed"


def test_an_answer_that_differs_is_told_by_its_first_token() -> None:
    states = proof(load)
    (answer,) = states.swapped.answers
    almost = GreedyAnswer(answer.tokens, (*answer.logprobs[:2], answer.logprobs[2] - 1e-7))
    other = EngineState(states.swapped.tensors, (almost,))
    verdict, reason, found = judge(ProofStates(states.booted_a, states.booted_b, other, states.back))
    assert (verdict, len(found)) == ("refuted", 1)
    assert "prompt 0: token 2 is " in reason
