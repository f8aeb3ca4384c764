"""What a failed boot says of the next one: the model's fault is told for good, the machine's is not."""

import pytest
from pydantic import TypeAdapter, ValidationError

from pilotlight_engine.boot.boot_failures import explained, told
from pilotlight_engine.errors import EngineMisconfigured, SwapBroken
from pilotlight_protocol.errors import InvalidInput, Unavailable

NO_MEMORY = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes")


class OddLibraryError(Exception):
    """As safetensors and huggingface_hub have them: of no family."""


def caused_by(cause, error):
    error.__cause__ = cause
    return error


def outcome(error, **surroundings):
    surroundings = {"fixed_memory": True, "on_cpu": True} | surroundings
    try:
        with explained("its slot has 4.0 GiB", **surroundings):
            raise error
    except Exception as found:
        return found


@pytest.mark.parametrize(
    "error",
    [
        AssertionError(), ValueError("no such activation"), KeyError("layers.9"), TypeError("str"), ZeroDivisionError(),
        RuntimeError("size mismatch"), OddLibraryError("header too large"), NotImplementedError("rope type"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_a_model_does_to_vllm_it_does_again(error) -> None:
    found = outcome(error)
    assert isinstance(found, EngineMisconfigured)
    assert found.message.startswith(f"vLLM cannot load this model: {type(error).__name__}")


@pytest.mark.parametrize(
    ("error", "surroundings"),
    [
        (OSError("input/output error"), {}),
        (caused_by(FileNotFoundError("g++"), RuntimeError("compile failed")), {}),
        (RuntimeError("can't start new thread"), {}),
        (RuntimeError("CUDA error: an illegal memory access"), {"on_cpu": False}),
        (RuntimeError("size mismatch"), {"on_cpu": False}),
        (ValueError("Free memory on device is less than desired"), {"on_cpu": False}),
        (Unavailable("as it is"), {}),
        (InvalidInput("as it is"), {}),
        (SwapBroken("as it is"), {}),
    ],
)
def test_what_the_machine_was_short_of_is_passed_on_as_it_is(error, surroundings) -> None:
    assert outcome(error, **surroundings) is error


def test_a_model_of_a_gpu_is_told_as_well() -> None:
    assert isinstance(outcome(ValueError("rope"), on_cpu=False), EngineMisconfigured)


@pytest.mark.parametrize("error", [NO_MEMORY, MemoryError()])
def test_a_slot_that_is_too_small_stays_so_and_a_machine_may_have_more_later(error) -> None:
    assert isinstance(outcome(error), EngineMisconfigured)
    later = outcome(error, fixed_memory=False)
    assert type(later) is Unavailable
    assert "more memory than there is: its slot has 4.0 GiB" in later.message


def test_the_reason_is_one_line_and_names_a_function_where_there_is_none() -> None:
    assert told(ValueError("a\n  b" + "c" * 1000)) == f"ValueError: a b{'c' * 397}"
    assert told(AssertionError()) == "AssertionError"
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(dict[str, int]).validate_python({"max_model_len": "many"})
    assert told(refused.value).startswith("max_model_len: Input should be a valid integer")
    assert "pydantic.dev" not in told(refused.value)
    found = outcome(AssertionError())
    assert "AssertionError in outcome" in found.message
