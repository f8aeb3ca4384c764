"""1,000 endpoints at one gateway: each is found by its name, what comes and goes is heard of, and nothing is cut."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from many_endpoints import COMMON, TENANTS, ManyEndpoints, chat, endpoint, many_endpoints, name
from tenants_gateway import host_of, tenant
from waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(170)]

COUNT = 1000


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManyEndpoints]:
    with many_endpoints(tmp_path_factory.mktemp("g"), COUNT) as made:
        yield made


def listed(client: httpx.Client) -> list[str]:
    return [card["id"] for card in client.get("/v1/models").json()["data"]]


def test_a_tenant_sees_and_reaches_its_own(many: ManyEndpoints) -> None:
    for owner in (0, 7):
        with many.client(many.keys[owner]) as client:
            own = [name(number) for number in range(owner, COUNT - TENANTS, TENANTS)]
            found = listed(client)
            assert sorted(found) == sorted([COMMON, *own, *(f"org/{each}" for each in (COMMON, *own))])
            for model in (COMMON, own[0], own[-1]):
                assert host_of(model, owner) in chat(client, model).text
                assert host_of(model, owner) in chat(client, f"org/{model}").text
            assert chat(client, name(owner + 1)).status_code == 404


def test_who_may_use_all_reaches_each_by_its_full_name(many: ManyEndpoints) -> None:
    with many.client(many.everybodys) as client:
        assert len(listed(client)) == 2 * COUNT
        for number in range(0, COUNT - TENANTS, 97):
            full = f"{tenant(number % TENANTS)}/{name(number)}"
            assert host_of(name(number), number % TENANTS) in chat(client, full).text


def test_what_comes_and_goes_is_heard_of(many: ManyEndpoints) -> None:
    with many.client(many.keys[3]) as client:
        assert chat(client, "newcomer").status_code == 404
        many.platform.tell([endpoint(many.url, 3, "newcomer")])
        answer = until(lambda: chat(client, "newcomer"), holds=lambda answer: answer.status_code == 200)
        assert host_of("newcomer", 3) in answer.text
        many.platform.remove(tenant(3), "newcomer")
        until(lambda: chat(client, "newcomer").status_code == 404)
        assert chat(client, name(3)).status_code == 200


def test_while_the_platform_is_away_and_after_it_all_are_there(many: ManyEndpoints) -> None:
    with many.client(many.keys[5]) as client:
        before = listed(client)
        many.platform.stop()
        assert chat(client, name(5)).status_code == 200
        many.platform.start(epoch="e2")
        many.platform.tell([endpoint(many.url, number) for number in range(COUNT - TENANTS)])
        many.platform.tell([endpoint(many.url, number, COMMON) for number in range(TENANTS)])
        many.platform.tell([endpoint(many.url, 5, "after")])
        until(lambda: chat(client, "after").status_code == 200)
        until(lambda: listed(client), holds=lambda seen: sorted(seen) == sorted([*before, "after", "org/after"]))
        many.platform.remove(tenant(5), "after")
