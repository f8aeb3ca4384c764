"""What a name means to whom, after whatever a platform has told."""

from __future__ import annotations

from endpoint_entries import entry, whole
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.directory.endpoint_table import EndpointTable, Target
from pilotlight_gateway.request_steps import Caller
from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry
from pilotlight_protocol.endpoint_names import spellings

ALL = Caller("default", namespaces=None)
TEAM = Caller("team")


def table(*entries, **answer) -> EndpointTable:
    made = EndpointTable()
    made.apply(whole(*entries, **answer))
    return made


def test_every_spelling_of_an_endpoint_and_its_adapters() -> None:
    chat = entry("chat", model_names=("org/base", "tuned"))
    known = table(chat)
    for name in ("chat", "team/chat", "org/base", "team/org/base"):
        assert known.find(TEAM, name) == Target(chat, "org/base")
    for name in ("tuned", "team/tuned"):
        assert known.find(TEAM, name) == Target(chat, "tuned")
    assert [name for name, _ in known.names(TEAM)] == ["chat", "tuned"]


def test_ones_own_comes_first_and_what_is_ambiguous_is_nobody() -> None:
    mine, theirs, third = entry("chat"), entry("chat", "other"), entry("chat", "third")
    known = table(mine, theirs, third)
    assert known.find(TEAM, "chat") == Target(mine, "chat")
    assert known.find(TEAM, "other/chat") is None
    assert known.find(ALL, "chat") is None
    assert known.find(ALL, "other/chat") == Target(theirs, "chat")
    assert [name for name, _ in known.names(ALL)] == ["other/chat", "team/chat", "third/chat"]


def test_a_key_that_may_use_some_models_only() -> None:
    known = table(entry("chat"), entry("other", model_names=("base",)))
    caller = Caller("team", allowed_models=frozenset({"base"}))
    assert known.find(caller, "chat") is None
    assert known.find(caller, "other") is not None
    assert [name for name, _ in known.names(caller)] == ["other"]


def test_a_short_name_is_ones_own_or_the_first_namespaces_that_was_listed() -> None:
    caller = Caller("a", namespaces=("shared", "b"))
    first = entry("llama-prod", "shared", model_names=("llama",))
    newcomer, other = entry("llama", "b"), entry("gpt", "b")
    known = table(first, newcomer, other)
    assert known.find(caller, "llama") == Target(first, "llama")
    assert known.find(caller, "b/llama") == Target(newcomer, "llama")
    assert known.find(caller, "gpt") is None
    assert known.full_names(caller, "gpt") == ["b/gpt"]
    assert known.full_names(Caller("c", namespaces=("shared",)), "gpt") == []
    assert known.full_names(Caller("a", namespaces=("shared", "b"), allowed_models=frozenset({"llama"})), "gpt") == []
    assert [name for name, _ in known.names(caller)] == ["b/gpt", "b/llama", "llama-prod"]


def test_a_key_for_some_models_reaches_what_these_names_mean_to_it() -> None:
    mine, theirs = entry("llama", "a"), entry("llama", "b")
    caller = Caller("a", namespaces=("b",), allowed_models=frozenset({"llama"}))
    known = table(mine, theirs)
    assert known.find(caller, "llama") == known.find(caller, "a/llama") == Target(mine, "llama")
    assert known.find(caller, "b/llama") is None
    alone = table(theirs)
    assert alone.find(caller, "llama") == alone.find(caller, "b/llama") == Target(theirs, "llama")


SPACES = ("team", "shared", "b", "other")
SPELLINGS = ("a", "b", "org/a", "b/a", "shared/a", "team/a", "other/a", "b/org/a", "b/b/a", "shared/b", "other/b")
MADE = st.builds(
    lambda namespace, name, models: entry(name, namespace, model_names=tuple(models)),
    st.sampled_from(SPACES),
    st.sampled_from(("a", "b", "c")),
    st.lists(st.sampled_from(("a", "b", "org/a", "b/a", "shared/a", "team/a")), min_size=1, max_size=2, unique=True),
)


