"""Errors of the embedded platform, on top of the protocol's classes.

PilotlightError (pilotlight_protocol.errors)
    UnknownHost          404   no endpoint has this host name or path
    QueueFull            503   the activator already holds as many requests as it may
    RevisionFailed       503   the pods of the revision cannot start; what the pod wrote is its log's
    ModelUnavailable     503   the model of a pod cannot be mounted; says why
    PlatformEnding       503   `pilotlight up` ends before the request was answered
    UpstreamFailed       502   the pod broke the connection before it answered
    ActivationTimeout    504   the revision's `timeout` ran out before a pod took the request

PlatformError              for the command line: what stops a command, and what to do next
    PlatformRunningError   the state directory is in use
    NoPlatformError        nothing runs there
    RefusedError           a file has errors; carries all of them
"""

from collections.abc import Sequence
from pathlib import Path

from pilotlight_protocol.errors import DeadlineExceeded, ModelNotFound, PilotlightError, Unavailable


class UnknownHost(ModelNotFound):
    """No endpoint answers to this host or path."""


class QueueFull(Unavailable):
    """The activator's queue of the revision is full (Knative answers 503 too)."""


class RevisionFailed(Unavailable):
    """The pods of the revision cannot start."""

    def __init__(self, revision: str, reason: str, *, retry_after_s: float) -> None:
        super().__init__(f"{revision} cannot start: {reason}", retry_after_s=retry_after_s)
        self.reason = reason


class PlatformEnding(Unavailable):
    """The platform ends with this request on its way."""


class ModelUnavailable(Unavailable):
    """A model URI does not lead to a directory."""


class UpstreamFailed(PilotlightError):
    """The pod closed or broke its connection before it answered."""

    http_status, grpc_code, retryable = 502, 14, True


class ActivationTimeout(DeadlineExceeded):
    """The request waited as long as the revision's timeout allows."""


class PlatformError(Exception):
    """A command cannot go on; the message says what to do next."""


class PlatformRunningError(PlatformError):
    """Another platform holds the state directory."""

    def __init__(self, root: Path, pid: int | None, port: int | None) -> None:
        where = f" (pid {pid}, http://127.0.0.1:{port})" if pid is not None else ""
        super().__init__(
            f"A platform already runs on {root}{where}. Change it with `pilotlight apply FILE`, "
            "end it with `pilotlight down`, or give this one another --state-dir and --port."
        )


class NoPlatformError(PlatformError):
    """No platform runs on the state directory."""

    def __init__(self, root: Path) -> None:
        super().__init__(f"No platform runs on {root}. Start one with `pilotlight up FILE`.")


class RefusedError(PlatformError):
    """Applied files have errors; nothing of them was applied."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = tuple(messages)
