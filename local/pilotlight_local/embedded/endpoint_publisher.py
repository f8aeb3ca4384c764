"""Tells the endpoints' news from what the controller has: looks at an endpoint when it may have changed.

Must not: change an endpoint.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from pilotlight_local.controller.live_endpoint import LiveEndpoint
from pilotlight_local.embedded.creation_times import CreationTimes
from pilotlight_local.embedded.endpoint_entries import FolderOf, Meaning, RoutedEndpoint, entry_of
from pilotlight_local.embedded.endpoint_news import EndpointNews
from pilotlight_local.ingress.routes import EndpointName
from pilotlight_protocol.endpoint_directory import EndpointEntry, PodsAddress
from pilotlight_specs import Component


class EndpointPublisher:
    """`means`: what the components of applied specs say of themselves, forgotten with the components."""

    def __init__(
        self,
        find: Callable[[EndpointName], LiveEndpoint | None],
        news: EndpointNews,
        folder_of: FolderOf,
        ingress_url: str,
        created: CreationTimes,
        *,
        has_pool: bool,
    ) -> None:
        self._find = find
        self._news = news
        self._folder_of = folder_of
        self._ingress_url = ingress_url
        self._created = created
        self._has_pool = has_pool
        self._means: dict[EndpointName, dict[Component, Meaning]] = {}
        self._told: dict[EndpointName, tuple[RoutedEndpoint, EndpointEntry]] = {}
        """What was told last, and of what: mostly nothing but the number of pods has changed since."""

    def expect(self, names: Iterable[EndpointName]) -> None:
        """These are about to be applied."""
        self._created.note(names)

    def learn(self, name: EndpointName, means: Mapping[Component, Meaning]) -> None:
        """Of the components of a spec that is about to be applied."""
        self._means.setdefault(name, {}).update(means)
        self._told.pop(name, None)

    def look(self, name: EndpointName) -> None:
        endpoint = self._find(name)
        if endpoint is None:
            self._means.pop(name, None)
            self._told.pop(name, None)
            self._created.forget(name)
            self._news.remove(name.namespace, name.name)
            return
        means = self._means.get(name, {})
        routed = self._routed(endpoint)
        if routed is None:
            return
        told = self._told.get(name)
        if told is not None and _same_but_for_pods(told[0], routed):
            self._news.tell(msgspec.structs.replace(told[1], pods_ready=routed.pods_ready))
            return
        live = {service.component for service in endpoint.services.values()}
        live |= {revision.component for revision in endpoint.revisions()}
        for component in means.keys() - live:
            del means[component]
        made = entry_of(routed, means, self._folder_of, has_pool=self._has_pool)
        since_s = self._created.of_models(name, made.model_names)
        entry = msgspec.structs.replace(made, created_s=self._created.of(name), names_since_s=since_s)
        self._told[name] = routed, entry
        self._news.tell(entry)

    def _routed(self, endpoint: LiveEndpoint) -> RoutedEndpoint | None:
        """None before it was reconciled for the first time."""
        services = endpoint.services
        if not all(service.traffic for service in services.values()):
            return None
        transformer = services.get("transformer")
        ready = sum(len(revision.ready_pods) for revision in services[endpoint.entry].live.values())
        namespace, name = endpoint.name.namespace, endpoint.name.name
        return RoutedEndpoint(
            namespace=namespace,
            name=name,
            predictor=services["predictor"].main.component,
            transformer=None if transformer is None else transformer.main.component,
            is_split=any(len(service.traffic) > 1 for service in services.values()),
            pods=PodsAddress(self._ingress_url, f"{name}.{namespace}.localhost"),
            pods_ready=ready,
        )


def _same_but_for_pods(one: RoutedEndpoint, other: RoutedEndpoint) -> bool:
    """Components are replaced as a whole, never changed."""
    return (
        one.predictor is other.predictor
        and one.transformer is other.transformer
        and one.is_split == other.is_split
        and one.pods == other.pods
    )
