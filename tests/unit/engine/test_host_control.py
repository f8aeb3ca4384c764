"""Our end of our own host's control socket, against frames we make ourselves."""

import asyncio
from typing import Any

import msgspec
import pytest

from pilotlight_engine.client.host_control import HostControl
from pilotlight_protocol.engine_frames import AgentFrame, Boot, Busy, ControlFrame, Failed, HostConfig, Idle, Progress
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.frame_codec import FrameSplitter, encode


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[AgentFrame] = []
        self.aborted = False

    def write(self, data: Any) -> None:
        self.sent += [msgspec.msgpack.decode(body, type=AgentFrame) for body in FrameSplitter().feed(bytes(data))]

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


async def test_phases_and_the_exit_report_are_heard_and_a_closed_socket_takes_nothing() -> None:
    phases: list[str] = []
    control, transport = HostControl(phases.append), FakeTransport()
    control.connection_made(transport)
    boot = Boot(HostConfig(model_dir="/m", model_name="demo", engine_args={"dtype": "auto"}, loras=[("a", "/a")]))
    control.send(boot)
    assert transport.sent == [boot]
    failed = Failed("no such kernel", misconfigured=True)
    said: list[ControlFrame] = [Progress("import"), Progress("load"), Busy(), Idle(), failed]
    control.data_received(b"".join(bytes(encode(frame)) for frame in said))
    assert phases == ["import", "load"]
    assert control.exit_report == failed
    assert not control.closed.is_set()
    control.close()
    control.connection_lost(None)
    assert control.closed.is_set()
    with pytest.raises(Unavailable, match="being replaced"):
        control.send(boot)
