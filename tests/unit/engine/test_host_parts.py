"""The pool's pure parts: endpoints, what a slot adds to a process, which swaps are allowed, what a checkpoint holds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pilotlight_engine.process import endpoint
from pilotlight_engine.process.boot_clock import BootClock
from pilotlight_engine.process.endpoint import TcpEndpoint, UnixEndpoint
from pilotlight_engine.process.machine import MachineLimits
from pilotlight_engine.process.prepared_process import slot_environment, slot_limits
from pilotlight_engine.swap.swap_rules import EngineShape, refusal, unswappable
from pilotlight_models.checkpoint import read_checkpoint
from pilotlight_protocol.engine_frames import HostConfig
from pilotlight_protocol.errors import InvalidInput

SHAPE = EngineShape(1, speculative=False, lora=False, multimodal=False, foreign_config=False, folded_weights=False)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("unix:///run/a.sock", UnixEndpoint(Path("/run/a.sock"))),
        ("tcp://127.0.0.1:80", TcpEndpoint("127.0.0.1", 80)),
        ("tcp://[::1]:0", TcpEndpoint("::1", 0)),
    ],
)
def test_endpoints_are_read_and_written_alike(text: str, parsed: object) -> None:
    assert endpoint.parse(text) == parsed
    assert str(parsed) == text


@pytest.mark.parametrize(
    "text", ["", "/run/a.sock", "unix://run/a.sock", "tcp://host", "tcp://:80", "tcp://h:99999", "http://h:80"]
)
def test_anything_else_is_no_endpoint(text: str) -> None:
    with pytest.raises(InvalidInput, match="unix:///"):
        endpoint.parse(text)


def test_a_socket_in_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(InvalidInput, match="0700"):
        endpoint.listen(UnixEndpoint(tmp_path / "a.sock"))


@pytest.mark.parametrize(
    ("device", "arguments", "added"),
    [
        ("cpu:0", {}, {}),
        ("cpu:0", {"enforce_eager": "true"}, {"TORCH_COMPILE_DISABLE": "1"}),
        ("cuda:1", {}, {"CUDA_VISIBLE_DEVICES": "1"}),
        ("cuda:MIG-ab", {"enforce_eager": "false"}, {"CUDA_VISIBLE_DEVICES": "MIG-ab"}),
    ],
)
def test_what_a_slot_adds(device: str, arguments: dict[str, str], added: dict[str, str]) -> None:
    config = HostConfig(slot="s", listen="", model_dir="", model_name="", device=device, engine_args=arguments)
    assert slot_environment(config) == added


@pytest.mark.parametrize(
    ("cpus", "memory", "limits"),
    [(None, None, (4, 100)), (2, 50, (2, 50)), (9, 500, (4, 100)), (0, None, (1, 100))],
)
def test_a_slot_has_its_share_and_no_more(cpus: int | None, memory: int | None, limits: tuple[int, int]) -> None:
    config = HostConfig(slot="s", listen="", model_dir="", model_name="", cpus=cpus, memory_bytes=memory)
    assert slot_limits(config, MachineLimits(4, 100)) == MachineLimits(*limits)


@pytest.mark.parametrize(
    ("changes", "wanted", "loras", "words"),
    [
        ({}, "same", False, None),
        ({}, "other", False, "architecture"),
        ({"workers": 2}, "same", False, "more than one worker"),
        ({"speculative": True}, "same", False, "speculative"),
        ({"lora": True}, "same", False, "LoRA"),
        ({}, "same", True, "LoRA"),
        ({"multimodal": True}, "same", False, "multimodal"),
        ({"foreign_config": True}, "same", False, "config of its own"),
        ({"folded_weights": True}, "same", False, "folded"),
    ],
)
def test_what_keeps_an_engine_from_being_swapped(
    changes: dict[str, Any], wanted: str, loras: bool, words: str | None
) -> None:
    shape = dataclasses.replace(SHAPE, **changes)
    reason = refusal(shape, "same", wanted, loras)
    assert reason is None if words is None else words in str(reason)
    if wanted == "same" and not loras:
        assert (unswappable(shape) is None) == (words is None)


def write_model(path: Path, tensors: dict[str, tuple[str, list[int], int]], **config: Any) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    header: dict[str, object] = {}
    end = 0
    for name, (dtype, shape, length) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + length]}
        end += length
    text = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    return path


def test_a_checkpoint_knows_where_its_tensors_are(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", {"b": ("BF16", [2, 3], 12), "a": ("F32", [2], 8)}, model_type="llama")
    found = read_checkpoint(path)
    size = (path / "model.safetensors").stat().st_size
    assert [entry.name for entry in found.inventory] == ["a", "b"]
    assert (found.places["a"].start, found.places["a"].length) == (size - 8, 8)
    assert (found.places["b"].start, found.places["b"].length) == (size - 20, 12)


def test_fine_tunes_have_one_architecture_and_other_shapes_another(tmp_path: Path) -> None:
    def architecture(name: str, dtype: str = "BF16", **config: Any) -> str:
        return read_checkpoint(write_model(tmp_path / name, {"a": (dtype, [2], 4)}, **config)).architecture

    one = architecture("one", hidden_size=2, eos_token_id=1)
    assert architecture("two", hidden_size=2, eos_token_id=7) == one
    assert architecture("three", hidden_size=3) != one
    assert architecture("four", "F16", hidden_size=2) != one


@pytest.mark.parametrize("damage", [b"", b"\x08\0\0\0\0\0\0\0not json", b"\xff" * 16])
def test_a_broken_checkpoint_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = write_model(tmp_path / "m", {"a": ("F32", [2], 8)})
    (path / "model.safetensors").write_bytes(damage)
    with pytest.raises(InvalidInput, match="no valid safetensors file"):
        read_checkpoint(path)


def test_the_boot_clock_keeps_what_has_ended() -> None:
    times = iter([0.0, 0.0, 1.5, 2.0, 5.0])
    told: list[str] = []
    clock = BootClock(told.append, lambda: next(times))
    for phase in ("import", "load", "import"):
        clock.enter(phase)
    clock.enter("ready")
    assert clock.phases_s == {"import": 4.5, "load": 0.5}
    assert told == ["import", "load", "import", "ready"]
