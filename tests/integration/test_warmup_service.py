"""The warm pool's service as a process, over fake engine hosts that speak the real frames."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from waiting import until_async
from warmup_pool import FAKE_POOL, Holder, Pool, fake_model, generate, kill

from pilotlight_protocol import engine_frames as f

pytestmark = pytest.mark.integration
Start = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    @contextlib.asynccontextmanager
    async def _start(*flags: str, slots: tuple[str, ...] = ("cpu:0=4GiB",)) -> AsyncIterator[Pool]:
        chosen = [flag for slot in slots for flag in ("--slot", slot)]
        async with Pool(tmp_path, str(FAKE_POOL), *chosen, "--drain_s", "0", *flags) as pool:
            yield pool

    return _start


@pytest.fixture
def models(tmp_path: Path) -> Callable[..., Path]:
    def make(number: int, **behaviour: Any) -> Path:
        return fake_model(tmp_path / f"model-{number}", number, **behaviour)

    return make


async def test_the_first_lease_forks_the_same_model_is_loaded_and_the_next_swaps(start: Start, models: Any) -> None:
    first, second = models(1), models(2)
    async with start() as pool:
        paths = []
        for model, token in ((first, 1), (first, 1), (second, 2), (first, 1)):
            lease = await pool.lease(model)
            assert await generate(lease, 3) == [token] * 3
            paths.append(lease["path"])
            assert lease["reasons"]
            await pool.release(lease)
        assert paths == ["fork", "loaded", "swap", "swap"]
        await pool.state_becomes("idle")
        metrics = (await pool.call("GET", "/metrics")).body["text"]
        assert 'pilotlight_lease_wait_seconds_count{path="swap"} 2.0' in metrics
        assert 'pilotlight_engine_phase_seconds_count{path="swap",phase="weights"} 2.0' in metrics
        assert 'pilotlight_prediction_error_seconds_count{path="fork"} 1.0' in metrics


async def test_a_secret_is_told_once_and_opens_one_lease_alone(start: Start, models: Any) -> None:
    async with start() as pool:
        lease = await pool.lease(models(1))
        polled = (await pool.call("GET", f"/v1/leases/{lease['lease_id']}")).body
        assert polled["endpoint"] == lease["endpoint"]
        assert "secret" not in polled
        assert "secret" not in (await pool.heartbeat(lease)).body
        async with Holder.open(lease, secret="0" * 64) as holder:
            with pytest.raises((EOFError, ConnectionError)):
                await holder.frame()
        await pool.release(lease)
        other = await pool.lease(models(2))
        async with Holder.open(other, secret=lease["secret"]) as holder:
            with pytest.raises((EOFError, ConnectionError)):
                await holder.frame()
        everything = str([await pool.call("GET", path) for path in ("/v1/leases", "/v1/slots", "/v1/models")])
        for secret in (lease["secret"], other["secret"]):
            assert secret not in pool.log()
            assert secret not in everything


async def test_an_ended_lease_loses_its_connection_and_its_engine_stays(start: Start, models: Any) -> None:
    model = models(1)
    async with start() as pool:
        lease = await pool.lease(model)
        async with Holder.open(lease) as holder:
            assert isinstance(await holder.frame(), f.Welcome)
            await pool.release(lease)
            assert isinstance(await holder.frame(), f.Failed)
        answer = await pool.heartbeat(lease)
        assert answer.status == 410
        await pool.state_becomes("idle")
        assert (await pool.slots())[0]["model"] is not None


async def test_a_dead_engine_ends_its_lease_at_once_and_the_slot_comes_back(start: Start, models: Any) -> None:
    model = models(1)
    async with start() as pool:
        lease = await pool.lease(model)
        kill(pool.engine_pid())
        answer = await until_async(lambda: pool.heartbeat(lease), holds=lambda answer: answer.status != 200)
        assert answer.status == 410
        assert "lost" in answer.body["error"]
        await pool.until(lambda: re.search(r"the engine of cpu:0 \(pid \d+\) was killed by signal 9", pool.log()), 30)
        again = await pool.lease(model)
        assert await generate(again, 2) == [1, 1]


async def test_an_engine_that_stands_still_while_it_boots_is_replaced(
    start: Start, models: Any, tmp_path: Path
) -> None:
    model = models(1, boot="hang", once=str(tmp_path / "once"))
    async with start() as pool:
        asked = asyncio.create_task(pool.lease(model))
        await pool.until(lambda: "the engine of cpu:0 is pid" in pool.log() and (tmp_path / "once").exists())
        os.kill(pool.engine_pid(), signal.SIGSTOP)
        assert await generate(await asked, 2) == [1, 1]
        assert "the engine was lost: it was stopped for" in pool.log()


async def test_a_zygote_that_stands_still_is_replaced_when_an_engine_is_wanted(start: Start, models: Any) -> None:
    async with start() as pool:
        await pool.until(lambda: "the zygote (pid" in pool.log())
        os.kill(pool.zygote_pid(), signal.SIGSTOP)
        assert await generate(await pool.lease(models(1)), 2) == [1, 1]
        assert re.search(r"the zygote \(pid \d+\) is killed: it was stopped for", pool.log())


async def test_a_dead_zygote_takes_its_engines_along_and_is_started_again(start: Start, models: Any) -> None:
    async with start() as pool:
        lease = await pool.lease(models(1))
        kill(pool.zygote_pid())
        again = await pool.lease(models(2))
        assert await generate(again, 2) == [2, 2]
        assert (await pool.heartbeat(lease)).status == 410


@pytest.mark.parametrize(
    "behaviour",
    [{"swap": "fail"}, {"swap": "refuse"}, {"swap": "crash"}, {"swap_check": [9, -0.1], "swap_check_after": [8, -0.1]}],
)
async def test_a_failed_swap_becomes_a_boot_that_the_holder_does_not_notice(
    start: Start, models: Any, behaviour: dict[str, Any]
) -> None:
    odd = models(2, **behaviour)
    async with start() as pool:
        if "swap_check" in behaviour:
            # What a booted engine says must be known before a swapped one can be compared with it.
            await pool.release(await pool.lease(odd))
        await pool.release(await pool.lease(models(1)))
        lease = await pool.lease(odd)
        assert await generate(lease, 2) == [2, 2]
        assert lease["path"] == "fork"
        assert "cpu:0" in lease["reasons"][0]


async def test_an_engine_that_crashes_once_while_it_boots_is_booted_again(
    start: Start, models: Any, tmp_path: Path
) -> None:
    async with start() as pool:
        lease = await pool.lease(models(1, boot="crash", once=str(tmp_path / "crashed")))
        assert await generate(lease, 1) == [1]


async def test_an_engine_that_never_boots_is_given_up_and_one_that_is_misconfigured_at_once(
    start: Start, models: Any
) -> None:
    crashing, wrong = models(1, boot="crash"), models(2, boot="misconfigured")
    async with start() as pool:
        answer = await pool.ask(crashing)
        assert (answer.status, "lost" in answer.body["error"]) == (503, True)
        assert int(answer.headers["Retry-After"]) >= 1
        answer = await pool.ask(wrong)
        assert (answer.status, "nonsense" in answer.body["error"]) == (400, True)
        assert await generate(await pool.lease(models(3)), 1) == [3]


async def test_a_deadline_that_cannot_be_met_fails_early_with_reasons(start: Start, models: Any) -> None:
    async with start() as pool:
        began_s = time.monotonic()
        answer = await pool.ask(models(1), deadline_s=3.5)  # a fork is predicted to take 4 s
        assert answer.status == 503
        assert time.monotonic() - began_s < 3.0
        assert "deadline" in answer.body["error"]
        assert int(answer.headers["Retry-After"]) >= 1
        holder = await pool.lease(models(2), priority="interactive", tenant="a")
        # Who holds the slot never ends, and `ask` waits for 30 s.
        answer = await pool.ask(models(3), deadline_s=0.5, tenant="b")
        assert answer.status == 503
        assert (await pool.heartbeat(holder)).status == 200


async def test_a_silent_holder_loses_its_lease_to_one_that_waits(start: Start, models: Any) -> None:
    async with start("--lease_expires_s", "1") as pool:
        silent = await pool.lease(models(1), priority="interactive")
        lease = await pool.lease(models(2), priority="interactive")
        assert await generate(lease, 1) == [2]
        assert (await pool.heartbeat(silent)).status == 410


async def test_an_idle_lease_gives_way_and_an_interactive_one_at_work_does_not(start: Start, models: Any) -> None:
    slow, other = models(1, step_s=0.02), models(2)
    async with start() as pool:
        lease = await pool.lease(slow, tenant="a", priority="interactive")
        async with Holder.open(lease) as holder:
            await holder.frame()
            holder.ask(60)
            assert isinstance(await holder.frame(), f.Step)
            waiting = asyncio.create_task(pool.lease(other, tenant="b", priority="interactive"))
            frame = await holder.frame()
            while not (isinstance(frame, f.Step) and frame.deltas[0][1].finish_reason):
                assert isinstance(frame, f.Step)
                frame = await holder.frame()
            assert isinstance(await holder.frame(), f.Failed)
        assert await generate(await waiting, 1) == [2]
        answer = await pool.heartbeat(lease)
        assert answer.status == 410
        assert "preempted" in answer.body["error"]


async def test_who_hangs_up_while_waiting_has_no_lease(start: Start, models: Any) -> None:
    async with start() as pool:
        await pool.lease(models(1), priority="interactive")

        async def states() -> list[str]:
            return [line["state"] for line in (await pool.call("GET", "/v1/leases")).body["leases"]]

        waiting = asyncio.create_task(pool.ask(models(2)))
        await until_async(states, holds=lambda seen: seen == ["active", "queued"])
        waiting.cancel()
        await until_async(states, holds=lambda seen: seen == ["active", "released"])


async def test_reset_gives_every_tenant_a_fresh_process(start: Start, models: Any) -> None:
    first, second = models(1), models(2)
    async with start("--isolation", "reset") as pool:
        paths = []
        for tenant, model in (("a", first), ("a", second), ("b", second), ("b", first)):
            lease = await pool.lease(model, tenant=tenant)
            paths.append(lease["path"])
            await pool.release(lease)
        assert paths == ["fork", "swap", "fork", "swap"]


async def test_a_dedicated_engine_serves_nobody_else(start: Start, models: Any) -> None:
    model = models(1)
    async with start() as pool:
        lease = await pool.lease(model, tenant="a", isolation="dedicated")
        await pool.release(lease)
        others = await pool.lease(model, tenant="b")
        assert others["path"] == "fork", "its slot is anybody's, its process is not"
        assert len(pool.children()) == 2, "the zygote and the engine of b; that of a has ended"


async def test_a_prewarmed_model_is_loaded_when_its_lease_comes(start: Start, models: Any) -> None:
    model = models(1)
    async with start() as pool:
        answer = await pool.call("POST", "/v1/prewarm", {"model": str(model), "model_name": "m"})
        assert answer.status == 202
        await pool.state_becomes("idle")
        assert (await pool.call("GET", "/v1/models")).body["models"][0]["loaded_in"] == ["cpu:0"]
        assert (await pool.lease(model))["path"] == "loaded"
        wrong = await pool.call("POST", "/v1/prewarm", {"model": str(model), "model_name": "m", "schedule": "daily"})
        assert wrong.status == 400
        right = {"model": str(model), "model_name": "m", "schedule": "cron * * * * * for 1h"}
        assert (await pool.call("POST", "/v1/prewarm", right)).body["schedule"] == right["schedule"]


async def test_an_engine_nobody_pays_for_is_stopped(start: Start, models: Any) -> None:
    async with start("--keep_alive_price_s", "0.5", "--uncontested_keep_s", "0") as pool:
        await pool.release(await pool.lease(models(1)))
        await pool.state_becomes("idle")
        await pool.state_becomes("empty")


async def test_on_a_gpu_an_engine_that_has_to_go_sleeps_and_is_woken(start: Start, models: Any, tmp_path: Path) -> None:
    once = tmp_path / "once"
    flags = ("--sleepers", "1", "--sleep_memory", "1GiB")
    async with start(*flags, slots=("cuda:0=16GiB",)) as pool:
        first, second = models(1), models(2, wake="crash", once=str(once))
        paths = []
        for model, token in ((first, 1), (second, 2), (first, 1)):
            lease = await pool.lease(model)
            assert await generate(lease, 3) == [token] * 3
            paths.append(lease["path"])
            await pool.release(lease)
        assert paths == ["fork", "fork", "wake"]
        await pool.state_becomes("idle")
        (slot,) = await pool.slots()
        assert len(slot["sleeping"]) == 1
        assert len(pool.children()) == 3, "the zygote, the engine that is awake and the one that sleeps"
        lease = await pool.lease(second)
        assert await generate(lease, 3) == [2] * 3, "the wake crashed, so it was booted"
        assert lease["path"] == "fork"


async def test_with_keys_tenants_neither_see_nor_touch_one_another(start: Start, models: Any, tmp_path: Path) -> None:
    first = models(1)
    keys, file = {"acme": "key of acme", "globex": "key of globex"}, tmp_path / "keys.json"
    entries: list[dict[str, object]] = [
        {"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": tenant, "sources": [f"file://{first}/"]}
        for tenant, key in keys.items()
    ]
    file.write_text(json.dumps({"keys": entries[:1]}))
    async with start("--lease_keys", str(file), "--model_root", str(tmp_path)) as pool:
        body = {"model": f"{first}/", "model_name": "m", "wait_s": 30.0}
        for wrong in ("", "another", keys["globex"]):
            assert (await pool.call("POST", "/v1/leases", body, wrong)).status == 401
        granted = await pool.call("POST", "/v1/leases", body, keys["acme"])
        assert (granted.status, granted.body["state"]) == (201, "active")
        assert (await pool.call("POST", "/v1/leases", body | {"tenant": "globex"}, keys["acme"])).status == 403
        assert (await pool.call("POST", "/v1/leases", body | {"model": str(models(2))}, keys["acme"])).status == 403

        entries.append({"sha256": hashlib.sha256(b"root").hexdigest(), "operator": True})
        file.write_text(json.dumps({"keys": entries}))
        theirs = await until_async(
            lambda: pool.call("GET", "/v1/leases", key=keys["globex"]), holds=lambda answer: answer.status != 401
        )
        assert theirs.body == {"leases": []}
        path = f"/v1/leases/{granted.body['lease_id']}"
        for method, route in (("GET", path), ("DELETE", path), ("POST", f"{path}/heartbeat")):
            assert (await pool.call(method, route, key=keys["globex"])).status == 404
        for route in ("/v1/slots", "/v1/models"):
            assert (await pool.call("GET", route, key=keys["acme"])).status == 403
            assert (await pool.call("GET", route, key="root")).status == 200
        (line,) = (await pool.call("GET", "/v1/leases", key=keys["acme"])).body["leases"]
        assert (line["tenant"], line["state"] in ("active", "idle")) == ("acme", True)

        # The unused lease of acme goes to globex, and neither hears of the other.
        taken = await pool.call("POST", "/v1/leases", body, keys["globex"])
        prewarm = await pool.call("POST", "/v1/prewarm", {"model": f"{first}/", "model_name": "m"}, keys["globex"])
        assert (taken.status, prewarm.status, prewarm.body["loaded_in"]) == (201, 202, [])
        theirs = await pool.call("GET", "/v1/leases", key=keys["globex"])
        lost = await pool.call("POST", f"{path}/heartbeat", key=keys["acme"])
        assert (lost.status, lost.body) == (410, {"error": "the lease was preempted: it is idle"})
        for answer in (taken, prewarm, theirs):
            assert not {"acme", granted.body["lease_id"]} & set(re.findall(r"[\w-]+", json.dumps(answer.body)))
        assert f"{granted.body['lease_id']} is preempted for globex" in pool.log()
        assert "key of" not in pool.log()


async def test_wrong_requests_are_answered_with_what_to_do(start: Start, models: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    async with start(slots=("cpu:0=1GiB",)) as pool:
        for body, status, words in (
            ({"model": str(models(1)), "model_name": "m"}, 413, "--slot"),
            ({"model": "relative/path", "model_name": "m"}, 400, "absolute"),
            ({"model": str(tmp_path / "nowhere"), "model_name": "m"}, 404, "nowhere"),
            ({"model": str(empty), "model_name": "m"}, 400, "safetensors"),
            ({"model": "hf://org/name", "model_name": "m"}, 400, "--store"),
            ({"model": "bundled://nothing", "model_name": "m"}, 404, "available"),
            ({"model": "/x", "model_name": "m", "priorty": "batch"}, 400, "priorty"),
            ({"model": "/x", "model_name": "m", "priority": "urgent"}, 400, "priority"),
            ({"model_name": "m"}, 400, "model"),
        ):
            answer = await pool.call("POST", "/v1/leases", body)
            assert answer.status == status, (body, answer)
            assert words in answer.body["error"], answer
        assert (await pool.call("GET", "/v1/leases/none")).status == 404
        assert (await pool.call("DELETE", "/v1/leases/none")).status == 404
        assert (await pool.call("POST", "/v1/leases/none/heartbeat")).status == 404
        assert "error" in (await pool.call("GET", "/nothing")).body


async def test_sigterm_lets_holders_finish_and_refuses_new_ones(start: Start, models: Any) -> None:
    model = models(1)
    async with start("--drain_s", "60") as pool:
        lease = await pool.lease(model)
        pool.process.terminate()
        await pool.until(lambda: "ending" in pool.log())
        assert (await pool.ask(model)).status == 503
        assert await generate(lease, 2) == [1, 1]
        await pool.release(lease)
        assert await asyncio.to_thread(pool.process.wait, 30) == 0


async def test_sigkill_leaves_nothing_behind(start: Start, models: Any) -> None:
    async with start() as pool:
        await pool.lease(models(1))
        assert len(pool.children()) >= 2
        pool.process.kill()
        await pool.until(lambda: not pool.children())


async def test_churn_with_kills_answers_from_the_right_weights_or_not_at_all(start: Start, models: Any) -> None:
    folders = {number: models(number, boot_s=0.05, step_s=0.002) for number in range(1, 21)}
    random_ = random.Random(7)
    async with start("--lease_expires_s", "3", slots=("cpu:0=4GiB", "cpu:1=4GiB")) as pool:
        done, failed, kills = 0, 0, 0

        async def client(tenant: str) -> None:
            nonlocal done, failed
            while done < 150:
                number = random_.choice(list(folders))
                answer = await pool.ask(folders[number], tenant=tenant, name=f"m{number}", deadline_s=20)
                if answer.status != 201:
                    assert answer.status == 503, answer
                    failed += 1
                    continue
                try:
                    async with asyncio.timeout(30):
                        assert await generate(answer.body, 10) == [number] * 10
                    done += 1
                except (EOFError, ConnectionError, FileNotFoundError):
                    failed += 1
                await pool.call("DELETE", f"/v1/leases/{answer.body['lease_id']}")

        async def murderer() -> None:
            """Counts answers, not seconds: a busy machine has no more kills for each of them."""
            nonlocal kills
            while done < 150:
                await until_async(partial(lambda wanted: done >= wanted, min(done + 10, 150)))
                kills += 1
                pids = re.findall(r"is pid (\d+)", pool.log())[-2:]
                with contextlib.suppress(ProcessLookupError):
                    kill(int(random_.choice(pids)) if random_.random() < 0.8 else pool.zygote_pid())

        async with asyncio.timeout(100):
            await asyncio.gather(murderer(), *(client(f"t{number % 3}") for number in range(6)))
        assert kills >= 10
        assert failed < done / 4, (done, failed)
        lines = (await pool.call("GET", "/v1/leases")).body["leases"]
        assert not [line for line in lines if line["state"] in {"queued", "placing", "active"}]
        for _ in range(2):
            assert await generate(await pool.lease(folders[1], priority="interactive"), 1) == [1]


async def test_a_folder_that_blocks_or_has_no_end_is_refused_at_once_and_nobody_else_notices(
    start: Start, models: Any
) -> None:
    bad = {name: models(number) for number, name in enumerate(BAD_FILES, 10)}
    for name, (spoil, _) in BAD_FILES.items():
        spoil(bad[name])
    good = models(1)
    async with start() as pool:
        await pool.release(await pool.lease(good))
        before = resident_bytes(pool)

        async def refused(name: str) -> float:
            began_s = time.monotonic()
            answer = await pool.ask(bad[name])
            assert answer.status == 400, answer
            assert BAD_FILES[name][1] in answer.body["error"]
            return time.monotonic() - began_s

        asking = asyncio.gather(*(refused(name) for name in bad for _ in range(10)))
        served_s = []
        while not asking.done():
            began_s = time.monotonic()
            lease = await pool.lease(good)
            assert await generate(lease, 2) == [1, 1]
            await pool.release(lease)
            served_s.append(time.monotonic() - began_s)
        refused_s = await asking
        grown = resident_bytes(pool) - before
        print(f"{len(refused_s)} refused within {max(refused_s):.2f} s, {len(served_s)} leases of the good model ",
              f"within {max(served_s):.2f} s each, the pool grew by {grown / 2**20:.1f} MiB")  # fmt: skip
        # A folder that blocks whoever opens it used to hold its neighbours up for 40 s.
        assert max(refused_s) < 20.0
        assert max(served_s) < 20.0
        assert grown < 64 * 2**20


def resident_bytes(pool: Pool) -> int:
    """The most there ever was, of the service alone: what was taken and given back counts too."""
    status = Path(f"/proc/{pool.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 * 2**30)


def endless(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (lambda folder: os.mkfifo(folder / "tokenizer.json"), "tokenizer.json is not a regular file"),
    "sparse config": (lambda folder: sparse(folder / "config.json"), "config.json has 3221225472 bytes"),
    "sparse index": (
        lambda folder: sparse(folder / "model.safetensors.index.json"),
        "model.safetensors.index.json has 3221225472 bytes",
    ),
    "device": (lambda folder: endless(folder / "generation_config.json"), "generation_config.json is not a regular"),
    "nested": (lambda folder: (folder / "config.json").write_bytes(b"[" * 10**6), "nested too deeply"),
}


async def test_two_holders_of_one_endpoint_stream_at_once_from_one_slot(start: Start, models: Any) -> None:
    model = models(7, step_s=0.01)
    async with start() as pool:
        first, second = await pool.lease(model), await pool.lease(model)
        assert (second["path"], second["endpoint"]) == ("share", first["endpoint"])
        async with Holder.open(first) as one, Holder.open(second) as two:
            one.ask(10_000)
            two.ask(10_000)
            for holder in (one, two, one, two):
                while not isinstance(frame := await holder.frame(), f.Step) or not frame.deltas:
                    continue
                assert {token for _, delta in frame.deltas for token in delta.token_ids} == {7}
            await pool.release(first)
            with contextlib.suppress(EOFError):
                while not isinstance(await one.frame(), f.Failed):
                    continue
            for _ in range(3):
                assert isinstance(await two.frame(), f.Step), "who stays streams on"
        assert (await pool.heartbeat(second)).status == 200
        assert await generate(second, 3) == [7] * 3