@given(
    there=st.lists(MADE, max_size=6, unique_by=lambda made: made.key),
    newcomer=MADE,
    listed=st.lists(st.sampled_from(SPACES), max_size=3, unique=True),
    allowed=st.none() | st.frozensets(st.sampled_from(SPELLINGS), max_size=3),
)
def test_who_makes_an_endpoint_changes_no_name_in_another_namespace(
    there: list[EndpointEntry],
    newcomer: EndpointEntry,
    listed: list[str],
    allowed: frozenset[str] | None,
) -> None:
    caller = Caller("team", namespaces=tuple(listed), allowed_models=allowed)
    before = table(*there)
    after = table(*(each for each in there if each.key != newcomer.key), newcomer)
    for name in SPELLINGS:
        meant, means = before.find(caller, name), after.find(caller, name)
        if newcomer.namespace != "team" and meant is not None and meant.entry.namespace != newcomer.namespace:
            assert means == meant
        for found in (meant, means):
            assert found is None or caller.may_use(found.entry.namespace)
        prefix, _, _ = name.partition("/")
        if means is not None and "/" in name and caller.may_use(prefix):
            assert means.entry.namespace == prefix
        assert all(after.find(caller, full) is not None for full in after.full_names(caller, name))


NAMES = st.sampled_from(("a", "b", "c"))
ANSWERS = st.lists(
    st.tuples(
        st.booleans(),
        st.lists(st.tuples(st.sampled_from(("team", "other")), NAMES, NAMES, st.integers(0, 1)), max_size=4),
        st.lists(st.tuples(st.sampled_from(("team", "other")), NAMES), max_size=3),
        st.sampled_from(("e1", "e2")),
    ),
    max_size=8,
)


@given(answers=ANSWERS)
def test_the_table_is_what_was_told(answers) -> None:
    known, epoch = EndpointTable(), ""
    there: dict[tuple[str, str], EndpointEntry] = {}
    told: list[set[tuple[str, str]]] = []
    known.subscribe(told.append)
    for is_whole, changed, gone, answer_epoch in answers:
        entries = {
            (namespace, name): entry(name, namespace, model_names=(model,), pods_ready=ready)
            for namespace, name, model, ready in changed
        }
        before = dict(there)
        if is_whole or answer_epoch != epoch:
            there = {}
        for key in gone:
            there.pop(key, None)
        there |= entries
        epoch = answer_epoch
        told.clear()
        known.apply(DirectoryAnswer(answer_epoch, 1, is_whole, tuple(entries.values()), tuple(gone)))
        assert len(known) == len(there)
        others = {key for key in before.keys() | there.keys() if before.get(key) != there.get(key)}
        assert others <= (told[0] if told else set())
        for name in {name for each in there.values() for name in spellings(each)}:
            found = known.find(TEAM, name)
            assert found is None or (found.entry == there[found.entry.key] and found.entry.namespace == "team")
        for (namespace, name), each in there.items():
            found = known.find(ALL, f"{namespace}/{name}")
            assert found is not None
            assert found.entry == each
    assert known._by_name.keys() == {name for each in there.values() for name in spellings(each)}


@given(
    st.lists(
        st.tuples(st.sampled_from(("team", "other")), NAMES, st.sampled_from(("a", "b", "team/a", "other/b"))),
        max_size=5,
        unique_by=lambda made: made[:2],
    ),
    st.sampled_from(("team/a", "team/b", "other/a", "other/b", "team/team/a", "third/a", "a")),
)
def test_a_name_with_its_namespace_means_what_it_means_there(made: list[tuple[str, str, str]], name: str) -> None:
    known = table(*(entry(each, namespace, model_names=(model,)) for namespace, each, model in made))
    assert known.of_namespace(name) == known.find(Caller(name.partition("/")[0]), name)
