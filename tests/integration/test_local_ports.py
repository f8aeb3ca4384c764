"""Ports of pods: nobody else gets one, and nobody else's answers are taken for a pod's."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotlight_local.pods.loopback_ports import LAST_PORT, LoopbackPorts
from pilotlight_local.pods.pod_listener import PodListener
from pilotlight_local.pods.process_pod import PodProcess

pytestmark = pytest.mark.integration

SERVER = "import http.server, sys; http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), None).serve_forever()"
# The container starts the process that listens, in a session of its own.
WRAPPED = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]], start_new_session=True)"
DEADLINE_S = 20.0


@pytest.fixture
def ports() -> Iterator[LoopbackPorts]:
    taken = LoopbackPorts()
    yield taken
    for port in list(taken._reserved):
        taken.give_back(port)


async def listening(port: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            await asyncio.sleep(0.02)


def test_two_platforms_never_hold_the_same_port(ports: LoopbackPorts) -> None:
    other = LoopbackPorts()
    taken = [platform.take() for _ in range(20) for platform in (ports, other)]
    assert len(set(taken)) == len(taken)
    given_back = taken[1::2]
    for port in given_back:
        other.give_back(port)
    third = LoopbackPorts()
    again = [third.take() for _ in given_back]
    assert not set(again) & set(ports._reserved)
    for port in again:
        third.give_back(port)


def test_a_port_is_free_again_when_its_platform_is_killed(ports: LoopbackPorts) -> None:
    script = "from pilotlight_local.pods.loopback_ports import LoopbackPorts as P; p = P(); print(p.take()); input()"
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    port = int(other.stdout.readline())
    assert not ports._reserve(port)
    other.kill()
    other.communicate()
    assert ports._reserve(port)


def test_a_port_somebody_listens_on_is_passed_over(ports: LoopbackPorts) -> None:
    first = ports.take()
    ports.give_back(first)
    held = ((port, _hold(port)) for port in range(first + 1, LAST_PORT))
    stranger, holder = next((port, holder) for port, holder in held if holder is not None)
    with holder:
        assert not ports._reserve(stranger)


def _hold(port: int) -> socket.socket | None:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return None


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_pods_listener_is_its_own_and_a_strangers_is_not(
    tmp_path: Path, ports: LoopbackPorts, address: str, wrapped: bool
) -> None:
    port = ports.take()
    argv = [sys.executable, "-c", *([WRAPPED] if wrapped else []), SERVER, address, str(port)]
    own = await PodProcess.start(argv, {}, tmp_path, tmp_path / "own.log")
    stranger = await PodProcess.start(["sleep", "600"], {"PATH": "/bin:/usr/bin"}, tmp_path, tmp_path / "stranger.log")
    try:
        listener = PodListener(port, own.init_pid)
        assert listener.is_own(), "nobody listens yet"
        await listening(port)
        assert listener.is_own()
        assert not PodListener(port, stranger.init_pid).is_own()
    finally:
        await own.stop(0.0)
        await stranger.stop(0.0)


async def test_a_listener_that_changes_hands_is_not_believed_any_more(tmp_path: Path, ports: LoopbackPorts) -> None:
    port = ports.take()
    own = await PodProcess.start(
        [sys.executable, "-c", SERVER, "127.0.0.1", str(port)], {}, tmp_path, tmp_path / "own.log"
    )
    listener = PodListener(port, own.init_pid)
    await listening(port)
    assert listener.is_own()
    await own.stop(0.0)
    with socket.create_server(("127.0.0.1", port)):
        assert not listener.is_own()
