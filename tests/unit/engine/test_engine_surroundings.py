"""Work directory, environment, machine limits, KV cache size: what an engine host is started with."""

from pathlib import Path

import pytest

from pilotlight_engine.boot import kv_cache
from pilotlight_engine.process import machine, work_dir
from pilotlight_engine.process.environment import engine_environment
from pilotlight_protocol.errors import InternalError

MIB = 2**20
GIB = 2**30


@pytest.mark.parametrize(
    ("asked", "tmpdir", "writable", "chosen"),
    [
        ("/w", None, {"/w", "/tmp"}, "/w"),
        (None, "/scratch", {"/scratch", "/tmp"}, "/scratch"),
        (None, "/scratch", {"/tmp"}, "/tmp"),
        (None, None, {"/var/tmp", "/dev/shm"}, "/var/tmp"),
        (None, None, {"/dev/shm"}, "/dev/shm"),
    ],
)
def test_the_first_writable_place_is_taken(
    asked: str | None, tmpdir: str | None, writable: set[str], chosen: str
) -> None:
    places = work_dir.candidates(asked, {"TMPDIR": tmpdir} if tmpdir else {})
    assert work_dir.choose(places, lambda place: str(place) in writable) == Path(chosen)


def test_a_place_that_was_asked_for_is_not_silently_replaced() -> None:
    with pytest.raises(InternalError, match=r"/w.*emptyDir"):
        work_dir.choose(work_dir.candidates("/w", {}), lambda place: str(place) == "/tmp")


def test_the_work_dir_is_private_and_kept(tmp_path: Path) -> None:
    first = work_dir.open_work_dir(None, {"TMPDIR": str(tmp_path)})
    assert first.parent == tmp_path
    assert first.stat().st_mode & 0o777 == 0o700
    assert work_dir.open_work_dir(None, {"TMPDIR": str(tmp_path)}) == first


def test_someone_elses_directory_is_refused(tmp_path: Path) -> None:
    work_dir.open_work_dir(None, {"TMPDIR": str(tmp_path)}).chmod(0o777)
    with pytest.raises(InternalError, match="not a private directory"):
        work_dir.open_work_dir(None, {"TMPDIR": str(tmp_path)})


def test_compiled_code_is_taken_from_nobody_else(tmp_path: Path) -> None:
    asked = tmp_path / "mounted"
    asked.mkdir(mode=0o777)
    cache = work_dir.open_work_dir(str(asked), {}) / "cache"
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o770)
    with pytest.raises(InternalError, match="cache is not a private directory"):
        work_dir.open_work_dir(str(asked), {})
    cache.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    cache.symlink_to(tmp_path / "theirs")
    with pytest.raises(InternalError, match="cache is not a private directory"):
        work_dir.open_work_dir(str(asked), {})


def test_compiled_code_stays_on_its_cpu() -> None:
    environment = engine_environment({}, Path("/w"), cpus=2, instruction_set="0123456789ab")
    for name in ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR"):
        assert environment[name].startswith("/w/cache/compiled-0123456789ab/")
    assert environment["TORCHINDUCTOR_COMPILE_THREADS"] == "1"


def test_cpus_with_other_features_have_other_names(tmp_path: Path) -> None:
    def name(text: str) -> str:
        (tmp_path / "cpuinfo").write_text(text)
        return machine.instruction_set(tmp_path / "cpuinfo")

    one = name("processor : 0\nflags\t: fpu avx2 avx512f\nprocessor : 1\nflags\t: fpu avx2 avx512f\n")
    assert len(one) == 12
    assert name("flags\t\t: avx512f fpu avx2\ncpu MHz : 1.0\n") == one
    assert name("flags\t: fpu avx2\n") != one
    assert name("Features\t: fp asimd sve\n") not in (one, name("Features\t: fp asimd\n"))


def test_nothing_points_outside_the_work_dir() -> None:
    environment = engine_environment({"HOME": "/root", "XDG_CACHE_HOME": "/root/.cache"}, Path("/w"))
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert environment[name].startswith("/w")
    assert environment["USER"]


def test_what_was_set_on_purpose_wins_but_not_the_in_process_core() -> None:
    parent = {"OMP_NUM_THREADS": "3", "VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    environment = engine_environment(parent, Path("/w"), cpus=8)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


@pytest.mark.parametrize(("cpus", "threads"), [(1, "1"), (2, "1"), (8, "7")])
def test_a_core_is_left_to_the_other_processes(cpus: int, threads: str) -> None:
    assert engine_environment({}, Path("/w"), cpus=cpus)["OMP_NUM_THREADS"] == threads


def test_eager_compiles_nothing_at_all() -> None:
    assert engine_environment({}, Path("/w"), eager=True)["TORCH_COMPILE_DISABLE"] == "1"
    assert "TORCH_COMPILE_DISABLE" not in engine_environment({}, Path("/w"))


def test_preloads_are_added_to_those_that_are_there() -> None:
    environment = engine_environment({"LD_PRELOAD": "/a.so"}, Path("/w"), preload=(Path("/gomp.so"),))
    assert environment["LD_PRELOAD"] == "/gomp.so:/a.so"
    assert "LD_PRELOAD" not in engine_environment({}, Path("/w"))
    assert "OMP_NUM_THREADS" not in engine_environment({}, Path("/w"))


@pytest.mark.parametrize(
    ("cpu_max", "most"), [("max 100000", None), ("150000 100000", 2), ("50000 100000", 1), ("", None)]
)
def test_the_cgroup_quota_bounds_the_threads(tmp_path: Path, cpu_max: str, most: int | None) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max)
    (tmp_path / "memory.max").write_text("1048576\n")
    unlimited = machine.limits(tmp_path / "absent")
    assert machine.limits(tmp_path).cpus == (min(most, unlimited.cpus) if most else unlimited.cpus)
    assert machine.limits(tmp_path).memory_bytes == 1048576
    assert unlimited.memory_bytes > GIB


LLAMA_8B = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("config", "length", "memory", "weights", "expected"),
    [
        ({"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 64}, None, 8 * GIB, 0, 256 * MIB),
        (LLAMA_8B, None, 64 * GIB, 16 * GIB, 4096 * MIB),
        (LLAMA_8B, 1024, 64 * GIB, 16 * GIB, 2048 * MIB),
        (LLAMA_8B, None, 8 * GIB, 4 * GIB, 1280 * MIB),
        (LLAMA_8B, None, 2 * GIB, 4 * GIB, 256 * MIB),
        ({"text_config": LLAMA_8B}, None, 64 * GIB, 0, 4096 * MIB),
    ],
)
def test_kv_cache_on_a_cpu(
    config: dict[str, object], length: int | None, memory: int, weights: int, expected: int
) -> None:
    assert kv_cache.cpu_kv_cache_bytes(config, length, memory, weights) == expected
