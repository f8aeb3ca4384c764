"""What xgrammar and llguidance make of what they are given, held against jsonschema's and Python's own reading.

No engine: walks over masks, and strings that are offered to xgrammar's matcher.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import xgrammar
from client_schemas import Schema, client_schemas
from grammar_walks import Prepared, Walk
from tokenizers import Tokenizer

from pilotlight_engine.structured_outputs.backend_calls import compile_xgrammar
from pilotlight_engine.structured_outputs.grammar_sources import GrammarSource, sources_of
from pilotlight_engine.structured_outputs.string_patterns import is_plain_pattern
from pilotlight_models import bundled_model_path
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.structured_outputs import StructuredOutputs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER
FOLDER = bundled_model_path("demo-awq")
WALKS = 8


@pytest.fixture(scope="module")
def prepared() -> Iterator[Prepared]:
    prepared = Prepared()
    prepared.serve(FOLDER, 2048)
    yield prepared
    prepared.preparation.end()


@pytest.fixture(scope="module")
def walk() -> Walk:
    return Walk(Tokenizer.from_file(str(FOLDER / "tokenizer.json")), 2048)


def validator(schema: Schema) -> Any:
    older = isinstance(schema.get("items"), list)
    kind = jsonschema.Draft7Validator if older else jsonschema.Draft202012Validator
    return kind(schema, format_checker=FORMATS)


@pytest.mark.parametrize("schema", client_schemas(), ids=lambda schema: json.dumps(schema)[:60])
def test_outputs_of_clients_schemas_validate(prepared: Prepared, walk: Walk, schema: Schema) -> None:
    if schema == {"type": []}:
        with pytest.raises(InvalidInput):
            prepared.compiled(StructuredOutputs(json=schema))
        return
    compiled = prepared.compiled(StructuredOutputs(json=schema))
    ended = [text for seed in range(WALKS) if (text := walk.text(compiled, random.Random(seed))) is not None]
    for text in ended:
        problems = [error.message for error in validator(schema).iter_errors(json.loads(text))]
        assert not problems, (compiled.source, text)
    assert ended


@functools.cache
def compiler() -> Any:
    return xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(["a", "b"], stop_token_ids=[1]), max_threads=1)


def matcher(source: GrammarSource) -> Any:
    return xgrammar.GrammarMatcher(compile_xgrammar(compiler(), source), terminate_without_stop_token=True)


def takes(matcher: Any, text: str) -> bool:
    matcher.reset()
    return bool(matcher.accept_string(text) and matcher.is_completed())


def pattern_of(dice: random.Random, depth: int) -> str:
    if depth == 0 or dice.random() < 0.3:
        repeated = dice.choice(("*", "+", "?", "{2}", "{1,2}", "{0,2}")) if dice.random() < 0.4 else ""
        return dice.choice(("a", "b", "-", "[ab]", r"\d", "1")) + repeated
    match dice.randrange(3):
        case 0:
            return pattern_of(dice, depth - 1) + pattern_of(dice, depth - 1)
        case 1:
            return f"(?:{pattern_of(dice, depth - 1)}|{pattern_of(dice, depth - 1)})"
    return f"({pattern_of(dice, depth - 1)}){dice.choice(('*', '+', '?', '{2}', '{0,2}'))}"


def test_plain_patterns_mean_to_xgrammar_what_they_mean() -> None:
    texts = ["".join(letters) for length in range(5) for letters in itertools.product("ab-1", repeat=length)]
    tried = 0
    for seed in range(900):
        pattern = f"^{pattern_of(random.Random(seed), 3)}$"
        if not is_plain_pattern(pattern):
            continue
        tried += 1
        found = matcher(GrammarSource("xgrammar", "json", json.dumps({"type": "string", "pattern": pattern})))
        wrong = [text for text in texts if takes(found, f'"{text}"') != bool(re.fullmatch(pattern, text))]
        assert not wrong, (pattern, wrong[:3])
    assert tried > 300


def test_regexes_mean_to_xgrammar_what_they_mean() -> None:
    texts = ["".join(letters) for length in range(4) for letters in itertools.product("ab-1\n", repeat=length)]
    for seed in range(200):
        pattern = pattern_of(random.Random(seed), 3).replace("-", ".")
        source = sources_of(StructuredOutputs(regex=pattern))[0]
        assert source.backend == "xgrammar"
        found = matcher(source)
        wrong = [text for text in texts if takes(found, text) != bool(re.fullmatch(pattern, text))]
        assert not wrong, (pattern, wrong[:3])


@pytest.mark.parametrize(
    ("format_", "good", "bad"),
    [
        ("time", ["23:59:59Z", "00:00:00.5+02:00"], ["23:59:595Z", "23:59:59", "24:00:00Z", "23:59:59.1234567Z"]),
        ("date-time", ["2024-01-31T10:00:00.25Z"], ["2024-01-31T10:00:0025Z", "2024-02-30T10:00:00Z"]),
        ("date", ["2024-02-28"], ["2024-02-30", "2024-13-01"]),
        ("ipv4", ["0.0.0.0", "255.10.1.99"], ["256.0.0.1", "01.2.3.4", "1.2.3"]),
        (
            "ipv6",
            ["::", "::1", "1::", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4", "1::2:3"],
            ["::7.00.6.63", "1::2::3", "1:2"],
        ),
    ],
)
def test_formats_mean_to_xgrammar_what_they_mean(format_: str, good: list[str], bad: list[str]) -> None:
    found = matcher(sources_of(StructuredOutputs(json={"type": "string", "format": format_}))[0])
    assert [text for text in good + bad if takes(found, f'"{text}"')] == good


@pytest.mark.parametrize(
    ("regex", "says"),
    [
        ("a(?=b)b", "look-around"),
        (r"(a)\1", "backreferences"),
        (r"\bab", "WordUnicode"),
        (r"\Aab\Z", "escape"),
        ("(a", "unclosed"),
    ],
)
def test_what_no_backend_enforces_of_a_regex_is_named(prepared: Prepared, regex: str, says: str) -> None:
    for asked in (StructuredOutputs(regex=regex), StructuredOutputs(json={"type": "string", "pattern": regex})):
        with pytest.raises(InvalidInput, match=says):
            prepared.compiled(asked)


def test_a_bounded_string_has_whole_characters(prepared: Prepared) -> None:
    found = matcher(sources_of(StructuredOutputs(json={"type": "string", "minLength": 2, "maxLength": 2}))[0])
    for raw in (b'"\xe0\x80\x90a"', b'"\xed\xa0\x80a"', b'"\xf0\x80\x80\x80a"', b'"\xc0\x80a"', b'"\xf4\x90\x80\x80a"'):
        found.reset()
        assert not found.accept_string(raw)
    for text in ("ab", "é😀", "\ud7ff\ue000", "\U0010ffff "):
        assert takes(found, f'"{text}"')


def test_ranges_of_numbers_mean_to_xgrammar_what_they_mean() -> None:
    for seed in range(300):
        dice = random.Random(seed)
        places = dice.randrange(9)
        low = round(dice.uniform(-20, 20), places)
        high = round(low + dice.choice((10.0**-places, 1.0, 50.0)), places)
        schema = {"type": "number", dice.choice(("minimum", "exclusiveMinimum")): low, "maximum": high}
        source = sources_of(StructuredOutputs(json=schema))[0]
        if source.backend != "xgrammar":
            assert places > 6
            continue
        found, judge = matcher(source), validator(schema)
        middle = (low + high) / 2
        for number in (low, high, middle, low - 10**-places, high + 10**-places, -low, -high, 0):
            text = f"{number:.{places}f}"
            assert not takes(found, text) or judge.is_valid(json.loads(text)), (schema, text)
        assert not takes(found, "")
