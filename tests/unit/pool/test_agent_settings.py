"""What the command line means: slots, addresses, weights; and the folder the engines listen in."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from pilotlight_pool.agent.engine_addresses import EngineAddresses
from pilotlight_pool.agent.slot_settings import parse_slots
from pilotlight_pool.arguments import parse
from pilotlight_pool.engine_orders import SlotFacts
from pilotlight_pool.listener import address_of, open_listener
from pilotlight_pool.run_dir import open_run_dir
from pilotlight_protocol.errors import InvalidInput

NEEDED = ["--run_dir", "/run/pool", "--slot", "cpu:0=4GiB"]


@pytest.mark.parametrize(
    ("texts", "cpus", "expected"),
    [
        (["cpu:0=4GiB"], 8, [("cpu:0", 4 * 2**30, 8)]),
        (["cpu:0=4GiB", "cpu:1=500M"], 8, [("cpu:0", 4 * 2**30, 4), ("cpu:1", 500_000_000, 4)]),
        (["cpu:a=1.5G", "cpu:b=1Gi"], 1, [("cpu:a", 1_500_000_000, 1), ("cpu:b", 2**30, 1)]),
        (["cuda:0=70GiB"], 8, [("cuda:0", 70 * 2**30, 0)]),
        (["cuda:MIG-4f2a/7/0=9GiB"], 8, [("cuda:MIG-4f2a/7/0", 9 * 2**30, 0)]),
    ],
)  # fmt: skip
def test_slots(texts: list[str], cpus: int, expected: list[tuple[str, int, int]]) -> None:
    assert parse_slots(texts, cpus) == tuple(SlotFacts(name, name, size, threads) for name, size, threads in expected)


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["cpu:0"],
        ["cpu=4GiB"],
        ["cpu:0=4"],
        ["cpu:0=0GiB"],
        ["gpu:0=4GiB"],
        ["cpu:0=1G", "cpu:0=2G"],
        ["cpu:0=1G", "cuda:0=2G"],
    ],
)
def test_slots_that_mean_nothing(texts: list[str]) -> None:
    with pytest.raises(InvalidInput):
        parse_slots(texts, 2)


def test_sleepers_take_their_context_off_the_slot() -> None:
    (slot,) = parse_slots(["cuda:0=70GiB"], 8, 2, "64GiB")
    assert slot == SlotFacts("cuda:0", "cuda:0", 66 * 2**30, 0, 2, 64 * 2**30)


@pytest.mark.parametrize(
    ("slot", "sleepers", "memory", "says"),
    [
        ("cpu:0=4GiB", 1, "16GiB", "needs a GPU"),
        ("cuda:0=4GiB", 2, "16GiB", "leaves cuda:0 nothing"),
        ("cuda:0=70GiB", -1, "16GiB", "--sleepers -1"),
        ("cuda:0=70GiB", 1, "much", "write for example 64GiB"),
    ],
)
def test_sleepers_that_cannot_be(slot: str, sleepers: int, memory: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse_slots([slot], 2, sleepers, memory)


@pytest.mark.parametrize(
    ("flags", "roots"),
    [
        ([], ("/",)),
        (["--model_root", "/models"], ("/models",)),
        (["--lease_keys", "/keys"], ()),
        (["--lease_keys", "/keys", "--model_root", "/models"], ("/models",)),
    ],
)
def test_with_keys_folders_are_served_from_where_the_operator_says(flags: list[str], roots: tuple[str, ...]) -> None:
    agent = parse([*NEEDED, *flags]).agent
    assert agent is not None
    assert agent.model_roots == tuple(Path(root) for root in roots)


def test_with_keys_it_may_listen_to_the_network() -> None:
    assert parse([*NEEDED, "--lease_keys", "/keys", "--listen", "tcp://0.0.0.0:8090"]).listen == "tcp://0.0.0.0:8090"


def test_defaults_and_weights() -> None:
    arguments = parse([*NEEDED, "--tenant_weight", "acme=2", "--tenant_weight", "a=b=0.5"])
    assert arguments.listen == "tcp://127.0.0.1:8090"
    assert arguments.weights == {"acme": 2.0, "a=b": 0.5}
    assert arguments.agent is not None
    assert (arguments.role, arguments.isolation, arguments.agent.store) == ("both", "shared", None)
    assert arguments.agent.slots[0].slot_id == "cpu:0"


def test_apart_every_role_is_told_what_it_needs() -> None:
    agent = parse(
        [*NEEDED, "--role=agent", "--agent_name=n1", "--coordinator=http://pool:8091/", "--token_file=/t"]
        + ["--engine_host=10.0.0.7", "--engine_ports=20000-20003"]
    )
    assert agent.agent is not None
    assert (agent.agent.coordinator, agent.agent.name) == ("http://pool:8091", "n1")
    assert agent.agent.slots[0].slot_id == "n1/cpu:0"
    assert agent.agent.slots[0].device == "cpu:0"
    assert agent.agent.engine_ports == range(20000, 20004)
    coordinator = parse(["--role=coordinator", "--agents_listen=tcp://0.0.0.0:8091", "--token_file=/t"])
    assert coordinator.agent is None


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--run_dir=/r"], "--slot"),
        ([*NEEDED, "--agents_listen=tcp://0.0.0.0:1"], "--agents_listen"),
        ([*NEEDED, "--token_file=/t"], "--token_file"),
        ([*NEEDED, "--role=agent", "--token_file=/t"], "--coordinator"),
        ([*NEEDED, "--role=agent", "--token_file=/t", "--coordinator=pool:8091"], "--coordinator"),
        ([*NEEDED, "--role=agent", "--token_file=/t", "--coordinator=http://p", "--agent_name=a/b"], "--agent_name"),
        (["--role=coordinator", "--agents_listen=tcp://0.0.0.0:1"], "--token_file"),
        (["--role=coordinator", "--agents_listen=8091", "--token_file=/t"], "--agents_listen"),
        ([*NEEDED, "--engine_ports=1-9"], "--engine_host"),
        ([*NEEDED, "--engine_host=::1", "--engine_ports=9-1"], "--engine_ports"),
        ([*NEEDED, "--engine_host=::1", "--engine_ports=20000-20000"], "--engine_ports"),
    ],
)
def test_what_a_role_lacks_or_cannot_use_is_named(argv: list[str], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        parse(argv)


def test_engines_listen_in_the_run_folder_or_on_ports_that_go_round() -> None:
    sockets = EngineAddresses(Path("/run/p"))
    assert [sockets.next("cpu:0", number) for number in (1, 2)] == [
        "unix:///run/p/cpu-0.1.sock",
        "unix:///run/p/cpu-0.2.sock",
    ]
    ports = EngineAddresses(Path("/run/p"), "fd00::7", range(20000, 20002))
    assert [ports.next("cpu:0", 1) for _ in range(3)] == [f"tcp://[fd00::7]:{port}" for port in (20000, 20001, 20000)]
    assert EngineAddresses(Path("/run/p"), "10.0.0.7").next("cpu:0", 1) == "tcp://10.0.0.7:0"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--listen", "localhost"),
        ("--listen", "tcp://host:99999"),
        ("--listen", "unix://relative"),
        ("--listen", "tcp://0.0.0.0:8090"),
        ("--listen", "tcp://[::]:8090"),
        ("--listen", "tcp://pool.internal:8090"),
        ("--tenant_weight", "acme"),
        ("--tenant_weight", "acme=0"),
        ("--tenant_weight", "acme=inf"),
        ("--lease_expires_s", "0"),
    ],
)
def test_flags_that_mean_nothing_name_themselves(flag: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=flag):
        parse([*NEEDED, flag, value])


def test_run_folder_is_ours(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    (folder / "cpu-0.1.sock").touch()
    with open_run_dir(folder) as found:
        assert found == folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert not list(folder.glob("*.sock"))
        with pytest.raises(InvalidInput, match="another warm pool"), open_run_dir(folder):
            pass
        (folder / "cpu-0.2.sock").touch()
    assert not list(folder.iterdir())
    with open_run_dir(folder):
        pass


def test_a_run_folder_too_deep_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="too deep"), open_run_dir(tmp_path / ("x" * 100)):
        pass


def test_a_unix_listener_is_private_and_replaces_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    mask = os.umask(0)
    os.umask(mask)
    with open_listener(f"unix://{path}") as listener:
        assert address_of(listener) == f"unix://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(InvalidInput, match="another process"), open_listener(f"unix://{path}"):
            pass
    assert not path.exists()
    assert os.umask(mask) == mask
