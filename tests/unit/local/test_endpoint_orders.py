"""Orders of endpoints: applied at once, kept for the next platform, and never in the way of what files say."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import msgspec
import pytest
import yaml
from fake_pod import FakePod

from pilotlight_gateway.endpoints.endpoint_spec import EndpointSpec
from pilotlight_gateway.endpoints.inference_service import inference_service
from pilotlight_local.controller.controller import Controller
from pilotlight_local.controller.routing_table import RoutingTable
from pilotlight_local.embedded import endpoint_entries, endpoint_publisher
from pilotlight_local.embedded.applying import Applier, load
from pilotlight_local.embedded.creation_times import CreationTimes
from pilotlight_local.embedded.endpoint_entries import RoutedEndpoint
from pilotlight_local.embedded.endpoint_news import EndpointNews
from pilotlight_local.embedded.endpoint_orders import EndpointOrders, load_kept
from pilotlight_local.embedded.endpoint_publisher import EndpointPublisher
from pilotlight_local.embedded.kept_endpoints import KeptEndpoints
from pilotlight_local.ingress.routes import EndpointName
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.endpoint_orders import Applied, ApplyOrder, Deleted, HeldEndpoint, HeldEndpoints, NotApplied
from pilotlight_specs import Component, Obstacle
from pilotlight_specs.kpa import default_config

CHAT = EndpointName("acme", "chat")
CONFIG = replace(default_config(), initial_scale=0, allow_zero_initial_scale=True)


class NoObstacles:
    """But for models that are called broken."""

    def __init__(self) -> None:
        self.means: dict[Component, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def __call__(self, component: Component) -> Iterator[Obstacle]:
        args = component.pod.container.args
        if any("broken" in arg for arg in args):
            yield Obstacle("args", "it is broken", args[1])


class Nobody:
    """Watches, and knows no addresses."""

    def line(self, text: str) -> None:
        return

    def scaling(self, *told: object) -> None:
        return

    def address(self, *named: object) -> str:
        return "127.0.0.1:1"

    async def close(self, name: EndpointName) -> None:
        return


class Platform:
    """One run of a platform on `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start_pod: Any = FakePod
        self.table = RoutingTable(random.Random(1), cast(Any, None))
        self.news = EndpointNews("e1")
        publisher = self.publisher = EndpointPublisher(
            self.table.endpoints.get,
            self.news,
            lambda uri: None,
            "http://127.0.0.1:1",
            CreationTimes(folder / "created.json"),
            has_pool=True,
        )
        nobody = cast(Any, Nobody())
        self.controller = Controller(
            self.table,
            nobody,
            lambda *order: cast(Any, self.start_pod(*order)),
            nobody,
            random.Random(1),
            changed=publisher.look,
        )
        obstacles = cast(Any, NoObstacles)
        applier = self.applier = Applier(self.controller, CONFIG, obstacles, None, publisher)
        kept = KeptEndpoints(folder / "endpoints")
        self.orders = EndpointOrders(self.controller, applier, kept, self.news, wall_s=lambda: 7.0)
        earlier = load_kept(kept, CONFIG, obstacles)
        self.told = earlier.findings
        self.orders.start_with(earlier.endpoints)

    async def apply(self, generation: int, namespace: str = "acme", **fields: Any) -> Applied | NotApplied:
        spec = EndpointSpec(**{"name": "chat", "model": "hf://org/name", **fields})
        manifest = inference_service(spec, namespace).data
        order = ApplyOrder(manifest, msgspec.Raw(msgspec.json.encode(spec)), generation)
        return await self.orders.apply(CHAT, msgspec.json.decode(msgspec.json.encode(order), type=ApplyOrder))

    def held(self) -> list[HeldEndpoint]:
        """As they come over the wire."""
        told = msgspec.json.encode(self.orders.held(None))
        return list(msgspec.json.decode(told, type=HeldEndpoints).endpoints)

    async def apply_file(self) -> None:
        path = self.folder / "chat.yaml"
        spec = EndpointSpec(name="chat", model="hf://org/of-the-file")
        path.write_text(yaml.safe_dump(inference_service(spec, "acme").data))
        await self.applier.apply([path])


@pytest.fixture
async def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


async def test_an_order_is_told_at_once_and_kept(platform: Platform) -> None:
    applied = await platform.apply(0)
    assert isinstance(applied, Applied)
    assert applied.generation == 1
    news = await platform.news.after("", 0, 0.0)
    assert news.version == applied.place.version
    assert [entry.key for entry in news.changed] == [("acme", "chat")]
    (held,) = Platform(platform.folder).held()
    assert (held.generation, held.created_s, held.spec) == (
        1,
        7.0,
        msgspec.Raw(b'{"name":"chat","model":"hf://org/name"}'),
    )
    assert {revision.component for revision in held.revisions} == {"predictor", "transformer"}


async def test_an_entry_is_made_again_only_when_more_than_its_pods_has_changed(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(endpoint: RoutedEndpoint, *rest: Any, **more: Any) -> EndpointEntry:
        made.append(endpoint.name)
        return endpoint_entries.entry_of(endpoint, *rest, **more)

    monkeypatch.setattr(endpoint_publisher, "entry_of", counted)
    await platform.apply(0)
    first = (await platform.news.after("", 0, 0.0)).changed
    for _ in range(3):
        platform.publisher.look(CHAT)
    assert (made, (await platform.news.after("", 0, 0.0)).changed) == (["chat"], first)
    await platform.apply_file()
    assert len(made) == 2


async def test_only_the_generation_that_is_there_is_replaced(platform: Platform) -> None:
    assert await platform.apply(1) == NotApplied()
    await platform.apply(0)
    assert await platform.apply(0) == NotApplied()
    second = await platform.apply(1, max_replicas=2)
    assert isinstance(second, Applied)
    assert second.generation == 2
    assert await platform.orders.delete(CHAT, 1) == NotApplied()
    assert [held.generation for held in platform.held()] == [2]


async def test_what_cannot_start_changes_nothing(platform: Platform) -> None:
    refused = await platform.apply(0, model="hf://org/broken")
    assert isinstance(refused, NotApplied)
    assert (refused.refused[0].path, refused.refused[0].reason) == (
        "spec.predictor.containers[0].args[1]",
        "it is broken",
    )
    assert platform.held() == Platform(platform.folder).held() == []


async def test_an_order_whose_first_pods_cannot_start_stays_an_order(platform: Platform) -> None:
    def broken(*order: object) -> None:
        raise PermissionError("its folder")

    platform.start_pod = broken
    with pytest.raises(PermissionError):
        await platform.apply(0, min_replicas=1)
    assert [held.generation for held in platform.held()] == [1]
    platform.start_pod = FakePod
    assert isinstance(await platform.apply(1), Applied)


async def test_an_order_is_of_the_endpoint_that_it_names(platform: Platform) -> None:
    for other in ({"namespace": "other"}, {"name": "mail"}):
        assert cast(NotApplied, await platform.apply(0, **other)).refused
    assert platform.held() == []


async def test_what_is_deleted_is_gone_and_stays_gone(platform: Platform) -> None:
    await platform.apply(0)
    deleted = await platform.orders.delete(CHAT, None)
    assert isinstance(deleted, Deleted)
    assert deleted.deleted
    news = await platform.news.after("e1", deleted.place.version - 1, 0.0)
    assert news.gone == (("acme", "chat"),)
    assert cast(Deleted, await platform.orders.delete(CHAT, None)).deleted is False
    assert platform.held() == Platform(platform.folder).held() == []


async def test_files_have_the_last_word(platform: Platform) -> None:
    await platform.apply(0)
    await platform.apply_file()
    (held,) = platform.held()
    assert (held.generation, held.created_s, held.spec) == (None, None, msgspec.Raw(b"null"))
    assert await platform.apply(0) == await platform.apply(1) == NotApplied()
    assert await platform.orders.delete(CHAT, None) == NotApplied()
    assert Platform(platform.folder).held() == []


async def test_one_that_cannot_start_any_more_is_told_and_kept_for_another_try(platform: Platform) -> None:
    await platform.apply(0)
    (path,) = (platform.folder / "endpoints").iterdir()
    path.write_bytes(path.read_bytes().replace(b"org/name", b"org/broken"))
    (platform.folder / "endpoints" / "zz.json").write_bytes(b"{")
    later = Platform(platform.folder)
    assert later.held() == []
    assert ["it is broken" in told for told in later.told] == [False, True]
    path.write_bytes(path.read_bytes().replace(b"org/broken", b"org/name"))
    assert len(Platform(platform.folder).held()) == 1


def test_no_file_is_nothing_to_refuse() -> None:
    assert load([], CONFIG, cast(Any, NoObstacles)).services == ()
