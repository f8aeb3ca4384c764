"""Asks a running gateway over HTTP, blocking, for commands; what it refuses becomes a message. Must not: print."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import click

ANSWER_TIMEOUT_S = 60.0
URL_VARIABLE, KEY_VARIABLE = "PILOTLIGHT_URL", "PILOTLIGHT_API_KEY"
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
_Command = TypeVar("_Command", bound=Callable[..., Any])


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A key is for the server that was named."""

    def redirect_request(self, *args: Any) -> None:
        return None


class GatewayClient:
    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https"):
            raise click.ClickException(f"--url must be http:// or https://, was {url}")
        own = [urllib.request.ProxyHandler({})] if parts.hostname in _THIS_MACHINE else []
        self._opener = urllib.request.build_opener(_NoRedirects, *own)
        self._key = key

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str | None] = {},
        headers: Mapping[str, str] = {},
    ) -> tuple[int, bytes]:
        """Status and body of what was done. Raises ClickException, which says what to do next."""
        given = {name: value for name, value in query.items() if value is not None}
        target = f"{self.url}{path}" + (f"?{urlencode(given)}" if given else "")
        content = None if body is None else json.dumps(body).encode()
        sent = {"content-type": "application/json", **headers}
        if self._key:
            sent["authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(target, content, sent, method=method)  # noqa: S310 - http and https alone
        try:
            with self._opener.open(request, timeout=ANSWER_TIMEOUT_S) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            raise click.ClickException(self._refused(error.code, error.read())) from error
        except (OSError, ValueError) as error:
            raise click.ClickException(
                f"No gateway answers at {self.url} ({getattr(error, 'reason', error)}).\n"
                f"Start one with `pilotlight up`, or say with --url (or {URL_VARIABLE}) where it is."
            ) from error

    def ask_json(self, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        return json.loads(self.ask(method, path, *args, **kwargs)[1])

    def _refused(self, status: int, body: bytes) -> str:
        message = _message(body) or f"the gateway answers {status}"
        if status == 401:
            return f"{message}\nGive a key with --key, or in {KEY_VARIABLE}; `pilotlight key create TENANT` makes one."
        return message


def _message(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return ""


def reached_options(command: _Command) -> _Command:
    """`--url` and `--key`."""
    url = click.option(
        "--url", envvar=URL_VARIABLE, default="http://127.0.0.1:8000", show_default=True, help="Where the gateway is."
    )
    key = click.option("--key", envvar=KEY_VARIABLE, help=f"Better given as {KEY_VARIABLE}: others can see arguments.")
    return url(key(command))
