"""The gateway's watch beside the embedded platform's own answers, over a real socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from waiting import until_async

from pilotlight_gateway.directory.platform_watch import watch
from pilotlight_local.embedded.control_server import ControlServer
from pilotlight_local.embedded.endpoint_news import EndpointNews
from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry, PodsAddress

pytestmark = pytest.mark.integration


def entry(name: str, pods_ready: int = 0) -> EndpointEntry:
    return EndpointEntry("team", name, (name,), "d", PodsAddress("http://127.0.0.1:1", name), pods_ready)


async def test_the_watch_hears_of_changes_and_of_another_platform(tmp_path: Path) -> None:
    socket = tmp_path / ("a-folder-whose-path-is-longer-than-a-unix-address-may-be" * 2) / "control.sock"
    socket.parent.mkdir()
    heard: list[DirectoryAnswer] = []
    nobody = cast(Any, None)
    watching = asyncio.create_task(watch(socket, heard.append, wait_s=1.0))
    try:
        for epoch in ("e1", "e2"):
            news = EndpointNews(epoch)
            heard.clear()
            news.tell(entry("a"))
            server = ControlServer(nobody, nobody, nobody, news, None, 0, lambda: None)
            await server.serve(socket)
            try:
                await until_async(lambda: any(answer.whole for answer in heard))
                news.tell(entry("a", pods_ready=1))
                await until_async(lambda: heard[-1].changed == (entry("a", pods_ready=1),))
                news.remove("team", "a")
                await until_async(lambda: heard[-1].gone == (("team", "a"),))
            finally:
                await server.close()
    finally:
        watching.cancel()
        await asyncio.wait({watching})
    assert watching.cancelled()
