"""Which backend is asked for a constraint, and in which words: what xgrammar would pass over goes to llguidance."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_engine.structured_outputs.grammar_sources import is_lark, sources_of
from pilotlight_engine.structured_outputs.schema_support import enforced_by_xgrammar
from pilotlight_engine.structured_outputs.schema_writing import (
    has_inexact_integers,
    plainly,
    without_additional_properties,
    written_for_guidance,
    written_for_xgrammar,
)
from pilotlight_engine.structured_outputs.string_patterns import check_pattern, is_plain_pattern, written_regex
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.structured_outputs import StructuredOutputs

POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
CAT = {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]}
DOG = {"type": "object", "properties": {"kind": {"enum": ["dog", "wolf"]}}, "required": ["kind"]}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        POINT,
        {"$ref": "#/$defs/p", "$defs": {"p": POINT}},
        {"anyOf": [POINT, {"type": "null"}], "default": None},
        {"oneOf": [{"type": "string"}, {"type": "null"}]},
        {"oneOf": [CAT, DOG], "discriminator": {"propertyName": "kind"}},
        {"allOf": [{"$ref": "#"}], "description": "one"},
        {"enum": ["a", 1, None]},
        {"type": "string", "enum": ["a", "b"], "title": "T"},
        {"const": {"a": 1}},
        {"type": "string", "maxLength": 3},
        {"type": "string", "pattern": "^[a-z]+$"},
        {"type": "string", "format": "date"},
        {"type": ["string", "null"]},
        {"type": "array", "items": POINT, "minItems": 1, "maxItems": 3},
        {"type": "array", "prefixItems": [{"type": "null"}], "items": False},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1.5},
        {"items": {"type": "string"}},
    ],
)
def test_xgrammar_enforces_it(schema: Any) -> None:
    assert enforced_by_xgrammar(schema)


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"minimum": 3},
        {"maxLength": 3},
        {"type": "integer", "multipleOf": 2},
        {"type": "array", "uniqueItems": True},
        {"type": "array", "contains": {"const": 1}},
        {"type": "array", "items": [{"type": "null"}]},
        {"type": "string", "pattern": "a"},
        {"type": "string", "pattern": "^.*$"},
        {"type": "string", "pattern": "^a$", "maxLength": 3},
        {"type": "string", "format": "hostname"},
        {"type": "string", "enum": ["a", 1]},
        {"enum": ["a"], "minLength": 2},
        {"enum": []},
        {"type": ["string", "null"], "maxLength": 3},
        {"type": "object", "patternProperties": {"^a": {}}},
        {"type": "object", "properties": {"a": {}}, "required": ["b"]},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {"not": {}}}},
        {"type": "object", "minProperties": 1},
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"oneOf": [CAT, CAT]},
        {"oneOf": [CAT, {"type": "object"}]},
        {"allOf": [{"type": "string"}, {"enum": ["a"]}]},
        {"anyOf": [{"type": "string"}], "maxLength": 2},
        {"anyOf": []},
        {"$ref": "#/$defs/p", "maxLength": 1},
        {"$ref": "https://example.org/schema"},
        {"$defs": {"p": {"not": {}}}},
        {"if": {}, "then": {}},
        {"unheard": []},
    ],
)
def test_xgrammar_would_pass_over_something(schema: Any) -> None:
    assert not enforced_by_xgrammar(schema)
    if isinstance(schema, dict):
        assert [source.backend for source in sources_of(StructuredOutputs(json=schema))] == ["guidance"]


@pytest.mark.parametrize(
    ("pattern", "plain"),
    [
        ("^[0-9]{3}$", True),
        ("^(yes|no)$", True),
        ("^(?:a|b)+$", True),
        ("^$", True),
        (r"^\d{4}-[A-Z_]*\.txt$", True),
        ("a", False),
        ("^a|b$", False),
        ("^.$", False),
        ("^[^x]$", False),
        (r"^a\$", False),
        (r"^\s$", False),
        ('^"$', False),
        ("^(?=a)a$", False),
        (r"^\bword$", False),
        ("^(a$", False),
    ],
)
def test_patterns_that_mean_the_same_in_a_strings_json(pattern: str, plain: bool) -> None:
    assert is_plain_pattern(pattern) == plain


def test_bounded_lengths_become_patterns_of_a_strings_json() -> None:
    schema = {
        "properties": {"maxLength": {"type": "string", "minLength": 1, "maxLength": 3}},
        "default": {"maxLength": 1},
    }
    written = written_for_xgrammar(schema)
    assert written["default"] == {"maxLength": 1}
    assert written["properties"]["maxLength"].keys() == {"type", "pattern"}
    pattern = re.compile(written["properties"]["maxLength"]["pattern"])
    for text in ("a", "ß€😀", "a'b"):
        assert pattern.fullmatch(json.dumps(text, ensure_ascii=False)[1:-1])
    for raw in ("", "aaaa", "a\n", '"', "\\", "\x01"):
        assert not pattern.fullmatch(raw)


@pytest.mark.parametrize(
    ("format_", "good", "bad"),
    [
        ("date", ["2024-01-31", "1999-04-30"], ["2024-02-30", "2024-04-31", "2024-13-01", "24-01-01"]),
        ("time", ["23:59:59Z", "00:00:00.5+02:00"], ["24:00:00Z", "12:60:00Z", "12:00:00"]),
        ("date-time", ["2024-01-31T10:00:00Z"], ["2024-01-31 10:00:00Z", "2024-01-31"]),
        ("ipv4", ["0.0.0.0", "255.10.1.99"], ["256.0.0.1", "01.2.3.4", "1.2.3"]),
        ("ipv6", ["::", "::1", "1::", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4"], ["::7.00.6.63", ":::", "1::2::3", "1:2"]),
    ],
)
def test_formats_that_are_written_as_patterns(format_: str, good: list[str], bad: list[str]) -> None:
    pattern = written_for_xgrammar({"type": "string", "format": format_})["pattern"]
    assert all(re.fullmatch(pattern, text) for text in good)
    assert not any(re.fullmatch(pattern, text) for text in bad)
    assert is_plain_pattern(pattern)


@pytest.mark.parametrize(
    ("asked", "configured", "expected"),
    [
        (StructuredOutputs(json=POINT), "auto", [("xgrammar", "json"), ("guidance", "json")]),
        (StructuredOutputs(json=POINT), "guidance", [("guidance", "json")]),
        (
            StructuredOutputs(json={"items": {"type": "string", "maxLength": 400}}),
            "auto",
            [("guidance", "json"), ("xgrammar", "json")],
        ),
        (StructuredOutputs(json=POINT, disable_any_whitespace=True), "auto", [("guidance", "json_compact")]),
        (StructuredOutputs(json_object=True), "auto", [("xgrammar", "json"), ("guidance", "json")]),
        (StructuredOutputs(regex="a"), "auto", [("xgrammar", "regex"), ("guidance", "regex")]),
        (StructuredOutputs(choice=["a"]), "xgrammar", [("xgrammar", "ebnf")]),
        (StructuredOutputs(grammar='root ::= "a"'), "auto", [("xgrammar", "ebnf"), ("guidance", "ebnf")]),
        (StructuredOutputs(grammar='start: "a"'), "auto", [("xgrammar", "lark"), ("guidance", "lark")]),
    ],
)
def test_the_backends_that_are_asked(
    asked: StructuredOutputs, configured: str, expected: list[tuple[str, str]]
) -> None:
    assert [(source.backend, source.form) for source in sources_of(asked, configured)] == expected


@pytest.mark.parametrize(
    ("asked", "configured", "says"),
    [
        (StructuredOutputs(regex="a"), "outlines", "outlines"),
        (StructuredOutputs(choice=["a"]), "guidance", "guidance"),
        (StructuredOutputs(json={"not": {}}), "xgrammar", "xgrammar"),
        (StructuredOutputs(structural_tag='{"structures": [{"begin": "a"}], "triggers": []}'), "auto", "incomplete"),
        (
            StructuredOutputs(structural_tag='{"format": {"type": "json_schema", "json_schema": {"not": {}}}}'),
            "auto",
            "keywords that cannot be enforced",
        ),
    ],
)
def test_what_no_backend_enforces_is_refused(asked: StructuredOutputs, configured: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        sources_of(asked, configured)
    assert caught.value.param == "structured_outputs"


def test_choices_are_literals_whatever_they_hold() -> None:
    (source,) = sources_of(StructuredOutputs(choice=['say "x"\n', "back\\slash", "\x01ß"]))
    assert source.text == r'root ::= "say \"x\"\n" | "back\\slash" | "\u0001ß"'


def test_the_older_structural_tags_are_written_as_todays() -> None:
    older = {
        "triggers": ["<f"],
        "structures": [{"begin": "<f>", "schema": {"type": "string", "maxLength": 1}, "end": ""}],
    }
    (source,) = sources_of(StructuredOutputs(structural_tag=json.dumps(older)))
    written = json.loads(source.text)["format"]
    assert (written["type"], written["triggers"]) == ("triggered_tags", ["<f"])
    assert "pattern" in written["tags"][0]["content"]["json_schema"]


def test_closing_objects_leaves_what_they_say_alone() -> None:
    schema = {
        "properties": {"properties": {"properties": {"a": {}}}, "b": {"properties": {}, "additionalProperties": True}},
        "enum": [{"properties": {}}],
    }
    without_additional_properties(schema)
    assert schema == {
        "properties": {
            "properties": {"properties": {"a": {}}, "additionalProperties": False},
            "b": {"properties": {}, "additionalProperties": True},
        },
        "enum": [{"properties": {}}],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("text", "lark"), [('root ::= "a"', False), ('start: "a" // ::=', True), ("# x\nroot ::= b", False)]
)
def test_lark_is_told_from_ebnf(text: str, lark: bool) -> None:
    assert is_lark(text) == lark


@given(
    hextets=st.lists(st.sampled_from(("", "0", "1f", "FFFF", "12345", "1.2.3.4", "01.2.3.4")), max_size=9),
    ends=st.tuples(st.sampled_from(("", ":")), st.sampled_from(("", ":"))),
)
@settings(max_examples=500)
def test_an_ipv6_address_is_what_python_takes_for_one(hextets: list[str], ends: tuple[str, str]) -> None:
    text = ends[0] + ":".join(hextets) + ends[1]
    try:
        ipaddress.IPv6Address(text)
        meant = True
    except ValueError:
        meant = False
    pattern = written_for_xgrammar({"type": "string", "format": "ipv6"})["pattern"]
    assert bool(re.fullmatch(pattern, text)) == meant


def test_formats_go_to_guidance_as_patterns_wherever_they_stand() -> None:
    date, named = {"type": ["string", "null"], "format": "date"}, {"format": {"type": "integer"}}
    schema = {
        "properties": {"a": date, **named},
        "patternProperties": {"^b": {"format": "ipv6", "pattern": "^a"}},
        "allOf": [date],
        "default": date,
        "enum": [date],
    }
    written = written_for_guidance(schema)
    assert written["properties"]["a"].keys() == written["allOf"][0].keys() == {"type", "pattern"}
    assert written["properties"]["format"] == {"type": "integer"}
    assert written["patternProperties"] == schema["patternProperties"]
    assert written["default"] == date
    assert written["enum"] == [date]
    assert json.loads(sources_of(StructuredOutputs(json=schema))[0].text) == written


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"type": "integer", "format": "int32"}, {"type": "integer"}),
        ({"type": "string", "nullable": True, "x-order": 1, "markdownDescription": "*"}, {"type": "string"}),
        ({"$ref": "#/shapes/a", "shapes": {"a": {"unheard": 1}}}, {"$ref": "#/shapes/a", "shapes": {"a": {}}}),
        ({"properties": {"nullable": {"x": 1}}, "const": 1}, {"properties": {"nullable": {}}, "const": 1}),
        ({"type": ["number", "null"], "format": "date"}, {"type": ["number", "null"]}),
        ({"type": "string", "format": "password"}, {"type": "string"}),
        ({"type": "string", "format": "dat"}, {"type": "string", "format": "dat"}),
        ({"format": "date"}, {"format": "date"}),
        (
            {"properties": {"format": {"type": "integer", "format": "int64"}}, "default": {"format": "int64"}},
            {"properties": {"format": {"type": "integer"}}, "default": {"format": "int64"}},
        ),
        (
            {"propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "null"}, "required": ["a"]},
            {
                "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
                "additionalProperties": False,
                "required": ["a"],
            },
        ),
        ({"propertyNames": {"const": "a"}}, {"properties": {"a": {}}, "additionalProperties": False}),
        (
            {"propertyNames": {"$ref": "#/$defs/N"}, "$defs": {"N": {"type": "string", "enum": ["a"]}}},
            {
                "properties": {"a": {}},
                "additionalProperties": False,
                "$defs": {"N": {"type": "string", "enum": ["a"]}},
            },
        ),
        ({"propertyNames": {"pattern": "^a"}}, {"propertyNames": {"pattern": "^a"}}),
        ({"oneOf": [CAT, DOG], "title": "T"}, {"anyOf": [CAT, DOG], "title": "T"}),
        (
            {"oneOf": [{"$ref": "#/$defs/c"}, {"$ref": "#/$defs/d"}], "$defs": {"c": CAT, "d": DOG}},
            {"anyOf": [{"$ref": "#/$defs/c"}, {"$ref": "#/$defs/d"}], "$defs": {"c": CAT, "d": DOG}},
        ),
        ({"oneOf": [CAT, CAT]}, {"oneOf": [CAT, CAT]}),
        ({"oneOf": [CAT, DOG], "anyOf": [CAT]}, {"oneOf": [CAT, DOG], "anyOf": [CAT]}),
    ],
)
def test_a_schema_is_written_plainly(schema: Any, written: Any) -> None:
    assert plainly(schema) == written


@pytest.mark.parametrize(
    ("schema", "backends"),
    [
        ({"enum": [2**53 + 1]}, ["xgrammar"]),
        ({"enum": [2**53]}, ["xgrammar", "guidance"]),
        ({"type": "string", "nullable": True}, ["xgrammar", "guidance"]),
        ({"type": "string", "propertyOrdering": ["a"]}, ["guidance"]),
        ({"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {"a": CAT, "b": DOG}}, None),
        ({"type": "number", "minimum": 1e-9}, ["guidance"]),
        ({"type": "number", "minimum": 0.000001}, ["xgrammar", "guidance"]),
        ({"properties": {"a": {"$id": "x", "$ref": "#/$defs/b"}}}, ["guidance"]),
        ({"$id": "x", "type": "null"}, ["xgrammar", "guidance"]),
        ({"type": []}, ["guidance"]),
        ({"type": ["string", 1]}, ["guidance"]),
    ],
)
def test_who_is_given_what_the_other_gets_wrong(schema: Any, backends: list[str] | None) -> None:
    found = [source.backend for source in sources_of(StructuredOutputs(json=schema))]
    assert found == (backends or ["xgrammar", "guidance"])


def test_an_exact_integer_that_nobody_would_keep_is_refused() -> None:
    schema = {"properties": {"id": {"const": 2**53 + 1}}, "not": {}}
    assert has_inexact_integers(schema)
    with pytest.raises(InvalidInput, match=r"2\^53"):
        sources_of(StructuredOutputs(json=schema))


@pytest.mark.parametrize("pattern", ["^[[:alpha:]]$", "[a[b]]", "^a{1,2}+$", "a++", "(b)*+"])
def test_patterns_that_languages_read_differently_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        check_pattern(pattern)
    with pytest.raises(InvalidInput, match="pattern"):
        sources_of(StructuredOutputs(json={"properties": {"a": {"type": "string", "pattern": pattern}}}))


@pytest.mark.parametrize("pattern", [r"\[\[", r"[\[]", "[*+]+", r"\*+", r"a\++", "[^]a]+", "x+?"])
def test_patterns_that_are_read_alike_are_not(pattern: str) -> None:
    check_pattern(pattern)


_WORDS = st.sampled_from(
    ("type", "properties", "required", "enum", "const", "items", "prefixItems", "anyOf", "oneOf", "allOf", "$ref")
    + ("pattern", "format", "minLength", "maximum", "additionalProperties", "propertyNames", "$defs", "object")
    + ("string", "#/$defs/a")
)
_MALFORMED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(schema=st.dictionaries(_WORDS, _MALFORMED, max_size=4))
@settings(max_examples=400)
def test_no_schema_is_so_malformed_that_it_breaks_the_reading(schema: dict[str, Any]) -> None:
    tag = {"structures": [{"begin": "a", "schema": schema, "end": "b"}], "triggers": ["a"]}
    for asked in (
        StructuredOutputs(json=schema),
        StructuredOutputs(json=schema, disable_additional_properties=True),
        StructuredOutputs(structural_tag=json.dumps(schema)),
        StructuredOutputs(structural_tag=json.dumps(tag)),
    ):
        with contextlib.suppress(InvalidInput):
            assert sources_of(asked)


@pytest.mark.parametrize("text", ["[" * 500, '{"a":' * 300 + "1" + "}" * 300, "1", '{"format": NaN}'])
def test_a_structural_tag_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        sources_of(StructuredOutputs(structural_tag=text))


@pytest.mark.parametrize(
    "pattern", ["^ab$", "ab", "[.]", r"\.", "^a|^b$", "^yes$|^no$", r"\d+(?:\.\d+)?", r"a\/b", "é😀"]
)
def test_a_regex_that_xgrammar_reads_as_it_is(pattern: str) -> None:
    assert written_regex(pattern) == pattern
    assert sources_of(StructuredOutputs(regex=pattern))[0].backend == "xgrammar"


@pytest.mark.parametrize(
    "pattern",
    [r"\Aab\Z", r"ab\z", r"\Qab\E", r"\bab", r"[\b]", r"\p{L}", r"(a)\1", "(^a)", "a^b", "a$b", "(a$)", "[^]"],
)
def test_a_regex_that_xgrammar_would_take_for_another(pattern: str) -> None:
    assert written_regex(pattern) is None
    assert [source.backend for source in sources_of(StructuredOutputs(regex=pattern))] == ["guidance"]
    tag = {"type": "structural_tag", "format": {"type": "regex", "pattern": pattern}}
    with pytest.raises(InvalidInput, match="regex"):
        sources_of(StructuredOutputs(structural_tag=json.dumps(tag)))


def test_a_dot_is_no_end_of_a_line() -> None:
    written = written_regex("a.[.]")
    assert written is not None
    assert re.fullmatch(written, "aé.")
    assert not re.fullmatch(written, "a\n.")


def test_a_regex_that_is_read_in_two_ways_has_one_backend() -> None:
    assert [source.backend for source in sources_of(StructuredOutputs(regex="[[:alpha:]]+"))] == ["xgrammar"]


def test_a_schema_in_a_grammar_is_not_for_xgrammar() -> None:
    grammar = 'start: "x" %json {"type": "object", "not": {}}'
    assert [source.backend for source in sources_of(StructuredOutputs(grammar=grammar))] == ["guidance"]
