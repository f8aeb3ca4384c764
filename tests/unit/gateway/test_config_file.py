"""The configuration file: what is right is read as it was written, what is wrong is told by name and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.configuration.config_file import BrokenConfig, parse_config, read_config
from pilotlight_gateway.configuration.current_config import CurrentConfig
from pilotlight_gateway.configuration.gateway_config import GatewayConfig
from pilotlight_gateway.rollout.rollout_spec import RolloutSpec
from pilotlight_gateway.routing.route_spec import (
    CanarySpec,
    HeaderMatch,
    MirrorSpec,
    RouteSpec,
    RuleSpec,
    VersionSpec,
)

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
ROUTES = st.builds(
    RouteSpec,
    name=NAMES,
    targets=st.lists(st.sampled_from(("a/b", "a/c", "prod/org/base")), min_size=1, max_size=3).map(tuple),
    tenants=st.none() | st.lists(NAMES, min_size=1, max_size=3, unique=True).map(tuple),
    label=st.sampled_from(("", "chat")),
    versions=st.none().map(lambda _: ()) | st.just((VersionSpec(version="v2", targets=("a/b",)),)),
    rules=st.lists(
        st.builds(
            RuleSpec,
            targets=st.just(("a/b",)),
            headers=st.just((HeaderMatch(name="x-a", values=("1", "yes")), HeaderMatch(name="x-b", prefix="p"))),
            prompt_tokens_below=st.none() | st.integers(1, 9),
        ),
        max_size=2,
    ).map(tuple),
    canary=st.none()
    | st.builds(CanarySpec, targets=st.just(("a/n",)), percent=st.floats(0, 100))
    | st.builds(CanarySpec, targets=st.just(("a/n",)), rollout=st.builds(RolloutSpec, step_s=st.floats(1, 9))),
    mirror=st.none() | st.builds(MirrorSpec, target=st.just("a/m"), percent=st.floats(0, 100)),
)
CONFIGS = st.lists(ROUTES, max_size=4, unique_by=lambda route: route.name).map(
    lambda routes: GatewayConfig(routes=tuple(routes))
)


@given(CONFIGS, st.sampled_from(("c.yaml", "c.json")))
def test_what_is_written_is_read(config: GatewayConfig, name: str) -> None:
    plain = msgspec.to_builtins(config)
    text = yaml.safe_dump(plain, allow_unicode=True) if name == "c.yaml" else msgspec.json.encode(plain).decode()
    assert parse_config(text.encode(), name) == config


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "---\n", "null", "routes: []"])
def test_nothing_is_a_whole_configuration(text: str) -> None:
    assert parse_config(text.encode(), "c.yaml") == GatewayConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("routs: []", "c.yaml:1: Object contains unknown field `routs`"),
        ("routes:\n- name: a\n  targets: [a/b]\n  canry: 3", "c.yaml:4: .*unknown field `canry` .in routes.0."),
        ("routes:\n- name: a\n  targets: [a/b]\n- name: b\n  targets:\n  - b", "c.yaml:6: .*routes.1..targets.0."),
        ("routes:\n- {name: a, targets: []}", "c.yaml:2: .*length >= 1"),
        ("routes:\n- {name: 7, targets: [a/b]}", "c.yaml:2: Expected `str`, got `int`"),
        ("routes:\n- targets: [a/b]", "c.yaml:2: .*missing required field `name`"),
        ("routes: []\n\nroutes: []", "c.yaml:3: no YAML: 'routes' stands here twice"),
        ("routes: &r\n- *r", "c.yaml"),
        ("routes: [", "c.yaml:2: no YAML"),
        ("a: 1\n---\nb: 1", "c.yaml:2: no YAML"),
        ("a: !!python/object:os.system x", "c.yaml:1: no YAML"),
        ("a: \x00", "c.yaml: no YAML|c.yaml:1: no YAML"),
        ("routes:\n- {name: a, targets: [a/b], canary: {targets: [a/b]}}", "either a `percent` or a `rollout`"),
        (
            "routes:\n- {name: a, targets: [a/b], rules: [{targets: [a/b]}]}",
            "without a condition.* .in routes.0..rules.0.",
        ),
        ("routes:\n- {name: a, targets: [a/b], rules: [{targets: [a/b], headers: [{name: x}]}]}", "either `values` or"),
        ("- 1", "c.yaml:1: Expected `object`, got `array`"),
        (
            "routes:\n- {name: a, targets: [a/b]}\n- {name: a, targets: [a/b]}",
            "routes called 'a' are for everybody",
        ),
        (
            "routes:\n- {name: a, targets: [a/b], tenants: [t, u]}\n- {name: a, targets: [a/b], tenants: [u]}",
            "two routes called 'a' are for the tenant 'u'",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(BrokenConfig, match=said):
        parse_config(text.encode(), "c.yaml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BrokenConfig, match="cannot be read"):
        read_config(tmp_path / "none.yaml")


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(content: bytes) -> None:
    try:
        parse_config(content, "c.yaml")
    except BrokenConfig as error:
        assert error.message.startswith("c.yaml")


def test_who_cannot_have_a_configuration_keeps_it_from_all() -> None:
    old, new = GatewayConfig(), GatewayConfig(routes=(RouteSpec(name="a", targets=("a/b",)),))
    current, told = CurrentConfig(old), list[Any]()

    def refuses(config: GatewayConfig) -> None:
        if config == new:
            raise ValueError("not that one")

    current.tell(told.append)
    current.tell(refuses)
    with pytest.raises(ValueError, match="not that one"):
        current.replace(new)
    assert told == [old, new, old]
    assert current.config == old
    later = GatewayConfig(routes=(RouteSpec(name="b", targets=("a/b",)),))
    current.replace(later)
    assert (told[-1], current.config) == (later, later)


def test_the_example_of_the_documentation_is_right() -> None:
    page = (Path(__file__).parents[3] / "docs" / "gateway-configuration.md").read_text(encoding="utf-8")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    assert len(parse_config(example.encode(), "c.yaml").routes) == 2
