"""What can go wrong between a source and the store, on top of the protocol's classes.

PilotlightError
├── InvalidInput
│   └── SourceInvalid        400   a URI or a setting that means nothing
├── Forbidden
│   └── SourceRefused        403   pickles, unsafe names, links out, private addresses: refused on purpose
├── ModelNotFound
│   └── SourceMissing        404   nothing there, or a key is needed
├── VerificationFailed       502   the bytes are not the promised ones
├── Unavailable
│   ├── SourceUnavailable    503   the source fails or stalls; trying again can help
│   └── SourceChanged        503   files changed while they were downloaded
├── StoreFull                507   no room that may be taken; carries the numbers
└── DownloadCancelled        499   asked to stop; what has arrived stays for the next attempt
"""

from __future__ import annotations

from pilotlight_protocol.errors import ClientGone, Forbidden, InvalidInput, ModelNotFound, PilotlightError, Unavailable


class SourceInvalid(InvalidInput):
    pass


class SourceRefused(Forbidden):
    pass


class SourceMissing(ModelNotFound):
    pass


class VerificationFailed(PilotlightError):
    http_status, grpc_code, openai_type = 502, 15, "server_error"


class SourceUnavailable(Unavailable):
    """`retry_after_s` is what the source asked for; 0 when it did not."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class SourceChanged(Unavailable):
    pass


class StoreFull(PilotlightError):
    http_status, grpc_code, openai_type = 507, 8, "server_error"


class DownloadCancelled(ClientGone):
    pass
