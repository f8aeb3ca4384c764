"""What runs in a limited process: reading a tenant's tokenizer, and compiling a constraint for the first time.

It gives up what it does not need before it reads its first byte: memory beyond a limit, any file or socket it does not
hold already. It ends with its parent, with its socket, and at its CPU limit, so that whatever a schema, a regular
expression, a grammar or a tokenizer costs is paid here first. Nothing of torch, vLLM or Hugging Face transformers is
imported: a worker's start is a client's wait.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import sys
import types
from typing import Any

from pilotlight_engine.process import memory_limit
from pilotlight_engine.process.limited_worker import (
    BEGUN,
    OUT_OF_MEMORY,
    give_up,
    limit_cpu,
    read_frame,
    write_all,
    write_frame,
)

_PROBED_TOKENS = 48
_MOST_MASK_S = 0.2
_MOST_GROWTH_BYTES = 256 * 2**20


def main(cpu_s: float, memory_bytes: int) -> None:
    try:
        import_libraries()
        compiler = TrialCompiler()
        compiler.rehearse()
        # Not the engine's, which ends with all that is in it.
        memory_limit.enter_cgroup(2 * memory_bytes)
        _give_up(memory_bytes)
        write_all(0, BEGUN)
        while (head := read_frame(0)) is not None:
            body = read_frame(0) or b""
            limit_cpu(cpu_s)
            answer = json.dumps(compiler.answer(json.loads(head), body)).encode()
            limit_cpu(0)
            write_frame(0, answer)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def import_libraries() -> None:
    """xgrammar's compiler without what its package imports beside it: torch, and transformers for a class to test
    for, whose place `FileTokenizer` takes."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    stand_in = types.ModuleType("transformers")
    stand_in.PreTrainedTokenizerBase = stand_in.PreTrainedTokenizerFast = FileTokenizer  # type: ignore[attr-defined]
    sys.modules["transformers"] = stand_in
    spec = importlib.util.find_spec("xgrammar")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = types.ModuleType("xgrammar")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["xgrammar"] = package
    for name in ("xgrammar.load_binding", "xgrammar.compiler", "llguidance", "numpy", "tokenizers"):
        importlib.import_module(name)


class FileTokenizer:
    """tokenizer.json with what xgrammar asks of a tokenizer of transformers. `special`: tell of special tokens too."""

    def __init__(self, tokenizer: Any, special: bool) -> None:
        self.backend_tokenizer = tokenizer
        self._special = special

    def get_vocab(self) -> dict[str, int]:
        vocabulary: dict[str, int] = self.backend_tokenizer.get_vocab(with_added_tokens=True)
        if self._special:
            return vocabulary
        added = self.backend_tokenizer.get_added_tokens_decoder().values()
        hidden = {token.content for token in added if token.special}
        return {token: number for token, number in vocabulary.items() if token not in hidden}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        found: list[int] = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return found

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.backend_tokenizer.id_to_token(number) for number in ids]


