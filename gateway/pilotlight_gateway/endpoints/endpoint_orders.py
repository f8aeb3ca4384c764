"""What becomes of an order of an endpoint: whose it may be, whether it is there already, and what a refusal says.

An answer comes when this gateway has heard of the change, so that the next request finds it. Must not: read HTTP, or
know how a platform is reached.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from weakref import WeakValueDictionary

import msgspec

from pilotlight_gateway.endpoints.endpoint_platform import EndpointPlatform
from pilotlight_gateway.endpoints.endpoint_rules import EndpointRules
from pilotlight_gateway.endpoints.endpoint_spec import EndpointSpec, differences
from pilotlight_gateway.endpoints.errors import EndpointNotFound, NotThatGeneration, QuotaReached
from pilotlight_gateway.endpoints.inference_service import Manifest, inference_service
from pilotlight_gateway.endpoints.news_waiter import NewsWaiter
from pilotlight_gateway.endpoints.order_rate import MOST_A_MINUTE, OrderRate
from pilotlight_protocol.endpoint_orders import NEW, Applied, Deleted, HeldEndpoint, Refusal
from pilotlight_protocol.errors import Conflict, InvalidInput, PilotlightError, TooManyRequests, Unavailable

MOST_TRIES = 3
_COMPONENTS_WORDS = re.compile(r"^pilotlight_\w+ refuses them: (argument )?(--[\w-]+: )?")
_BY_FILES = (
    "'{name}' was applied by whoever runs this server, with a file that can say more than an endpoint here; "
    "it is changed there"
)


class EndpointOrders:
    """`rules_of`: what this tenant may do, as of now. `holder_of`: which endpoint of a namespace a name means."""

    def __init__(
        self,
        platform: EndpointPlatform,
        news: NewsWaiter,
        rules_of: Callable[[str], EndpointRules],
        holder_of: Callable[[str, str], str | None],
    ) -> None:
        self._platform = platform
        self._holder_of = holder_of
        self._news = news
        self.rules_of = rules_of
        self._rate = OrderRate()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def held(self, namespace: str | None) -> list[HeldEndpoint]:
        return await self._platform.held(namespace)

    async def get(self, namespace: str, name: str) -> HeldEndpoint:
        """Raises EndpointNotFound."""
        for held in await self._platform.held(namespace):
            if held.name == name:
                return held
        raise not_found(name)

    async def create(self, namespace: str, spec: EndpointSpec) -> tuple[HeldEndpoint, bool]:
        """The endpoint, and whether it was made now. One that is there with the same spec is left as it is."""
        async with self._alone(namespace):
            for _ in range(MOST_TRIES):
                there = await self._platform.held(namespace)
                known = next((held for held in there if held.name == spec.name), None)
                if known is not None:
                    _check_same(known, spec)
                    return known, False
                self._check_name(namespace, spec.name)
                self._check_quota(namespace, spec, there)
                if await self._applied(namespace, spec, NEW):
                    return await self.get(namespace, spec.name), True
        raise Unavailable(f"'{spec.name}' is made and deleted at the same time by others; send it again")

    async def change(
        self, namespace: str, name: str, generation: int | None, changed: Callable[[EndpointSpec], EndpointSpec]
    ) -> HeldEndpoint:
        """`generation`: what the caller knows, None for whatever there is. `changed` makes the new spec of the old."""
        async with self._alone(namespace):
            for _ in range(MOST_TRIES):
                known = await self.get(namespace, name)
                old = spec_of(known)
                if old is None or known.generation is None:
                    raise Conflict(_BY_FILES.format(name=name), param="name")
                _check_generation(name, generation, known.generation)
                spec = changed(old)
                if spec == old:
                    return known
                self._check_replicas(namespace, spec)
                if await self._applied(namespace, spec, known.generation):
                    return await self.get(namespace, name)
        raise Unavailable(f"'{name}' is changed by others again and again; send it again")

    async def delete(self, namespace: str, name: str, generation: int | None) -> Deleted:
        answer = await self._platform.delete(namespace, name, generation)
        if isinstance(answer, Deleted):
            await self._news.heard(answer.place)
            return answer
        known = await self.get(namespace, name)
        if known.generation is None:
            raise Conflict(_BY_FILES.format(name=name), param="name")
        raise _other_generation(name, known.generation)

    async def _applied(self, namespace: str, spec: EndpointSpec, generation: int) -> bool:
        """False where another generation is there. Raises InvalidInput for what the platform finds wrong, and
        TooManyRequests."""
        wait_s = self._rate.wait_s(namespace, asyncio.get_running_loop().time())
        if wait_s:
            raise TooManyRequests(
                f"endpoints can be made and changed {MOST_A_MINUTE} times a minute; send it again later",
                retry_after_s=wait_s,
            )
        manifest = inference_service(spec, namespace)
        answer = await self._platform.apply(namespace, spec.name, manifest.data, msgspec.json.encode(spec), generation)
        if isinstance(answer, Applied):
            await self._news.heard(answer.place)
            return True
        if answer.refused:
            raise _in_the_tenants_words(answer.refused[0], manifest)
        return False

    def _check_name(self, namespace: str, name: str) -> None:
        """It would take over what another endpoint is asked for."""
        holder = self._holder_of(namespace, name)
        if holder not in (None, name):
            raise Conflict(
                f"'{name}' is the name of a model of the endpoint '{holder}', which goes on having it; take another "
                "name, or delete that one first",
                param="name",
            )

    def _check_quota(self, namespace: str, spec: EndpointSpec, there: list[HeldEndpoint]) -> None:
        self._check_replicas(namespace, spec)
        most = self.rules_of(namespace).most_endpoints
        if sum(held.generation is not None for held in there) >= most:
            raise QuotaReached(f"there are as many endpoints already as there may be ({most}); delete one first")

    def _check_replicas(self, namespace: str, spec: EndpointSpec) -> None:
        most = self.rules_of(namespace).most_replicas
        if spec.max_replicas > most:
            raise InvalidInput(f"'max_replicas' can be at most {most} here", param="max_replicas")

    def _alone(self, namespace: str) -> asyncio.Lock:
        """One order of a tenant after the other: what is counted stays true until it is applied."""
        lock = self._locks.get(namespace)
        if lock is None:
            lock = self._locks[namespace] = asyncio.Lock()
        return lock


def spec_of(held: HeldEndpoint) -> EndpointSpec | None:
    """None where it was applied by a file."""
    return None if held.generation is None else msgspec.json.decode(held.spec, type=EndpointSpec)


def not_found(name: str) -> PilotlightError:
    return EndpointNotFound(f"there is no endpoint '{name[:100]}'", param="name")


def _check_same(known: HeldEndpoint, spec: EndpointSpec) -> None:
    old = spec_of(known)
    if old is None:
        raise Conflict(_BY_FILES.format(name=spec.name), param="name")
    if others := differences(old, spec):
        raise Conflict(
            f"there is an endpoint '{spec.name}' already, with another {', '.join(others)}; PATCH changes it",
            param=others[0],
        )


def _check_generation(name: str, asked: int | None, known: int) -> None:
    if asked is not None and asked != known:
        raise _other_generation(name, known)


def _other_generation(name: str, known: int) -> PilotlightError:
    return NotThatGeneration(
        f"'{name}' has been changed meanwhile and is at generation {known} now; GET it, and decide again"
    )


def _in_the_tenants_words(refusal: Refusal, manifest: Manifest) -> PilotlightError:
    field = manifest.field_at(refusal.path)
    reason = _COMPONENTS_WORDS.sub("", refusal.reason)
    return InvalidInput(f"'{field}': {reason}" if field else f"the endpoint cannot start: {reason}", param=field)
