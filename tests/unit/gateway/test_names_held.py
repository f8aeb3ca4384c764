"""Who has a name in a namespace first keeps it: a new endpoint takes no traffic of another, and is told so."""

from __future__ import annotations

import random

import msgspec
import pytest
from endpoint_entries import entry, whole
from hypothesis import given
from hypothesis import strategies as st
from memory_platform import MemoryPlatform

from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.endpoints.endpoint_orders import EndpointOrders
from pilotlight_gateway.endpoints.endpoint_rules import EndpointRules
from pilotlight_gateway.endpoints.endpoint_spec import EndpointSpec
from pilotlight_gateway.endpoints.news_waiter import NewsWaiter
from pilotlight_gateway.endpoints.shown_endpoint import shown
from pilotlight_gateway.request_steps import Caller
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.endpoint_names import spellings, told
from pilotlight_protocol.endpoint_orders import HeldEndpoint
from pilotlight_protocol.errors import Conflict

NAMES = ("a", "b", "c")
MADE = st.builds(
    lambda name, models: entry(name, model_names=tuple(models)),
    st.sampled_from(NAMES),
    st.lists(st.sampled_from((*NAMES, "team/a")), min_size=1, max_size=3, unique=True),
)
TEAM = Caller("team")


def table(entries: list[EndpointEntry]) -> EndpointTable:
    made = EndpointTable()
    made.apply(whole(*entries))
    return made


@given(there=st.lists(MADE, max_size=3, unique_by=lambda made: made.name), newcomer=MADE, order=st.randoms())
def test_a_newcomer_takes_no_name_and_is_told_which(
    there: list[EndpointEntry], newcomer: EndpointEntry, order: random.Random
) -> None:
    there = [each for each in there if each.name != newcomer.name]
    later = msgspec.structs.replace(newcomer, created_s=1.0)
    before, all_of_them = table(there), [*there, later]
    order.shuffle(all_of_them)
    after = table(all_of_them)
    held = after.held_by_others(later.key)
    for name in spellings(later):
        meant, means = before.find(TEAM, name), after.find(TEAM, name)
        assert means is not None
        assert means == meant or (meant is None and means.entry == later)
    assert bool(held) == any(before.find(TEAM, name) is not None for name in spellings(later))
    for each in there:
        assert after.held_by_others(each.key) == before.held_by_others(each.key)


def test_an_endpoint_that_is_changed_takes_no_name_either() -> None:
    old = entry("chat", model_names=("base", "tuned"), created_s=1.0, names_since_s=(1.0, 3.0))
    known = table([old, entry("tuned", created_s=2.0), entry("base", created_s=2.0)])
    assert known.holder_of("team", "tuned") == "tuned"
    assert known.holder_of("team", "team/tuned") == "tuned"
    assert known.holder_of("team", "base") == "chat"
    assert known.held_by_others(old.key) == {"tuned": "tuned"}


def test_an_order_of_a_name_that_another_endpoint_has_is_refused() -> None:
    known = table([entry("chat", model_names=("llama", "tuned"))])
    assert known.holder_of("team", "tuned") == "chat"
    assert known.holder_of("other", "tuned") is None
    assert known.holder_of("team", "chat") == "chat"


@pytest.mark.parametrize(("name", "refused"), [("tuned", True), ("llama", True), ("mail", False)])
async def test_it_is_refused_with_the_endpoint_that_has_it(name: str, refused: bool) -> None:
    known = EndpointTable()
    platform = MemoryPlatform(known)
    platform.models["team", "chat"] = ("llama", "tuned")
    platform.by_file("team", "chat")
    orders = EndpointOrders(platform, NewsWaiter(known, 1.0), lambda tenant: EndpointRules(), known.holder_of)
    spec = EndpointSpec(name=name, model="hf://org/name")
    if not refused:
        assert (await orders.create("team", spec))[1]
        return
    with pytest.raises(Conflict, match="'chat'") as error:
        await orders.create("team", spec)
    assert error.value.param == "name"
    assert platform.manifests == []
    # The name is free in every other namespace.
    assert (await orders.create("other", spec))[1]


def test_the_status_says_who_has_it() -> None:
    known = table([entry("chat", model_names=("tuned",)), entry("tuned", created_s=1.0)])
    held = known.held_by_others(("team", "tuned"))
    assert held == {"tuned": "chat"}
    assert shown(HeldEndpoint("team", "tuned"), None, held, "u").reason == told(held)
    assert "'chat'" in told(held)
    assert known.held_by_others(("team", "chat")) == {}
