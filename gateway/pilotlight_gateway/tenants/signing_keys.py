"""An identity provider's public keys (JWKS): read from its one configured URL, kept, and read again when they are old
or a token names one that is new.

Whatever a token asks for, the URL is read no more often than `PAUSE_S`. While it cannot be read the keys that are known
go on for `STALE_S`. Must not: read any other address; `jku`, `x5u`, `jwk` and `x5c` of a token are never looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from pilotlight_protocol.errors import Unavailable

PAUSE_S = 10.0
STALE_S = 3_600.0
MOST_KEYS = 100
LEAST_RSA_BITS = 2_048
_log = logging.getLogger("pilotlight.gateway.tenants")
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_FITTING: dict[tuple[str, str], tuple[str, ...]] = {
    ("RSA", ""): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}

Fetch = Callable[[str], Awaitable[bytes]]


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


_key_sets = msgspec.json.Decoder(_KeySet)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """`algorithms`: those it may be used with, which its own kind decides and never a token."""

    id: str
    algorithms: frozenset[str]
    public_key: Any


class SigningKeys:
    """Between its making and `end`. `fetch` has a deadline of its own. `changed`: called when the keys are others."""

    def __init__(
        self, url: str, refresh_s: float, fetch: Fetch, now_s: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self._url = url
        self._refresh_s = refresh_s
        self._fetch = fetch
        self._now_s = now_s
        self._changed = changed
        self._keys: tuple[SigningKey, ...] = ()
        self._content = b""
        self._read_s = float("-inf")
        self._tried_s = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None, algorithm: str) -> SigningKey | None:
        """Raises Unavailable where no keys are known."""
        if not self.are_good():
            await self._read_again()
            if not self.are_good():
                raise Unavailable(
                    "the identity provider's keys cannot be read at the moment; try again", retry_after_s=5
                )
        found = self._known(key_id, algorithm)
        if found is None and await self._read_again():
            found = self._known(key_id, algorithm)
        return found

    def are_good(self) -> bool:
        """Whether those that are known may be used; where they are old, others are being read."""
        age_s = self._now_s() - self._read_s
        if age_s > self._refresh_s:
            self._start_reading()
        return age_s <= self._refresh_s + STALE_S

    def end(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    def _known(self, key_id: str | None, algorithm: str) -> SigningKey | None:
        fitting = [key for key in self._keys if algorithm in key.algorithms and key_id in (None, key.id)]
        return fitting[0] if len(fitting) == 1 else None

    async def _read_again(self) -> bool:
        """Whether they were."""
        reading = self._start_reading()
        if reading is None:
            return False
        # Of all who wait for it, nobody ends it.
        await asyncio.wait({reading})
        return True

    def _start_reading(self) -> asyncio.Task[None] | None:
        if self._reading is None:
            if self._now_s() - self._tried_s < PAUSE_S:
                return None
            self._tried_s = self._now_s()
            self._reading = asyncio.create_task(self._read(), name="signing keys")
        return self._reading

    async def _read(self) -> None:
        try:
            content = await self._fetch(self._url)
            keys = parse_keys(content)
        except (Unavailable, ValueError) as error:
            _log.error("the keys of %s cannot be read: %s", self._url, error)
            return
        finally:
            self._reading = None
        self._read_s = self._now_s()
        if content != self._content:
            self._keys, self._content = keys, content
            self._changed()


def parse_keys(content: bytes) -> tuple[SigningKey, ...]:
    """Those of a JWKS that can check a signature; others are passed over. Raises ValueError."""
    try:
        found = _key_sets.decode(content).keys
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is no JSON Web Key Set: {error}") from error
    if len(found) > MOST_KEYS:
        raise ValueError(f"it has more than {MOST_KEYS} keys")
    keys = tuple(key for each in found if (key := _usable(each)) is not None)
    if not keys:
        raise ValueError("it has no key that a signature can be checked with")
    return keys


def _usable(jwk: Mapping[str, Any]) -> SigningKey | None:
    kind = str(jwk.get("kty", ""))
    fitting = _FITTING.get((kind, "" if kind == "RSA" else str(jwk.get("crv", ""))), ())
    named = jwk.get("alg")
    algorithms = frozenset(fitting if named is None else (each for each in fitting if each == named))
    operations = jwk.get("key_ops", ["verify"])
    if not algorithms or jwk.get("use", "sig") != "sig" or "verify" not in operations:
        return None
    try:
        public = jwt.PyJWK(
            {**{name: value for name, value in jwk.items() if name not in _PRIVATE}}, min(algorithms)
        ).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(public, RSAPublicKey) and public.key_size < LEAST_RSA_BITS:
        return None
    return SigningKey(str(jwk.get("kid", "")), algorithms, public)


_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
