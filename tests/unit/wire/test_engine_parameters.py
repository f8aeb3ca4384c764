"""Whose prefixes a request may find in an engine's cache."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_protocol.generation import GenerationParameters
from pilotlight_protocol.pooling import PoolingParameters
from pilotlight_wire.engine_parameters import for_engine
from pilotlight_wire.hop_headers import TENANT

TENANTS = st.text(max_size=4, min_size=1)
SALTS = st.none() | st.text(min_size=1, max_size=4) | st.just("s" * 1024)


@given(TENANTS, SALTS, TENANTS, SALTS)
def test_two_requests_find_each_others_prefixes_where_tenant_and_own_salt_are_the_same(
    tenant: str, own: str | None, other_tenant: str, other_own: str | None
) -> None:
    first = for_engine(GenerationParameters(cache_salt=own), {TENANT: tenant})
    second = for_engine(PoolingParameters(cache_salt=other_own), {TENANT: other_tenant})
    assert (first.cache_salt == second.cache_salt) == ((tenant, own) == (other_tenant, other_own))
    assert msgspec.json.decode(msgspec.json.encode(first), type=GenerationParameters) == first


@given(TENANTS, SALTS, TENANTS)
def test_nobody_finds_another_tenants_prefixes_by_a_salt(tenant: str, own: str | None, other: str) -> None:
    found = for_engine(GenerationParameters(cache_salt=own), {TENANT: tenant}).cache_salt
    guess = for_engine(GenerationParameters(cache_salt=found), {TENANT: other}).cache_salt
    assert guess != found


@given(SALTS)
def test_where_no_gateway_said_whose_it_is_its_own_salt_is_it(own: str | None) -> None:
    assert for_engine(GenerationParameters(cache_salt=own), {}).cache_salt == own
