"""The errors every component answers with.

    PilotlightError
    ├── InvalidInput           400   bad tensors, parameters or text
    │   └── ContextLengthExceeded    more tokens than the model's context holds
    ├── Unauthorized           401   no key, or an unknown one
    ├── Forbidden              403   a key that may not do this
    ├── ModelNotFound          404   no such model, version or route
    ├── Conflict               409   a Request-ID reused with another body
    ├── PayloadTooLarge        413   body, prompt or batch over a limit
    ├── UnsupportedMediaType   415   a content type that is not spoken here
    ├── TooManyRequests        429   a quota is spent; carries retry_after_s
    ├── ClientGone             499   the client hung up; logged only
    ├── InternalError          500   our bug
    ├── NotSupported           501   understood, not available on this server
    ├── Unavailable            503   no capacity, not ready or draining; carries retry_after_s
    └── DeadlineExceeded       504   the request's time is over

A class knows its HTTP status, its gRPC code (the number of google.rpc.Code) and whether trying again can help. Adapters
raise these `from` the third-party exception; the server shells translate them and never show a stack trace.

`code` is the word OpenAI has for the fault, where it has one; clients decide by it. It travels between hops in
`CODE_HEADER`, as the wrong parameter does in `PARAM_HEADER`: V2's error body has no place for either.
"""

from __future__ import annotations

import math
import re
from typing import ClassVar

PARAM_HEADER = "x-pilotlight-param"
CODE_HEADER = "x-pilotlight-error-code"
_FIT_FOR_HEADER = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


class PilotlightError(Exception):
    """Base class; `message` is shown to the client, so it says what to do next and carries no secret."""

    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[int] = 13
    retryable: ClassVar[bool] = False
    openai_type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def retry_after_header(self) -> str | None:
        """Value of the `Retry-After` header in whole seconds, or None where the class carries no delay."""
        return None

    @property
    def param_header(self) -> str | None:
        """Value of `PARAM_HEADER`, which tells the next hop the parameter that V2's error body has no place for."""
        return self.param if self.param is not None and _FIT_FOR_HEADER.fullmatch(self.param) else None


class InvalidInput(PilotlightError):
    http_status, grpc_code, openai_type = 400, 3, "invalid_request_error"


class ContextLengthExceeded(InvalidInput):
    """litellm, langchain and agents know it by its code and by the words "maximum context length"; they then compact
    the conversation. langchain sees nothing but the message, so the code stands there, too."""

    code = "context_length_exceeded"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        named = message if self.code in message else f"{message} ({self.code})"
        super().__init__(named, param=param)

    @classmethod
    def of(cls, context: int, prompt_tokens: int, max_tokens: int | None, param: str) -> ContextLengthExceeded:
        """`max_tokens` None: not given; one token must fit."""
        asked = prompt_tokens + (1 if max_tokens is None else max_tokens)
        completion = "at least 1" if max_tokens is None else str(max_tokens)
        return cls(
            f"This model's maximum context length is {context} tokens. However, you requested {asked} tokens "
            f"({prompt_tokens} in the {'messages' if param == 'messages' else 'prompt'}, {completion} in the "
            "completion). Please reduce the length of either one",
            param=param,
        )


class Unauthorized(PilotlightError):
    http_status, grpc_code, openai_type, code = 401, 16, "authentication_error", "invalid_api_key"


class Forbidden(PilotlightError):
    http_status, grpc_code, openai_type = 403, 7, "permission_error"


class ModelNotFound(PilotlightError):
    http_status, grpc_code, openai_type, code = 404, 5, "invalid_request_error", "model_not_found"


class Conflict(PilotlightError):
    http_status, grpc_code, openai_type = 409, 6, "conflict_error"


class PayloadTooLarge(PilotlightError):
    http_status, grpc_code, openai_type = 413, 11, "invalid_request_error"


class UnsupportedMediaType(PilotlightError):
    http_status, grpc_code, openai_type = 415, 3, "invalid_request_error"


class _RetryLater(PilotlightError):
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s

    @property
    def retry_after_header(self) -> str:
        return str(max(1, math.ceil(self.retry_after_s)))


class TooManyRequests(_RetryLater):
    http_status, grpc_code, openai_type, code = 429, 8, "rate_limit_error", "rate_limit_exceeded"


class ClientGone(PilotlightError):
    http_status, grpc_code, openai_type = 499, 1, "client_closed_request"


class InternalError(PilotlightError):
    pass


class NotSupported(PilotlightError):
    http_status, grpc_code, openai_type = 501, 12, "invalid_request_error"


class Unavailable(_RetryLater):
    http_status, grpc_code, openai_type = 503, 14, "service_unavailable_error"


class DeadlineExceeded(PilotlightError):
    http_status, grpc_code, openai_type, retryable = 504, 4, "timeout_error", True


BY_STATUS: dict[int, type[PilotlightError]] = {
    cls.http_status: cls
    for cls in (
        InvalidInput,
        Unauthorized,
        Forbidden,
        ModelNotFound,
        Conflict,
        PayloadTooLarge,
        UnsupportedMediaType,
        TooManyRequests,
        ClientGone,
        InternalError,
        NotSupported,
        Unavailable,
        DeadlineExceeded,
    )
}


def from_status(
    status: int,
    message: str,
    retry_after_s: float | None = None,
    param: str | None = None,
    code: str | None = None,
) -> PilotlightError:
    """The error an upstream meant by `status` and `code`; what has no class of its own becomes 400 (4xx) or 500.

    502 is a hop's word for a replica that died under the request: another one may answer, so it is Unavailable.
    """
    if status == 502:
        return Unavailable(message, retry_after_s=1.0 if retry_after_s is None else retry_after_s)
    if status == InvalidInput.http_status and code == ContextLengthExceeded.code:
        return ContextLengthExceeded(message, param=param)
    cls = BY_STATUS.get(status) or (InvalidInput if 400 <= status < 500 else InternalError)
    if issubclass(cls, _RetryLater):
        return cls(message, retry_after_s=1.0 if retry_after_s is None else retry_after_s, param=param)
    return cls(message, param=param)
