"""From headers to a caller: open door, keys, and what those without one learn."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tenant_world import START_S, TenantWorld, made_key

from pilotlight_gateway.tenants import tenant_orders
from pilotlight_gateway.tenants.authenticators import TenantAuthenticator
from pilotlight_gateway.tenants.configured_tokens import ConfiguredTokens
from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_protocol.errors import Unauthorized, Unavailable


@pytest.fixture
def world(tmp_path: Path) -> TenantWorld:
    return TenantWorld(tmp_path)


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


async def door(world: TenantWorld, *, open_until_a_tenant: bool = True) -> TenantAuthenticator:
    await world.watch.refresh()
    tokens = ConfiguredTokens(world.watch.tenant)
    return TenantAuthenticator(world.watch, tokens, open_until_a_tenant=open_until_a_tenant)


async def test_the_door_is_open_until_there_is_a_tenant_and_never_again(world: TenantWorld) -> None:
    authenticator = await door(world)
    for headers in ({}, bearer("none"), {"x-api-key": "sk-1"}):
        caller = await authenticator.caller(headers)
        assert (caller.tenant, caller.role, caller.may_use("anybodys")) == ("default", "tenant", True)
    world.tenant("acme")
    await world.watch.refresh()
    with pytest.raises(Unauthorized):
        await authenticator.caller({})
    world.store.change("acme", tenant_orders.delete_tenant("acme", START_S))
    await world.watch.refresh()
    with pytest.raises(Unauthorized):
        await authenticator.caller({})


async def test_keys_are_read_also_while_every_thread_of_the_loop_is_busy(world: TenantWorld) -> None:
    loop, busy = asyncio.get_running_loop(), threading.Event()
    threads = ThreadPoolExecutor(1)
    loop.set_default_executor(threads)
    held = loop.run_in_executor(None, busy.wait)
    try:
        world.tenant("acme")
        async with asyncio.timeout(10):
            await world.watch.refresh()
        assert world.watch.tenant("acme") is not None
        assert not held.done()
    finally:
        busy.set()
        await held
        await world.watch.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        await world.watch.refresh()


async def test_a_door_on_a_network_is_never_open(world: TenantWorld) -> None:
    with pytest.raises(Unauthorized, match="API key"):
        await (await door(world, open_until_a_tenant=False)).caller({})


@pytest.mark.parametrize(
    "write",
    [
        bearer,
        lambda key: {"authorization": f"bearer   {key} "},
        lambda key: {"x-api-key": key},
        lambda key: {"x-api-key": key, **bearer(key)},
        lambda key: {"x-api-key": key, "authorization": "Basic abc"},
    ],
)
async def test_a_key_names_its_caller(world: TenantWorld, write) -> None:
    world.tenant("acme", TenantSettings("low", ("one", "two"), ("shared",)))
    key = world.key("acme", models=("two", "three"))
    caller = await (await door(world)).caller(write(key.shown))
    assert (caller.tenant, caller.key_id, caller.role, caller.priority) == ("acme", key.id, "tenant", "low")
    assert caller.allowed_models == frozenset({"two"})
    assert (caller.may_use("acme"), caller.may_use("shared"), caller.may_use("beta")) == (True, True, False)


async def test_two_keys_are_none(world: TenantWorld) -> None:
    world.tenant("acme")
    one, other = world.key("acme"), world.key("acme")
    with pytest.raises(Unauthorized, match="two different"):
        await (await door(world)).caller({"x-api-key": one.shown, **bearer(other.shown)})


async def test_an_unknown_id_and_a_wrong_secret_are_told_the_same(world: TenantWorld) -> None:
    world.tenant("acme")
    world.tenant("gone")
    key, revoked, orphan = world.key("acme"), world.key("acme"), world.key("gone")
    world.store.change("acme", tenant_orders.revoke_key("acme", revoked.id, START_S))
    world.store.change("gone", tenant_orders.delete_tenant("gone", START_S))
    stolen_id = made_key().shown.replace(made_key().id, key.id)
    authenticator, told = await door(world), set()
    for text in (made_key().shown, stolen_id, revoked.shown, orphan.shown, "plk_" + "x" * 54, "sk-foreign", "x" * 9000):
        with pytest.raises(Unauthorized) as caught:
            await authenticator.caller(bearer(text))
        told.add((caught.value.message, caught.value.code, caught.value.param))
        assert text not in caught.value.message
    assert len(told) == 1


async def test_an_expired_key_is_told_so_to_its_owner_alone(world: TenantWorld) -> None:
    world.tenant("acme")
    key = world.key("acme", expires_s=START_S + 1)
    authenticator = await door(world)
    assert (await authenticator.caller(bearer(key.shown))).tenant == "acme"
    world.now_s += 1
    with pytest.raises(Unauthorized, match="has expired"):
        await authenticator.caller(bearer(key.shown))


async def test_keys_that_nobody_has_take_no_memory(world: TenantWorld) -> None:
    world.tenant("acme")
    authenticator = await door(world)
    before = {name: len(value) for name, value in vars(world.watch._known).items() if isinstance(value, dict)}
    for _ in range(100):
        with pytest.raises(Unauthorized):
            await authenticator.caller(bearer(made_key().shown))
    after = {name: len(value) for name, value in vars(world.watch._known).items() if isinstance(value, dict)}
    assert (before, len(before)) == (after, 3)


@pytest.mark.looptime
async def test_no_key_is_taken_while_the_store_does_not_answer(world: TenantWorld) -> None:
    world.tenant("acme")
    key = world.key("acme")
    authenticator = await door(world)
    world.now_s += 1.1
    for headers in (bearer(key.shown), bearer(made_key().shown)):
        with pytest.raises(Unavailable):
            await authenticator.caller(headers)
    await world.watch.refresh()
    assert (await authenticator.caller(bearer(key.shown))).tenant == "acme"


@pytest.mark.looptime
async def test_a_key_that_was_taken_back_is_refused_within_a_second_also_by_a_slow_store(world: TenantWorld) -> None:
    """Who asks meanwhile waits for the store, and is told what it says."""
    world.tenant("acme")
    key, other = world.key("acme"), world.key("acme")
    authenticator = await door(world)
    world.store.change("acme", tenant_orders.revoke_key("acme", key.id, START_S))
    world.now_s += 1.0
    assert (await authenticator.caller(bearer(key.shown))).tenant == "acme"
    world.now_s += 0.01
    asked = [asyncio.create_task(authenticator.caller(bearer(each.shown))) for each in (key, other)]
    await asyncio.sleep(2.9)
    assert not any(task.done() for task in asked)
    await world.watch.refresh()
    with pytest.raises(Unauthorized):
        await asked[0]
    assert (await asked[1]).tenant == "acme"


async def test_what_runs_later_may_use_no_more_models_than_the_key_that_asked(world: TenantWorld) -> None:
    world.tenant("acme", TenantSettings(models=("chat", "small")))
    keys = [world.key("acme", models=models) for models in (("small",), (), ("other",))]
    authenticator = await door(world)
    for key in keys:
        asked = await authenticator.caller(bearer(key.shown))
        assert authenticator.caller_again("acme", key.id) == asked
