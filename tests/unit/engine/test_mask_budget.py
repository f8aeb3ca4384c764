"""What a constrained choice may take of everybody's steps: one mask, and all of them together."""

from __future__ import annotations

import pytest

from pilotlight_engine.vllm_adapter.mask_budget import MOST_EXTRA_S, MOST_MASK_S, ORDINARY_S, MaskBudget


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def spent(*masks_s: float) -> list[str]:
    clock = Clock()
    budget = MaskBudget(clock)
    said = []
    for mask_s in masks_s:
        clock.now_s += 7.0  # what happens between masks is not its fault
        budget.begin()
        clock.now_s += mask_s
        said.append(budget.end())
    return said


def test_ordinary_masks_cost_nothing_however_many() -> None:
    assert not any(spent(*[ORDINARY_S] * 10_000))


def test_one_mask_that_takes_too_long() -> None:
    assert spent(MOST_MASK_S)[-1] == ""
    assert "the next token's mask" in spent(0.001, MOST_MASK_S + 0.001)[-1]


@pytest.mark.parametrize("mask_s", [0.05, 0.2, 0.45])
def test_masks_that_take_too_long_together(mask_s: float) -> None:
    said = spent(*[mask_s] * 200)
    lasted = next(number for number, why in enumerate(said) if why)
    assert "together" in said[lasted]
    assert lasted == pytest.approx(MOST_EXTRA_S / (mask_s - ORDINARY_S), abs=1)
