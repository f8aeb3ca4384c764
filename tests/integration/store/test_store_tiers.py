"""What stays, what goes: budgets, holds, pins, memory, a full disk, bytes that rot."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilotlight_protocol.errors import Conflict, ModelNotFound, Unavailable
from pilotlight_store import Model, Store
from pilotlight_store.errors import SourceChanged, SourceRefused, SourceUnavailable, StoreFull
from pilotlight_store.published import page_cache, records
from pilotlight_store.published.records import ModelRecord

pytestmark = pytest.mark.integration
SIZE = 1_000_000


@pytest.fixture
def model_folder(made: Any, tmp_path: Path) -> Callable[..., str]:
    def write(seed: int, weights_bytes: int = SIZE) -> str:
        folder = tmp_path / f"source-{seed}"
        if not folder.exists():
            folder.mkdir()
            for name, body in made(weights_bytes=weights_bytes, seed=seed).files.items():
                (folder / name).write_bytes(body)
        return f"file://{folder}"

    return write


def stored(store: Store) -> set[str]:
    return {model.digest for model in store.list()}


def test_the_least_used_makes_room_and_the_held_and_the_pinned_stay(model_folder: Any, make_store: Any) -> None:
    store = make_store(disk_budget_bytes=int(3.2 * SIZE))
    held, pinned, other = (store.ensure(model_folder(seed), pin=seed == 1) for seed in range(3))
    with store.hold(held.digest):
        newest = store.ensure(model_folder(3))
        assert stored(store) == {held.digest, pinned.digest, newest.digest}
        assert not other.path.exists()
        with store.hold(newest.digest), pytest.raises(StoreFull, match=r"3\.\d+ GB of that|0\.003 GB of that"):
            store.ensure(model_folder(4))
        assert held.path.is_dir()
    store.ensure(model_folder(4))
    assert pinned.digest in stored(store)
    assert len(stored(store)) == 3


def test_a_hold_of_a_process_that_was_killed_is_gone(model_folder: Any, make_store: Any, tmp_path: Path) -> None:
    store = make_store(disk_budget_bytes=int(1.2 * SIZE))
    model = store.ensure(model_folder(0))
    code = (
        "import sys, pathlib\n"
        "from pilotlight_store import Store, StoreSettings\n"
        "hold = Store(StoreSettings(pathlib.Path(sys.argv[1]))).hold(sys.argv[2])\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "store"), model.digest],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert store.list()[0].holds == 1
        with pytest.raises(StoreFull):
            store.ensure(model_folder(1))
        with pytest.raises(Conflict, match="held"):
            store.remove(model.digest)
        holder.kill()
    assert store.list()[0].holds == 0
    store.ensure(model_folder(1))
    with pytest.raises(ModelNotFound):
        store.hold(model.digest)


def test_a_model_larger_than_the_budget_is_refused_before_a_byte_is_fetched(
    made: Any, serve_model: Any, make_store: Any, server: Any
) -> None:
    uri = serve_model(made(), manifest=True)
    with pytest.raises(StoreFull, match=r"needs 0\.003 GB and the whole budget is 0\.001 GB"):
        make_store(disk_budget_bytes=SIZE).ensure(uri)
    assert server.bytes_sent() == 0


def test_downloads_that_ended_halfway_make_room_before_models_do(
    made: Any, serve_model: Any, model_folder: Any, make_store: Any, server: Any, trouble: Any, tmp_path: Path
) -> None:
    store = make_store(disk_budget_bytes=5 * SIZE)
    kept = store.ensure(model_folder(0))
    for seed in (1, 2):
        uri = serve_model(made(weights_bytes=3 * SIZE, seed=seed), f"/{seed}", manifest=True)
        server.trouble = trouble(cut_after=100_000)
        with pytest.raises(SourceUnavailable):
            store.ensure(uri)
        assert len(list((tmp_path / "store" / "staging").glob("*/plan.json"))) == 1
    server.trouble = trouble(times=0)
    last = store.ensure(serve_model(made(weights_bytes=3 * SIZE, seed=3), "/3", manifest=True))
    assert stored(store) == {kept.digest, last.digest}


def test_a_download_under_way_keeps_its_room(
    made: Any, serve_model: Any, make_store: Any, server: Any, trouble: Any
) -> None:
    store = make_store(disk_budget_bytes=5 * SIZE)
    uri = serve_model(made(weights_bytes=3 * SIZE, seed=1), "/1", manifest=True)
    server.trouble = trouble(where="/1/model.safetensors", pause_after=SIZE)
    thread = threading.Thread(target=store.ensure, args=(uri,))
    thread.start()
    try:
        assert server.paused.wait(30)
        with pytest.raises(StoreFull, match=r"0\.003 GB of that is pinned, held or being downloaded"):
            store.ensure(serve_model(made(weights_bytes=3 * SIZE, seed=2), "/2", manifest=True))
    finally:
        server.go_on.set()
        thread.join(30)
    assert len(store.list()) == 1


def test_a_source_that_changed_leaves_nothing_to_go_on_from(
    made: Any, serve_model: Any, make_store: Any, server: Any, trouble: Any, tmp_path: Path
) -> None:
    uri = serve_model(made(), manifest=True)
    counter = itertools.count()
    server.trouble = trouble(etag=lambda: f'"{next(counter)}"')
    with pytest.raises(SourceChanged):
        make_store().ensure(uri)
    assert not list((tmp_path / "store" / "staging").glob("*/plan.json"))


def test_acquire_holds_so_that_nothing_can_come_between(model_folder: Any, make_store: Any) -> None:
    store = make_store(disk_budget_bytes=int(1.2 * SIZE))
    hold, model = store.acquire(model_folder(0))
    with pytest.raises(StoreFull):
        store.ensure(model_folder(1))
    hold.release()
    hold.release()
    assert store.ensure(model_folder(1)).digest != model.digest


def test_pins_can_be_taken_back_and_models_removed(model_folder: Any, make_store: Any) -> None:
    store = make_store()
    model = store.ensure(model_folder(0), pin=True)
    with pytest.raises(Conflict, match="pinned"):
        store.remove(model.digest)
    store.pin(model.digest, False)
    store.remove(model.digest)
    assert stored(store) == set()


def cool(store: Store, model: Model) -> None:
    """Out of memory, whatever put it there; written-back pages only can be dropped."""
    store.close()
    for path in model.path.iterdir():
        page_cache.drop(path)


def resident_bytes(model: Model) -> int:
    return sum(page_cache.resident_bytes(path) for path in model.path.glob("*.safetensors"))


def on_real_disk(path: Path) -> bool:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    best = max((mount for mount in mounts if path.is_relative_to(mount[1])), key=lambda mount: len(mount[1]))
    return best[2] not in {"tmpfs", "ramfs"}


def test_memory_is_measured_filled_and_kept_within_its_budget(
    model_folder: Any, make_store: Any, tmp_path: Path
) -> None:
    if not on_real_disk(tmp_path):
        pytest.skip("the test's folder is in memory: its pages cannot be dropped")
    store = make_store(ram_budget_bytes=int(20.5 * SIZE))
    first, second = (store.ensure(model_folder(seed, 10 * SIZE)) for seed in (0, 1))
    cool(store, first)
    assert store.tier(first.digest) == "disk"
    states: list[str] = []
    warmed = store.ensure(model_folder(0, 10 * SIZE), "ram", on_progress=lambda progress: states.append(progress.state))
    assert warmed.tier == "ram"
    assert "warming" in states
    assert "downloading" not in states
    store.ensure(model_folder(1, 10 * SIZE), "ram")
    with store.hold(second.digest):
        third = store.ensure(model_folder(2, 10 * SIZE), "ram")
        store.close()
        # A kernel that reclaims ahead of need may take pages of its own accord; what the store drops it drops whole.
        assert resident_bytes(third) > 0
        assert resident_bytes(second) > 0
        assert resident_bytes(first) == 0
    with pytest.raises(StoreFull, match="in memory"):
        store.ensure(model_folder(3, 30 * SIZE), "ram")


def test_a_bit_that_flips_at_rest_is_found_and_the_model_withdrawn(model_folder: Any, make_store: Any) -> None:
    store = make_store()
    model = store.ensure(model_folder(0))
    assert store.verify(model.digest) == ()
    flip(model.path / "model.safetensors")
    (difference,) = store.verify(model.digest)
    assert "model.safetensors has sha256" in difference
    assert stored(store) == set()
    assert store.ensure(model_folder(0)).digest == model.digest


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_a_model_that_cannot_be_read_now_is_not_withdrawn(
    model_folder: Any, make_store: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = make_store()
    model = store.ensure(model_folder(0), pin=True)

    def failing(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr("os.readv", failing)
        with pytest.raises(Unavailable, match="cannot be read"):
            store.verify(model.digest)
    assert stored(store) == {model.digest}
    assert store.verify(model.digest) == ()
    (model.path / "tokenizer.json").unlink()
    assert len(store.verify(model.digest)) == 1
    assert stored(store) == set()


@pytest.mark.parametrize("damage", [None, "flip", "truncate"])
def test_what_a_crash_of_the_machine_may_have_hurt_is_read_before_it_is_used(
    model_folder: Any, make_store: Any, tmp_path: Path, damage: str | None
) -> None:
    store = make_store()
    model = store.ensure(model_folder(0))
    store.close()
    path = tmp_path / "store" / "records" / f"{model.digest}.json"
    record = records.read(path, ModelRecord)
    assert record is not None
    records.write(path, msgspec.structs.replace(record, flushed=False, boot_id="another boot"))
    if damage == "flip":
        flip(model.path / "model.safetensors")
    if damage == "truncate":
        os.truncate(model.path / "model.safetensors", 77)
    states: list[str] = []
    again = make_store().ensure(model_folder(0), on_progress=lambda progress: states.append(progress.state))
    assert again.digest == model.digest
    assert "verifying" in states
    assert ("downloading" in states) == (damage is not None)
    assert make_store().verify(model.digest) == ()


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(500_000)
        byte = file.read(1)
        file.seek(500_000)
        file.write(bytes([byte[0] ^ 1]))


def test_links_that_leave_the_folder_and_odd_files(model_folder: Any, make_store: Any, tmp_path: Path) -> None:
    uri = model_folder(0)
    folder = Path(uri.removeprefix("file://"))
    (folder / "inner.json").symlink_to(folder / "config.json")
    os.mkfifo(folder / "pipe.json")
    assert make_store().ensure(uri)
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (folder / "outer.json").symlink_to(secret)
    with pytest.raises(SourceRefused, match="leaves the folder"):
        make_store().ensure(uri)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 6 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_others_fill_ends_it_with_numbers_and_it_goes_on_afterwards(
    made: Any, serve_model: Any, make_store: Any, server: Any, trouble: Any, small_disk: Path
) -> None:
    uri = serve_model(made(weights_bytes=4 * SIZE), manifest=True)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(4 * SIZE))
    store = make_store(small_disk / "store")
    with pytest.raises(StoreFull, match=r"needs 0\.004 GB"):
        store.ensure(uri)
    filler.unlink()
    assert store.ensure(uri)
    store.close()


def test_a_disk_that_fills_up_between_the_check_and_the_write(
    made: Any, serve_model: Any, make_store: Any, server: Any, small_disk: Path
) -> None:
    from pilotlight_store.sources.source import RemoteFile
    from pilotlight_store.transfer.disk import Staging

    (small_disk / "filler").write_bytes(bytes(4 * SIZE))
    staging = Staging(small_disk / "staging", [RemoteFile("model.safetensors", 4 * SIZE, "")])
    with pytest.raises(StoreFull, match="make room or give a store on a larger disk"):
        staging.open()
    staging.close()


def test_two_threads_are_one_download(made: Any, serve_model: Any, make_store: Any, server: Any) -> None:
    model = made()
    uri = serve_model(model, manifest=True)
    store = make_store()
    threads = [threading.Thread(target=store.ensure, args=(uri,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert server.bytes_sent() == model.weights_bytes
    assert store.list()[0].frequency == 4
