"""Every field of vLLM's and OpenAI's requests is ours: an upgrade of either cannot add one that is dropped in silence.

The classes are read as text: importing vLLM takes seconds.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from pilotlight_text.openai_api import field_tables, requests, sampling
from pilotlight_text.openai_api.requests import ChatRequest, CompletionRequest, StreamOptions

VLLM = "entrypoints/openai"
OURS = {"chat": ChatRequest, "completion": CompletionRequest}
TABLES = field_tables.REFUSED.keys() | field_tables.WITHOUT_EFFECT.keys()


def package(name: str) -> Path:
    found = find_spec(name)
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


def fields_of(path: Path, *classes: str) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
    return {
        statement.target.id
        for name in classes
        for statement in bodies[name]
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and not statement.target.id.startswith("_")
    }


def openai_types(name: str) -> Path:
    return package("openai") / "types" / name


THEIRS = {
    "vLLM's chat": ("chat", package("vllm") / VLLM / "chat_completion/protocol.py", "ChatCompletionRequest"),
    "vLLM's completions": ("completion", package("vllm") / VLLM / "completion/protocol.py", "CompletionRequest"),
    "OpenAI's chat": ("chat", openai_types("chat/completion_create_params.py"), "CompletionCreateParamsBase"),
    "OpenAI's completions": ("completion", openai_types("completion_create_params.py"), "CompletionCreateParamsBase"),
}


@pytest.mark.parametrize("whose", THEIRS)
def test_every_field_is_known(whose: str) -> None:
    kind, path, name = THEIRS[whose]
    theirs = fields_of(path, name)
    assert len(theirs) > 15, "the class is where it was"
    assert theirs - set(OURS[kind].__struct_fields__) == set()


def test_every_stream_option_is_known() -> None:
    vllm = fields_of(package("vllm") / "entrypoints/generate/base/protocol.py", "StreamOptions")
    openai = fields_of(openai_types("chat/chat_completion_stream_options_param.py"), "ChatCompletionStreamOptionsParam")
    assert vllm
    assert openai
    assert (vllm | openai) - set(StreamOptions.__struct_fields__) == set()


def test_what_is_not_in_a_table_is_read_somewhere() -> None:
    folder = Path(requests.__file__).parent
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py")]
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    done = {name for kind in OURS.values() for name in kind.__struct_fields__ if name not in TABLES}
    assert done - read - set(sampling._SHARED) - set(sampling._SHAPES) == set()


def test_the_tables_hold_nothing_else_and_nothing_twice() -> None:
    known = {name for kind in OURS.values() for name in kind.__struct_fields__}
    assert {name for name in TABLES if "." not in name} <= known
    assert not field_tables.REFUSED.keys() & field_tables.WITHOUT_EFFECT.keys()
    assert {"stream_options.include_obfuscation"} == {name for name in TABLES if "." in name}
