"""What is kept of models that an engine served before: as many as there is room for, each by its files as they are."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pilotlight_engine.swap.kept_packs import FilesStamp, KeptPacks, stamp


def files(name: str) -> FilesStamp:
    return ((name, 0, 0, 0, 0),)


@given(most=st.integers(0, 4), swaps=st.lists(st.sampled_from("abcdef"), max_size=40))
def test_what_comes_back_is_the_models_own_and_the_latest_are_kept(most: int, swaps: list[str]) -> None:
    kept, served, before = KeptPacks(most), "a", list[str]()
    for wanted in swaps:
        found = kept.exchange(files(served), [f"packs of {served}"], files(wanted))
        if wanted == served:
            assert found == [f"packs of {wanted}"]
            continue
        there = wanted in before[:most]
        assert found == ([f"packs of {wanted}"] if there else None)
        before = [served, *(name for name in before if name not in (served, wanted))][:most]
        served = wanted
        assert len(kept) == len(before)


def test_files_that_are_others_have_another_stamp(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    first = stamp([weights, weights])
    assert first == stamp([weights])
    os.utime(weights, ns=(1, 1))
    touched = stamp([weights])
    other = tmp_path / "other"
    other.write_bytes(b"two")
    os.utime(other, ns=(1, 1))
    other.rename(weights)
    assert len({first, touched, stamp([weights])}) == 3