class TrialCompiler:
    """Answers jobs; holds one tokenizer at a time."""

    def rehearse(self) -> None:
        """Have imported what the libraries import at the first need of it, when no file can be opened any more."""
        tokens = {bytes([number]).decode("latin-1"): number for number in range(128)}
        described = {"version": "1.0", "model": {"type": "WordLevel", "vocab": tokens, "unk_token": "a"}}
        self.answer({"vocab_size": 128, "eos_ids": [0]}, json.dumps(described).encode())
        for backend in ("xgrammar", "guidance"):
            self.answer({"sources": [{"backend": backend, "form": "json", "text": '{"type":"object"}'}]}, b"")
            self.answer({"sources": [{"backend": backend, "form": "ebnf", "text": 'root ::= "a"'}]}, b"")

    def answer(self, job: dict[str, Any], body: bytes) -> dict[str, Any]:
        try:
            return self._load(job, body) if "vocab_size" in job else self._try(job["sources"])
        except MemoryError:
            raise
        except BaseException as error:  # a panic of the Rust libraries is a BaseException
            return {"refused": _told(error)}

    def _load(self, job: dict[str, Any], body: bytes) -> dict[str, Any]:
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_buffer(body)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self._vocab_size, self._stop_ids = tokenizer, job["vocab_size"], job["eos_ids"]
        self._compilers: dict[bool, Any] = {}
        self._guidance: Any = None
        return {"plain": self._compiler(special=False).tokenizer_info.serialize_json(), "text": tokenizer.to_str()}

    def _compiler(self, *, special: bool) -> Any:
        from xgrammar.compiler import GrammarCompiler
        from xgrammar.tokenizer_info import TokenizerInfo

        from pilotlight_engine.structured_outputs.backend_calls import CACHED_BYTES

        if special not in self._compilers:
            info = TokenizerInfo.from_huggingface(
                FileTokenizer(self._tokenizer, special),
                vocab_size=self._vocab_size,
                stop_token_ids=self._stop_ids or None,
            )
            self._compilers[special] = GrammarCompiler(info, max_threads=1, cache_limit_bytes=CACHED_BYTES)
            self._compilers[special].tokenizer_info = info
        return self._compilers[special]

    def _try(self, sources: list[dict[str, Any]]) -> dict[str, Any]:
        from pilotlight_engine.structured_outputs.grammar_sources import GrammarSource

        refusals = []
        for number, fields in enumerate(sources):
            source = GrammarSource(**fields)
            try:
                compiled = self._by_xgrammar if source.backend == "xgrammar" else self._by_guidance
                refusal = compiled(source)
            except MemoryError:
                raise
            except BaseException as error:
                refusal = _told(error)
            if not refusal:
                return {"chosen": number, "special": self._special_info(source)}
            refusals.append(f"{source.backend}: {refusal}")
        return {"refused": "; ".join(refusals)}

    def _special_info(self, source: Any) -> str:
        from pilotlight_engine.structured_outputs.backend_calls import needs_special_tokens

        if source.backend != "xgrammar" or not needs_special_tokens(source):
            return ""
        return str(self._compiler(special=True).tokenizer_info.serialize_json())

    def _by_xgrammar(self, source: Any) -> str:
        import numpy
        from xgrammar.base import _core  # type: ignore[attr-defined]

        from pilotlight_engine.structured_outputs.backend_calls import compile_xgrammar, needs_special_tokens

        compiler = self._compiler(special=needs_special_tokens(source))
        before = _peak_bytes()
        compiled = compile_xgrammar(compiler, source)
        matcher = _core.GrammarMatcher(compiled._handle, None, False, -1, None)  # type: ignore[call-arg]
        if max(_peak_bytes() - before, compiled.memory_size_bytes) > _MOST_GROWTH_BYTES:
            return f"its grammar takes more than {_MOST_GROWTH_BYTES // 2**20} MiB"
        mask = numpy.zeros((1, (self._vocab_size + 31) // 32), dtype=numpy.int32)

        def allowed() -> Any:
            matcher.fill_next_token_bitmask(mask, 0, False)
            return mask[0]

        return self._probe(allowed, lambda token: bool(matcher.accept_token(token, False)), matcher.is_terminated)

    def _by_guidance(self, source: Any) -> str:
        import llguidance
        import numpy

        from pilotlight_engine.structured_outputs.backend_calls import guidance_grammar

        if self._guidance is None:
            if not self._stop_ids or self._tokenizer.get_vocab_size(with_added_tokens=True) > self._vocab_size:
                return "the model's tokenizer has tokens that the model has not, or no end of sequence"
            text = self._tokenizer.to_str()
            self._guidance = llguidance.LLTokenizer(text, n_vocab=self._vocab_size, eos_token=self._stop_ids)
        matcher = llguidance.LLMatcher(self._guidance, guidance_grammar(llguidance, source), log_level=0)

        def allowed() -> Any:
            return numpy.frombuffer(matcher.compute_bitmask(), dtype=numpy.int32)

        refusal = matcher.get_error() or self._probe(allowed, matcher.consume_token, matcher.is_stopped)
        return _first_line(refusal or matcher.get_error())

    def _probe(self, allowed: Any, accept: Any, ended: Any) -> str:
        """Walk some tokens into the grammar: what it forbids from the start, and what a mask costs. Why not, or ""."""
        import time

        import numpy

        for step in range(_PROBED_TOKENS):
            began_s = time.thread_time()
            bits = numpy.unpackbits(allowed().view(numpy.uint8), bitorder="little")
            if time.thread_time() - began_s > _MOST_MASK_S:
                return "it is too expensive to enforce: the next token's mask takes too long"
            tokens = numpy.flatnonzero(bits[: self._vocab_size])
            if not len(tokens):
                return "" if step else "no output satisfies it"
            # Pseudo-random and the same every time; any walk will do.
            if not accept(int(tokens[(step * 7919 + 13) % len(tokens)])) or ended():
                break
        return ""


def _told(error: BaseException) -> str:
    return _first_line(str(error)) or type(error).__name__


def _first_line(text: str) -> str:
    """What a library says, without its own source's place, state or trace; of a drawn error (`a line:`, the place, then
    `error: why`) also why."""
    said, *more = text.strip().split("<state>")[0].split("<backtrace>")[0].strip().split("\n")
    if said.startswith("[") and ".cc:" in said:
        said = said.partition(".cc:")[2].partition(": ")[2]
    why = next((line.removeprefix("error: ") for line in more if line.startswith("error: ")), "")
    return (f"{said} {why}" if said.endswith(":") and why else said)[:400]


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _give_up(memory_bytes: int) -> None:
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123  # pathlib is 5 ms of a start
        in_use = int(file.read().partition("VmData:")[2].split()[0]) * 1024
    give_up(resource.RLIMIT_DATA, in_use + memory_bytes)
