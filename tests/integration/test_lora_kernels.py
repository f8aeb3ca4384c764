"""The products of LoRA adapters on a CPU, row by row: each with its own adapter, and nothing of any other's."""

from __future__ import annotations

import pytest
import torch

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
PLACES, RANK, INPUTS, OUTPUTS = 9, 16, 96, 80
OVERFLOWN = PLACES - 1


@pytest.mark.parametrize("tokens", [1, 2, 8, 40])
@pytest.mark.parametrize("adapters", [1, 2, 4, 8])
def test_every_row_is_multiplied_with_its_own_adapter(tokens: int, adapters: int) -> None:
    from pilotlight_engine.vllm_adapter import lora_kernels  # imports vLLM

    torch.manual_seed(tokens * 10 + adapters)
    lora_a, lora_b = torch.randn(PLACES, 1, RANK, INPUTS).bfloat16(), torch.randn(PLACES, 1, OUTPUTS, RANK).bfloat16()
    lora_a[OVERFLOWN] = lora_b[OVERFLOWN] = float("inf")
    padded = torch.arange(tokens + 3) % (adapters + 1) - 1
    indices = torch.where(padded == 0, OVERFLOWN, padded) if adapters == PLACES - 1 else padded
    inputs, shrunk = torch.randn(tokens, INPUTS).bfloat16(), torch.full((tokens, RANK), 9.0)
    lora_kernels.bgmv_shrink(inputs, lora_a, shrunk, indices, 2.0)
    expanded = torch.zeros(tokens, 2 * OUTPUTS).bfloat16()
    lora_kernels.bgmv_expand_slice(torch.nan_to_num(shrunk, 1.0), lora_b, expanded, indices, 10, OUTPUTS)
    assert not expanded[:, :10].any()
    assert not expanded[:, 10 + OUTPUTS :].any()
    for row, adapter in enumerate(indices[:tokens].tolist()):
        if adapter == OVERFLOWN:
            continue
        a, b = lora_a[adapter, 0].float(), lora_b[adapter, 0].float()
        own = 2.0 * (a @ inputs[row].float()) if adapter >= 0 else torch.zeros(RANK)
        torch.testing.assert_close(shrunk[row], own, rtol=1e-3, atol=1e-2)
        out = b @ own if adapter >= 0 else torch.zeros(OUTPUTS)
        torch.testing.assert_close(expanded[row, 10 : 10 + OUTPUTS].float(), out, rtol=0.03, atol=5.0)


def test_rows_beyond_the_indices_are_nobodys() -> None:
    """Logits of a whole prompt come with the indices of what is sampled alone."""
    from pilotlight_engine.vllm_adapter import lora_kernels  # imports vLLM

    lora_a, lora_b = torch.zeros(PLACES, 1, RANK, INPUTS), torch.zeros(PLACES, 1, OUTPUTS, RANK)
    inputs, shrunk, expanded = torch.randn(40, INPUTS), torch.full((40, RANK), 9.0), torch.ones(40, OUTPUTS)
    for indices in (torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([-1])):
        lora_kernels.bgmv_shrink(inputs, lora_a, shrunk, indices)
        lora_kernels.bgmv_expand(shrunk, lora_b, expanded, indices)
        assert not shrunk.any()
        assert (expanded == 1).all()


class Layer(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """As vLLM's: two slices, a stack of places each."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_a_stacked = tuple(torch.zeros(PLACES, 1, RANK, INPUTS) for _ in range(2))
        self.lora_b_stacked = tuple(torch.zeros(PLACES, 1, OUTPUTS, RANK) for _ in range(2))

    def reset_lora(self, index: int) -> None:
        for stacked in (*self.lora_a_stacked, *self.lora_b_stacked):
            stacked[index] = 0

    def set_lora(self, index: int, lora_a: list[torch.Tensor | None], lora_b: list[torch.Tensor | None]) -> None:
        self.reset_lora(index)
        for stacks, given in ((self.lora_a_stacked, lora_a), (self.lora_b_stacked, lora_b)):
            for stacked, weights in zip(stacks, given, strict=True):
                if weights is not None:
                    stacked[index, 0] = weights


def test_a_layer_is_multiplied_as_soon_as_an_adapter_changes_it_and_as_long() -> None:
    from pilotlight_engine.vllm_adapter import lora_kernels  # imports vLLM

    layer = Layer()
    lora_kernels.watch(torch.nn.Sequential(layer, torch.nn.Linear(2, 2)))
    inputs, indices = torch.randn(4, INPUTS), torch.tensor([0, 1, -1, 1])
    held: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def check() -> None:
        for number in range(2):
            shrunk, expanded = torch.full((4, RANK), 9.0), torch.ones(4, OUTPUTS)
            lora_kernels.bgmv_shrink(inputs, layer.lora_a_stacked[number], shrunk, indices)
            lora_kernels.bgmv_expand_slice(shrunk, layer.lora_b_stacked[number], expanded, indices, 0, OUTPUTS, False)
            for row, adapter in enumerate(indices.tolist()):
                a, b = held.get(adapter, (torch.zeros(RANK, INPUTS), torch.zeros(OUTPUTS, RANK)))
                own = b @ (a @ inputs[row]) if number == 1 else torch.zeros(OUTPUTS)
                torch.testing.assert_close(expanded[row], own, rtol=1e-3, atol=1e-3)

    check()
    for place in (1, 0):
        held[place] = torch.randn(RANK, INPUTS), torch.randn(OUTPUTS, RANK)
        layer.set_lora(place, [None, held[place][0]], [None, held[place][1]])
        check()
    for place in (0, 1):
        layer.reset_lora(place)
        del held[place]
        check()
