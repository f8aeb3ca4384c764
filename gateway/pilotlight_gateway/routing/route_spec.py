"""The section `routes` of the configuration file. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from pilotlight_gateway.cascade.cascade_spec import CascadeSpec
from pilotlight_gateway.configuration.section import Section
from pilotlight_gateway.rollout.rollout_spec import RolloutSpec

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Tenants = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
EndpointName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[^\s]+$", max_length=400)]
"""`namespace/endpoint`, or `namespace/model` for one of its adapters."""
Targets = Annotated[tuple[EndpointName, ...], msgspec.Meta(min_length=1, max_length=16)]


class HeaderMatch(Section, frozen=True):
    """A header of the request that is one of `values`, or begins with `prefix`. There are no regular expressions: a
    client's header would choose how long one takes."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]+$")]
    values: tuple[str, ...] = ()
    prefix: str = ""

    def __post_init__(self) -> None:
        if bool(self.values) == bool(self.prefix):
            raise ValueError(f"the header '{self.name}' needs either `values` or a `prefix`")


class RuleSpec(Section, frozen=True):
    """Where all that it says is true of a request, it goes to `targets` and to no others.

    `prompt_tokens_below`, `prompt_tokens_above`: the length of the prompt, estimated: a quarter of the UTF-8 bytes of
    its text, corrected by what the route's requests really took; tokens that are sent as ids are counted.
    Of a body over 64 KiB, a quarter of all its bytes but pictures'.
    """

    targets: Targets
    tenants: Tenants | None = None
    headers: tuple[HeaderMatch, ...] = ()
    prompt_tokens_below: int | None = None
    prompt_tokens_above: int | None = None

    def __post_init__(self) -> None:
        if self.tenants is None and not self.headers and not self.depends_on_length:
            raise ValueError("a rule without a condition: put its targets under `targets` of the route")

    @property
    def depends_on_length(self) -> bool:
        return self.prompt_tokens_below is not None or self.prompt_tokens_above is not None


class VersionSpec(Section, frozen=True):
    """What answers requests that ask for it by `X-Model-Version`, or by V2's `/versions/`, and no others."""

    version: Name
    targets: Targets


class CanarySpec(Section, frozen=True):
    """A share of the requests that no rule takes: always the same users (`user`, Anthropic's `metadata.user_id`, else
    `x-session-id`, else the key). With a larger percentage those stay and others come. Where its targets cannot
    answer, those of the route do. `percent`: as it is; `rollout`: as it does."""

    targets: Targets
    percent: Percent | None = None
    rollout: RolloutSpec | None = None

    def __post_init__(self) -> None:
        if (self.percent is None) == (self.rollout is None):
            raise ValueError("a canary needs either a `percent` or a `rollout`")


class MirrorSpec(Section, frozen=True):
    """Copies of a share of the requests, whose answers nobody sees. They are billed to nobody, run after the original
    has begun to answer, at most `most_running` at a time, and not at all while the gateway is busy."""

    target: EndpointName
    percent: Percent = 100.0
    most_running: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4


class RouteSpec(Section, frozen=True):
    """A name that clients may ask for as `model`. It comes before an endpoint of the same name.

    `tenants`: who may; without it, all. They need no right to the targets: who writes this file gives it. For anybody
    else there is no such name. `targets`: the first of them answers; another one, in this order, where those before it
    cannot. A version that the client names comes before `rules`, the first of these that holds before the canary.
    `patience_s`: a target that is cold, or has a queue, for longer than that is not waited for where another one
    answers sooner; without it, where the request's time (`x-request-timeout` in seconds, else the endpoint's) is over
    before. `label`: what metrics, which everybody may read, call it; without one it is counted with all such.
    """

    name: Name
    targets: Targets
    tenants: Tenants | None = None
    versions: tuple[VersionSpec, ...] = ()
    rules: tuple[RuleSpec, ...] = ()
    canary: CanarySpec | None = None
    mirror: MirrorSpec | None = None
    cascade: CascadeSpec | None = None
    patience_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    label: Annotated[str, msgspec.Meta(max_length=64)] = ""

    def __post_init__(self) -> None:
        versions = [each.version for each in self.versions]
        if len(set(versions)) < len(versions):
            raise ValueError(f"the route '{self.name}' has a version twice")


def headers_of_rules(routes: Iterable[RouteSpec]) -> frozenset[str]:
    return frozenset(match.name for route in routes for rule in route.rules for match in rule.headers)


def check_names(routes: Iterable[RouteSpec]) -> None:
    """Raises ValueError: a name means two things to the same tenant."""
    seen = set[tuple[str, str | None]]()
    for route in routes:
        for tenant in route.tenants or (None,):
            if (route.name, tenant) in seen:
                whom = "everybody" if tenant is None else f"the tenant '{tenant}'"
                raise ValueError(f"two routes called '{route.name}' are for {whom}")
            seen.add((route.name, tenant))
