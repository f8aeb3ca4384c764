"""The end of an engine host: exit code and last frame by what ended it."""

import os
import weakref
from typing import NoReturn

import pytest

from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_engine.host.exit_report import run_to_end
from pilotlight_engine.host.host_sockets import HolderStalled, Outbox
from pilotlight_protocol.engine_frames import Failed
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.frame_codec import encode


class FakeSocket:
    def __init__(self, failure: OSError | None = None) -> None:
        self.taken = bytearray()
        self._failure = failure

    def send(self, data: bytearray) -> int:
        if self._failure is not None:
            raise self._failure
        self.taken += data
        return len(data)


class Ended(BaseException):
    pass


def end(monkeypatch: pytest.MonkeyPatch, sock: FakeSocket, error: BaseException | None) -> int:
    def serve() -> None:
        if error is not None:
            raise error

    def leave(code: int) -> NoReturn:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", leave)
    outbox = Outbox(sock, lambda: None, 100, 0.0)  # type: ignore[arg-type]  # a fake
    with pytest.raises(Ended) as ended:
        run_to_end(outbox, serve)
    code: int = ended.value.args[0]
    return code


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (None, 0, None),
        (HolderStalled("nobody reads"), 1, None),
        (BrokenPipeError("gone"), 1, None),
        (EngineMisconfigured("no such kernel"), 1, Failed("no such kernel", misconfigured=True)),
        (Unavailable("the disk is slow"), 1, Failed("the disk is slow", misconfigured=False)),
        (ValueError("a bug"), 1, Failed("ValueError: a bug", misconfigured=False)),
        (SystemExit(3), 1, Failed("SystemExit: 3", misconfigured=False)),
    ],
)
def test_exit_code_and_last_frame(
    monkeypatch: pytest.MonkeyPatch, error: BaseException | None, code: int, last: Failed | None
) -> None:
    sock = FakeSocket()
    assert end(monkeypatch, sock, error) == code
    assert sock.taken == (encode(last) if last is not None else b"")


def test_what_was_served_is_not_collected_before_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that goes out of scope collects all that vLLM has: over a second in which its slot is not free."""

    class Engine:
        pass

    living: weakref.ref[Engine] | None = None

    def serve() -> Engine:
        nonlocal living
        engine = Engine()
        living = weakref.ref(engine)
        return engine

    def leave(code: int) -> NoReturn:
        assert living is not None
        raise Ended(code if living() is not None else "collected")

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Ended) as ended:
        run_to_end(Outbox(FakeSocket(), lambda: None, 100, 0.0), serve)  # type: ignore[arg-type]  # a fake
    assert ended.value.args == (0,)


def test_a_predictor_that_is_gone_does_not_keep_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(monkeypatch, FakeSocket(BrokenPipeError()), ValueError("a bug")) == 1
    assert "nobody heard why" in capsys.readouterr().err
