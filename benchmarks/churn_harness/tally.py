"""What happened in a run of churn, and the judgement of it: counts, waits, a time line, and everything that is wrong.

Three oracles that know nothing of how the pool works: each model's own answers; what a tenant has sent to a model,
since only that may be cached for it; and whom an engine process has served, since isolation forbids some neighbours.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from churn_harness.models import Endpoint

# How long after a kill a broken connection is still its doing: start of the service, of its zygote, of a predictor.
BLAME_S = 15.0


@dataclass(frozen=True)
class Happening:
    """`kind`: completed, failure, kill; `detail` names it further. `at_s`: since the start of the traffic."""

    at_s: float
    kind: str
    detail: str
    took_s: float = 0.0


@dataclass
class Tally:
    """`waits_s`: from asking to an engine, by path; `completed` by how it was asked; `resumed`: streams that lost their
    engine while they ran, by what became of them; `probes`: tries to see another tenant's KV cache, by path."""

    completed: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    resumed: Counter[str] = field(default_factory=Counter)
    probes: Counter[str] = field(default_factory=Counter)
    manners: Counter[str] = field(default_factory=Counter)
    waits_s: dict[str, list[float]] = field(default_factory=dict)
    took_s: list[float] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    judged_tokens: int = 0
    cached_requests: int = 0
    wrong: list[str] = field(default_factory=list)
    happened: list[Happening] = field(default_factory=list)
    invariants: dict[str, str] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)
    _killed_s: dict[str, float] = field(default_factory=dict)
    _sent: Counter[tuple[str, Path]] = field(default_factory=Counter)
    _served: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def all_waits_s(self) -> list[float]:
        return sorted(wait_s for waits_s in self.waits_s.values() for wait_s in waits_s)

    def completes(self, endpoint: Endpoint, prompt: int, tokens: list[int], how: str, took_s: float) -> None:
        """Judge a completed answer."""
        if not endpoint.agrees(prompt, tokens):
            self.wrong.append(f"{self._now()} {endpoint.name} by {how}: {self._differs(endpoint, prompt, tokens)}")
            return
        self.completed[how] += 1
        self.judged_tokens += endpoint.judged[prompt]
        self.models.add(endpoint.name)
        self.took_s.append(took_s)
        self.happened.append(Happening(self._elapsed(), "completed", how, took_s))

    def fails(self, kind: str) -> None:
        self.failures[kind] += 1
        self.happened.append(Happening(self._elapsed(), "failure", kind))

    def is_wrong(self, what: str) -> None:
        self.wrong.append(f"{self._now()} {what}")

    def kills_now(self, kind: str, *suspects: str) -> None:
        """`suspects`: what may break because of it: `service`, `engine`, or a predictor's name."""
        self.kills[kind] += 1
        self.happened.append(Happening(self._elapsed(), "kill", kind))
        self.blames(*suspects)

    def blames(self, *suspects: str) -> None:
        for suspect in suspects:
            self._killed_s[suspect] = time.monotonic()

    def is_excused(self, suspect: str, began_s: float) -> bool:
        """Whether a connection to `suspect`, asked for at `began_s`, may be broken because it was killed."""
        return began_s - self._killed_s.get(suspect, float("-inf")) <= BLAME_S

    def waited(self, path: str, wait_s: float) -> None:
        self.waits_s.setdefault(path, []).append(wait_s)
        self.happened.append(Happening(self._elapsed(), "lease", path, wait_s))

    def asks(self, endpoint: Endpoint) -> None:
        """One of the endpoint's prompts is on its way; all begin alike, so from now on any other may find it cached."""
        self._sent[endpoint.tenant, endpoint.folder] += 1

    def cached(self, endpoint: Endpoint, tokens: int, path: str) -> None:
        """An answer to what was asked before begins. `path`: how the engine was got, "" where it was there before.

        Who was let in beside another holder of its endpoint finds what that one has sent."""
        self.cached_requests += tokens > 0
        if tokens <= 0:
            return
        if self._sent[endpoint.tenant, endpoint.folder] < 2:
            self.is_wrong(f"{endpoint.name}: {tokens} tokens were cached that {endpoint.tenant} has never sent")
        if path not in ("loaded", "share", ""):
            self.is_wrong(f"{endpoint.name}: {tokens} cached tokens after a {path}")

    def served(self, engine: str, tenant: str, isolation: str) -> None:
        """An engine process is lent: whoever used it before must allow it."""
        for other, theirs in self._served.setdefault(engine, []):
            if other != tenant and not (isolation == theirs == "shared"):
                self.is_wrong(f"{tenant} ({isolation}) was lent the process {engine} that {other} ({theirs}) had used")
                break
        self._served[engine].append((tenant, isolation))

    def _differs(self, endpoint: Endpoint, prompt: int, tokens: list[int]) -> str:
        assert endpoint.answers is not None
        for other in self._known:
            for number, answer in enumerate(other.answers or ()):
                if other.folder != endpoint.folder and tuple(tokens) == answer:
                    return f"the answer of {other.name} to prompt {number}"
        expected = endpoint.answers[prompt]
        at = next((n for n, pair in enumerate(zip(tokens, expected, strict=False)) if pair[0] != pair[1]), len(tokens))
        return (
            f"{len(tokens)} tokens, unlike its own from {at} on: {tokens[at : at + 4]} and not {expected[at : at + 4]}"
        )

    def knows(self, endpoints: Sequence[Endpoint]) -> None:
        """Whose answers to look for in one that is wrong."""
        self._known = list(endpoints)

    _known: list[Endpoint] = field(default_factory=list)

    def _elapsed(self) -> float:
        return round(time.monotonic() - self.began_s, 3)

    def _now(self) -> str:
        return f"{self._elapsed():.1f} s:"


def percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0
