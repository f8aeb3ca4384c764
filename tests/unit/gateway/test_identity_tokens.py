"""Tokens of identity providers: whose they are, and every known way to forge one."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest
from identity_provider import AUDIENCE, ISSUER, JWKS_URL, Key, Provider, signed_with, written
from tenant_world import START_S, TenantWorld

from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.tenants import tenant_orders
from pilotlight_gateway.tenants.authenticators import TenantAuthenticator
from pilotlight_gateway.tenants.identity_section import IdentityProvider, check_providers
from pilotlight_gateway.tenants.identity_tokens import IdentityTokens
from pilotlight_gateway.tenants.signing_keys import PAUSE_S, STALE_S, parse_keys
from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_protocol.errors import Forbidden, PilotlightError, Unauthorized, Unavailable

RSA, EC, OTHER = Key("rsa"), Key("ec", "ES256"), Key("rsa")
CONFIGURED = IdentityProvider(issuer=ISSUER, audience=AUDIENCE, jwks_url=JWKS_URL)


class World(TenantWorld):
    def __init__(self, folder: Path, *providers: IdentityProvider) -> None:
        super().__init__(folder)
        self.provider = Provider(RSA, EC)
        self.tokens = IdentityTokens(
            providers or (CONFIGURED,), self.watch.tenant, self.provider.fetch, self.clock, self.clock
        )
        self.tenant("acme", TenantSettings("normal", ("m",), ("shared",)))
        self.tenant("beta", TenantSettings("high"))

    def claims(self, **more: Any) -> dict[str, Any]:
        told = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(self.now_s) + 600, "tenant": "acme", "sub": "u1", **more}
        return {name: value for name, value in told.items() if value is not None}

    async def caller(self, token: str) -> Caller:
        await self.watch.refresh()
        return await self.tokens.caller(token)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("key", [RSA, EC], ids=["RSA", "EC"])
async def test_a_token_names_its_caller(world: World, key: Key) -> None:
    caller = await world.caller(key.sign(world.claims(aud=["another", AUDIENCE])))
    assert (caller.tenant, caller.role, caller.priority) == ("acme", "tenant", "normal")
    assert caller.allowed_models == frozenset({"m"})
    assert (caller.may_use("shared"), caller.may_use("beta")) == (True, False)
    assert world.provider.reads == [JWKS_URL]


async def test_keys_and_tokens_are_told_apart(world: World) -> None:
    key = world.key("beta")
    await world.watch.refresh()
    door = TenantAuthenticator(world.watch, world.tokens, open_until_a_tenant=True)
    assert (await door.caller({"authorization": f"Bearer {key.shown}"})).tenant == "beta"
    assert (await door.caller({"authorization": f"Bearer {RSA.sign(world.claims())}"})).tenant == "acme"
    with pytest.raises(Unauthorized, match="two different"):
        await door.caller({"authorization": f"Bearer {RSA.sign(world.claims())}", "x-api-key": key.shown})


FORGED: dict[str, Any] = {
    "no signature": lambda w: written({"alg": "none", "kid": "rsa"}, w.claims()),
    "no signature, written otherwise": lambda w: written({"alg": "nOnE"}, w.claims()),
    "no algorithm": lambda w: written({"kid": "rsa"}, w.claims()),
    "an algorithm that is no text": lambda w: written({"alg": ["RS256"], "kid": "rsa"}, w.claims()),
    "cut off": lambda w: RSA.sign(w.claims()).rpartition(".")[0] + ".",
    "the public key as a secret": lambda w: signed_with(RSA.pem, {"alg": "HS256", "kid": "rsa"}, w.claims()),
    "another's key by that name": lambda w: OTHER.sign(w.claims()),
    "another's key inside": lambda w: OTHER.sign(w.claims(), {"jwk": OTHER.jwk(), "kid": "new"}),
    "another's keys at an address": lambda w: OTHER.sign(
        w.claims(), {"jku": "https://evil.example/keys", "x5u": "https://evil.example/chain", "kid": "new"}
    ),
    "a path as a key's name": lambda w: OTHER.sign(w.claims(), {"kid": "../../dev/null"}),
    "no key's name, and two that fit none": lambda w: OTHER.sign(w.claims(), {"kid": None}),
    "a key's name that is no text": lambda w: written({"alg": "RS256", "kid": {"a": 1}}, w.claims(), b"x"),
    "an algorithm that is not taken": lambda w: RSA.sign(w.claims(), algorithm="RS512"),
    "one key's name and another's algorithm": lambda w: EC.sign(w.claims(), {"kid": "rsa"}),
    "must be understood": lambda w: RSA.sign(w.claims(), {"crit": ["exp"], "exp": 1}),
    "changed after it was signed": lambda w: _swapped(RSA.sign(w.claims()), RSA.sign(w.claims(tenant="beta"))),
    "another issuer": lambda w: RSA.sign(w.claims(iss="https://evil.example")),
    "no issuer": lambda w: RSA.sign(w.claims(iss=None)),
    "issuers": lambda w: written({"alg": "RS256", "kid": "rsa"}, w.claims(iss=[ISSUER]), b"x"),
    "another audience": lambda w: RSA.sign(w.claims(aud="another")),
    "no audience": lambda w: RSA.sign(w.claims(aud=None)),
    "no audience in a list": lambda w: RSA.sign(w.claims(aud=[])),
    "no end": lambda w: RSA.sign(w.claims(exp=None)),
    "it has ended": lambda w: RSA.sign(w.claims(exp=int(w.now_s) - 31)),
    "it never ends": lambda w: RSA.sign(w.claims(exp=int(w.now_s) + 90_000)),
    "an end that is text": lambda w: RSA.sign(w.claims(exp="9999999999")),
    "an end that is true": lambda w: RSA.sign(w.claims(exp=True)),
    "it has not begun": lambda w: RSA.sign(w.claims(nbf=int(w.now_s) + 31)),
    "made tomorrow": lambda w: RSA.sign(w.claims(iat=int(w.now_s) + 86_400)),
    "encrypted": lambda w: "a.b.c.d.e",
    "no token": lambda w: "sk-foreign",
    "nothing in it": lambda w: "..",
    "no text": lambda w: "é.é.é",
    "deep": lambda w: f"{RSA.sign(w.claims()).split('.')[0]}.{_deep()}.x",
}


def _swapped(signed: str, other: str) -> str:
    return ".".join([signed.split(".")[0], other.split(".")[1], signed.split(".")[2]])


def _deep() -> str:
    return base64.urlsafe_b64encode(b'{"iss":' + b"[" * 3000).rstrip(b"=").decode()


@pytest.mark.parametrize("how", FORGED)
async def test_what_is_forged_is_nobodys(world: World, how: str) -> None:
    good = RSA.sign(world.claims())
    await world.caller(good)
    token = FORGED[how](world)
    for _ in range(2):
        with pytest.raises(Unauthorized) as refused:
            await world.caller(token)
        assert token not in str(refused.value)
    # No address but the provider's was read, whatever the token says.
    assert set(world.provider.reads) == {JWKS_URL}
    assert (await world.caller(good)).tenant == "acme"


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits long")
async def test_a_key_that_is_no_public_one_checks_nothing(world: World) -> None:
    """A set with a shared secret in it, one for encryption, one that is too short, one of a foreign kind."""
    secret = {"kty": "oct", "kid": "s", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXM", "alg": "HS256"}
    short, encrypting = Key("short", bits=1024), Key("enc")
    world.provider.served = [RSA.jwk(), secret, short.jwk(), encrypting.jwk(use="enc"), {"kty": "X"}, {"kty": "RSA"}]
    assert (await world.caller(RSA.sign(world.claims()))).tenant == "acme"
    forged = signed_with(b"secret-secret-secret-secret-s", {"alg": "HS256", "kid": "s"}, world.claims())
    for token in (forged, short.sign(world.claims()), encrypting.sign(world.claims())):
        with pytest.raises(Unauthorized):
            await world.caller(token)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": [1]}', b"<html>", b'{"keys": [{"kty": "oct", "k": "AA"}]}'],
)
def test_what_is_no_key_set_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"key|Key"):
        parse_keys(content)


async def test_leeway_and_the_end_are_kept_to_the_second(world: World) -> None:
    token = RSA.sign(world.claims(exp=int(world.now_s) + 10, nbf=int(world.now_s) + 30))
    assert (await world.caller(token)).tenant == "acme"
    world.now_s += 39.9
    assert (await world.caller(token)).tenant == "acme"
    world.now_s += 0.1
    with pytest.raises(Unauthorized, match="expired"):
        await world.caller(token)


async def test_a_tenant_that_is_gone_or_changed_is_so_for_its_tokens_at_once(world: World) -> None:
    token = RSA.sign(world.claims())
    await world.caller(token)
    world.store.change("acme", tenant_orders.change_settings("acme", TenantSettings("low")))
    assert (await world.caller(token)).priority == "low"
    world.store.change("acme", tenant_orders.delete_tenant("acme", START_S))
    with pytest.raises(Forbidden):
        await world.caller(token)


async def test_a_tenant_that_nobody_has_is_told_like_one_that_is_not_mapped(tmp_path: Path) -> None:
    mapped = msgspec.structs.replace(CONFIGURED, tenant_claim="org.id", tenants={"7": "acme", "8": "nobody"})
    world, told = World(tmp_path, mapped), set()
    assert (await world.caller(RSA.sign(world.claims(org={"id": ["7"]})))).tenant == "acme"
    for org in ({"id": "8"}, {"id": "9"}, {"id": ["7", "8"]}, {"id": 7}, {}, None, "7", {"id": "acme"}):
        with pytest.raises(Forbidden) as refused:
            await world.caller(RSA.sign(world.claims(org=org)))
        told.add(str(refused.value))
    assert len(told) == 1


@pytest.mark.parametrize(
    ("claims", "role", "priority"),
    [
        ({}, "tenant", "high"),
        ({"realm": {"roles": ["admins"]}, "class": "bulk"}, "admin", "low"),
        ({"realm": {"roles": "admins"}, "class": ["bulk", "fast"]}, "admin", "high"),
        ({"realm": {"roles": ["Admins", "admin", 1]}, "class": "unknown"}, "tenant", "high"),
        ({"role": "admin", "class": 7}, "tenant", "high"),
    ],
)
async def test_roles_and_priorities_are_what_is_configured(
    tmp_path: Path, claims: Any, role: str, priority: str
) -> None:
    configured = msgspec.structs.replace(
        CONFIGURED,
        role_claim="realm.roles",
        admin_values=("admins",),
        priority_claim="class",
        priorities={"bulk": "low", "fast": "high"},
    )
    world = World(tmp_path, configured)
    caller = await world.caller(RSA.sign(world.claims(tenant="beta", **claims)))
    assert (caller.role, caller.priority) == (role, priority)
    # Never above its tenant's.
    assert (await world.caller(RSA.sign(world.claims(**{"class": "fast"})))).priority == "normal"


async def test_a_new_key_is_found_and_an_old_one_forgotten(world: World) -> None:
    old = RSA.sign(world.claims(exp=int(world.now_s) + 80_000))
    await world.caller(old)
    rotated = Key("rsa-2")
    world.provider.served = [rotated.jwk()]
    with pytest.raises(Unauthorized):
        await world.caller(rotated.sign(world.claims()))
    world.now_s += PAUSE_S
    assert (await world.caller(rotated.sign(world.claims()))).tenant == "acme"
    with pytest.raises(Unauthorized):
        await world.caller(old)


async def test_a_key_that_was_taken_back_is_forgotten_without_a_new_token(world: World) -> None:
    old = RSA.sign(world.claims(exp=int(world.now_s) + 80_000))
    await world.caller(old)
    world.provider.served = [EC.jwk()]
    world.now_s += CONFIGURED.refresh_s + 1
    assert (await world.caller(old)).tenant == "acme"
    for _ in range(3):
        await asyncio.sleep(0)
    with pytest.raises(Unauthorized):
        await world.caller(old)


async def test_made_up_key_names_are_read_for_once_in_a_while(world: World) -> None:
    for number in range(50):
        with pytest.raises(Unauthorized):
            await world.caller(OTHER.sign(world.claims(), {"kid": f"made-up-{number}"}))
    assert len(world.provider.reads) == 1


async def test_many_at_once_wait_for_one_reading(world: World) -> None:
    await world.watch.refresh()
    told = await asyncio.gather(*(world.tokens.caller(RSA.sign(world.claims(sub=str(n)))) for n in range(20)))
    assert {caller.tenant for caller in told} == {"acme"}
    assert len(world.provider.reads) == 1


async def test_a_provider_that_is_away_is_no_reason_to_refuse_for_a_while(world: World) -> None:
    world.provider.fails = Unavailable("away")
    token = RSA.sign(world.claims())
    for _ in range(3):
        with pytest.raises(Unavailable):
            await world.caller(token)
    assert len(world.provider.reads) == 1
    world.provider.fails = None
    world.now_s += PAUSE_S
    assert (await world.caller(token)).tenant == "acme"
    world.provider.fails = Unavailable("away")
    world.now_s += STALE_S
    assert (await world.caller(RSA.sign(world.claims()))).tenant == "acme"
    world.now_s += CONFIGURED.refresh_s + 1
    with pytest.raises(Unavailable):
        await world.caller(RSA.sign(world.claims()))
    world.tokens.end()


async def test_a_provider_speaks_for_itself_alone(tmp_path: Path) -> None:
    second = msgspec.structs.replace(
        CONFIGURED, issuer="https://second.example", jwks_url="https://second.example/keys", tenants={"acme": "beta"}
    )
    world = World(tmp_path, CONFIGURED, second)
    served = {JWKS_URL: Provider(RSA), second.jwks_url: Provider(EC)}

    async def fetch(url: str) -> bytes:
        return await served[url].fetch(url)

    world.tokens = IdentityTokens((CONFIGURED, second), world.watch.tenant, fetch, world.clock, world.clock)
    assert (await world.caller(RSA.sign(world.claims()))).tenant == "acme"
    assert (await world.caller(EC.sign(world.claims(iss=second.issuer)))).tenant == "beta"
    for token in (RSA.sign(world.claims(iss=second.issuer)), EC.sign(world.claims())):
        with pytest.raises(Unauthorized):
            await world.caller(token)


async def test_remembered_tokens_take_a_bounded_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotlight_gateway.tenants.identity_tokens.MOST_REMEMBERED", 5)
    for number in range(20):
        await world.caller(EC.sign(world.claims(sub=str(number))))
        assert len(world.tokens._remembered) <= 5
    for number in range(20):
        with pytest.raises(PilotlightError):
            await world.caller(OTHER.sign(world.claims(sub=str(number))))
    assert len(world.tokens._remembered) <= 5


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"jwks_url": "http://login.example/keys"}, "https"),
        ({"jwks_url": "file:///etc/passwd"}, "https"),
        ({"jwks_url": "https://user:pass@login.example/keys"}, "no user"),
        ({"algorithms": ["HS256"]}, "Invalid enum value 'HS256'"),
        ({"algorithms": ["none"]}, "Invalid enum value 'none'"),
        ({"algorithms": []}, "length >= 1"),
        ({"role_claim": "roles"}, "belong together"),
        ({"priorities": {"a": "low"}}, "belong together"),
        ({"leeway_s": 86_400}, "<= 300"),
        ({"secret": "x"}, "unknown field `secret`"),
    ],
)
def test_a_provider_that_cannot_be_meant_is_refused(fields: dict[str, Any], said: str) -> None:
    told = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": JWKS_URL, **fields}
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert(told, IdentityProvider)
    with pytest.raises(ValueError, match="once"):
        check_providers((CONFIGURED, CONFIGURED))
