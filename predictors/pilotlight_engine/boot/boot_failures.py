"""Which failures of a boot would be the same at the next one: those are the model's or its arguments' fault. Pure.

Whoever asked for the engine is told so once and does not try again. What the machine was short of, or could not read,
may be better the next time.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_protocol.errors import PilotlightError, Unavailable

_LONGEST = 400
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "out of memory")
_SHORT_OF = (*_NO_MEMORY, "start new thread", "no space left")
_SHORT_OF_ON_A_GPU = (*_SHORT_OF, "memory", "cuda", "nccl")


@contextmanager
def explained(memory: str, *, fixed_memory: bool, on_cpu: bool) -> Iterator[None]:
    """Around a boot. `memory`: how much there is, of whom; `fixed_memory`: the next boot has no more.

    Raises EngineMisconfigured for what would fail again, Unavailable for a lack of memory, everything else as it is.
    """
    try:
        yield
    except PilotlightError:
        raise
    except Exception as error:
        text = str(error).lower()
        if isinstance(error, MemoryError) or (on_cpu and any(words in text for words in _NO_MEMORY)):
            kind = EngineMisconfigured if fixed_memory else Unavailable
            raise kind(f"the engine needs more memory than there is: {memory} ({told(error)})") from error
        if fails_again(error, on_cpu=on_cpu):
            raise EngineMisconfigured(f"vLLM cannot load this model: {told(error)}") from error
        raise


def fails_again(error: BaseException, *, on_cpu: bool) -> bool:
    """Of a GPU little is said for sure: its errors come late, and others use its memory."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    if any(isinstance(link, OSError | MemoryError | EOFError) for link in chain):
        return False
    if isinstance(error, RuntimeError) and not on_cpu:
        return False
    text = str(error).lower()
    return not any(words in text for words in (_SHORT_OF if on_cpu else _SHORT_OF_ON_A_GPU))


def told(error: BaseException) -> str:
    """One line for a person: the kind of error, what it says, and where it says nothing, in which function."""
    if isinstance(error, ValidationError):
        said = (": ".join((*map(str, item["loc"]), item["msg"])) for item in error.errors(include_url=False))
        return " ".join("; ".join(said).split())[:_LONGEST]
    text = " ".join(str(error).split())[:_LONGEST]
    if text:
        return f"{type(error).__name__}: {text}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} in {frames[-1].name}" if frames else type(error).__name__
