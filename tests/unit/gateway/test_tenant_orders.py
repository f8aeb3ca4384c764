"""What may be done to tenants and keys, in a real store that a second process has open, too."""

from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from tenant_world import START_S, TenantWorld, made_key

from pilotlight_gateway.limits.limit_terms import LimitTerms
from pilotlight_gateway.tenants import tenant_orders
from pilotlight_gateway.tenants.errors import KeyNotFound, TenantNotFound
from pilotlight_gateway.tenants.sqlite_store import SqliteTenants
from pilotlight_gateway.tenants.tenant_records import KeyRecord, KeyState, TenantSettings
from pilotlight_protocol.errors import Conflict, InvalidInput, Unavailable


@pytest.fixture
def world(tmp_path: Path) -> TenantWorld:
    return TenantWorld(tmp_path)


@pytest.mark.parametrize(
    ("changes", "at_s", "state"),
    [
        ({}, 0, "active"),
        ({"expires_s": 10.0}, 9.9, "active"),
        ({"expires_s": 10.0}, 10.0, "expired"),
        ({"successor": "b", "expires_s": 10.0}, 9.9, "rotated"),
        ({"successor": "b", "expires_s": 10.0}, 10.0, "expired"),
        ({"revoked_s": 1.0, "expires_s": 10.0}, 20.0, "revoked"),
    ],
)
def test_the_state_of_a_key(changes, at_s: float, state: KeyState) -> None:
    assert KeyRecord("a", "acme", b"", 0.0, **changes).state(at_s) == state


def test_what_was_written_is_read_by_another_process(world: TenantWorld) -> None:
    settings = TenantSettings("high", ("quickstart",), ("shared",), LimitTerms(requests_per_minute=5))
    world.tenant("acme", settings)
    key = world.key("acme", role="admin")
    other = SqliteTenants(world.path)
    assert [tenant.settings for tenant in other.tenants()] == [settings]
    (record,) = other.keys("acme")
    assert (record.id, record.digest, record.role) == (key.id, key.digest, "admin")
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600


def test_nothing_of_a_keys_secret_is_on_the_disk(world: TenantWorld) -> None:
    world.tenant("acme")
    key = world.key("acme")
    secret = key.shown.rpartition("_")[2].encode()
    written = b"".join(path.read_bytes() for path in world.path.parent.iterdir())
    assert key.id.encode() in written
    assert secret not in written


def test_changes_tell_what_is_new(world: TenantWorld) -> None:
    assert world.store.changes(0) is None
    world.tenant("acme")
    first = world.store.changes(0)
    assert first is not None
    world.key("acme")
    second = world.store.changes(first.upto)
    assert second is not None
    assert (len(second.tenants), len(second.keys)) == (0, 1)
    assert world.store.changes(second.upto) is None


def test_a_rotated_key_goes_on_for_its_grace_period(world: TenantWorld) -> None:
    world.tenant("acme")
    key, successor = world.key("acme", role="admin", models=("m",)), made_key()
    world.store.change("acme", tenant_orders.rotate_key("acme", key.id, successor, 60.0, START_S))
    by_id = {record.id: record for record in world.store.keys("acme")}
    old, new = by_id[key.id], by_id[successor.id]
    assert (old.state(START_S + 59), old.state(START_S + 60), old.successor) == ("rotated", "expired", successor.id)
    assert (new.state(START_S + 60), new.role, new.models) == ("active", "admin", ("m",))
    with pytest.raises(Conflict, match="is rotated"):
        world.store.change("acme", tenant_orders.rotate_key("acme", key.id, made_key(), 60.0, START_S))


def test_a_rotation_never_makes_a_key_live_longer(world: TenantWorld) -> None:
    world.tenant("acme")
    key, successor = world.key("acme", expires_s=START_S + 30), made_key()
    world.store.change("acme", tenant_orders.rotate_key("acme", key.id, successor, 60.0, START_S))
    assert {record.expires_s for record in world.store.keys("acme")} == {START_S + 30}


def test_a_deleted_tenants_keys_are_revoked_for_good(world: TenantWorld) -> None:
    world.tenant("acme")
    key = world.key("acme")
    world.store.change("acme", tenant_orders.delete_tenant("acme", START_S + 1))
    (record,) = world.store.keys("acme")
    assert (record.id, record.state(START_S + 2)) == (key.id, "revoked")


def test_a_deleted_tenants_name_is_nobodys_again(world: TenantWorld) -> None:
    """What was kept under it would be the new one's."""
    world.tenant("acme")
    world.store.change("acme", tenant_orders.delete_tenant("acme", START_S + 1))
    for store in (world.store, SqliteTenants(world.path)):
        for settings in (TenantSettings(), TenantSettings("high")):
            with pytest.raises(Conflict, match="not given again"):
                store.change("acme", tenant_orders.create_tenant("acme", settings, START_S + 2))
        with pytest.raises(TenantNotFound):
            store.change("acme", tenant_orders.change_settings("acme", TenantSettings()))
        with pytest.raises(TenantNotFound):
            store.change("acme", tenant_orders.create_key("acme", made_key(), START_S + 2))
    (record,) = world.store.tenants()
    assert record.deleted_s == START_S + 1


@pytest.mark.parametrize("name", ["", "Acme", "a_b", "-a", "a" * 64, "a/b", "a\n"])
def test_what_is_no_namespace_is_no_tenant(world: TenantWorld, name: str) -> None:
    with pytest.raises(InvalidInput):
        world.tenant(name)
    assert world.store.changes(0) is None


def test_orders_for_what_is_not_there(world: TenantWorld) -> None:
    world.tenant("acme")
    world.tenant("beta")
    foreign = world.key("beta")
    with pytest.raises(Conflict):
        world.tenant("acme")
    with pytest.raises(TenantNotFound):
        world.key("nobody")
    for key_id in ("nothing", foreign.id):
        with pytest.raises(KeyNotFound):
            world.store.change("acme", tenant_orders.revoke_key("acme", key_id, START_S))
        with pytest.raises(KeyNotFound):
            world.store.change("acme", tenant_orders.rotate_key("acme", key_id, made_key(), 1.0, START_S))


@pytest.mark.real_time  # two connections to one file wait for each other in threads
def test_of_two_rotations_at_once_one_is_right(world: TenantWorld) -> None:
    world.tenant("acme")
    key = world.key("acme")
    other, refused = SqliteTenants(world.path), []

    def rotate(store: SqliteTenants) -> None:
        try:
            store.change("acme", tenant_orders.rotate_key("acme", key.id, made_key(), 60.0, START_S))
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=rotate, args=(store,)) for store in (world.store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(refused), len(world.store.keys("acme"))) == (1, 2)


def test_a_newer_versions_file_is_refused(world: TenantWorld) -> None:
    with sqlite3.connect(world.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Unavailable, match="newer version"):
        SqliteTenants(world.path)


def test_a_file_that_is_none_is_an_error_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"this is no database" * 100)
    with pytest.raises(Unavailable) as caught:
        SqliteTenants(tmp_path / "file")
    assert str(tmp_path) not in caught.value.message
