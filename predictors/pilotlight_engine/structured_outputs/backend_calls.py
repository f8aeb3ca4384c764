"""Calls of xgrammar's and llguidance's compilers, the same where a grammar is tried and where it is used.

Adapter to the two libraries; they are imported by who calls.
"""

from __future__ import annotations

from typing import Any

from pilotlight_engine.structured_outputs.grammar_sources import GrammarSource

# Enough to indent what nests eight deep; without a bound a model may write blanks until its last token.
MOST_WHITESPACE = 32
CACHED_BYTES = 64 * 2**20
"""What xgrammar keeps of rules that grammars share: a string's costs 0.2 s with 49,152 tokens, once."""


def compile_xgrammar(compiler: Any, source: GrammarSource) -> Any:
    """`compiler`: xgrammar's GrammarCompiler. Raises what the library raises."""
    match source.form:
        case "json":
            return compiler.compile_json_schema(source.text, any_whitespace=True, max_whitespace_cnt=MOST_WHITESPACE)
        case "regex":
            return compiler.compile_regex(source.text)
        case "lark":
            return compiler.compile_lark(source.text)
        case "structural_tag":
            return compiler.compile_structural_tag(source.text)
        case _:
            return compiler.compile_grammar(source.text)


def needs_special_tokens(source: GrammarSource) -> bool:
    """Whether the grammar may name special tokens; in the text of any other they are never allowed."""
    return source.form in ("structural_tag", "lark")


def guidance_grammar(llguidance: Any, source: GrammarSource) -> str:
    """llguidance's own text of a grammar. Raises ValueError."""
    match source.form:
        case "json" | "json_compact":
            defaults = {"whitespace_flexible": source.form == "json"}
            return str(llguidance.LLMatcher.grammar_from_json_schema(source.text, defaults=defaults))
        case "ebnf":
            return str(llguidance.grammar_from("grammar", source.text))
        case _:
            return str(llguidance.grammar_from(source.form, source.text))
