"""A pod's process and its init: an order to end reaches the container whenever it comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotlight_local.pods.process_pod import PodProcess

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("attempt", range(8))
async def test_an_order_to_end_right_after_the_start_is_obeyed(attempt: int, tmp_path: Path) -> None:
    pod = await PodProcess.start(["sleep", "600"], {"PATH": "/bin:/usr/bin"}, tmp_path, tmp_path / "pod.log")
    assert await pod.stop(grace_s=5) == 128 + 15
