"""The fences around an engine's memory, each where the kernel has it."""

from pathlib import Path

import pytest

from pilotlight_engine.process import memory_limit
from pilotlight_engine.process.machine import MachineLimits

GIB = 2**30


def meminfo(folder, available_kb):
    (folder / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {available_kb} kB\n")
    return folder / "meminfo"


@pytest.mark.parametrize(
    ("available_gib", "allowed_gib", "left_gib"),
    [(20, 8, 7.5), (4, 8, 3.5), (0.5, 8, 0.25)],
    ids=["the container's", "the machine's", "next to nothing"],
)
def test_an_engine_of_its_own_takes_what_is_there_but_for_a_reserve(
    tmp_path: Path, available_gib, allowed_gib, left_gib
) -> None:
    limits = MachineLimits(2, int(allowed_gib * GIB))
    limit = memory_limit.of_machine(limits, True, meminfo(tmp_path, int(available_gib * 2**20)))
    assert limit.limit_bytes == limit.growth_bytes == left_gib * GIB
    assert not limit.fixed
    assert memory_limit.of_machine(limits, False, tmp_path / "meminfo").growth_bytes is None


def test_a_slot_of_a_cpu_is_memory_and_says_what_gives_more() -> None:
    limit = memory_limit.of_slot(4 * GIB)
    assert limit.fixed
    assert limit.exceeded(5 * GIB) == (
        "the engine took 5.0 GiB of memory, its slot (--slot) has 4.0 GiB; give it more, or serve a smaller model"
    )


def test_pages_of_files_do_not_count() -> None:
    assert 0 < memory_limit.private_bytes() <= memory_limit.resident_bytes() + 2**20


def cgroups(folder, controllers, path="/user/main"):
    (folder / "user" / "main").mkdir(parents=True, exist_ok=True)
    (folder / "user" / "cgroup.subtree_control").write_text(controllers)
    (folder / "membership").write_text(f"4:memory:/v1\n0::{path}\n")
    return folder, folder / "membership"


def test_a_cgroup_of_its_own_beside_the_one_it_is_in(tmp_path: Path) -> None:
    (tmp_path / "user" / "pilotlight-engine-1").mkdir(parents=True)
    assert memory_limit.enter_cgroup(GIB, *cgroups(tmp_path, "cpu memory\n"))
    (mine,) = (tmp_path / "user").glob("pilotlight-engine-*")
    assert (mine / "memory.max").read_text() == str(GIB)
    assert mine.name == f"pilotlight-engine-{(mine / 'cgroup.procs').read_text()}"


@pytest.mark.parametrize(("controllers", "path"), [("cpu\n", "/user/main"), ("memory\n", "/"), ("memory\n", "/gone/x")])
def test_without_a_cgroup_to_make_nothing_is_made(tmp_path: Path, controllers, path) -> None:
    assert not memory_limit.enter_cgroup(GIB, *cgroups(tmp_path, controllers, path))
    assert not list(tmp_path.rglob("pilotlight-engine-*"))
