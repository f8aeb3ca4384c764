"""Which targets a request goes to, in which order, and why. Pure.

a version that the client names ▶ the first rule that holds ▶ the canary's share ▶ the route's own targets
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pilotlight_gateway.routing.request_facts import RequestFacts
from pilotlight_gateway.routing.route_spec import HeaderMatch, RouteSpec, RuleSpec

CANARY = "canary"
OWN_TARGETS = "target"


Chosen = Mapping[str, str]
"""Targets, each with what chose it. The first that can answers."""


def choose(route: RouteSpec, facts: RequestFacts, canary_percent: float, token_ratio: float = 1.0) -> Chosen | None:
    """None: the route has no such version. `token_ratio`: tokens that its prompts have for each one estimated."""
    if facts.version:
        found = next((each.targets for each in route.versions if each.version == facts.version), None)
        return None if found is None else dict.fromkeys(found, "version")
    for number, rule in enumerate(route.rules, 1):
        if holds(rule, facts, token_ratio):
            return dict.fromkeys(rule.targets, f"rule {number}")
    own = dict.fromkeys(route.targets, OWN_TARGETS)
    if route.canary is not None and share_point(route.name, facts.identity()) < canary_percent:
        canary = dict.fromkeys(route.canary.targets, CANARY)
        return {**canary, **own, **canary}
    return own


def holds(rule: RuleSpec, facts: RequestFacts, token_ratio: float) -> bool:
    if rule.tenants is not None and facts.tenant not in rule.tenants:
        return False
    if not all(_matches(match, facts.headers.get(match.name)) for match in rule.headers):
        return False
    below, above = rule.prompt_tokens_below, rule.prompt_tokens_above
    if below is None and above is None:
        return True
    tokens = facts.prompt_tokens() * token_ratio
    return (below is None or tokens < below) and (above is None or tokens > above)


def _matches(match: HeaderMatch, value: str | None) -> bool:
    if value is None:
        return False
    return value in match.values or bool(match.prefix and value.startswith(match.prefix))


def share_point(route_name: str, identity: str) -> float:
    """From 0 to 100, evenly, the same whenever that identity comes: it is in every share that is larger. The route's
    name is in it so that not the same users are in the canary of every route."""
    digest = hashlib.blake2b(f"{route_name}\n{identity}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) * 100 / 2**64
