"""Every field of vLLM's, OpenAI's and Cohere's requests for vectors and scores is done, refused by name, or without
effect: an upgrade cannot add one that is dropped in silence.

The classes are read as text: importing vLLM takes seconds.
"""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pooling_app import PoolingApp

from pilotlight_text.pooling_api import requests
from pilotlight_text.pooling_api.requests import EmbeddingRequest, RerankRequest, ScoreRequest

POOLING = "entrypoints/pooling"
WITHOUT_EFFECT = {"user"}
"""Of no use to anybody here."""
COHERE_RERANK = {"model", "query", "documents", "top_n", "max_tokens_per_doc", "priority", "return_documents"}
COHERE_RERANK |= {"rank_fields", "max_chunks_per_doc"}  # of its first version
OURS: dict[str, type[msgspec.Struct]] = {
    "embeddings": EmbeddingRequest,
    "rerank": RerankRequest,
    "score": ScoreRequest,
}
VLLMS = {
    "embeddings": ("embed", r"Embedding\w*Request"),
    "rerank": ("scoring", "RerankRequest"),
    "score": ("scoring", r"Score\w*Request"),
}


def package(name: str) -> Path:
    found = find_spec(name)
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


def classes(path: Path) -> dict[str, ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def fields_of(name: str, known: dict[str, ast.ClassDef]) -> set[str]:
    """Its own and its bases'."""
    if name not in known:
        return set()
    own = {
        statement.target.id
        for statement in known[name].body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }
    return own.union(*(fields_of(base.id, known) for base in known[name].bases if isinstance(base, ast.Name)))


def vllms(what: str) -> set[str]:
    folder, names = VLLMS[what]
    root = package("vllm") / POOLING
    known = classes(root / "base/protocol.py") | classes(root / folder / "protocol.py")
    asked = [name for name in known if re.fullmatch(names, name)]
    assert asked, "the classes are where they were"
    return set().union(*(fields_of(name, known) for name in asked))


@pytest.mark.parametrize("what", OURS)
def test_every_field_of_vllm_is_known(what: str) -> None:
    theirs = vllms(what)
    assert {"truncate_prompt_tokens", "use_activation", "cache_salt"} <= theirs
    assert theirs - set(OURS[what].__struct_fields__) == set()


def test_every_field_of_openai_and_cohere_is_known() -> None:
    path = package("openai") / "types/embedding_create_params.py"
    openai = fields_of("EmbeddingCreateParams", classes(path))
    assert {"input", "dimensions", "encoding_format"} <= openai
    assert openai - set(EmbeddingRequest.__struct_fields__) == set()
    assert COHERE_RERANK - set(RerankRequest.__struct_fields__) == set()


def test_what_is_not_refused_is_read_somewhere() -> None:
    folder = Path(requests.__file__).parent
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.glob("*.py")]
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    sides = {name for pair in requests._SIDES for name in pair}
    done = {name for kind in OURS.values() for name in kind.__struct_fields__ if name not in requests.REFUSED}
    assert done - read - sides - set(requests._REFUSED_VALUES) - WITHOUT_EFFECT == set()


@pytest.mark.parametrize("what", OURS)
async def test_an_unknown_field_is_named_to_the_client(what: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "embeddings": {"input": "a"},
        "rerank": {"query": "a", "documents": ["b"]},
        "score": {"text_1": "a", "text_2": "b"},
    }
    app = PoolingApp("embed" if what == "embeddings" else "classify")
    response = await app.post(f"/v1/{what}", {**bodies[what], "normalise": False})
    assert response.status_code == 200
    assert response.headers["x-pilotlight-ignored-fields"] == "normalise"


async def test_a_long_salt_is_taken_as_vllm_takes_it() -> None:
    app = PoolingApp("embed")
    assert (await app.post("/v1/embeddings", {"input": "a", "cache_salt": "s" * 1024})).status_code == 200
    response = await app.post("/v1/embeddings", {"input": "a", "cache_salt": "s" * 1025})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "cache_salt")
