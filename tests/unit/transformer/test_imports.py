"""What a text component imports: all of it is paid for in every start from zero."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FAKES = Path(__file__).parents[2] / "fakes"
PARSERS = ("pilotlight_text.tool_parsers", "pilotlight_text.reasoning_parsers", "pilotlight_text.answer_parts.formats")
OF_SOME_CONVERSATIONS = ("older_messages", "shown_tools", "final_message", "unseen_fields")
SERVE = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
from fake_token_source import FakeTokenSource
from text_app import TextApp
import pilotlight_serving.server, pilotlight_transformer.__main__, pilotlight_transformer.rest_predictor

async def serve():
    app = TextApp(FakeTokenSource())
    chat = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["hi"]}
    for path, body in (("/v1/chat/completions", chat), ("/v2/models/demo/infer", {"inputs": [tensor]})):
        assert (await app.post(path, body)).status_code == 200
    async with app.client() as client:
        assert (await client.get("/openapi.json")).status_code == 200

asyncio.run(serve())
print(json.dumps(list(sys.modules)))
"""


def test_serving_text_imports_nothing_heavy() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SERVE, str(FAKES)], capture_output=True, text=True, timeout=60, check=True
    )
    heavy = {"numpy", "torch", "transformers", "vllm", "grpc", "kserve", "pandas", "fastapi", "pydantic"}
    modules = set(json.loads(ran.stdout))
    assert not heavy & modules
    # What reads calls and reasoning is for the answers that have some.
    assert not {name for name in modules if name.startswith(PARSERS)}
    assert not {f"pilotlight_text.templates.{name}" for name in OF_SOME_CONVERSATIONS} & modules
    assert "pilotlight_text.responses_api.routes" in modules
    assert not {f"pilotlight_text.{name}_api.handlers" for name in ("responses", "anthropic")} & modules, "nobody asked"


def test_what_shapes_a_conversation_is_imported_with_the_first_one() -> None:
    start = "import json, sys, pilotlight_transformer.__main__; print(json.dumps(list(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, timeout=60, check=True)
    shapes = {f"pilotlight_text.templates.{name}" for name in ("conversation_shape", *OF_SOME_CONVERSATIONS)}
    assert not shapes & set(json.loads(ran.stdout))
