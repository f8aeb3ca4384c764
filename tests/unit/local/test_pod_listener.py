"""Who answers on a port, by the kernel's tables."""

import pytest

from pilotlight_local.pods.pod_listener import listening_inodes

HEADING = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
MAPPED = "0000000000000000FFFF00000100007F"


def line(address: str, port: int, inode: int, state: str = "0A") -> str:
    there = f"{address}:{port:04X} {'0' * len(address)}:0000 {state}"
    return (
        f"   0: {there} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0000000000000000 100 0 0 10 0"
    )


@pytest.mark.parametrize(
    ("address", "answers"),
    [
        ("0100007F", True),
        ("00000000", True),
        ("0" * 32, True),
        (MAPPED, True),
        ("0200007F", False),
        ("0100000A", False),
        ("00000000000000000000000001000000", False),
    ],
)
def test_a_listener_counts_where_a_connection_to_loopback_could_reach_it(address: str, answers: bool) -> None:
    assert list(listening_inodes([HEADING, line(address, 20_000, 7)], 20_000)) == ([7] if answers else [])


def test_other_ports_and_connections_are_no_listeners() -> None:
    lines = [HEADING, line("0100007F", 20_001, 1), line("0100007F", 20_000, 2), line("0100007F", 20_000, 3, "01")]
    assert list(listening_inodes(lines, 20_000)) == [2]


def test_a_table_without_an_entry() -> None:
    assert list(listening_inodes([HEADING], 20_000)) == []
